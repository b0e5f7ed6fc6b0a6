"""The child: who is timed, who is not, and what is written about it."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.peers import measure as module
from benchmarks.peers import numpy_peer, ours
from benchmarks.peers.base import OUR_WAYS, Layer, NotOffered, Prepared, Way, crop
from benchmarks.peers.gate import Truth, reference
from benchmarks.peers.measure import (
    MOST_WAITS,
    ROUNDS,
    Cores,
    Disturbance,
    Side,
    brief,
    measure,
    prepare,
    quartiles,
    rounds,
)
from benchmarks.problems import Problem

SMALL = [
    Problem("dense", "", 2, 40, 5, 7, 4, stride=2, dilation=3, padding=(3, 1)),
    Problem("grouped", "", 2, 30, 6, 9, 3, groups=3, padding=(2, 0)),
    Problem("depthwise", "", 2, 30, 4, 4, 5, groups=4, padding=(2, 2)),
    Problem("multiplier", "", 1, 30, 4, 8, 5, stride=3, groups=4),
    Problem("fir", "", 2, 300, 1, 1, 101, padding=(50, 50)),
]


def layer_of(problem):
    return Layer(problem, *problem.arrays(), threads=1)


def truth_of(layer):
    return Truth(reference(layer.problem, layer.x, layer.w))


@pytest.fixture
def layer():
    return layer_of(SMALL[0])


def way(run, name="a way", layout="nlc"):
    def make(layer):
        return Prepared(lambda: run(layer))

    return Way(name, layout, False, make)


def right(layer):
    return reference(layer.problem, layer.x, layer.w).astype(np.float32)


def raising(error):
    def run(layer):
        raise error

    return run


@pytest.mark.parametrize("problem", SMALL, ids=lambda p: p.name)
@pytest.mark.parametrize("way", [*ours.ways(), *numpy_peer.WAYS], ids=lambda w: w.name)
def test_ways_without_a_peer_are_right(problem, way):
    layer = layer_of(problem)
    try:
        prepared = way.prepare(layer)
    except NotOffered as reason:
        assert str(reason)
        return
    for _ in range(2):  # buffers are used again
        assert truth_of(layer).complaint(prepared.result(prepared.run()), contiguous=True) is None


def test_a_wrong_result_is_never_a_time(layer):
    record = prepare(way(lambda layer: right(layer) * 1.01), layer, truth_of(layer), 0.01)
    assert record["status"] == "wrong"
    assert "seconds" not in record


def test_a_result_that_becomes_wrong_is_never_a_time(layer):
    calls = []

    def spoiled(layer):
        calls.append(None)
        return right(layer) * (1 if len(calls) < 3 else 2)

    found = measure(layer, [way(spoiled)], truth_of(layer), 0.01, lambda name: None)
    assert found["ways"]["a way"]["status"] == "wrong"
    assert found["ways"]["a way"]["reason"].startswith("after rounds: ")
    assert "seconds" not in found["ways"]["a way"]


def test_what_fails_is_recorded_with_its_reason(layer):
    truth = truth_of(layer)
    failed = prepare(way(raising(ValueError("no\nsuch"))), layer, truth, 0.01)
    assert failed == dict(status="failed", reason="ValueError: no")
    missing = prepare(way(raising(NotOffered("one axis only"))), layer, truth, 0.01)
    assert missing == dict(status="not offered", reason="one axis only")
    assert brief(ValueError()) == "ValueError: "


def test_a_record_has_ceilings_times_and_spread(layer):
    tried = []
    ways = [*ours.ways(), way(right)]
    found = measure(layer, ways, truth_of(layer), 0.01, tried.append)
    assert tried == [*OUR_WAYS, "a way", ""]
    assert found["fma_peak"] > 1e8
    assert found["copy_bandwidth"] > 1e7
    assert found["disturbance"] >= 0
    for name in (*OUR_WAYS, "a way"):
        record = found["ways"][name]
        assert record["status"] == "ok"
        assert 0 < record["lower"] <= record["seconds"] <= record["upper"]
        assert record["calls"] >= 1
    for name in OUR_WAYS:
        assert found["ways"][name]["preallocated"] == name.endswith("out=")
        assert found["ways"][name]["fma_peak"] > 1e8
    assert "fma_peak" not in found["ways"]["a way"]


def test_sides_take_turns(layer):
    order = []
    sides = [
        Side(SimpleNamespace(), Prepared(lambda name=name: (order.append(name), time.sleep(1e-3))))
        for name in "AB"
    ]
    for side in sides:
        side.once = 1.0  # no call to warm up
    rounds(sides, seconds=1e-3)
    pairs = {"".join(pair) for pair in zip(order[::2], order[1::2], strict=True)}
    assert pairs == {"AB", "BA"}  # neither always runs behind the other


def test_disturbed_rounds_are_repeated_but_not_for_ever(monkeypatch):
    shares = iter([0.5, 0.01, 0.5, 0.03, *[0.5] * 100])
    monkeypatch.setattr(Disturbance, "share", lambda self: next(shares))
    side = Side(SimpleNamespace(), Prepared(lambda: None))
    side.once = 1.0
    mean = rounds([side], seconds=1.0)
    assert len(side.seconds) == ROUNDS
    assert mean == pytest.approx((0.01 + 0.03 + 0.5 * (ROUNDS - 2)) / ROUNDS)
    assert len(list(shares)) == 104 - ROUNDS - ROUNDS


def test_sides_wait_until_cores_are_whole_but_not_for_ever(monkeypatch):
    peaks = iter([1.0, 0.5, 0.9, *[0.5] * 9, 1.1])
    monkeypatch.setattr(module, "fma_seconds", lambda threads, dtype, steps: (1.0, next(peaks)))
    monkeypatch.setattr(module, "rest", lambda: True)
    cores = Cores(threads=2)
    cores.wait()
    cores.wait()
    assert (cores.best, cores.waits) == (1.0, 0)
    clock = itertools.count(step=module.PEAK_SECONDS / 3.5)  # three bursts each time
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    cores.wait()
    assert (cores.best, cores.waits) == (1.1, 3)
    peaks = itertools.repeat(0.5)
    cores.wait()
    assert cores.waits == 3 + MOST_WAITS


def test_quartiles():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("padding", "stride", "expected"),
    [((2, 2), 1, (2, 0)), ((6, 0), 8, (6, 0)), ((1, 4), 1, (4, 3)), ((1, 4), 3, (4, 1)),
     ((1, 4), 2, None)],
)  # fmt: skip
def test_symmetric_padding_contains_other_padding(padding, stride, expected):
    problem = Problem("a", "", 1, 50, 1, 1, 5, stride=stride, padding=padding)
    assert crop(problem) == expected

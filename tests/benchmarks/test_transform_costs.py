"""Runs of the measurements behind `algorithm="auto"`, merged."""

import json

import pytest

from benchmarks.transform_costs import merge, merged


def run(kernel="dense", preparation=1e-3, **seconds):
    return dict(
        name="a", kernel=kernel, seconds=seconds, preparation=dict.fromkeys(seconds, preparation)
    )


def test_a_slow_run_counts_as_one_of_the_same_speed():
    layer = merged([run(direct=1.0, fft=0.5), run(direct=3.0, fft=1.5), run(direct=2.0, fft=1.0)])
    assert layer["seconds"] == {"direct": 1.0, "fft": 0.5}


def test_one_disturbed_time_is_outvoted():
    times = [run(direct=1.0, fft=0.5, winograd=0.8) for _ in range(4)]
    layer = merged([*times, run(direct=1.0, fft=5.0, winograd=0.8)])
    assert layer["seconds"] == {"direct": 1.0, "fft": 0.5, "winograd": 0.8}


def test_what_one_run_left_out_comes_from_the_others():
    layer = merged([run(direct=1.0, fft=0.5), run(direct=2.0, fft=1.0, winograd=1.6)])
    assert layer["seconds"] == {"direct": 1.0, "fft": 0.5, "winograd": 0.8}


def test_another_kernel_is_another_measurement():
    layer = merged([run(direct=1.0, fft=0.5), run(kernel="planar", direct=0.1, fft=0.5)])
    assert layer["seconds"]["direct"] == 1.0


def test_filters_are_prepared_as_fast_as_in_the_best_run():
    layer = merged([run(direct=1.0), run(direct=1.0, preparation=1e-4)])
    assert layer["preparation"] == {"direct": 1e-4}


def test_files_of_different_processors_are_refused(tmp_path):
    files = []
    for core in ("one", "other"):
        files.append(tmp_path / f"{core}.json")
        files[-1].write_text(json.dumps({"target": {"core": core}, "layers": [run(direct=1.0)]}))
    with pytest.raises(SystemExit, match="different targets"):
        merge(files)
    target, layers = merge(files[:1] * 3)
    assert (target, layers) == ({"core": "one"}, [run(direct=1.0)])

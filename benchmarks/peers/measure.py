"""The child: measure numbaconv and one peer, in one process, layer by layer.

Started by `benchmarks.run` with the interpreter of the peer's environment. What it finds it
writes as lines of JSON to the standard output it was started with; whatever libraries print
goes to standard error.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..problems import Problem, named
from ..roofline import aligned, copy_bandwidth, fma_peak, fma_peak_behind, fma_seconds
from .base import DISTURBED, OUR_WAYS, Layer, NotOffered, Prepared, Way
from .gate import Truth

ROUNDS = 9

# Threads of the side that has just run spin for a while, waiting for more work: those of
# onnxruntime still took a core after 3 ms, those of OpenBLAS after 50 ms, and made the other
# side up to 3.5 times slower. So it is waited until this process has rested for so long.
REST_SECONDS = 0.02
MOST_REST_SECONDS = 2.0

# A host runs two cores of a virtual machine on one of its own, for milliseconds or seconds: two
# threads of multiply-adds then reach the peak of one, and two plain Python threads that convolve
# take twice as long each (Zen 4). So a side also waits until the peak is this share of the best
# that has been seen; bursts go on for so long, since threads wake late behind a rest.
WHOLE_CORES = 0.8
PEAK_STEPS = 30_000
PEAK_SECONDS = 0.015
MOST_WAITS = 20

# After the pause a side runs for so long before it is timed: threads wake, clocks rise. On two
# cores of a virtual machine (Zen 3) calls of 0.37 ms take 0.9 ms at first and 0.4 ms after 4 ms.
WARM_SECONDS = 0.01

# A call as long as this needs no other before it to warm up.
LONG_SECONDS = 0.05

COMMON_PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "tbb")


@dataclass
class Side:
    """A way that has passed the gate, and its times.

    Ours also note the multiply-add peak at the clock that they ran at. Threads of other libraries
    spin behind their work and would take the cores from it.
    """

    way: Way
    prepared: Prepared
    cores: Cores | None = None
    notes_peak: bool = False
    calls: int = 1
    once: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    def time(self) -> float:
        """Seconds of one call, the mean over one round."""
        run, calls = self.prepared.run, range(self.calls)
        rest()
        if self.cores is not None:
            self.cores.wait()
        warm = time.perf_counter() + (WARM_SECONDS if self.once < LONG_SECONDS else 0.0)
        while time.perf_counter() < warm:
            run()
        begin = time.perf_counter()
        for _ in calls:
            run()
        elapsed = time.perf_counter() - begin
        if self.notes_peak and self.cores is not None:
            self.peaks.append(fma_peak_behind(self.cores.threads))
        return elapsed / self.calls

    def calibrate(self, seconds: float) -> None:
        """Choose the calls of a round, so that all rounds together take about `seconds`."""
        self.once = self.time()
        self.calls = max(1, int(seconds / ROUNDS / self.once))

    def is_done(self, seconds: float) -> bool:
        """After all rounds; after three that were long; after one that was endless."""
        spent = sum(self.seconds) * self.calls
        rounds = len(self.seconds)
        return rounds >= ROUNDS or (rounds >= 3 and spent > 2 * seconds) or spent > 20 * seconds

    def record(self) -> dict[str, Any]:
        lower, median, upper = quartiles(self.seconds)
        peak = dict(fma_peak=statistics.median(self.peaks)) if self.peaks else {}
        return dict(
            status="ok", seconds=median, lower=lower, upper=upper,
            rounds=len(self.seconds), calls=self.calls, **peak,
        )  # fmt: skip


class Cores:
    """The cores that all sides run on.

    Attributes
    ----------
    threads : int
        As many as are used.
    best : float
        The highest multiply-add peak of so many that has been seen.
    waits : int
        How often a side had to wait for them.
    """

    def __init__(self, threads: int) -> None:
        self.threads, self.best, self.waits = threads, 0.0, 0

    def are_whole(self) -> bool:
        """Whether the machine runs each of them on a core of its own, as far as can be seen."""
        end = time.perf_counter() + PEAK_SECONDS
        while time.perf_counter() < end:
            seconds, flops = fma_seconds(self.threads, np.float32, PEAK_STEPS)
            self.best = max(self.best, flops / seconds)
            if flops / seconds >= WHOLE_CORES * self.best:
                return True
        return False

    def wait(self) -> None:
        """Wait until they are, but not for ever."""
        for _ in range(MOST_WAITS):
            if self.are_whole():
                return
            self.waits += 1
            rest()


def rest() -> bool:
    """Wait until no thread of this process runs any more; False if that took too long."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < MOST_REST_SECONDS:
        before = time.process_time()
        time.sleep(REST_SECONDS)
        if time.process_time() - before < 0.1 * REST_SECONDS:
            return True
    return False


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (values[0],) * 3
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


class Disturbance:
    """How much of this process' cores went to others since it was made."""

    def __init__(self) -> None:
        self.begin = self.now()

    @staticmethod
    def now() -> tuple[float, float, float] | None:
        """Seconds: of the clock, busy on the allowed cores, and busy with this process."""
        try:
            allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
            lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
            # user, nice, system, (idle, waiting), interrupts twice, stolen by the hypervisor
            busy = sum(
                sum(int(line[k]) for k in (1, 2, 3, 6, 7, 8))
                for line in lines
                if line[0] in allowed
            )
            return time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), sum(os.times()[:2])
        except (OSError, AttributeError, ValueError):
            return None

    def share(self) -> float | None:
        """From 0 to 1; None where the system does not tell."""
        end = self.now()
        if self.begin is None or end is None:
            return None
        clock, busy, own = (b - a for a, b in zip(self.begin, end, strict=True))
        return max(0.0, busy - own) / (clock * len(os.sched_getaffinity(0)))


def complaint(truth: Truth, way: Way, prepared: Prepared) -> str | None:
    """Run once and say what is wrong with the result."""
    return truth.complaint(prepared.result(prepared.run()), contiguous=way.layout == "nlc")


def prepare(
    way: Way, layer: Layer, truth: Truth, seconds: float, cores: Cores | None = None
) -> Side | dict[str, Any]:
    """A side that is ready for its rounds, or the record of why there is none."""
    try:
        prepared = way.prepare(layer)
        wrong = complaint(truth, way, prepared)
        if wrong:
            return dict(status="wrong", reason=wrong)
        side = Side(way, prepared, cores, notes_peak=way.name in OUR_WAYS)
        side.calibrate(seconds)
        return side
    except NotOffered as reason:
        return dict(status="not offered", reason=str(reason))
    except Exception as error:
        return dict(status="failed", reason=brief(error))


def brief(error: BaseException) -> str:
    """The first line of an error, for a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def rounds(sides: list[Side], seconds: float) -> float:
    """Time all sides in turn, so that what disturbs the machine disturbs all of them.

    Each round has an order of its own: who runs behind onnxruntime on N-L-C arrays takes up to
    1.4 times as long, whatever the rest between them. A disturbed round is repeated, up to
    ROUNDS times in all. Returns the mean share of the cores that others had in the rounds that
    count.
    """
    repeats, shares, order = ROUNDS, [0.0], random.Random(0)
    while waiting := [side for side in sides if not side.is_done(seconds)]:
        order.shuffle(waiting)
        clock = Disturbance()
        times = [side.time() for side in waiting]
        share = clock.share() or 0.0
        if share > DISTURBED and repeats > 0:
            repeats -= 1
            continue
        shares.append(share)
        for side, elapsed in zip(waiting, times, strict=True):
            side.seconds.append(elapsed)
    return sum(shares) / max(1, len(shares) - 1)


def ceilings(problem: Problem, threads: int) -> dict[str, float]:
    """FMA peak alone, and copy bandwidth at the layer's own footprint, here and now."""
    footprint = problem.bytes_read + problem.bytes_written
    return dict(fma_peak=fma_peak(threads), copy_bandwidth=copy_bandwidth(footprint, threads))


def measure(
    layer: Layer,
    ways: list[Way],
    truth: Truth,
    seconds: float,
    trying: Callable[[str], None],
) -> dict[str, Any]:
    """The record of one layer: its ceilings, and every way with its time or its fault."""
    before = ceilings(layer.problem, layer.threads)
    records: dict[str, Any] = {}
    sides, cores = [], Cores(layer.threads)
    for way in ways:
        trying(way.name)
        made = prepare(way, layer, truth, seconds, cores)
        if isinstance(made, Side):
            sides.append(made)
        records[way.name] = dict(layout=way.layout, preallocated=way.preallocated)
        records[way.name] |= made if isinstance(made, dict) else {}
    trying("")
    disturbance = rounds(sides, seconds)
    for side in sides:
        wrong = complaint(truth, side.way, side.prepared)
        found = dict(status="wrong", reason=f"after rounds: {wrong}") if wrong else side.record()
        records[side.way.name] |= found
    after = ceilings(layer.problem, layer.threads)
    highest = {key: max(before[key], after[key]) for key in before}
    return dict(**highest, disturbance=disturbance, waits=cores.waits, ways=records)


def load(folder: Path, name: str, threads: int) -> tuple[Layer, Truth]:
    """The data that `benchmarks.run` has written for a layer, x and w on cache lines."""
    arrays = []
    for part in ("x", "w"):
        stored = np.load(folder / f"{name}.{part}.npy", mmap_mode="r")
        arrays.append(aligned(stored.shape))
        arrays[-1][...] = stored
    return Layer(named(name), *arrays, threads), Truth(np.load(folder / f"{name}.y.npy"))


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in (*packages, *COMMON_PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def events(options: argparse.Namespace, write: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """Start the libraries, then measure the layers one after another."""
    # numbaconv starts its threads first: later, another library's TBB would take the name.
    import numbaconv
    from numbaconv._threads import threading_layer

    from . import ours

    layer_of_threads = threading_layer()
    peer = importlib.import_module(f"{__package__}.{options.peer}_peer")
    peer.start(options.threads)
    found = {"numbaconv": numbaconv.__version__, **versions(peer.PACKAGES)}
    yield dict(event="ready", versions=found, threading_layer=layer_of_threads)
    avoided = json.loads(options.avoid)
    for name in options.layers:
        layer, truth = load(options.data, name, options.threads)
        ways = [way for way in (*ours.ways(), *peer.WAYS) if way.name not in avoided.get(name, {})]
        record = measure(
            layer, ways, truth, options.seconds,
            lambda way, name=name: write(dict(event="trying", layer=name, way=way)),
        )  # fmt: skip
        record["kernels"] = ours.kernels(layer)
        record["problem"] = dataclasses.asdict(layer.problem)
        yield dict(event="done", layer=name, record=record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer")
    parser.add_argument("--layers", nargs="+", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--avoid", default="{}", help="JSON: ways to leave out, by layer")
    options = parser.parse_args()
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def write(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=channel, flush=True)

    for event in events(options, write):
        write(event)
    # Some libraries crash while they are torn down; everything has been said.
    channel.close()
    os._exit(0)


if __name__ == "__main__":
    main()

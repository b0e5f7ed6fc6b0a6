"""What is paid around the arithmetic: import, first calls, steady calls, parallel launches.

    python -m benchmarks.runtime [--repeats N] [--json FILE]

Whatever happens once a process is timed in fresh processes, whose kinds take turns, so that a
slow second of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import numbaconv
from numbaconv import Conv1D, conv1d
from numbaconv._jit import is_disabled
from numbaconv.cpu.blocking import PARALLEL_FLOPS

ROOT = Path(__file__).parent.parent
ROUNDS = 15
SECONDS_A_ROUND = 0.02


@dataclass(frozen=True)
class Timing:
    """Seconds: the median, and the quartiles around it."""

    name: str
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, seconds: Sequence[float]) -> Timing:
        low, median, high = statistics.quantiles(seconds, n=4)
        return cls(name, median, low, high)


# --- in fresh processes: each prints its own seconds
IMPORT = """
import time
begin = time.perf_counter()
import {module}
print(time.perf_counter() - begin)
"""
# The work in front of the clock is what the program had to do anyway.
FIRST_LAYER = """
import time
import numpy as np
from numbaconv import Conv1D
layer, x = Conv1D(3, 16, 16, padding="causal"), np.ones((1, 16, 16), np.float32)
begin = time.perf_counter()
layer(x)
print(time.perf_counter() - begin)
"""
TRIVIAL = """
import numba

@numba.njit(cache=True)
def trivial(x):
    return x[0, 0, 0]
"""
FIRST_TRIVIAL = """
import sys, time
sys.path.insert(0, sys.argv[1])
import numpy as np
from trivial import trivial
x = np.ones((1, 16, 16), np.float32)
begin = time.perf_counter()
trivial(x)
print(time.perf_counter() - begin)
"""


def seconds_of(code: str, folder: Path, cache: Path) -> float:
    """Run `code` in a fresh interpreter and return the seconds that it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NUMBACONV_CACHE_DIR": str(cache),
        "NUMBA_CACHE_DIR": str(folder / "numba"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def time_processes(repeats: int) -> list[Timing]:
    """Time what happens once a process, each kind in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trivial.py").write_text(TRIVIAL)
        filled = folder / "filled"
        fresh = (folder / f"empty{n}" for n in range(repeats + 1))
        kinds: dict[str, Callable[[], float]] = {
            "import numpy": lambda: seconds_of(IMPORT.format(module="numpy"), folder, filled),
            "import numba": lambda: seconds_of(IMPORT.format(module="numba"), folder, filled),
            "import numbaconv": lambda: seconds_of(
                IMPORT.format(module="numbaconv"), folder, filled
            ),
            "first call, nothing cached": lambda: seconds_of(FIRST_LAYER, folder, next(fresh)),
            "first call, cached": lambda: seconds_of(FIRST_LAYER, folder, filled),
            "first call, trivial cached njit": lambda: seconds_of(FIRST_TRIVIAL, folder, filled),
        }
        for run in kinds.values():  # fills caches, also those of the system
            run()
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(repeats):
            for kind, run in kinds.items():
                times[kind].append(run())
    return [Timing.of(kind, seconds) for kind, seconds in times.items()]


# --- in this process
def time_calls(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of one call, in rounds in which all take turns."""
    counts = {}
    for name, call in calls.items():
        call()
        begin = time.perf_counter()
        call()
        counts[name] = max(1, int(SECONDS_A_ROUND / (time.perf_counter() - begin)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            count = range(counts[name])
            begin = time.perf_counter()
            for _ in count:
                call()
            times[name].append((time.perf_counter() - begin) / len(count))
    return times


def time_steady_calls() -> list[Timing]:
    """1×16×16 → 16, K = 3, causal: nearly no arithmetic, so the call itself."""
    layer = Conv1D(3, 16, 16, padding="causal")
    x = np.ones((1, 16, 16), np.float32)
    out, filter = np.empty_like(x), layer.filter
    calls = {
        "layer(x, out=y)": lambda: layer(x, out),
        "layer(x)": lambda: layer(x),
        "layer(x[:, ::-1])": lambda view=x[:, ::-1]: layer(view),
        "conv1d(x, filter)": lambda: conv1d(x, filter, padding="causal"),
        "an empty Python call": lambda: None,
    }
    return [Timing.of(name, seconds) for name, seconds in time_calls(calls).items()]


def smallest_parallel() -> tuple[Conv1D, np.ndarray]:
    """The least work that threads share."""
    layer = Conv1D(3, 32, 32)
    length = -(-PARALLEL_FLOPS // (2 * 3 * 32 * 32)) + 2
    return layer, np.ones((1, length, 32), np.float32)


def time_launches() -> list[Timing]:
    """What entering and leaving a parallel region costs, without and with work in it."""
    from numbaconv import _threads
    from numbaconv.cpu import launch, panel_plan

    most = numbaconv.get_num_threads()
    if most == 1 or _threads.threading_layer() is None:
        return []
    layer, x = smallest_parallel()
    out = layer(x)
    empty = Conv1D(3, 32, 32)
    tiny = np.ones((1, 3, 32), np.float32)
    plan = empty._weights.plans
    y = empty(tiny)
    (bound,) = (p.bind(tiny.strides, y.strides) for p in plan.values())
    assert isinstance(bound, panel_plan.PanelCall)
    arguments = (bound.kernel, bound.address, tiny, y)
    serial_launch = launch.serial_launcher(bound.kernel, bound.tables, bound.address)
    calls: dict[str, Callable[[], object]] = {"one position": lambda: serial_launch(tiny, y)}
    for threads in range(2, most + 1):
        calls[f"one position on {threads}"] = lambda threads=threads: launch.launch_parallel(
            *arguments, threads, 0
        )
    calls["smallest parallel problem on 1"] = lambda: layer(x, out, threads=1)
    for threads in range(2, most + 1):
        calls[f"smallest parallel problem on {threads}"] = lambda threads=threads: layer(
            x, out, threads=threads
        )
    times = time_calls(calls)
    timings = [Timing.of(name, seconds) for name, seconds in times.items()]
    serial = times["one position"]
    for threads in range(2, most + 1):
        parallel = times[f"one position on {threads}"]
        extra = [p - s for p, s in zip(parallel, serial, strict=True)]
        timings.append(Timing.of(f"launch on {threads}, less serial", extra))
    return timings


# --- the report
def shown(seconds: float) -> str:
    """Three digits, in the unit that suits them."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(seconds) * factor >= 0.9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def as_table(title: str, timings: Sequence[Timing]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("median", "lower quartile", "upper quartile"):
        table.add_column(column, justify="right")
    for timing in timings:
        table.add_row(timing.name, shown(timing.median), shown(timing.low), shown(timing.high))
    return table


def surroundings() -> dict[str, str]:
    from numbaconv.__main__ import facts

    return {"machine": platform.machine(), **facts()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="fresh processes of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args(arguments)
    if options.repeats < 2:
        parser.error("--repeats must be at least 2")
    if is_disabled():
        parser.error("NUMBA_DISABLE_JIT is set: there is nothing to time")
    console = Console()
    results = {}
    for title, measure in (
        ("Once a process", lambda: time_processes(options.repeats)),
        ("Every call, 1×16×16 → 16, K = 3, causal, float32", time_steady_calls),
        ("Parallel launches", time_launches),
    ):
        results[title] = measure()
        console.print(as_table(title, results[title]))
    if options.json:
        report = {
            "surroundings": surroundings(),
            "seconds": {title: [asdict(t) for t in timings] for title, timings in results.items()},
        }
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What share of the multiply-add peak dense layers reach, on one core and on all.

    python -m benchmarks.dense [--quick] [--json] [--rounds N]

Each layer is timed in bursts, with bursts of pure multiply-adds before and after each of them
in the same process, so that a clock or a neighbour that changes meets both. There are two peaks:
`at its clock`, in the half millisecond directly behind the layer, before the clock that the layer
ran at has changed (`roofline.fma_peak_behind`); and `alone`, in bursts as long as the layer's,
at the higher clock of a processor that loads nothing. One process for each number of threads,
since Numba fixes it at the start; both are asked for the same layer one after the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from numbaconv import Conv1D, __version__
from numbaconv.__main__ import PACKAGES, processor, version
from numbaconv.cpu.target import host

from .demo import check
from .marked import rewrite
from .roofline import fma_peak_behind, fma_seconds

CHANNELS = (
    (64, 64),
    (64, 128),
    (80, 384),
    (96, 96),
    (128, 128),
    (256, 256),
    (384, 384),
    (512, 512),
)
KERNEL_SIZES = (1, 3, 7)
STRIDES = (1, 2)
DILATIONS = (1, 8)

QUICK = ((64, 128), (96, 96), (256, 256))

# x, y and filter together: a share of a last cache that other cores leave us.
WORKING_SET = min(host().last_cache // 2, 8 << 20)

# Enough for one core to take milliseconds, so that the call itself (some µs) is noise.
FLOPS = 600_000_000

# Seconds of one burst: many calls, and still many bursts within the time that clocks hold.
BURST = 0.01

# A round between multiply-adds slower than this share of the fastest that the process has
# seen shared its cores with a neighbour: it is counted and repeated. The layer's own time is
# no reason to repeat.
UNDISTURBED = 0.85
MOST_REPEATS = 3

BUSY = ", so this machine is too busy for numbers to quote"

GOAL = 0.95
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Case:
    """One layer and the length of its input, batch 1, float32, padding "same"."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    dilation: int

    @property
    def name(self) -> str:
        return (
            f"{self.in_channels}→{self.out_channels} K{self.kernel_size}"
            f" s{self.stride} d{self.dilation}"
        )

    @property
    def length(self) -> int:
        """Positions of x that the working set and the work allow, a multiple of 16."""
        weights = self.kernel_size * self.in_channels * self.out_channels
        position = self.in_channels + self.out_channels / self.stride
        fitting = (WORKING_SET / 4 - weights) / position
        enough = FLOPS / (2 * weights / self.stride)
        return max(128, int(min(fitting, enough)) // 16 * 16)

    @property
    def flops(self) -> int:
        """Two for each product of the definition."""
        outputs = -(-self.length // self.stride)
        return 2 * outputs * self.kernel_size * self.in_channels * self.out_channels

    def layer(self, permute: bool) -> Conv1D:
        return Conv1D(
            self.kernel_size, self.in_channels, self.out_channels, stride=self.stride,
            dilation=self.dilation, padding="same", has_bias=True, permute=permute, rng=0,
            algorithm="direct",
        )  # fmt: skip


def cases(channels: Sequence[tuple[int, int]]) -> list[Case]:
    """All layers; with one tap there is no dilation."""
    return [
        Case(c_in, c_out, taps, stride, dilation)
        for c_in, c_out in channels
        for taps in KERNEL_SIZES
        for stride in STRIDES
        for dilation in (DILATIONS if taps > 1 else (1,))
    ]


# --- one process: a number of threads


class Burst:
    """A call repeated for about BURST seconds, warm from the start.

    In the milliseconds between two bursts other machines on the same processor empty the last
    cache: the first call of a burst takes up to 1.15 times as long as the next, and is not timed.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        call()
        self.count = 1
        self.count = max(1, round(BURST / min(self.seconds() for _ in range(3))))

    def seconds(self) -> float:
        """The time of one call, over a burst of them behind an untimed one."""
        self.call()
        begin = time.perf_counter()
        for _ in range(self.count):
            self.call()
        return (time.perf_counter() - begin) / self.count


class Peak:
    """Multiply-adds from registers for about BURST seconds, on all threads of this process."""

    def __init__(self, threads: int) -> None:
        self.threads, steps = threads, 100_000
        fma_seconds(threads, steps=steps)
        seconds = min(fma_seconds(threads, steps=steps)[0] for _ in range(3))
        self.steps = round(steps * BURST / seconds)
        self.best = max(self.alone() for _ in range(5))
        self.behind()

    def alone(self) -> float:
        """Floating-point operations a second of one burst."""
        seconds, flops = fma_seconds(self.threads, steps=self.steps)
        return flops / seconds

    def behind(self) -> float:
        """The same at the clock that the last burst of a layer has left."""
        return fma_peak_behind(self.threads)


def spread(values: np.ndarray[Any, Any]) -> dict[str, float]:
    return dict(
        median=float(np.median(values)), least=float(values.min()), most=float(values.max())
    )


def measure(case: Case, peak: Peak, rounds: int, checked: bool) -> dict[str, Any]:
    """Time one layer in both layouts between bursts of the peak.

    The order of a round is peak alone, channel-last, peak at its clock, peak alone,
    permute=True, peak at its clock, peak alone.

    Returns
    -------
    dict
        Seconds, GF/s, and for both layouts the share of the peak at the layer's clock as median
        and range of the rounds' ratios; `share_alone` is channel-last's of the peak alone;
        `permute_ratio` is the time of permute=True over channel-last.
    """
    x = np.random.default_rng(0).standard_normal((1, case.length, case.in_channels))
    x = x.astype(np.float32)
    bursts, holds, kernel = [], True, ""
    for permute in (False, True):
        layer = case.layer(permute)
        given = np.ascontiguousarray(x.transpose(0, 2, 1)) if permute else x
        y = layer(given)
        if checked:
            holds &= check(layer, given, y)[1]
        kernel = kernel or layer.explain(given).kernel
        bursts.append(Burst(functools.partial(layer, given, out=y)))
    kept: list[tuple[float, ...]] = []
    disturbed: list[tuple[float, ...]] = []
    while len(kept) < rounds and len(disturbed) < MOST_REPEATS * rounds:
        before, last, peak_last, between, planar, peak_planar, after = (
            peak.alone(), bursts[0].seconds(), peak.behind(),
            peak.alone(), bursts[1].seconds(), peak.behind(), peak.alone(),
        )  # fmt: skip
        alone = (before, between, after)
        peak.best = max(peak.best, *alone)
        is_calm = min(alone) >= UNDISTURBED * peak.best
        (kept if is_calm else disturbed).append((*alone, last, peak_last, planar, peak_planar))
    # Where no round was calm, times of the disturbed ones are reported, and no share is.
    before, between, after, last, peak_last, planar, peak_planar = np.array(kept or disturbed).T
    median = float(np.median(last))
    return dict(
        kernel=kernel, holds=holds, seconds=median, gflops=case.flops / median / 1e9,
        peak_gflops=float(np.median(peak_last)) / 1e9,
        peak_alone_gflops=float(np.median(before + between + after)) / 3 / 1e9,
        share=spread(case.flops / last / peak_last),
        share_alone=spread(case.flops / last / ((before + between) / 2)),
        share_permuted=spread(case.flops / planar / peak_planar),
        permute_ratio=spread(planar / last),
        rounds=len(kept), disturbed_rounds=len(disturbed),
    )  # fmt: skip


def serve(rounds: int, checked: bool) -> None:
    """Answer each case on stdin with a line of results on stdout, until stdin ends."""
    peak = Peak(numba.config.NUMBA_NUM_THREADS)
    for line in sys.stdin:
        print(json.dumps(measure(Case(**json.loads(line)), peak, rounds, checked)), flush=True)


# --- the parent


class Worker:
    """A process with its own number of threads."""

    def __init__(self, threads: int, rounds: int, checked: bool) -> None:
        self.threads = threads
        command = [sys.executable, "-m", "benchmarks.dense", "--serve", "--rounds", str(rounds)]
        self.process = subprocess.Popen(
            command + ["--check"] * checked,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "NUMBA_NUM_THREADS": str(threads)},
        )  # fmt: skip

    def ask(self, case: Case) -> dict[str, Any]:
        pipe_in, pipe_out = self.process.stdin, self.process.stdout
        assert pipe_in is not None and pipe_out is not None
        pipe_in.write(json.dumps(dataclasses.asdict(case)) + "\n")
        pipe_in.flush()
        line = pipe_out.readline()
        if not line:
            raise RuntimeError(
                f"the process with {self.threads} thread(s) ended at {case.name}, "
                f"exit status {self.process.wait()}"
            )
        return json.loads(line)

    def close(self) -> None:
        """End the process by closing its input."""
        self.process.communicate()


def measure_all(
    some: Sequence[Case], counts: Sequence[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for each layer, with the results of each number of threads."""
    workers = [Worker(threads, rounds, checked=threads == counts[-1]) for threads in counts]
    try:
        for case in some:
            results = {str(worker.threads): worker.ask(case) for worker in workers}
            row = dict(
                layer=case.name, **dataclasses.asdict(case), length=case.length,
                flops=case.flops, threads=results,
            )  # fmt: skip
            first, last = results[str(counts[0])], results[str(counts[-1])]
            is_calm = first["rounds"] > 0 and last["rounds"] > 0
            if len(counts) > 1 and is_calm and first["seconds"] >= 1e-3:
                row["speed_up"] = first["seconds"] / last["seconds"]
            yield row
    finally:
        for worker in workers:
            worker.close()


COLD = """
import time
t = [time.perf_counter()]
import numpy as np, numbaconv
t.append(time.perf_counter())
layer = numbaconv.Conv1D(3, 64, 128, padding="same")
layer(np.zeros((1, 1000, 64), np.float32))
t.append(time.perf_counter())
print(t[1] - t[0], t[2] - t[1])
"""


def cold(runs: int = 3) -> dict[str, float]:
    """Seconds of import and first call of 64→128 K3 in fresh processes, medians.

    Without a cache of kernels, and with one that an earlier process has filled.
    """

    def fresh(**environment: str) -> tuple[float, float]:
        done = subprocess.run(
            [sys.executable, "-c", COLD],
            env={**os.environ, **environment}, capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        imported, called = map(float, done.stdout.split())
        return imported, called

    with tempfile.TemporaryDirectory() as folder:
        compiling = [fresh(NUMBACONV_CACHE="0") for _ in range(runs)]
        fresh(NUMBACONV_CACHE="1", NUMBACONV_CACHE_DIR=folder)
        loading = [fresh(NUMBACONV_CACHE="1", NUMBACONV_CACHE_DIR=folder) for _ in range(runs)]
    return dict(
        import_seconds=statistics.median(run[0] for run in compiling + loading),
        first_call_compiling=statistics.median(run[1] for run in compiling),
        first_call_cached=statistics.median(run[1] for run in loading),
    )


# --- the report


def percent(result: dict[str, Any]) -> str:
    """The share of the peak, if a calm round has shown it."""
    share = result["share"]
    if not result["rounds"]:
        return "disturbed"
    return f"{share['median']:.1%} ({share['least']:.0%}–{share['most']:.0%})"


def tabulate(rows: Sequence[dict[str, Any]], counts: Sequence[int]) -> Table:
    """One line a layer; shares with the range of the rounds."""
    table = Table()
    table.add_column("layer")
    table.add_column("L", justify="right")
    for threads in counts:
        for heading in (f"ms, {threads} thr.", "GF/s", "of peak (range)", "alone", "permute"):
            table.add_column(heading, justify="right")
    table.add_column("speed-up", justify="right")
    for row in rows:
        cells = [row["layer"], str(row["length"])]
        for threads in counts:
            result = row["threads"][str(threads)]
            cells += [
                f"{result['seconds'] * 1e3:.2f}",
                f"{result['gflops']:.0f}",
                percent(result),
                f"{result['share_alone']['median']:.0%}",
                f"{result['permute_ratio']['median']:.2f}",
            ]
        cells.append(f"{row['speed_up']:.2f}" if "speed_up" in row else "–")
        table.add_row(*cells)
    return table


def summary(rows: Sequence[dict[str, Any]], counts: Sequence[int]) -> list[str]:
    """Least and median share, the layers below the goal, speed-up and cost of permute."""
    lines = []
    for threads in counts:
        every = [(row["layer"], row["threads"][str(threads)]) for row in rows]
        calm = [(layer, result) for layer, result in every if result["rounds"]]
        kept = sum(result["rounds"] for _, result in every)
        disturbed = sum(result["disturbed_rounds"] for _, result in every)
        peak, alone = (
            statistics.median(result[key] for _, result in calm or every)
            for key in ("peak_gflops", "peak_alone_gflops")
        )
        lines.append(
            f"{threads} thread(s), FMA peak {peak:.0f} GF/s at the layers' clock, {alone:.0f} "
            f"alone; rounds: {kept} kept, {disturbed} disturbed by other work"
            f"{BUSY if disturbed > kept else ''}"
        )
        if not calm:
            continue
        shares, shares_alone = (
            [result[key]["median"] for _, result in calm] for key in ("share", "share_alone")
        )
        permuted = [result["share_permuted"]["median"] for _, result in calm]
        ratios = [result["permute_ratio"]["median"] for _, result in calm]
        below = [
            f"{layer} ({share:.1%})"
            for (layer, _), share in zip(calm, shares, strict=True)
            if share < GOAL
        ]
        lines += [
            f"  share of peak: least {min(shares):.1%}, median {statistics.median(shares):.1%}; "
            f"of the peak alone: least {min(shares_alone):.1%}, "
            f"median {statistics.median(shares_alone):.1%}",
            f"  with permute=True: least {min(permuted):.1%}, "
            f"median {statistics.median(permuted):.1%}; "
            f"time over channel-last: median {statistics.median(ratios):.2f}, "
            f"most {max(ratios):.2f}",
            f"  {len(below)} of {len(calm)} layers below {GOAL:.0%}"
            + (f": {', '.join(below)}" if below else ""),
        ]
    speed_ups = [row["speed_up"] for row in rows if "speed_up" in row]
    if speed_ups:
        lines.append(
            f"{counts[-1]} threads over 1, layers of 1 ms and more: least {min(speed_ups):.2f}, "
            f"median {statistics.median(speed_ups):.2f}"
        )
    return lines


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return dict(
        processor=processor(), cores=os.cpu_count(), target=dataclasses.asdict(host()),
        system=platform.system(), architecture=platform.machine(),
        versions={
            "numbaconv": __version__, "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dense", description="Share of the FMA peak, layer by layer."
    )
    parser.add_argument("--quick", action="store_true", help="three pairs of channels, a minute")
    parser.add_argument("--rounds", type=int, default=7, help="bursts of each layer (7)")
    parser.add_argument(
        "--json", action="store_true", help="write benchmarks/results/dense-<isa>.json"
    )
    parser.add_argument("--readme", type=Path, help="file whose part `dense` is replaced")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if a layer gave wrong values, whatever its speed."""
    options = parse(arguments)
    if options.serve:
        serve(options.rounds, options.check)
        return 0
    console = Console()
    if not console.is_terminal:
        console.width = 140
    counts = sorted({1, int(numba.config.NUMBA_NUM_THREADS)})
    some = cases(QUICK if options.quick else CHANNELS)
    facts = machine()
    heading = [
        f"{facts['processor']}, {facts['cores']} core(s), {host().isa}; {facts['date'][:10]}; "
        f"float32, batch 1, {len(some)} layers",
        f'padding="same", bias, out=, warm, working set up to {WORKING_SET >> 20} MiB',
    ]
    print("\n".join(heading))
    rows = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("layers", total=len(some))
        for row in measure_all(some, counts, options.rounds):
            rows.append(row)
            progress.update(task, advance=1, description=row["layer"])
    console.print(tabulate(rows, counts))
    print("permute: time with permute=True over channel-last")
    first = cold()
    lines = [
        *summary(rows, counts),
        f"fresh process, 64→128 K3: import {first['import_seconds']:.2f} s, first call "
        f"{first['first_call_compiling']:.2f} s compiling, "
        f"{first['first_call_cached']:.2f} s from the cache of kernels",
    ]
    print("\n".join(lines))
    if options.readme is not None:
        short = [line.partition(": ")[0] if "layers below" in line else line for line in lines]
        rewrite(options.readme, "dense", "\n".join(["```", *heading, *short, "```"]))
    if options.json:
        path = ROOT / "benchmarks" / "results" / f"dense-{host().isa}.json"
        path.parent.mkdir(exist_ok=True)
        report = dict(**facts, rounds=options.rounds, cold=first, rows=rows)
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"results: {path.relative_to(ROOT)}")
    wrong = [row["layer"] for row in rows if not all(r["holds"] for r in row["threads"].values())]
    if wrong:
        print(f"WRONG: {', '.join(wrong)} not within the error bound of direct summation")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

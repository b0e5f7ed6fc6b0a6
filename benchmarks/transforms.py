"""What transforms gain over direct summation, layer by layer, and against K.

    python -m benchmarks.transforms ratios [--threads N]
    python -m benchmarks.transforms plot OUT.png [--peers FOLDER]

Both run in one process: direct summation, the transform and `auto` in turn, each with bursts of
multiply-adds behind it, at the clock that it ran at.
FOLDER holds what `benchmarks.run` found for the layers `kernel_size_…` on one core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from numbaconv import Conv1D

from .problems import KERNEL_SIZES
from .report import any_way, read
from .roofline import fma_peak, fma_peak_behind

# name: (K, C_in, C_out, L, N, other parameters, algorithm)
LAYERS: dict[str, tuple[int, int, int, int, int, dict[str, Any], str]] = {
    "384 → 384 K3": (3, 384, 384, 3000, 1, {}, "winograd"),
    "80 → 384 K3 (whisper conv1)": (3, 80, 384, 3000, 1, {}, "winograd"),
    "256 → 256 K7": (7, 256, 256, 8192, 1, {}, "fft"),
    "64 → 64 K11 d5": (11, 64, 64, 16384, 1, {"dilation": 5}, "fft"),
    "32 → 32 K40 batch 64": (40, 32, 32, 512, 64, {}, "fft"),
    "15 → 15 K51 d8": (51, 15, 15, 30000, 2, {"dilation": 8}, "fft"),
    "768 g16 K128": (128, 768, 768, 499, 1, {"num_groups": 16, "padding": 64}, "fft"),
    "768 g16 K128 batch 8": (128, 768, 768, 499, 8, {"num_groups": 16, "padding": 64}, "fft"),
    "FIR K1023": (1023, 1, 1, 1_000_000, 1, {}, "fft"),
    "FIR K48000 (1 s)": (48000, 1, 1, 480_000, 1, {"padding": "causal"}, "fft"),
}
ROUNDS = 9


def calls_of(name: str, threads: int) -> tuple[int, list[Callable[[], Any]]]:
    """Operations of the definition; direct summation, the named transform, auto with and without
    permute=True.
    """
    taps, inputs, outputs, length, batch, parameters, algorithm = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, length, inputs)).astype(np.float32)
    calls, size = [], 0
    for kind, permute in (("direct", False), (algorithm, False), ("auto", False), ("auto", True)):
        layer = Conv1D(
            taps, inputs, outputs, rng=0, algorithm=kind, threads=threads, permute=permute,
            **{"padding": "same", **parameters},
        )  # fmt: skip
        given = x.transpose(0, 2, 1).copy() if permute else x
        out = layer(given)
        size = out.size
        calls.append(lambda layer=layer, given=given, out=out: layer(given, out=out))
    return 2 * size * taps * inputs // parameters.get("num_groups", 1), calls


def interleaved(calls: list[Callable[[], Any]], threads: int) -> tuple[list[float], list[float]]:
    """Seconds of the fastest of several rounds of each call, and the multiply-add peak behind it.

    A call warms up the next: other machines on the same processor empty its caches within a few
    milliseconds.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    peaks: list[list[float]] = [[] for _ in calls]
    fma_peak_behind(threads)  # compiles
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            call()
            start = time.perf_counter()
            call()
            seconds[i].append(time.perf_counter() - start)
            peaks[i].append(fma_peak_behind(threads))
    return [min(s) for s in seconds], [statistics.median(p) for p in peaks]


def ratios(threads: int, names: list[str]) -> None:
    print(
        f"| layer, {threads} thread(s) | direct GF/s | of FMA peak | transform | auto "
        "| of FMA peak | of FMA alone | permute |"
    )
    print("|---" + "|--:" * 7 + "|")
    for name in names:
        flops, calls = calls_of(name, threads)
        alone = fma_peak(threads)
        (direct, transform, auto, permuted), (peak_direct, peak, *_) = interleaved(calls, threads)
        print(
            f"| {name} | {flops / direct / 1e9:.0f} | {flops / direct / peak_direct:.0%} "
            f"| {direct / transform:.2f}× | {direct / auto:.2f}× "
            f"| {flops / transform / peak:.2f}× | {flops / transform / alone:.2f}× "
            f"| {permuted / auto:.2f}× |",
            flush=True,
        )


def offers(kind: str, taps: int) -> bool:
    """Whether an algorithm takes so many taps."""
    return {"direct": True, "winograd": 2 <= taps <= 5, "fft": taps > 1}[kind]


def by_kernel_size() -> tuple[dict[str, list[tuple[int, float]]], list[float]]:
    """(K, effective GF/s) of each algorithm on the layers drawn, and multiply-add peaks."""
    series: dict[str, list[tuple[int, float]]] = {"direct": [], "winograd": [], "fft": []}
    peaks = []
    for problem in KERNEL_SIZES:
        x, w = problem.arrays()
        kinds = [kind for kind in series if offers(kind, problem.kernel_size)]
        calls = []
        for kind in kinds:
            layer = Conv1D(
                problem.kernel_size, problem.in_channels, problem.out_channels,
                padding=problem.padding, algorithm=kind, threads=1,
            )  # fmt: skip
            layer.filter = w
            out = np.empty_like(layer(x))
            calls.append(lambda layer=layer, x=x, out=out: layer(x, out=out))
        seconds, behind = interleaved(calls, 1)
        peaks.append(behind[0] / 1e9)
        for kind, taken in zip(kinds, seconds, strict=True):
            series[kind].append((problem.kernel_size, problem.flops / taken / 1e9))
    return series, peaks


def best_peers(folder: Path) -> list[tuple[int, float]]:
    """(K, GF/s) of the fastest right way of any peer."""
    points = []
    for row in read(folder).rows(1, "direct"):
        times = [time for contest in row.contests if (time := contest.best(any_way))]
        if times:
            points.append((row.problem.kernel_size, row.problem.flops / min(times) / 1e9))
    return points


def plot(path: str, peers: Path | None) -> None:
    """Effective GF/s against K for 64 → 64 channels, with the roofline."""
    from matplotlib.figure import Figure

    series, peaks = by_kernel_size()
    if peers is not None:
        series["best peer"] = best_peers(peers)
    figure = Figure(figsize=(7, 4.5))
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    peak = statistics.median(peaks)
    axes.axhline(peak, color="black", linestyle="--", label="FMA peak at the clock of direct")
    axes.set(
        xscale="log", yscale="log", xlabel="K", ylabel="effective GF/s, one core",
        title="64 → 64 channels, 4096 positions, float32",
    )  # fmt: skip
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transforms")
    parser.add_argument("step", choices=["ratios", "plot"])
    parser.add_argument("out", nargs="?", default="transforms.png")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    arguments = parser.parse_args()
    # Numba fixes the number of its threads at the start.
    wanted = {"NUMBA_NUM_THREADS": str(arguments.threads)}
    if os.environ.get("NUMBA_NUM_THREADS") != wanted["NUMBA_NUM_THREADS"]:
        command = [sys.executable, "-m", "benchmarks.transforms", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **wanted})
    if arguments.step == "ratios":
        ratios(arguments.threads, arguments.layers)
    else:
        plot(arguments.out, arguments.peers)


if __name__ == "__main__":
    main()

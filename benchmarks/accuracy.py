"""Errors of every algorithm, and of two peers, on the same data, against float64.

python -m benchmarks.accuracy [--peers-from .peers] > docs/accuracy.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from numbaconv import Conv1D
from numbaconv.cpu.transform.accuracy import error_constant
from numbaconv.cpu.transform.folding import fold
from numbaconv.cpu.transform.plan import TransformPlan
from numbaconv.cpu.transform.scheme import RealFFT, Scheme, Winograd
from numbaconv.dispatch import cpu_target

from .problems import Problem

Array = np.ndarray

LAYERS: dict[tuple[int, int], tuple[Scheme, ...]] = {
    (2, 64): (Winograd(3, 2), Winograd(5, 2), RealFFT(16, True)),
    (3, 32): (Winograd(2, 3), Winograd(4, 3), RealFFT(16, True)),
    (3, 384): (Winograd(2, 3), Winograd(4, 3), Winograd(6, 3), RealFFT(16, True)),
    (4, 64): (Winograd(3, 4), Winograd(5, 4), RealFFT(16, True)),
    (5, 64): (Winograd(2, 5), Winograd(4, 5), RealFFT(16, True), RealFFT(32, False)),
    (11, 64): (RealFFT(32, True), RealFFT(64, False)),
    (39, 32): (RealFFT(128, True), RealFFT(256, False)),
    (128, 48): (RealFFT(256, True), RealFFT(512, False)),
}
LENGTH = 2000


def normal(rng: np.random.Generator, length: int, channels: int) -> Array:
    return rng.standard_normal((1, length, channels))


def uniform(rng: np.random.Generator, length: int, channels: int) -> Array:
    return rng.uniform(0, 1, (1, length, channels))


def decaying(rng: np.random.Generator, length: int, channels: int) -> Array:
    return normal(rng, length, channels) * 0.99 ** np.arange(length)[:, None]


def spiked(rng: np.random.Generator, length: int, channels: int) -> Array:
    x = normal(rng, length, channels)
    x[0, ::500] *= 1e4
    return x


DATA: dict[str, Callable[..., Array]] = {f.__name__: f for f in (normal, uniform, decaying, spiked)}


def results(problem: Problem, x: Array, w: Array, schemes: tuple[Scheme, ...]) -> Iterator:
    """(name, y) of direct summation and of each transform."""
    layer = Conv1D(
        problem.kernel_size, problem.in_channels, problem.out_channels, algorithm="direct"
    )
    layer.filter = w
    yield "direct", layer(x)
    conv_problem = layer._problem(*x.shape[:2])
    for scheme in schemes:
        folding = fold(conv_problem.geometry)
        plan = TransformPlan(conv_problem, layer._weights, cpu_target(), scheme, folding)
        y = np.empty(conv_problem.out_shape, np.float32)
        plan.execute(x, y)
        yield f"{scheme.name}, c = {error_constant(scheme, folding)}", y


def peer_result(python: Path, peer: str, problem: Problem, x: Array, w: Array) -> Array:
    """y of a peer, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npy")
        np.savez(source, x=x, w=w, problem=json.dumps(dataclasses.asdict(problem)))
        command = [str(python), "-m", "benchmarks.peers.once", peer, str(source), str(target)]
        subprocess.run(command, check=True, capture_output=True)
        return np.load(target)


def errors(y: Array, expected: Array) -> str:
    error = np.abs(y - expected) / np.abs(expected).max()
    return f"{error.max():.1e} / {np.sqrt((error**2).mean()):.1e}"


def table(problem: Problem, schemes: tuple[Scheme, ...], peers: dict[str, Path]) -> list[str]:
    """Rows of algorithms, columns of data."""
    rows: dict[str, list[str]] = {}
    for draw in DATA.values():
        rng = np.random.default_rng(0)
        shape = problem.w_shape
        w = (rng.standard_normal(shape) / np.sqrt(shape[0] * shape[1])).astype(np.float32)
        x = draw(rng, problem.length, problem.in_channels).astype(np.float32)
        judge = Conv1D(
            problem.kernel_size, problem.in_channels, problem.out_channels, np.float64,
            algorithm="direct",
        )  # fmt: skip
        judge.filter = w.astype(np.float64)
        expected = judge(x.astype(np.float64))
        for name, y in results(problem, x, w, schemes):
            rows.setdefault(name, []).append(errors(y, expected))
        for peer, python in peers.items():
            y = peer_result(python, peer, problem, x, w)
            rows.setdefault(peer, []).append(errors(y, expected))
    lines = ["| | " + " | ".join(DATA) + " |", "|---" * (len(DATA) + 1) + "|"]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


HEAD = """# Accuracy

Errors in float32 against float64, largest / root mean square, relative to the largest |y|.
Filters are normal; x is normal, uniform in 0 … 1, normal times 0.99^position (decaying), or normal
with every 500th position 10⁴ times larger (spiked). Made by `python -m benchmarks.accuracy`.

`c` is the constant of the bound that `explain` states for a transform,
`max|error| <= c·eps·max|x|·max_co Σ|w|`; it is proved rounding by rounding, and far above what
is seen. Direct summation holds an elementwise bound. `auto` takes a Winograd tile only where
so many products are summed that its largest error on normal and uniform data stays below four times
that of direct summation (`LEAST_REDUCTION` in `cpu/transform/methods.py`): of 16 draws the largest
error is at most 3.8 times the largest of direct summation (F(6,3), 384 channels), and each draw's
own ratio at most 2.6 in the median; single draws reached 4.5 (F(6,3)), 4.3 (F(4,5)), 4.0 (F(5,4)).
Transforms are not local: beside a spike, small outputs of the same tile have errors of
the spike's size times eps.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--peers-from", type=Path, default=Path(".peers"))
    folder = parser.parse_args().peers_from
    peers = {peer: folder / peer / "bin" / "python" for peer in ("torch", "onnxruntime")}
    peers = {peer: python for peer, python in peers.items() if python.exists()}
    print(HEAD)
    for (taps, channels), schemes in LAYERS.items():
        problem = Problem("", "", 1, LENGTH, channels, 64, taps)
        print(f"## K = {taps}, {channels} → 64 channels\n")
        print("\n".join(table(problem, schemes, peers)) + "\n")


if __name__ == "__main__":
    main()

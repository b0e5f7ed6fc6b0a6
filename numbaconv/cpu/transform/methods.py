"""Winograd and FFT as kernels of `dispatch`: which schemes fit a problem, and which is best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...problem import ConvProblem, Geometry
from ...weights import Weights
from ..target import Target
from . import cost
from .cost import Candidate
from .folding import Folding, fold, fold_polyphase
from .plan import TransformPlan
from .scheme import RealFFT, Scheme, Winograd

# F(m, r) in use: m outputs by the r taps of a phase, on 4, 6 or 8 points. F(7,2) errs five times
# as much as direct summation; F(8,3) and F(4,7) lose more digits than they save time.
WINOGRAD_OUTPUTS = {2: (3, 5), 3: (2, 4, 6), 4: (3, 5), 5: (2, 4)}

FFT_POINTS = (16, 32, 64, 128, 256, 512)

# Products summed for one output from which the largest error on normal and uniform data stays
# below four times that of direct summation, over several draws and in their median; `auto` asks
# for it. The transforms' own rounding is the same for any sum, and direct summation grows with it.
LEAST_REDUCTION = {
    (3, 2): 0, (5, 2): 16, (2, 3): 0, (4, 3): 12, (6, 3): 240,
    (3, 4): 16, (5, 4): 80, (2, 5): 12, (4, 5): 80,
}  # fmt: skip

# Fewer valid outputs than a quarter of the points waste the transform.
LEAST_SHARE = 4

POLYPHASE_BLOCKS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Method:
    """A kernel of `dispatch` that transforms.

    Attributes
    ----------
    name : {"winograd", "fft"}
        As `algorithm` and `explain` say it.
    """

    name: str

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        if problem.algorithm not in ("auto", self.name):
            return f"algorithm={problem.algorithm!r}"
        if not target.fma and problem.algorithm == "auto":
            return "no fused multiply-add: not measured there"
        if 0 in problem.out_shape:
            return "nothing to compute"
        candidates = self.candidates(problem)
        if not candidates:
            return self.unfit(problem.geometry)
        if problem.algorithm == "auto":
            others = [c for m in METHODS if m != self for c in m.candidates(problem)]
            return cost.declines(problem, target, candidates, others)
        return None

    def candidates(self, problem: ConvProblem) -> tuple[Candidate, ...]:
        """Schemes and foldings that can compute it, and accurately enough for `auto`."""
        return tuple(
            (scheme, folding)
            for scheme, folding in self.fitting(problem.geometry)
            if problem.algorithm != "auto" or is_accurate(scheme, problem.geometry)
        )

    def fitting(self, geometry: Geometry) -> Iterator[Candidate]:
        """Schemes and foldings that can compute it."""
        folding = fold(geometry)
        if self.name == "winograd":
            for outputs in WINOGRAD_OUTPUTS.get(folding.taps, ()):
                yield Winograd(outputs, folding.taps), folding
            return
        yield from ffts(folding)
        if is_polyphase(geometry):
            for block in POLYPHASE_BLOCKS:
                yield from ffts(fold_polyphase(geometry, block))

    def unfit(self, geometry: Geometry) -> str:
        taps = fold(geometry).taps
        if self.name == "winograd":
            return f"{taps} taps of each phase, where 2 to 5 are served"
        most = FFT_POINTS[-1] * (LEAST_SHARE - 1) // LEAST_SHARE + 1
        if is_polyphase(geometry):
            return f"{taps} taps, where {(most - 1) * POLYPHASE_BLOCKS[-1] + 1} are served"
        return f"{taps} taps of each phase, where 2 to {most} are served"

    def plan(self, problem: ConvProblem, weights: Weights, target: Target) -> TransformPlan:
        scheme, folding = cost.best(problem, target, self.candidates(problem))
        return TransformPlan(problem, weights, target, scheme, folding)


def is_polyphase(geometry: Geometry) -> bool:
    """Whether positions can become channels."""
    is_signal = geometry.in_channels == geometry.out_channels == 1
    return is_signal and geometry.stride == geometry.dilation == 1


def is_accurate(scheme: Scheme, geometry: Geometry) -> bool:
    """Whether its errors stay below four times those of direct summation."""
    if not isinstance(scheme, Winograd):
        return True
    return geometry.reduction >= LEAST_REDUCTION[scheme.tile_outputs, scheme.taps]


def ffts(folding: Folding) -> Iterator[Candidate]:
    """Fourier transforms that hold the taps and leave enough outputs."""
    if folding.taps < 2 and folding.row_positions == 1:
        return
    for points in FFT_POINTS:
        outputs = points - folding.taps + 1
        if outputs * LEAST_SHARE >= points:
            for gauss in (True, False):
                yield RealFFT(points, gauss), folding


METHODS = (Method("winograd"), Method("fft"))

# How much slower than the best a scheme may be estimated to be and yet be taken at lengths near.
NEARLY = 1.25


def likely(problem: ConvProblem, target: Target) -> list[Candidate]:
    """The best schemes and foldings, one of which a problem of nearly that length takes."""
    methods = [m for m in METHODS if problem.algorithm in ("auto", m.name)]
    candidates = [c for method in methods for c in method.candidates(problem)]
    times = [cost.estimate(problem, target, *candidate) for candidate in candidates]
    pairs = zip(candidates, times, strict=True)
    return [candidate for candidate, time in pairs if time <= NEARLY * min(times)]

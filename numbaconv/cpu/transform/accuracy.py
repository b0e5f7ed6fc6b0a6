"""How far a transform's result can be from the true one.

The bound is normwise: max|error| <= c·eps·max|x|·max_co Σ|w|. It follows rounding by rounding
from the model fl(a op b) = (a op b)(1 + δ), |δ| <= eps/2 (Higham 2002, chapters 3 and 24).
"""

from __future__ import annotations

import math

from .folding import Folding
from .scheme import RealFFT, Scheme, Winograd
from .toom_cook import matrices

# Roundings of one level of radix 2 relative to the norm, Higham (2002), theorem 24.2:
# sqrt(2)*gamma_4 and the error of the factor itself, rounded up.
ROUNDINGS_OF_LEVEL = 8


def error_constant(scheme: Scheme, folding: Folding) -> int:
    """c of the bound, rounded up to two digits."""
    if isinstance(scheme, Winograd):
        value = winograd_constant(scheme, folding.depth)
    elif isinstance(scheme, RealFFT):
        value = fft_constant(scheme, folding.depth)
    digits = 10 ** max(0, math.ceil(math.log10(value)) - 2)
    return math.ceil(value / digits) * digits


def winograd_constant(scheme: Winograd, depth: int) -> float:
    """Roundings of the longest chain, times Σ_p |A_jp|·Σ_i|B_pi|·|G_pk| at its largest."""
    a, g, b = matrices(scheme.tile_outputs, scheme.taps)
    growth = max(
        sum(
            abs(row[p]) * sum(map(abs, b[p])) * abs(g[p][k])
            for p in range(scheme.points)
        )
        for row in a
        for k in range(scheme.taps)
    )  # fmt: skip
    # Both transforms sum at most `points` terms, in two steps where a pair is shared.
    roundings = depth + 2 * (scheme.points + 2) + 2
    return float(growth) * roundings / 2


def fft_constant(scheme: RealFFT, depth: int) -> float:
    """Errors of both transforms in the 2-norm, and those of the products of each frequency.

    |y| <= Σ|X||W|/n <= sqrt(n)·max|x|·Σ|w|; the sums inside a complex product are at most
    2*sqrt(2) times as large with three products, sqrt(2) times with four.
    """
    levels = math.log2(scheme.points)
    growth = 2 * math.sqrt(2) if scheme.gauss else math.sqrt(2)
    products = growth * (depth * (1 if scheme.gauss else 2) + 4)
    return math.sqrt(scheme.points) * (2 * ROUNDINGS_OF_LEVEL * levels + products) / 2

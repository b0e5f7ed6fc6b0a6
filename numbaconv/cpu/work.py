"""What families choose by: the multiply-adds of whole vectors that a position could take instead.

A time is the products of a tile over the share of the multiply-add peak that such tiles reach.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from ..problem import ConvProblem
from .blocking import round_up
from .sliced import positions_of_slice, tap_pitch
from .target import Target


class Rates(NamedTuple):
    """Of the peak, what tiles of each kind reach; products in the time of transposing 4 bytes.

    `one` and `more` are dense tiles of one vector to a row, whose broadcasts bind it where two
    products start in a cycle, and of more; `permuting` is small groups of many taps. Groups that
    are transposed (`of_groups`) are tiles of few outputs, which load more.
    """

    planar: float
    one: float
    more: float
    dots: float
    permuting: float
    transposing: float
    of_groups: float

    def transposed(self, problem: ConvProblem) -> float:
        """What an element takes to be transposed on the way."""
        is_one = problem.geometry.num_groups == 1
        return (self.transposing if is_one else self.of_groups) * problem.dtype.itemsize / 4


# By `Target.fma_units`. One: Zen 4, one core. Vectors of positions gain over those of outputs 1.24×
# in 15 → 12 K51, 1.18× in 12 → 12 K15, 1.3× in 64 → 9 K5, and would lose 1.1× in 24 → 24 K7; over
# dot products 3.5× in 2 → 1 K31, 2.1× in 4 → 1 K101, 1.9× in 8 → 5 K64, and would lose 1.9× in
# 10 → 1 K7; over groups side by side 4× in 2 → 2 K101, 7.7× in 64 → 8 K64 of 4 groups, 1.26× in
# 4 → 4 K21, 2.5× in 2 → 4 K15 of 2, and would lose 1.4× in 8 → 8 K31; of 1300 layers of 2 to 64
# groups the choice loses more than 1.1× in 29, 1.5× at most. Two: 20 → 20 K11 takes 0.9 of the time
# of dense tiles, 24 → 24 K7 would take 1.1; 15 → 12 K51 takes 0.91 of that of sliding taps, 15 → 13
# and 15 → 15 K51 would take 1.07 and 1.09.
RATES = {
    1: Rates(0.93, one=0.97, more=0.97, dots=0.9, permuting=0.88, transposing=1, of_groups=0.7),
    2: Rates(0.86, one=0.70, more=0.85, dots=0.65, permuting=0.65, transposing=4, of_groups=4),
}

# Of the multiply-add peak, what tiles reach whose taps slide.
SLIDING_SHARE = 0.92

# Channel-first signals with filters of their own, where one multiply-add starts in a cycle. What a
# product takes whose x is loaded for it alone, or by turns with permutations; what a signal takes
# beside them, and for each tap at its borders, unless it is so short that all of it is copied. And
# what it takes to transpose a vector of x and one of y. Zen 4, of the time of windows, padded by
# "same": 64 channels at 1000 positions take 0.42 by K3, 0.83 by K15 and 1.4 by K31, at 300 1.08 by
# K11 (0.77 without padding), at 24 1.4 by K7; 12 channels at 1000 1.03 by K31. Of 1180 such layers
# (8 to 256 channels, 24 to 4000 positions, K2 to K31) the choice loses more than 1.1× in 52, 1.3×
# at most. On other cores a transposition takes longer beside the products.
SIGNAL_PRODUCT, PERMUTED_PRODUCT = 1.95, 1.7
SIGNAL, SIGNAL_BORDERS, SHORT_SIGNAL = 60, 8, 8
TRANSPOSED_BOTH = 14

# The same with a stride: a product by turns, a vector of x that is sorted into phases, and a vector
# that is transposed. Of 792 layers (2 to 128 channels, strides 2 to 4, K2 to K63, 300 to 4000
# positions) the choice loses more than 1.1× in 35, 1.44× at most (Zen 4).
PHASED_PRODUCT, PHASE, PHASE_TRANSPOSED = 1.5, 7, 6

# And of channel-last arrays, whose signals are picked on the way: what a vector of y takes beside
# that where channels divide the lanes and where they do not, a signal, and a position of depthwise
# tiles. Of 576 layers (2 to 16 channels) the choice loses more than 1.1× in 19, 1.24× at most.
PICKED_EVENLY, PICKED_UNEVENLY, PICKED_SIGNAL, DEPTHWISE_POSITION = 5, 25, 150, 3

# And where several positions share a vector, but channels do not divide its lanes: of 2000
# positions, 3 channels take 1.24 of the time of signals by K31 and 0.82 by K101, 6 channels 1.08 by
# K51, where 8 take 0.77 by K31 and 1.26 by K15, 2 take 0.65 by K101 (Zen 4).
TRANSPOSED_UNEVENLY = 28

# Channel-first arrays where one multiply-add starts in a cycle. What an element takes to be
# transposed for other tiles; and one of x to be sorted into phases, where its channels are not few,
# or to be picked. Of 700 layers (1 to 512 channels, 1 to 16 groups, 24 to 4000 positions, strides 1
# to 4) the choice between vectors of positions and others loses more than 1.1× in 13, 1.8× at most,
# and of 260 of one group that read up to 2048 channels in 9 (Zen 4).
TRANSPOSED, SORTED = 0.55, 0.7

# Vectors of positions against dot products: what a product takes, and the load of an x that all
# outputs share; to add up the lanes of an output; and chains that cover the latency of a sum, which
# the few vectors of a short signal are not. Zen 4: 256 → 2 K2 takes 0.6 of the time of dot products
# at 1000 positions, 64 → 1 K1 0.5, 30 → 2 K11 0.75; of 900 such layers (2 to 2048 channels, 1 to 8
# outputs, 24 to 16000 positions, strides 1 to 4) the choice loses more than 1.1× in 43, 2× at most.
OWN_PRODUCT, LOADED_PRODUCT, ADDED_LANES, LATENCY = 0.3, 1.8, 54, 4

# Dot products of channel-last arrays there: to add up the lanes of an output, and a position. By
# vectors of positions 2 → 1 takes 0.45 of the time by K7 and 0.65 by K1, 5 → 1 K1 0.27 where it is
# channel-first; dense tiles take 0.5 for 8 → 6 K1, 0.7 for 16 → 8 K1.
DOT_OUTPUT, DOT_POSITION = 1, 3

# Products of an output below which a call is over before vectors of positions have paid for
# anything: 3 → 3 K4 would lose 1.3×; `planar` weighs what has been measured more closely.
FEWEST = 16


def planar_declines(problem: ConvProblem, target: Target) -> str | None:
    """Why no layer like this goes by vectors of positions, None if one may."""
    if problem.filter_bytes > target.l2 // 2:
        return f"a filter of {problem.filter_bytes} bytes is read again for each few positions"
    return None


def permutes_taps(problem: ConvProblem, target: Target) -> bool:
    """Whether signals read every other tap by permutations: taps side by side, at most VL.

    Where one multiply-add starts in a cycle, an unaligned load of 64 bytes takes longer, and so
    does a permutation of two vectors; but they do not wait for each other. Zen 4, of the time of
    loads alone: 64 signals take 0.92 by K3, 0.83 by K7, 0.75 by K15, one signal 0.85 by K7, 0.7 by
    K15.
    """
    g = problem.geometry
    is_gainful = target.isa == "avx512" and target.fma_units == 1
    return is_gainful and g.dilation == 1 < g.phase_taps <= target.lanes(problem.dtype)


def channels_pay(problem: ConvProblem, target: Target) -> bool:
    """Whether a channel-first depthwise layer is faster by vectors of channels, transposed."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    positions = positions_of_slice(problem, target)
    in_use = positions * g.in_channels / round_up(positions * g.in_channels, lanes)
    do_slide = positions == 1 or tap_pitch(replace(g, stride=positions)) > 0
    if target.fma_units > 1 or not do_slide or (in_use <= 0.5 and g.stride == 1):
        return False
    vectors, beside = problem.length_out / lanes, SIGNAL
    if g.stride == 1 and vectors >= SHORT_SIGNAL and max(problem.padding) > 0:
        beside += SIGNAL_BORDERS * g.kernel_size
    product = signal_product(problem, target) - 1 / (SLIDING_SHARE * in_use)
    saved = g.kernel_size * product + beside / vectors
    if g.stride > 1:
        return saved + PHASE * g.stride > PHASE_TRANSPOSED * (g.stride + 1) / in_use
    is_even = positions == 1 or lanes % g.in_channels == 0
    return saved > (TRANSPOSED_BOTH if is_even else TRANSPOSED_UNEVENLY) / in_use


def signal_product(problem: ConvProblem, target: Target) -> float:
    """What a product of a signal takes."""
    if not permutes_taps(problem, target):
        return SIGNAL_PRODUCT
    return PERMUTED_PRODUCT if problem.geometry.stride == 1 else PHASED_PRODUCT


def signals_pay(problem: ConvProblem, target: Target) -> bool:
    """Whether a channel-last depthwise layer with a stride is faster signal by signal."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    if target.fma_units > 1 or g.stride == 1:
        return False
    sorted_x = PHASE * g.stride
    if problem.step > 1:  # phases do not lie side by side
        sorted_x *= 2
    picked = sorted_x + PICKED_SIGNAL * lanes / problem.length_out
    picked += PICKED_EVENLY if lanes % g.in_channels == 0 else PICKED_UNEVENLY
    signals = g.in_channels * (g.kernel_size * signal_product(problem, target) + picked)
    position = g.kernel_size / SLIDING_SHARE + DEPTHWISE_POSITION
    return signals < round_up(g.in_channels, lanes) * position


def positions_pay(problem: ConvProblem, target: Target) -> bool:
    """Whether channel-first arrays are faster by vectors of positions than by dot products."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    is_possible = problem.layout == "NCL" and problem.length_out >= lanes and target.fma_units == 1
    if not is_possible or planar_declines(problem, target):
        return False
    vectors = math.ceil(problem.length_out / lanes)
    each = g.reduction * planar_product(problem, target) + ADDED_LANES
    waiting = g.reduction * max(0, LATENCY - vectors * g.group_out_channels) * g.num_groups
    positions = each * g.out_channels * vectors + waiting
    positions += sorting_time(problem, target) * lanes * vectors
    transposed = TRANSPOSED * g.in_channels * (g.stride * problem.length_out + g.span)
    return positions < dot_time(problem, target) * problem.length_out + transposed


def sorting_time(problem: ConvProblem, target: Target) -> float:
    """What a position takes of channel-first arrays to be sorted into phases, or picked."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    if g.stride == problem.step == 1:
        return 0
    return (PHASE / lanes if g.in_channels < lanes else SORTED) * g.stride * g.in_channels


def planar_product(problem: ConvProblem, target: Target) -> float:
    """What a product takes by vectors of positions: few outputs share the load of an x."""
    product = 1 / RATES[target.fma_units].planar
    if target.fma_units > 1:
        return product
    return max(product, OWN_PRODUCT + LOADED_PRODUCT / problem.geometry.group_out_channels)


def products_time(problem: ConvProblem, target: Target) -> float:
    """What the products of a position take by vectors of positions."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    return g.reduction * g.out_channels / lanes * planar_product(problem, target)


def planar_time(problem: ConvProblem, target: Target) -> float:
    """By vectors of positions, with x and y transposed on the way."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    of_x = each = RATES[target.fma_units].transposed(problem)
    if target.fma_units == 1 < g.stride and (g.num_groups > 1 or g.in_channels <= lanes):
        of_x = PHASE / lanes  # sorted, many planes at once
    products = products_time(problem, target)
    return products + of_x * g.stride * g.in_channels + each * g.out_channels


def lanes_ratio(problem: ConvProblem, target: Target) -> float:
    """How much longer vectors of positions take in the order of dot products, a sum a lane."""
    return 1 + ADDED_LANES / (problem.geometry.reduction * planar_product(problem, target))


def dot_time(problem: ConvProblem, target: Target) -> float:
    """By vectors of input channels, whose sums are added up at the end."""
    g = problem.geometry
    vectors = math.ceil(g.group_in_channels / target.lanes(problem.dtype))
    time = g.kernel_size * vectors * g.out_channels / RATES[target.fma_units].dots
    if target.fma_units == 1:
        time += DOT_OUTPUT * g.out_channels + DOT_POSITION * g.num_groups
    return time

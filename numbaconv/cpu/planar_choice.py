"""When vectors of positions pay: what they take, and what other tiles would, see `work`."""

from __future__ import annotations

import math

from ..problem import ConvProblem
from .blocking import round_up
from .dense import vectors_of
from .depthwise import DEPTHWISE
from .sliced import MOST_WRITTEN_TAPS, groups_of_slice, tap_pitch
from .sliding import SLIDING
from .small_groups import GATHERING_SHARE, PERMUTING_SHARE, SMALL_GROUPS
from .target import Target
from .work import (
    FEWEST,
    RATES,
    SLIDING_SHARE,
    TRANSPOSED,
    channels_pay,
    planar_time,
    products_time,
    sorting_time,
)

# On channel-first arrays, where two multiply-adds start in a cycle: products an output up to which
# nothing transposed is faster than dense tiles on transposed blocks, whose loads are aligned (1.2
# against 1.4 times the channel-last call on 32 → 64 K3, 1.25 against 1.15 on 64 → 128 K3, but 1.4
# against 1.6 on 64 → 128 K1, and 1.4 against 1.1 on 256 → 256 K1 at L = 3968); and output channels
# up to which it is for any number of products, since no lane is idle (0.7 against 1.2 on 15 → 15
# K51, 1.1 against 1.3 on 48 → 48 K3). Through windows, where x is read in steps, it is alike:
# 64 → 64 K1 s2 takes 1.22 against 1.34, 80 → 384 1.04 against 1.15, 128 → 128 1.27 against 1.20
# (Zen 3).
LONGEST, LONGEST_POINTWISE, FEW_OUTPUTS = 96, 128, 48

# On channel-last arrays: products from which a few channels are worth transposing (4 → 4 K31
# takes 0.56 of the time of dense tiles, 1 → 4 K101 0.45, 1 → 8 K64 0.6).
SHORTEST = 32

# Where one multiply-add starts in a cycle: what a position of dense tiles takes beside its
# products, or one of a slice of small groups; of the time of transposing what is saved in one group
# whose channels divide the lanes; and vectors of positions from which these are weighed.
# Zen 4, of the time of dense tiles at 4000 positions: 1 → 2 takes 0.35 by K2 and 0.22 by K15, 2 → 2
# 0.4 by K2, 4 → 4 0.62, 1 → 4 0.7, 3 → 3 0.86 by K3; by K2 3 → 8 would take 1.3, 12 → 12 1.1. Of
# fewer vectors of positions than that 1 → 4 and 4 → 4 K2 would take 1.2 and 1.03 at 50 positions.
DENSE_POSITION, SLICE_POSITION, SAVED_EVENLY, FEWEST_VECTORS = 3.5, 2.5, 0.4, 4

# There, what the windows of a signal take beside its positions: of 4100 layers (1 to 64 channels,
# 100 to 8000 positions) the choice loses more than 1.1× in 250 rather than 420, 1.9× at most.
WINDOWS = 700

# Vectors of positions from which signals of groups that share a vector are worth sorting into
# phases, each by itself: 64 → 128 K16 s4 in 64 groups takes 2.1 of the time of groups side by side
# at 4.5 (Zen 4).
FEWEST_SORTED_VECTORS = 5


def declines_channel_first(problem: ConvProblem, target: Target) -> str | None:
    """Where transposing x and y for other tiles takes less time than they save."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    if DEPTHWISE.declines(problem, target) is None and channels_pay(problem, target):
        return "vectors of channels pay for the transposition of x and y"
    is_short = problem.length_out < FEWEST_SORTED_VECTORS * lanes
    if is_short and groups_of_slice(g, lanes) > 1 and g.stride > 1:
        return f"{problem.length_out} positions do not pay for sorting x into phases"
    if is_transposition_paid(problem, target):
        return f"{g.reduction} products an output pay for the transposition of other tiles"
    return None


def declines_channel_last(problem: ConvProblem, target: Target) -> str | None:
    """Where x and y are transposed on the way, as many products have to pay for it."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    is_narrow = g.num_groups == 1 and max(g.in_channels, 2 * g.out_channels) <= lanes
    if is_narrow and g.reduction >= SHORTEST:
        return None
    if position_time(problem, target) < column_time(problem, target):
        return None
    return (
        f"{g.reduction} products an output do not pay for the transposition of "
        f"{g.in_channels} → {g.out_channels} channels"
    )


def column_time(problem: ConvProblem, target: Target) -> float:
    """What other tiles of channel-last arrays take, see `work`: vectors along output channels."""
    g, rates, lanes = problem.geometry, RATES[target.fma_units], target.lanes(problem.dtype)
    if DEPTHWISE.declines(problem, target) is None:
        return g.reduction * math.ceil(g.out_channels / lanes) / SLIDING_SHARE
    if SMALL_GROUPS.declines(problem, target) is None:
        slices = math.ceil(g.num_groups / groups_of_slice(g, lanes))
        share = PERMUTING_SHARE if g.kernel_size <= MOST_WRITTEN_TAPS else rates.permuting
        share = share if tap_pitch(g) else GATHERING_SHARE
        beside = SLICE_POSITION if target.fma_units == 1 else 0
        return slices * (g.reduction / share + beside)
    vectors = vectors_of(problem, target)
    share = rates.one if vectors == 1 else rates.more
    if SLIDING.declines(problem, target) is None and tap_pitch(g) == 1:
        share = SLIDING_SHARE
    beside = DENSE_POSITION if is_weighed_closely(problem, target) else 0
    return g.num_groups * (g.reduction * vectors / share + beside)


def is_weighed_closely(problem: ConvProblem, target: Target) -> bool:
    """Where there are few products, or groups, which has been measured."""
    g = problem.geometry
    is_long = problem.length_out >= FEWEST_VECTORS * target.lanes(problem.dtype)
    has_few = g.reduction < SHORTEST or g.num_groups > 1
    return is_long and has_few and target.fma_units == 1


def position_time(problem: ConvProblem, target: Target) -> float:
    """What vectors of positions take of channel-last arrays."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    time = planar_time(problem, target)
    if target.fma_units == 1:
        time += WINDOWS / problem.length_out
    if not is_weighed_closely(problem, target):
        return time if g.reduction >= FEWEST else math.inf
    if g.num_groups == 1 and lanes % g.in_channels == lanes % g.out_channels == 0:
        channels = g.in_channels + g.out_channels if g.stride == 1 else g.out_channels
        time -= SAVED_EVENLY * RATES[target.fma_units].transposed(problem) * channels
    return time


def in_place_time(problem: ConvProblem, target: Target) -> float:
    """What vectors of positions take of channel-first arrays, of which some lanes stay idle."""
    in_use = problem.length_out / round_up(problem.length_out, target.lanes(problem.dtype))
    return products_time(problem, target) / in_use + sorting_time(problem, target)


def transposed_time(problem: ConvProblem, target: Target) -> float:
    """What other tiles take of them, with x and y transposed on the way."""
    g = problem.geometry
    elements = g.stride * g.in_channels + g.out_channels
    return column_time(problem, target) + TRANSPOSED * problem.dtype.itemsize / 4 * elements


def is_transposition_paid(problem: ConvProblem, target: Target) -> bool:
    """Whether channel-first arrays are better transposed for other tiles."""
    if target.fma_units == 1:
        return in_place_time(problem, target) > transposed_time(problem, target)
    g = problem.geometry
    longest = LONGEST_POINTWISE if g.kernel_size == g.stride == 1 else LONGEST
    few = FEW_OUTPUTS if g.stride == 1 else FEW_OUTPUTS // 2
    return g.group_out_channels > few and g.reduction > longest

"""Dense convolution: output channels sum over input channels, in groups or not.

Channels of y are cut into panels, and a panel's tile is made to suit the layer: how its weights and
its x are brought near, and whether its products are so few that they are written out. The last
channels, where they fill no vector, may go by vectors of half the size or by dot products.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from ..problem import ConvProblem
from . import blocking
from .blocking import Band, Panel, reduction_blocks, split_evenly
from .dense_tile import (
    MOST_STORED,
    ONE_CHANNEL,
    PREFETCH_OUTPUTS,
    PREFETCH_ROWS,
    PREFETCH_WEIGHTS,
    PREFETCH_X,
    STORE_BY_ROWS,
    STREAM_WEIGHTS,
    DenseEmitter,
    unroll_of,
)
from .family import Family, PackingGroups
from .microkernel import Tile
from .narrow import dot_panel, vectors_of_dots
from .short import MOST_WRITTEN_OUT, written_out
from .target import Target
from .vector import LINE

# Positions up to which a short block of weights is streamed: products of 768 channels in 16
# groups, K128, gain 1.6 times at 4 and 8 positions, 1.25 at 32.
FEW = 48

# Reductions shorter than this write y faster than the stores find its lines: 1 → 100 K9 gains
# 1.3×, 1 → 512 K10 1.1×; at 64 steps it is 2 % slower.
SHORT = 32

# Where x is used little, its rows are asked for a tile ahead: products of an element of x up to
# which that pays. Beyond the second cache 128 → 32 K1 gains 1.2-1.3×, 256 → 16 K1 1.6×, 64 → 64 K3
# 1.08×, 64 → 128 K8 s4 1.04×; nearer, up to 1 % is lost or gained.
# Where taps lie apart the processor does not follow x by itself: up to twice as many. Beyond the
# second cache 96 → 96 K7 gains 1.03× with dilation 8 and 4 and 1.01× with 3, 128 → 128 K7 d8 1.03×,
# 256 → 256 K3 d8 1.01×; with dilation 1 and 2, or from 1500 products on, nothing (Zen 4).
FEW_PRODUCTS, MOST_FOLLOWED = 512, 2

# Vectors of half the size in a tile: one of 1 or 2 reaches 75-80 % of the peak (Zen 4), of 3 95 %.
HALVES = 3

# Products of an output from which some channels may go by dot products: channel-first arrays too,
# since bits do not depend on the layout. Transposing those takes 1.0-1.15 times as long as `planar`
# there (64 → 33 K3, 64 → 17 K3, 25 → 25 K7), and up to 1.35 times with fewer (64 → 25 K1).
FEWEST_FOR_DOTS = 128

# What a tile of one vector takes longer where two multiply-adds start in a cycle, in vectors of
# wider tiles: with AVX2, whole ones and dot products gain 1.02× in 9 channels, 1.08× in 25, lose
# 1.02× in 11.
SINGLE = 0.7


def reads_x_little(problem: ConvProblem) -> bool:
    """Whether few products are made with each element of x."""
    g = problem.geometry
    products = g.kernel_size * g.out_channels
    few = FEW_PRODUCTS if g.dilation <= MOST_FOLLOWED else 2 * FEW_PRODUCTS
    return g.num_groups == 1 and products <= few * g.stride * problem.step


def stores_by_rows(vectors: int, panel_bytes: int, target: Target) -> bool:
    """Whether a tile, whose weights are so many bytes, stores y by a few rows at a time.

    On Zen 4, over all at once, 64 → 48 K1 and 96 → 96 K1 gain 1.02×, 64 → 128 K1 1.01-1.02×,
    128 → 48 K1 1.01×; 128 → 64 K1, whose panel fills the first cache, loses 1.02×, 256 → 256 K1
    1.03×: weights of the last steps are read twice as fast. Where two multiply-adds start in a
    cycle it has not been measured.
    """
    tile_bytes = target.tile_rows[vectors - 1] * vectors * target.vector_bytes
    is_near = panel_bytes <= target.l1 * 3 // 4
    return target.fma_units == 1 and tile_bytes > MOST_STORED * LINE and is_near


def variant_of(
    problem: ConvProblem, vectors: int, target: Target, sharing: int | None, of_transform: bool
) -> tuple[str, ...]:
    """What suits the reduction: its length, its weights against the first cache, its taps.

    Tiles of one vector have so many rows that no register is left to prefetch weights.
    """
    g = problem.geometry
    panel_bytes = g.reduction * vectors * target.vector_bytes
    variant = []
    if g.group_in_channels == 1 and g.dilation * problem.step > 1:
        variant.append(ONE_CHANNEL)
    elif sharing is None and stores_by_rows(vectors, panel_bytes, target):
        variant.append(STORE_BY_ROWS)
    if problem.dtype.itemsize * 8 not in target.prefetch_bits:
        return tuple(variant)
    if sharing is not None and panel_bytes > target.l1 and vectors > 1:
        variant.append(PREFETCH_WEIGHTS)
    elif sharing is not None and sharing <= FEW:
        variant.append(STREAM_WEIGHTS)
    elif g.reduction < SHORT:
        variant.append(PREFETCH_OUTPUTS)
    steps = unroll_of(target.vector_bytes * 8, vectors, variant)
    if g.reduction >= SHORT and steps > 1 and not of_transform and reads_x_little(problem):
        between = g.stride * problem.step
        new_bytes = target.tile_rows[vectors - 1] * between * problem.dtype.itemsize
        lines = -(-new_bytes * steps // (g.kernel_size * LINE))
        # At most one a step: outputs far apart skip most of what lies between. Pointwise layers
        # with a stride do not ask for what they skip: over lines, 96 → 96 gains 1.02-1.04× with
        # stride 2 and 1.1× with 3, 96 → 192 1.06-1.1× with 4, 128 → 256 nothing with 2 (Zen 4).
        by_lines = f"{PREFETCH_X}{min(lines, steps)}"
        has_room = vectors > (2 if PREFETCH_WEIGHTS in variant else 1)
        has_gaps = g.kernel_size == 1 and problem.step > 1
        variant.append(PREFETCH_ROWS if has_gaps and has_room else by_lines)
    return tuple(variant)


def rows_taken(variant: tuple[str, ...], vectors: int, itemsize: int) -> int:
    """Rows of a tile that its variant leaves no registers for: read off the assembly.

    The step from tap to tap takes the register of a row's address, or of a weight's; the place
    of x to prefetch that of one or two, where a tile of one vector has many rows.
    """
    taken = int(ONE_CHANNEL in variant and vectors > 1)
    if vectors == 1 and any(PREFETCH_X in name for name in variant):
        taken += itemsize // 4
    return taken


def cut_channels(
    problem: ConvProblem,
    target: Target,
    *,
    first: int,
    channels: int,
    x_offset: int,
    column: int,
    sharing: int | None = None,
    of_transform: bool = False,
) -> list[Panel]:
    """Cut `channels` channels of y into panels of nearly equal width.

    `sharing` is the number of positions that share a block of weights, where those come from
    the last cache, else None. In a GEMM `of_transform` x has just been written.
    """
    lanes = target.lanes(problem.dtype)
    panels = []
    for vectors in split_evenly(-(-channels // lanes), len(target.tile_rows)):
        count = min(vectors * lanes, channels)
        variant = variant_of(problem, vectors, target, sharing, of_transform)
        rows = target.tile_rows[vectors - 1] - rows_taken(variant, vectors, problem.dtype.itemsize)
        tile = Tile(
            DenseEmitter.family, problem.dtype.itemsize * 8, lanes, rows, vectors,
            masked=count < vectors * lanes, fma=target.fma, variant=variant,
        )  # fmt: skip
        last_lanes = count - (vectors - 1) * lanes
        panels.append(Panel(tile, first, count, x_offset, column, last_lanes))
        first, channels, column = first + count, channels - count, panels[-1].last_column
    return panels


class Remainder(NamedTuple):
    """The last channels of a group, where they fill a vector only in part: how many go together.

    `halves` of them in vectors of half the size, and then `dots` by dot products.
    """

    halves: int = 0
    dots: int = 0


def remainder_of(problem: ConvProblem, target: Target) -> Remainder:
    """What a partial vector would take longer for.

    It depends on the layer alone, so that its weights are packed once. On one core of a Zen 4
    64 → 17 K3 gains 1.8×, 33 1.44×, 24 1.32×, 40 1.2×, 65 1.22×, 129 1.11×, 257 1.06×; with AVX2
    17 1.47×, 33 1.25×.
    """
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    whole, rest = divmod(g.group_out_channels, lanes)
    is_far = blocking.is_far_filter(problem, target)
    if not (whole and rest) or is_far or g.reduction <= MOST_WRITTEN_OUT:
        return Remainder()

    def time(vectors: int, remainder: Remainder) -> float:
        """Of so many whole vectors and `remainder`; infinity where it cannot be."""
        tiles = split_evenly(vectors, len(target.tile_rows))
        widest = max([*(tile * lanes for tile in tiles), remainder.halves])
        if remainder != Remainder() and not is_one_block(problem, widest, target):
            return math.inf
        waiting = SINGLE * tiles.count(1) if target.fma_units > 1 else 0
        narrow = remainder.halves / lanes + time_of_dots(problem, remainder.dots, target)
        return vectors + waiting + narrow

    times = {Remainder(): time(whole + 1, Remainder())}
    times[Remainder(0, rest)] = time(whole, Remainder(0, rest))
    half = lanes // 2
    if target.has_half_vectors and rest >= half:
        remainder = Remainder(HALVES * half, rest - half)
        times[remainder] = time(whole - 1, remainder)
    return min(times, key=times.__getitem__)


def is_one_block(problem: ConvProblem, width: int, target: Target) -> bool:
    """Whether panels of `width` columns sum all products at once: dot products cannot go on."""
    g = problem.geometry
    itemsize = problem.dtype.itemsize
    return len(reduction_blocks(g, g.group_in_channels, width, itemsize, target)) == 1


def time_of_dots(problem: ConvProblem, dots: int, target: Target) -> float:
    """What the last channels take by dot products, in vectors of a dense tile."""
    if not dots:
        return 0
    if problem.geometry.reduction <= FEWEST_FOR_DOTS:
        return math.inf
    return vectors_of_dots(problem, dots, target)


def vectors_of(problem: ConvProblem, target: Target) -> float:
    """Vectors of a group's output channels, halves counted as such."""
    remainder, lanes = remainder_of(problem, target), target.lanes(problem.dtype)
    whole = problem.geometry.group_out_channels - sum(remainder)
    return math.ceil(whole / lanes) + remainder.halves / lanes


def cut_group(
    problem: ConvProblem, target: Target, group: int, column: int, sharing: int | None
) -> list[Panel]:
    """Cut the channels of a group into panels; `column` is where they begin in packed weights."""
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    halves, dots = remainder_of(problem, target)
    first, x_offset = group * g.group_out_channels, group * g.group_in_channels
    smaller = dataclasses.replace(target, vector_bytes=target.vector_bytes // 2)
    panels: list[Panel] = []
    for channels, cut_for in (
        (g.group_out_channels - halves - dots, target), (halves, smaller)
    ):  # fmt: skip
        panels += cut_channels(
            problem, cut_for, first=first, channels=channels, x_offset=x_offset, column=column,
            sharing=sharing,
        )  # fmt: skip
        first += channels
        column = blocking.round_up(panels[-1].last_column, lanes) if panels else column
    panels = written_out(panels, problem, target)
    if dots:
        panels.append(dot_panel(problem, target, dots, first, x_offset, column))
    return panels


class Dense(Family):
    """One group: every output channel sees every input channel."""

    name = "dense"
    sums_channels = True
    emitter = DenseEmitter

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        if problem.geometry.num_groups > 1:
            return f"num_groups={problem.geometry.num_groups}: output channels see different inputs"
        return None

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        g = problem.geometry
        positions = problem.batch * problem.length_out
        sharing = positions if blocking.is_far_filter(problem, target) else None
        lanes = target.lanes(problem.dtype)
        panels: list[Panel] = []
        for group in range(g.num_groups):
            # On a whole vector.
            column = blocking.round_up(panels[-1].last_column, lanes) if panels else 0
            panels += cut_group(problem, target, group, column, sharing)
        return panels

    def band(self, problem: ConvProblem, panels: int, run: int, target: Target) -> Band:
        return blocking.band_of(problem, panels, run, target)


class Grouped(PackingGroups, Dense):
    """Several groups: the dense tiles, group by group.

    Lanes beyond C_out/G stay idle: groups much narrower than a vector are for `SmallGroups`.
    """

    name = "grouped"

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        return None


DENSE, GROUPED = Dense(), Grouped()

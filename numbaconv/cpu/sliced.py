"""Slices: vectors of output channels that no other tile fills, and taps that slide over them.

A slice is a vector of output channels of whole groups: VL channels of a depthwise convolution, a
few small groups side by side, or one group of up to VL outputs. Each is a narrow tile, MR positions
by one vector, in which a load would serve one product. It serves many where taps *slide*: the row
of x that tap t reads for one output is read by another tap for the next, so MR positions and a
block of B taps share MR + B - 1 rows.

With one step of x between outputs and taps, that holds for outputs and taps that follow each
other. If the stride is a multiple of the dilation, the taps of a block are stride/dilation apart:
taps are taken by their residue. If the dilation is a multiple of the stride, the outputs of a tile
are dilation/stride apart: positions are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from ..problem import ConvProblem, Geometry
from ..weights import Weights
from .blocking import Band, Panel, run_length
from .family import Family
from .microkernel import Emitter, Tile
from .packing import PackedWeights
from .streaming import is_large_output
from .target import CACHE_WAY, Target
from .vector import LINE, i64

# Slices of one panel: threads may divide panels, and its part of a row stays in the first cache.
PANEL_SLICES = 128

# By instruction set: MR and most taps of a block (a power of two) where taps slide, and MR where
# they do not. The largest whose loops keep everything in registers, read off the assembly
# (tests/codegen).
TILES = {
    "avx512": (14, 8, 10), "avx2": (10, 4, 5), "avx": (6, 4, 8), "sse": (5, 1, 6),
    "neon": (12, 4, 12),
}  # fmt: skip

# Slices that are stored together past the caches, so that a line is written at once where it is
# wider than a vector: depthwise K4 on 1536 channels takes 0.5 of the time so with AVX2 (Zen 3).
MOST_TOGETHER = 2

# What a tile prefetches of the next one, where x and y come from far: the lines that each slice
# reads anew and writes, or the latter where x has just been copied. Stores that
# miss the second cache else hold up the loads behind them. Without AVX-512 no register is left to
# decide that in (tests/codegen). Zen 3, 64 → 128 channels in 16 groups gain 1.55× at 12 MiB by K5
# and 1.3× by K16; depthwise on 200 channels at 9 MiB 2× by K4 and K31, 1.1× by K9. Of y alone,
# depthwise on 512 channels at 16 MiB gains 1.15× by K7 and 1.05-1.08× by K31; on 1024, whose rows
# of y leave no place in the first cache for the next ones, K9 would lose 1.08×.
FAR, FAR_OUTPUTS = "far", "far_y"

# Bytes of x and y from which they are far. Zen 3, 96 → 96 K7 in 24 groups gains 1.2× at 6 MiB,
# 64 → 128 K16 in 16 1.28× at 6 and nothing at 3; 64 → 64 K3 in 32 loses 1.1× at 4, and depthwise K4
# and K31 on 200 as much.
FAR_BYTES = 5 << 20

# Products of an output up to which slices are stored together past the caches. Zen 3, 64 → 128 in
# 16 groups at 48 MiB: 20 products gain 1.16×, 36 nothing, 56 lose 1.24×.
MOST_STREAMED = 32

# Most taps of tiles in which they are written out, and not counted at run time. Zen 3, near: K3 and
# K5 of depthwise gain 1.15-1.45×, K8 1.1×, K9 1.05-1.1×, K31 loses 3 %; groups of 4 → 8 gain
# 1.1-1.3× by K3, 0.92-1.05× by K5, and one of 8 → 8 loses up to 1.15× by K9. AVX-512 (Zen 4):
# depthwise gains 1.02-1.12×, groups of 16 → 16 1.01-1.03×, smaller ones 1.01-1.16×.
MOST_WRITTEN_TAPS = 8

# Of tiles with so many written taps and rows LLVM spills one sum; they have a row less.
SPILLING = {(6, 14)}

# The edge of a tile whose last slice ends where the channels do, and repeats some groups of the
# one before it. With masks in registers of their own, or alone, it is partial instead.
SHIFTED = "shifted"

# Most positions from one output of a tile to the next: a short signal has few that far apart.
MOST_SPACING = 16

# Without AVX-512, taps from which rows that collide in the first cache are read through a window
# whose rows lie apart, and positions of a run then: the first that fits. Zen 3, depthwise on 512
# channels: K31 gains 1.5× near and 1.1× at 8 MiB, K15 1.4×, K7 1.4×, and with a dilation of 4 2.3×;
# on 1024 channels K4 gains 2.2×, K31 2.5×, and K3 loses 1.3×. 60, 90 and 120 positions are alike,
# 30 are slower by 1.05×. Windows of some slices gain less: rows of x are read in pieces.
WINDOW_TAPS, WINDOW_RUNS = 4, (60, 30)

# Rows that must fit beside those of the taps for tiles that store past the caches to read in place
# what others read through a window. Zen 3, 512 channels at 64 MiB gain 1.35-1.5× by K7 to K11 and
# nothing by K15 over a window with regular stores, 1024 lose 3.9× by K7.
ROWS_BESIDE = 4


def groups_of_slice(geometry: Geometry, lanes: int) -> int:
    """Groups whose inputs and outputs both fit in one vector, at least one."""
    widest = max(geometry.group_in_channels, geometry.group_out_channels)
    return max(1, lanes // widest) if geometry.num_groups > 1 else 1


def positions_of_slice(problem: ConvProblem, target: Target) -> int:
    """Positions of all channels, each with a filter of its own, that fit in one vector.

    1 where no two do, or outputs do not lie side by side in x. Without masks in registers of
    their own they have to fill it.
    """
    g, lanes = problem.geometry, target.lanes(problem.dtype)
    has_filters = 1 < g.in_channels == g.out_channels == g.num_groups
    fits = target.has_masks or lanes % g.in_channels == 0
    if not (has_filters and fits) or g.stride > 1 or problem.step > 1:
        return 1
    return max(1, lanes // g.in_channels)


def tap_pitch(geometry: Geometry) -> int:
    """Taps from one that slides to the next, 0 if none do.

    Outputs further apart than their receptive fields share no rows; windows leave out the
    gaps between those (`window_shape`), and else keep strides that are multiples of a dilation.

    >>> tap_pitch(Geometry(3, 8, 8)), tap_pitch(Geometry(9, 8, 8, stride=4, dilation=2))
    (1, 2)
    >>> tap_pitch(Geometry(9, 8, 8, dilation=2)), tap_pitch(Geometry(9, 8, 8, stride=2, dilation=3))
    (1, 0)
    """
    stride, dilation, taps = geometry.stride, geometry.dilation, geometry.kernel_size
    if taps == 1 or stride > (taps - 1) * dilation:
        return 0
    if dilation % stride == 0:
        return int(dilation // stride <= MOST_SPACING)
    return stride // dilation if stride % dilation == 0 else 0


def outputs_apart(geometry: Geometry) -> int:
    """Positions from one output of a tile to the next, so that taps slide over them."""
    return max(1, geometry.dilation // geometry.stride) if tap_pitch(geometry) else 1


def tap_bytes(problem: ConvProblem) -> int:
    """Bytes of x from one tap to the next."""
    g = problem.geometry
    return g.in_channels * problem.dtype.itemsize * g.dilation * problem.step


def lines_held(problem: ConvProblem, target: Target) -> int:
    """How many of the rows that a tile reads can have a line in the first cache at once.

    Lines a power of two apart share few of its sets, which lie in `CACHE_WAY` bytes.
    """
    return target.l1 // max(LINE, math.gcd(tap_bytes(problem), CACHE_WAY))


def window_run(problem: ConvProblem, target: Target) -> int:
    """Positions of a run whose rows of x are copied so that they do not collide; 0 in place.

    A window takes three quarters of the second cache: what a run writes is little. Short tiles,
    which store past the caches, may read few enough rows at once to do without.
    """
    g, held = problem.geometry, lines_held(problem, target)
    collide = held < g.kernel_size + TILES[target.isa][0]
    if target.isa == "avx512" or g.kernel_size < WINDOW_TAPS or g.stride > 1 or not collide:
        return 0
    is_large = is_large_output(problem, target, is_memory_bound=True)
    if is_large and g.kernel_size + ROWS_BESIDE < held:
        return 0
    row_bytes = g.in_channels * problem.dtype.itemsize + LINE
    fitting = [run for run in WINDOW_RUNS if (run + g.span - 1) * row_bytes <= target.l2 * 3 // 4]
    return fitting[0] if fitting else 0


class SlicedVariant(NamedTuple):
    """What a tile compiles in.

    Attributes
    ----------
    tap_block : int
        Most taps of a block, 1 where none slides.
    depth : int
        C_in/G, or 0 for any.
    outputs, groups : int
        C_out/G, or VL for one group; and groups of a slice.
    positions : int
        Positions side by side in a slice, with their groups.
    pitch : int
        Taps from one that slides to the next, or 0.
    written_taps : int
        Taps that are written out, or 0 for any.
    prefetches : str
        `FAR`, `FAR_OUTPUTS` or nothing.
    edge : str
        `SHIFTED` or nothing.
    """

    tap_block: int
    depth: int
    outputs: int
    groups: int
    positions: int
    pitch: int
    written_taps: int
    prefetches: str
    edge: str


class SlicedEmitter(Emitter):
    """y[l, s, j] = Σ_ci Σ_t x[l*x_row + t*x_tap + s*x_slice + lane(j, ci)] · w[s, ci, t, j]"""

    variant: SlicedVariant

    def emit(self) -> None:
        """All slices of a few positions before the next ones, so x streams through once.

        Runs of positions slice by slice were slower at any K.
        """
        self.start()
        self.by_residues(self.spacing, self.emit_positions)

    def emit_positions(self, count: Any, x: Any, y: Any) -> None:
        steps = (self.row_step, self.y_step)
        self.cover_overlapping(count, self.full_rows, (x, y), steps, self.emit_tile)

    def start(self) -> None:
        """Read the variant, and set the rows of x from one output of a tile to the next."""
        b = self.v.ir
        self.outputs, self.groups = self.variant.outputs, self.variant.groups
        self.together = min(LINE * 8 // (self.v.lanes * self.v.bits), MOST_TOGETHER)
        self.together = self.together if self.tile.streams else 1
        self.full_rows = self.tile.rows // self.variant.positions // self.together
        if self.variant.edge == SHIFTED:
            self.find_last_slice()
        self.pitch = max(self.variant.pitch, 1)
        self.spacing = self.sliding_spacing() if self.variant.pitch == 1 else i64(1)
        self.row_step = b.mul(self.spacing, self.x_row)
        self.y_step = b.mul(self.spacing, self.y_row)

    def emit_tile(self, rows: int, x: Any, y: Any) -> None:
        """All slices of `rows` positions; the last one may have fewer groups."""
        v, b = self.v, self.v.ir
        whole = b.sub(self.slices, i64(1)) if self.tile.masked else self.slices

        def some(count: int, s: Any, carried: list[Any]) -> list[Any]:
            mask = self.first_lanes(self.groups * self.outputs)
            slices = [self.slice_at(b.add(s, i64(k)), x, y) for k in range(count)]
            self.emit_vectors(rows, slices, self.part_of(self.groups), mask)
            return []

        done = b.and_(whole, i64(-self.together))
        v.loop(i64(0), done, self.together, [], functools.partial(some, self.together))
        if self.together > 1:
            v.loop(done, whole, 1, [], functools.partial(some, 1))
        if self.tile.masked:
            part = self.part_of(b.sdiv(self.last_lanes, i64(self.outputs)))
            mask = v.first_lanes(self.last_lanes)
            self.emit_vectors(rows, [self.slice_at(whole, x, y)], part, mask)

    def first_lanes(self, count: Any) -> Any:
        """The mask of the first lanes, None for all."""
        if isinstance(count, int):
            return None if count == self.v.lanes else self.v.first_lanes(i64(count))
        return self.v.first_lanes(count)

    def part_of(self, groups: Any) -> Any:
        """What `value_at` has to know to read x for so many groups, a number or a value."""

    def slice_at(self, s: Any, x: Any, y: Any) -> tuple[Any, Any, Any, Any]:
        """(x, w, bias, y) of slice `s`."""
        v, b = self.v, self.v.ir
        weights = b.mul(b.mul(self.taps, self.depth), i64(v.lanes))
        places = [b.mul(s, step) for step in (self.x_slice, i64(self.groups * self.outputs))]
        if self.variant.edge == SHIFTED:
            places = [
                b.select(b.icmp_signed("<", place, last), place, last)
                for place, last in zip(places, self.last_places, strict=True)
            ]
        return (
            v.at(x, places[0]), v.at(self.w, b.mul(s, weights)),
            v.at(self.bias, b.mul(s, i64(v.lanes))), v.at(y, places[1]),
        )  # fmt: skip

    def find_last_slice(self) -> None:
        """Where it begins in x and y if it is shifted."""
        b, steps = self.v.ir, (self.x_slice, i64(self.groups * self.outputs))
        repeated = b.sub(i64(self.groups), b.sdiv(self.last_lanes, i64(self.outputs)))
        before = b.sub(self.slices, i64(1))
        self.last_places = [
            b.sub(b.mul(before, step), b.mul(repeated, b.sdiv(step, i64(self.groups))))
            for step in steps
        ]

    def emit_vectors(
        self, rows: int, slices: list[tuple[Any, Any, Any, Any]], part: Any, mask: Any
    ) -> None:
        """`rows` positions of neighbouring slices, stored row by row."""
        if rows == self.full_rows:
            self.prefetch_next_tile(slices[0][0], slices[0][3])
        stored = []
        for x, w, bias, y in slices:
            sums = self.emit_channels(x, w, [self.v.load_aligned(bias)] * rows, part)
            stored.append(zip(sums, self.row_pointers(y, self.y_step, rows), strict=True))
        in_rows = [pair for row in zip(*stored, strict=True) for pair in row]
        self.store((value for value, _ in in_rows), ((place, mask) for _, place in in_rows))

    def prefetch_next_tile(self, x: Any, y: Any) -> None:
        """Ask for what this slice of the next full tile needs, where that is far."""
        if self.variant.prefetches:
            self.prefetch_outputs(y)
        if self.variant.prefetches == FAR:
            self.prefetch_inputs(x)

    def prefetch_outputs(self, y: Any) -> None:
        """The lines that it writes."""
        if not self.tile.streams:
            following = self.v.at(y, self.v.ir.mul(self.y_step, i64(self.full_rows)))
            self.prefetch_rows(following, self.y_step, self.full_rows, vectors=1)

    def prefetch_inputs(self, x: Any) -> None:
        """Those that it reads anew."""
        v, b = self.v, self.v.ir
        last = b.mul(b.sub(self.taps, i64(1)), self.x_tap)
        following = v.at(x, b.add(b.mul(self.row_step, i64(self.full_rows)), last))
        for row in self.row_pointers(following, self.row_step, self.full_rows):
            v.prefetch(row)

    def emit_channels(self, x: Any, w: Any, sums: list[Any], part: Any) -> list[Any]:
        """Input channel by input channel of the groups."""
        if self.variant.depth == 1:
            return self.emit_channel(i64(0), x, w, sums, part)

        def channel(ci: Any, sums: list[Any]) -> list[Any]:
            return self.emit_channel(ci, self.v.at(x, ci), w, sums, part)

        return self.v.loop(i64(0), self.depth, 1, sums, channel)

    def emit_channel(self, ci: Any, x: Any, w: Any, sums: list[Any], part: Any) -> list[Any]:
        """Residue by residue of the taps."""
        v, b = self.v, self.v.ir
        factors = v.at(w, b.mul(b.mul(ci, self.taps), i64(v.lanes)))

        def residue(r: Any, sums: list[Any]) -> list[Any]:
            return self.emit_taps(r, x, factors, sums, part)

        if self.pitch == 1:
            return residue(i64(0), sums)
        return v.loop(i64(0), i64(self.pitch), 1, sums, residue)

    def emit_taps(self, first: Any, x: Any, w: Any, sums: list[Any], part: Any) -> list[Any]:
        """Taps first, first + pitch, …"""
        v, b, pitch = self.v, self.v.ir, i64(self.pitch)
        is_full = len(sums) == self.full_rows

        def block(j: Any, sums: list[Any], taps: int) -> list[Any]:
            tap = b.add(first, b.mul(j, pitch))
            place = v.at(x, b.mul(tap, self.x_tap))
            return self.slide(taps, place, v.at(w, b.mul(tap, i64(v.lanes))), sums, part)

        most, written = self.variant.tap_block, self.variant.written_taps
        if written and is_full:
            for done in range(0, written, most):
                sums = v.pinned(sums)  # or LLVM mixes the blocks, and spills sums
                sums = block(i64(done), sums, min(most, written - done))
            return sums
        count = b.sdiv(b.add(b.sub(self.taps, first), i64(self.pitch - 1)), pitch)
        return self.in_blocks(count, most if is_full else 1, sums, block)

    def slide(self, taps: int, x: Any, w: Any, sums: list[Any], part: Any) -> list[Any]:
        """A block of taps: row i serves tap j of sum i - j, in the order of the taps."""
        v, sums, rows = self.v, list(sums), len(sums)
        step = self.pitch * v.lanes
        columns = [v.load_aligned(v.at(w, j * step)) for j in range(taps)]
        x = v.hidden(x)  # or LLVM keeps the address of each row, and spills it
        for i in range(rows + taps - 1):
            value = self.value_at(x, part)
            x = v.at(x, self.row_step)
            for j in range(max(0, i - rows + 1), min(taps, i + 1)):
                sums[i - j] = v.fma(value, columns[j], sums[i - j])
        return sums

    @abstractmethod
    def value_at(self, place: Any, part: Any) -> Any:
        """An input channel of each group, at one row, in the lanes of its outputs."""


class Sliced(Family):
    """Families whose panels are slices."""

    # Where tiles of few taps keep all sums in registers if those are written out (tests/codegen);
    # with more than one residue, or a last slice that is shifted back, none do.
    writes_taps: ClassVar[tuple[str, ...]] = ("avx512", "avx2")

    def tile_rows(self, problem: ConvProblem, target: Target) -> tuple[int, int]:
        """MR and most taps of a block."""
        return self.rows_of(problem.geometry, target)

    def rows_of(self, geometry: Geometry, target: Target) -> tuple[int, int]:
        """The same of slices that lie the stride apart."""
        sliding_rows, block, rows = TILES[target.isa]
        return (sliding_rows, block) if tap_pitch(geometry) else (rows, 1)

    def prefetches(self, problem: ConvProblem, target: Target) -> str:
        """What tiles ask for ahead; one group's rows follow each other, and come by themselves."""
        is_far = problem.in_bytes + problem.out_bytes > FAR_BYTES
        if not is_far or target.isa == "avx512" or problem.geometry.num_groups == 1:
            return ""
        if not window_run(problem, target):
            return FAR
        has_room = lines_held(problem, target) >= TILES[target.isa][0]
        return FAR_OUTPUTS if has_room else ""

    def written_taps(self, geometry: Geometry, target: Target, is_shifted: bool) -> int:
        """Taps that a tile is compiled for, 0 if it takes any number."""
        taps = geometry.kernel_size
        do_slide = tap_pitch(geometry) == 1
        can = target.isa in self.writes_taps and do_slide and not is_shifted
        return taps if can and taps <= MOST_WRITTEN_TAPS else 0

    def stores_lines(self, problem: ConvProblem, target: Target) -> bool:
        """Vectors narrower than a line are stored together, and a tile has half of its rows then.

        Which is too few for the multiply-adds where they take the time: Zen 3, 8 → 8 K16 on 200000
        positions gains 1.4× by regular stores, and windows, whose x is near, K15 and K31 on 512
        channels 1.2-1.5×, K7 on 1024 2.5×.
        """
        if target.vector_bytes >= LINE:
            return True
        has_few = problem.geometry.reduction <= MOST_STREAMED
        can = target.vector_bytes * MOST_TOGETHER >= LINE
        return has_few and can and not window_run(problem, target)

    def compiled_depth(self, geometry: Geometry) -> int:
        """C_in/G where code depends on it, else 0."""
        return geometry.group_in_channels

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        """Positions of one run, such that those of a tile may be dilation/stride apart."""
        if run := window_run(problem, target):
            return run // tile.rows * tile.rows
        rows = tile.rows * outputs_apart(problem.geometry)
        return run_length(problem, rows, target, self.copies_x(problem))

    def band(self, problem: ConvProblem, panels: int, run: int, target: Target) -> Band:
        band = super().band(problem, panels, run, target)
        if not window_run(problem, target):
            return band
        gap = LINE // problem.dtype.itemsize
        return dataclasses.replace(band, is_copied=True, gap=gap)

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        groups = groups_of_slice(g, lanes)
        # One group is one slice, in which lanes may stay idle; the code is the same for any C_out.
        outputs = g.group_out_channels if g.num_groups > 1 else lanes
        slice_out, slice_in = groups * outputs, groups * g.group_in_channels
        rows, block = self.tile_rows(problem, target)
        panels: list[Panel] = []
        widest = slice_out * PANEL_SLICES
        for first in range(0, g.out_channels, widest):
            channels = min(widest, g.out_channels - first)
            is_partial, is_alone = channels % slice_out > 0, channels < slice_out
            is_shifted = is_partial and not is_alone and not target.has_masks
            written = self.written_taps(g, target, is_shifted)
            tile = Tile(
                self.emitter.family, problem.dtype.itemsize * 8, lanes,
                rows - ((written, rows) in SPILLING), vectors=1,
                masked=is_partial and not is_shifted, fma=target.fma,
                variant=SlicedVariant(
                    block, self.compiled_depth(g), outputs, groups, 1, tap_pitch(g), written,
                    self.prefetches(problem, target), SHIFTED if is_shifted else "",
                ),
            )  # fmt: skip
            panels.append(
                Panel(
                    tile, first, channels,
                    x_offset=first // g.group_out_channels * g.group_in_channels,
                    column=panels[-1].last_column if panels else 0,
                    slices=-(-channels // slice_out), x_slice=slice_in,
                    last_lanes=channels % slice_out or slice_out,
                )
            )  # fmt: skip
        return panels

    def pack(self, weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
        """Order the filter as (slice, ci, tap, lane), and the bias as (slice, lane)."""
        taps, depth, _ = weights.filter.shape
        tile = panels[0].tile
        lanes, slice_out = tile.lanes, tile.variant.outputs * tile.variant.groups
        channels = weights.filter.shape[2]
        packed = PackedWeights.empty(panels[-1].last_column * taps * depth, panels, weights)
        packed.filter[:], packed.bias[:] = 0, 0
        blocks, biases = (
            packed.filter.reshape(-1, depth, taps, lanes),
            packed.bias.reshape(-1, lanes),
        )
        for s, first in enumerate(range(0, channels, slice_out)):
            if not panels[-1].tile.masked:  # the last slice is whole, or shifted back
                first = min(first, channels - slice_out)
            part = weights.filter[:, :, first : first + slice_out].swapaxes(0, 1)
            blocks[s, :, :, : part.shape[2]] = part
            if weights.bias is not None:
                biases[s, : part.shape[2]] = weights.bias[first : first + slice_out]
        return packed

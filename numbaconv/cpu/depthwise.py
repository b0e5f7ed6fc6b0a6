"""Depthwise and small groups: vectors of output channels, a few groups side by side.

A slice is a vector of VL output channels that belong to VL // max(C_in/G, C_out/G) whole
groups. Their input channels are one short load; a constant permutation spreads input channel
`ci` of each group over the lanes of its outputs. In depthwise convolution a slice is VL
channels and nothing is permuted.

Where outputs and taps advance x by the same step, a window of rows slides through registers:
MR positions and a block of taps share MR + taps - 1 loads and permutations. All channels of a
few positions are computed before the next, so x streams through once; copying long windows
slice by slice, so that their rows do not collide in the first cache, was slower at any K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..problem import ConvProblem, Geometry
from ..weights import Weights
from .blocking import Panel
from .family import Family
from .microkernel import Emitter, Tile, halves
from .packing import PackedWeights
from .target import Target
from .vector import i64

# By instruction set and C_in/G (0: depthwise, which permutes nothing): MR and taps of a block
# where taps slide, and MR where they do not. The largest whose loops keep everything in
# registers, read off the assembly (tests/codegen).
TILES: dict[str, dict[int, tuple[int, int, int]]] = {
    "avx512": {0: (14, 8, 10), 1: (14, 8, 15), 2: (8, 4, 8), 3: (9, 4, 16), 4: (7, 4, 12)},
    "avx2": {0: (6, 4, 5), 1: (6, 4, 8)},
    "avx": {0: (6, 4, 8), 1: (5, 4, 8)},
    "sse": {0: (6, 1, 6), 1: (6, 2, 6), 2: (4, 1, 4)},
    "neon": {0: (12, 4, 12), 1: (12, 4, 12)},
}

# Slices of one panel: threads may divide panels, and its part of a row stays in the first cache.
PANEL_SLICES = 128

# Bytes of x above which lines of y and x are prefetched: of y for the square of the taps, of x
# for each tap. Of y: K31 on 512 channels loses 1.1× at 8 MiB by it and gains 1.5× at 32, K9 gains
# 1.1× at 6 MiB, K7 as much at 2, K4 loses 2 % at 0.6 MiB and gains 3 % at 1.8. Of x: K31 loses 5 %
# at 8 MiB and gains 1.05-1.2× from 32 on, K9 loses 2 % at 6 MiB and gains 1.27× at 60, K4 gains
# 1.1× at 80.
FAR_Y, FAR_X = 24 << 10, 1 << 20

# Of the multiply-add peak, what permuted lanes reach next to dense tiles, if taps share the
# permutations and if they do not.
SLIDING_SHARE, GATHERING_SHARE, DENSE_SHARE = 0.65, 0.45, 0.85


def groups_of_slice(geometry: Geometry, lanes: int) -> int:
    """Groups whose inputs and outputs both fit in one vector."""
    widest = max(geometry.group_in_channels, geometry.group_out_channels)
    return lanes // widest


class SlicedEmitter(Emitter):
    """y[l, s, j] = Σ_t Σ_ci x[l*x_row + t*x_tap + s*x_slice + lane(j, ci)] · w[s, t, ci, j]

    The tile's variant is (taps of a block, C_in/G, C_out/G, groups of a slice); with one
    tap to a block nothing slides.
    """

    family = "sliced"

    def emit(self) -> None:
        self.tap_block, self.depth_, self.outputs, self.groups = self.tile.variant
        self.is_permuted = (self.depth_, self.outputs) != (1, 1)
        self.cover_rows(self.emit_tile)

    def emit_tile(self, rows: int, x: Any, y: Any) -> None:
        """All slices of `rows` positions; the last one may have fewer groups."""
        v, b = self.v, self.v.ir
        weights = b.mul(self.taps, i64(self.depth_ * v.lanes))
        whole = b.sub(self.slices, i64(1)) if self.tile.masked else self.slices

        def emit_slice(s: Any, x_mask: Any, y_mask: Any) -> None:
            self.emit_vector(
                rows, v.at(x, b.mul(s, self.x_slice)), v.at(self.w, b.mul(s, weights)),
                v.at(self.bias, b.mul(s, i64(v.lanes))),
                v.at(y, b.mul(s, i64(self.groups * self.outputs))), x_mask, y_mask,
            )  # fmt: skip

        def body(s: Any, carried: list[Any]) -> list[Any]:
            counts = (self.groups * self.depth_, self.groups * self.outputs)
            masks = [None if n == v.lanes else v.first_lanes(i64(n)) for n in counts]
            emit_slice(s, *masks)
            return []

        v.loop(i64(0), whole, 1, [], body)
        if self.tile.masked:
            y_lanes = self.last_lanes
            x_lanes = b.mul(b.sdiv(y_lanes, i64(self.outputs)), i64(self.depth_))
            emit_slice(whole, v.first_lanes(x_lanes), v.first_lanes(y_lanes))

    def emit_vector(
        self, rows: int, x: Any, w: Any, bias: Any, y: Any, x_mask: Any, y_mask: Any
    ) -> None:
        """One slice of `rows` positions."""
        v, b = self.v, self.v.ir
        if rows == self.tile.rows:
            self.prefetch_next_tile(x, y)
        sums, done = [v.load_aligned(bias)] * rows, i64(0)
        for taps in halves(self.tap_block) if rows == self.tile.rows else (1,):
            stop = b.add(done, b.and_(b.sub(self.taps, done), i64(-taps)))
            sums = v.loop(done, stop, taps, sums, self.tap_step(taps, x, w, x_mask))
            done = stop
        for value, place in zip(sums, self.row_pointers(y, self.y_row, rows), strict=True):
            self.store(value, place, y_mask)

    def prefetch_next_tile(self, x: Any, y: Any) -> None:
        """Ask for the lines that this slice of the next tile writes, and those it reads anew.

        Stores that miss the second cache else hold up the loads behind them.
        """
        v, b, rows = self.v, self.v.ir, self.tile.rows
        if not self.tile.streams:
            with self.if_far(b.mul(b.mul(self.taps, self.taps), i64(FAR_Y))):
                following = v.at(y, b.mul(self.y_row, i64(rows)))
                self.prefetch_rows(following, self.y_row, rows, vectors=1)
        if v.is_avx512:
            with self.if_far(b.mul(self.taps, i64(FAR_X))):
                last = b.mul(b.sub(self.taps, i64(1)), self.x_tap)
                following = v.at(x, b.add(b.mul(self.x_row, i64(rows)), last))
                for row in self.row_pointers(following, self.x_row, rows):
                    v.prefetch(row)

    def if_far(self, limit: Any) -> AbstractContextManager[Any]:
        """Emit a block for an x of more than `limit` bytes, or for any x.

        Other than AVX-512 leaves no register for the condition (tests/codegen).
        """
        if not self.v.is_avx512:
            return nullcontext()
        b = self.v.ir
        return b.if_then(b.icmp_signed(">", self.x_bytes, limit))

    def tap_step(
        self, taps: int, x: Any, w: Any, mask: Any
    ) -> Callable[[Any, list[Any]], list[Any]]:
        """The body of a loop over blocks of so many taps; row i serves tap j of sum i - j.

        Each sum takes its products in the order of (tap, ci), whatever the block.
        """
        v, b = self.v, self.v.ir

        def step(t: Any, sums: list[Any]) -> list[Any]:
            sums, rows = list(sums), len(sums)
            x_tap = v.at(x, b.mul(t, self.x_tap))
            w_tap = v.at(w, b.mul(t, i64(self.depth_ * v.lanes)))
            columns = [v.load_aligned(v.at(w_tap, j * v.lanes)) for j in range(taps * self.depth_)]
            for i, row in enumerate(self.row_pointers(x_tap, self.x_row, rows + taps - 1)):
                raw = self.load(row, mask)
                for ci in range(self.depth_):
                    value = self.spread(raw, ci)
                    for j in range(max(0, i - rows + 1), min(taps, i + 1)):
                        sums[i - j] = v.fma(value, columns[j * self.depth_ + ci], sums[i - j])
            return sums

        return step

    def spread(self, raw: Any, ci: int) -> Any:
        """Input channel `ci` of each group, in the lanes of that group's outputs."""
        if not self.is_permuted:
            return raw
        groups = [min(lane // self.outputs, self.groups - 1) for lane in range(self.v.lanes)]
        return self.v.shuffle(raw, raw, [group * self.depth_ + ci for group in groups])


class Sliced(Family):
    """What depthwise convolution and small groups share."""

    emitter = SlicedEmitter

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        groups = groups_of_slice(g, lanes)
        slice_out, slice_in = groups * g.group_out_channels, groups * g.group_in_channels
        depth = g.group_in_channels if g.group_in_channels * g.group_out_channels > 1 else 0
        sliding_rows, block, rows = TILES[target.isa][depth]
        if g.stride == g.dilation:
            rows = sliding_rows
        else:
            block = 1
        panels: list[Panel] = []
        widest = slice_out * PANEL_SLICES
        for first in range(0, g.out_channels, widest):
            channels = min(widest, g.out_channels - first)
            tile = Tile(
                self.emitter.family, problem.dtype.itemsize * 8, lanes, rows, vectors=1,
                masked=channels % slice_out > 0, fma=target.fma,
                variant=(block, g.group_in_channels, g.group_out_channels, groups),
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
        """Order the filter as (slice, tap, ci, lane), and the bias as (slice, lane)."""
        taps, depth, _ = weights.filter.shape
        lanes, groups = panels[0].tile.lanes, panels[0].tile.variant[3]
        slice_out = groups * weights.geometry.group_out_channels
        packed = PackedWeights.empty(panels[-1].last_column * taps * depth, panels, weights)
        packed.filter[:], packed.bias[:] = 0, 0
        blocks, biases = (
            packed.filter.reshape(-1, taps, depth, lanes),
            packed.bias.reshape(-1, lanes),
        )
        for s, first in enumerate(range(0, weights.filter.shape[2], slice_out)):
            part = weights.filter[:, :, first : first + slice_out]
            blocks[s, :, :, : part.shape[2]] = part
            if weights.bias is not None:
                biases[s, : part.shape[2]] = weights.bias[first : first + slice_out]
        return packed


class Depthwise(Sliced):
    """C_in == C_out == G."""

    name = "depthwise"

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g = problem.geometry
        if g.group_in_channels > 1 or g.num_groups == 1:
            return f"C_in/G={g.group_in_channels} with {g.num_groups} group(s): channels are summed"
        if g.group_out_channels > 1:
            return f"channel multiplier {g.group_out_channels}: lanes of x and y do not match"
        if target.isa not in TILES:
            return f"no tiles for the instruction set {target.isa!r}"
        return None


class SmallGroups(Sliced):
    """Groups of few channels, channel multipliers among them."""

    name = "small groups"

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        if g.num_groups == 1:
            return "num_groups=1: there is one group"
        if groups_of_slice(g, lanes) < 2:
            return (
                f"groups of {g.group_in_channels} → {g.group_out_channels} channels: "
                f"no two of them fit in {lanes} lanes"
            )
        if g.group_in_channels not in TILES.get(target.isa, ()):
            return f"C_in/G={g.group_in_channels} permutations outgrow the registers"
        share = SLIDING_SHARE if g.stride == g.dilation else GATHERING_SHARE
        if min(groups_of_slice(g, lanes), g.num_groups) * share < DENSE_SHARE:
            return f"groups of {g.group_out_channels} channels fill {lanes} lanes well enough"
        return None


DEPTHWISE, SMALL_GROUPS = Depthwise(), SmallGroups()

"""Depthwise convolution: each output channel sees the input channel of its own number.

Vectors lie along the channels. Where outputs and taps advance x by the same step, a window of
rows slides through registers: MR positions and a block of taps share MR + taps - 1 loads.
Short kernels read x in place, all channels of a few positions before the next (x streams
through once). Long ones read a window packed slice by slice: the rows of one vector of
channels then lie on consecutive cache lines, where in x they are C_in apart and collide in
the first cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..problem import ConvProblem
from .blocking import Panel
from .family import Family
from .microkernel import Emitter, Tile
from .target import Target
from .vector import i64

# Taps held in registers at a time, tried in this order.
TAP_BLOCKS = (8, 4, 2, 1)

# From here on packing a window costs less than the collisions it avoids.
PACKED_FROM_TAPS = 8

# Channels of one panel: threads may divide panels, and a row of it fits in the first cache.
PANEL_CHANNELS = 2048

SLIDES = 1  # Tile.variant


class DepthwiseEmitter(Emitter):
    """y[l, j] = Σ_t x[l*x_row + t*x_tap + j] · w[t, j], for slice after slice of channels."""

    family = "depthwise"

    def emit(self) -> None:
        self.cover_rows(self.emit_tile)

    def emit_tile(self, rows: int, x: Any, y: Any) -> None:
        """All slices of `rows` positions; only the last slice may need a mask."""
        v, b = self.v, self.v.ir
        slice_weights = b.mul(self.taps, i64(v.lanes))
        whole = b.sub(self.slices, i64(1)) if self.tile.masked else self.slices

        def emit_slice(s: Any, mask: Any) -> None:
            column = b.mul(s, i64(v.lanes))
            self.emit_vector(
                rows, v.at(x, b.mul(s, self.x_slice)), v.at(self.w, b.mul(s, slice_weights)),
                v.at(self.bias, column), v.at(y, column), mask,
            )  # fmt: skip

        def body(s: Any, carried: list[Any]) -> list[Any]:
            emit_slice(s, None)
            return []

        v.loop(i64(0), whole, 1, [], body)
        if self.tile.masked:
            emit_slice(whole, v.first_lanes(self.last_lanes))

    def emit_vector(self, rows: int, x: Any, w: Any, bias: Any, y: Any, mask: Any) -> None:
        """One vector of channels for `rows` positions."""
        v, b = self.v, self.v.ir
        sums = [v.load_aligned(bias)] * rows
        slides = self.tile.variant == SLIDES
        full = rows == self.tile.rows and mask is None
        done = i64(0)
        for taps in self.tap_blocks() if full and slides else (1,):
            stop = b.add(done, b.and_(b.sub(self.taps, done), i64(-taps)))
            sums = v.loop(done, stop, taps, sums, self.tap_step(taps, x, w, mask))
            done = stop
        for value, place in zip(sums, self.row_pointers(y, self.y_row, rows), strict=True):
            self.store(value, place, mask)

    def tap_step(
        self, taps: int, x: Any, w: Any, mask: Any
    ) -> Callable[[Any, list[Any]], list[Any]]:
        """The body of a loop over blocks of so many taps."""
        v, b = self.v, self.v.ir
        multiply = self.slide if self.tile.variant == SLIDES else self.gather

        def step(t: Any, sums: list[Any]) -> list[Any]:
            x_tap, w_tap = v.at(x, b.mul(t, self.x_tap)), v.at(w, b.mul(t, i64(v.lanes)))
            return multiply(taps, x_tap, w_tap, sums, mask)

        return step

    def tap_blocks(self) -> tuple[int, ...]:
        """Blocks whose weights fit in the registers that the sums leave."""
        registers = 32 if self.tile.rows > 8 else 16
        return tuple(taps for taps in TAP_BLOCKS if self.tile.rows + taps + 2 <= registers)

    def slide(self, taps: int, x: Any, w: Any, sums: list[Any], mask: Any) -> list[Any]:
        """A block of taps where x_row == x_tap: row i serves tap j of position i - j."""
        sums = list(sums)
        columns = [self.v.load_aligned(self.v.at(w, j * self.v.lanes)) for j in range(taps)]
        for i, row in enumerate(self.row_pointers(x, self.x_row, len(sums) + taps - 1)):
            value = self.load(row, mask)
            for j in range(taps):
                if 0 <= i - j < len(sums):
                    sums[i - j] = self.v.fma(value, columns[j], sums[i - j])
        return sums

    def gather(self, taps: int, x: Any, w: Any, sums: list[Any], mask: Any) -> list[Any]:
        """One tap where positions and taps advance differently: a load for each product."""
        column = self.v.load_aligned(w)
        rows = self.row_pointers(x, self.x_row, len(sums))
        return [
            self.v.fma(self.load(row, mask), column, value)
            for row, value in zip(rows, sums, strict=True)
        ]


class Depthwise(Family):
    """C_in == C_out == G."""

    name = "depthwise"
    emitter = DepthwiseEmitter

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g = problem.geometry
        if g.group_in_channels > 1 or g.num_groups == 1:
            return f"C_in/G={g.group_in_channels} with {g.num_groups} group(s): channels are summed"
        if g.group_out_channels > 1:
            return f"channel multiplier {g.group_out_channels}: lanes of x and y do not match"
        return None

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        panels: list[Panel] = []
        for first in range(0, g.out_channels, PANEL_CHANNELS):
            channels = min(PANEL_CHANNELS, g.out_channels - first)
            tile = Tile(
                self.emitter.family, problem.dtype.itemsize * 8, lanes,
                rows=16 if target.registers == 32 else 8, vectors=1,
                masked=channels % lanes > 0, fma=target.fma,
                variant=SLIDES if g.stride == g.dilation else 0,
            )  # fmt: skip
            last_lanes = channels % lanes or lanes
            panels.append(Panel(tile, first, channels, first, first, last_lanes))
        return panels

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        if self.slice_channels(problem, target):
            return super().run(problem, tile, target)
        return 2 * tile.rows

    def slice_channels(self, problem: ConvProblem, target: Target) -> int | None:
        if problem.geometry.kernel_size < PACKED_FROM_TAPS:
            return None
        return target.lanes(problem.dtype)


DEPTHWISE = Depthwise()

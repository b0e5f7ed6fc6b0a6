"""Short reductions: a dense tile whose few products are all written out.

With ten products an output, the loops of a dense tile take longer than its multiply-adds: one
channel in, and pointwise layers of few. Taps and channels are compiled in here, so that a tile is
one stretch of code: loads at fixed places, multiply-adds, stores.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from ..problem import ConvProblem
from . import blocking
from .blocking import Panel
from .dense_tile import DenseEmitter
from .target import Target
from .vector import i64

# Products of an output up to which they are all written out. With AVX2 (Zen 3) 1 → 512
# K10 s5 gains 1.45×, 1 → 32 K7 1.3×, 16 → 64 K1 1.25×, 12 → 64 K3 1.1×; 48 → 64 K1 loses 3 %.
MOST_WRITTEN_OUT = 36

# Rows of a tile up to which those of x and y keep their addresses in registers from slice to slice:
# a tile of 4 has 137 instructions instead of 151, and on Zen 3 1 → 32 K7 gains 1.05-1.1×.
MOST_ROWS_HELD = 4


class ShortVariant(NamedTuple):
    """What a tile compiles in: taps, and channels of x that are summed."""

    taps: int
    depth: int


class ShortEmitter(DenseEmitter):
    """The sums of `DenseEmitter`, in the same order.

    Without a mask the last slice is shifted back over the one before it, which writes the same
    values twice.
    """

    family = "short"
    variant: ShortVariant

    def emit(self) -> None:
        """Full tiles, the last one shifted back; or one of fewer rows, by the loops of dense.

        All slices of a tile before the next one: y is written row by row. 1 → 512 K10 s5, whose
        rows lie 2 KiB apart and collide in the first cache, gains 1.3× by this order.
        """
        self.mask = self.v.first_lanes(self.last_lanes) if self.tile.masked else None
        self.lines = self.x_lines = 0
        v, b, most = self.v, self.v.ir, self.tile.rows
        taps, depth = self.variant
        weights, bias = self.w, self.bias

        def emit_slices(rows: int, x: Any, y: Any) -> None:
            held = None
            if rows == most <= MOST_ROWS_HELD:
                held = v.rows(x, self.x_row, rows), v.rows(y, self.y_row, rows)

            def slice_(s: Any, carried: list[Any]) -> list[Any]:
                column = b.mul(s, i64(self.tile.width))
                self.w = v.at(weights, b.mul(column, i64(taps * depth)))
                self.bias = v.at(bias, column)
                if not self.tile.masked:
                    column = self.shifted_back(column, s, self.tile.width)
                if rows < most:
                    self.emit_tile(rows, x, v.at(y, column))
                elif held:
                    self.emit_full_tile(*held, column)
                else:
                    x_rows = v.rows(x, self.x_row, rows)
                    self.emit_full_tile(x_rows, self.row_pointers(y, self.y_row, rows), column)
                return []

            v.loop(i64(0), self.slices, 1, [], slice_)

        places, steps = (self.x, self.y), (self.x_row, self.y_row)
        self.cover_overlapping(self.rows, most, places, steps, emit_slices)

    def emit_full_tile(self, x_rows: list[Any], y_rows: list[Any], column: Any) -> None:
        v, b = self.v, self.v.ir
        targets = [place for row in y_rows for place in self.places(v.at(row, column))]
        if not self.tile.streams:
            following = b.add(column, b.mul(self.y_row, i64(len(y_rows))))
            self.prefetch_lines([v.at(row, following) for row in y_rows], self.tile.vectors)
        bias = [v.load_aligned(v.at(self.bias, j * v.lanes)) for j in range(self.tile.vectors)]
        self.store(self.emit_products(x_rows, bias * len(x_rows)), targets)

    def emit_products(self, x_rows: list[Any], sums: list[Any]) -> list[Any]:
        """Every product of a full tile; step by step, or LLVM loads so far ahead that it spills."""
        v, (taps, depth) = self.v, self.variant
        place = i64(0)
        for step in range(taps * depth):
            tap, channel = divmod(step, depth)
            if channel == 0 and tap > 0:
                # Hidden, or LLVM keeps the offset of every tap, in memory.
                place = v.hidden(v.ir.add(place, self.x_tap))
            w = v.at(self.w, step * self.tile.width)
            sums = self.multiply(x_rows, place, i64(channel), w, v.pinned(sums))
        return v.pinned(sums)


def is_written_out(problem: ConvProblem, width: int, target: Target) -> bool:
    """Whether all products of an output are few, and are summed in one block."""
    blocks = blocking.blocks_of(problem, width, target)
    return problem.geometry.reduction <= MOST_WRITTEN_OUT and len(blocks) == 1


def written_out(panels: list[Panel], problem: ConvProblem, target: Target) -> list[Panel]:
    """If products are few, the same channels by tiles of `short`; alike ones as slices of one.

    Channel-first, y is staged panel by panel, and they stay apart. Without masks in registers of
    their own a partial vector takes longer to store than writing out saves: the last slice is
    shifted back, and where that cannot be, the panel is left to `dense`.
    """
    if not is_written_out(problem, max(panel.width for panel in panels), target):
        return panels
    is_joined, has_masks = problem.layout == "NLC", target.has_masks
    if is_joined and panels[-1].tile.masked and not has_masks:
        return shifted_back(panels, problem, target) or panels
    joined: list[Panel] = []
    for panel in panels:
        if not panel.tile.masked or has_masks:
            panel = short_panel(panel, panel.tile.vectors, problem, target)
            if is_joined and joined and joined[-1].tile == panel.tile and not panel.tile.masked:
                last = joined.pop()
                panel = dataclasses.replace(
                    last, channels=last.channels + panel.channels, slices=last.slices + 1
                )
        joined.append(panel)
    return joined


def short_panel(panel: Panel, vectors: int, problem: ConvProblem, target: Target) -> Panel:
    """`panel` by a tile of `short` with so many vectors."""
    g, rows = problem.geometry, target.short_rows or target.tile_rows
    tile = dataclasses.replace(
        panel.tile, family=ShortEmitter.family, rows=rows[vectors - 1], vectors=vectors,
        variant=ShortVariant(g.kernel_size, g.group_in_channels),
    )  # fmt: skip
    last_lanes = panel.last_lanes if tile.masked else tile.width
    return dataclasses.replace(panel, tile=tile, last_lanes=last_lanes)


def shifted_back(panels: list[Panel], problem: ConvProblem, target: Target) -> list[Panel]:
    """One panel of whole slices for the channels of all, or none where they fill no vector.

    Over whole slices and the masked tile of `dense`, 1 → 100 K9 gains 1.2× on Zen 3, and nothing
    where y comes from the last cache; 1 → 20 K7 gains 1.4×.
    """
    first, lanes = panels[0], panels[0].tile.lanes
    channels = panels[-1].first + panels[-1].channels - first.first
    rows = target.short_rows or target.tile_rows

    def time(vectors: int) -> float:
        """Of a position: of its slices' multiply-adds, or of their loads if those take longer."""
        slices = -(-channels // (vectors * lanes))
        return slices * max(vectors, 1 + vectors / rows[vectors - 1])

    possible = [v for v in range(len(rows), 0, -1) if v * lanes <= channels]
    if not possible:
        return []
    whole = dataclasses.replace(first.tile, masked=False)
    panel = short_panel(
        dataclasses.replace(first, tile=whole), min(possible, key=time), problem, target
    )
    slices = -(-channels // panel.width)
    last_lanes = channels - (slices - 1) * panel.width
    return [dataclasses.replace(panel, channels=channels, slices=slices, last_lanes=last_lanes)]

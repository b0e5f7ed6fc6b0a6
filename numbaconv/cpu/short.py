"""Short reductions: a dense tile whose few products are all written out.

With ten products an output, the loops of a dense tile take longer than its multiply-adds: one
channel in, and pointwise layers of few. Taps and channels are compiled in here, so that a tile is
one stretch of code: loads at fixed places, multiply-adds, stores.
"""

from __future__ import annotations

import functools
from typing import Any

from .dense import SHORT_FAMILY, DenseEmitter
from .vector import i64


class ShortEmitter(DenseEmitter):
    """The sums of `DenseEmitter`, in the same order.

    The tile's variant is (taps, channels of x that are summed). Without a mask the last slice is
    shifted back over the one before it, which writes the same values twice.
    """

    family = SHORT_FAMILY

    def emit(self) -> None:
        """Full tiles, the last one shifted back; or one of fewer rows, by the loops of dense.

        All slices of a tile before the next one: y is written row by row. 1 → 512 K10 s5, whose
        rows lie 2 KiB apart and collide in the first cache, gains 1.3× by this order.
        """
        self.mask = self.v.first_lanes(self.last_lanes) if self.tile.masked else None
        self.lines = self.x_lines = 0
        v, b, most = self.v, self.v.ir, self.tile.rows
        weights, bias = self.w, self.bias

        def emit_slices(rows: int, first: Any) -> list[Any]:
            x, y = v.at(self.x, b.mul(first, self.x_row)), v.at(self.y, b.mul(first, self.y_row))
            emit = self.emit_full_tile if rows == most else self.emit_tile

            def slice_(s: Any, carried: list[Any]) -> list[Any]:
                column = b.mul(s, i64(self.tile.width))
                self.w = v.at(weights, b.mul(column, i64(taps * depth)))
                self.bias = v.at(bias, column)
                if not self.tile.masked:
                    column = self.shifted_back(column, s, self.tile.width)
                emit(rows, x, v.at(y, column))
                return []

            return v.loop(i64(0), self.slices, 1, [], slice_)

        def full_tile(first: Any) -> None:
            emit_slices(most, first)

        def full_tiles() -> list[Any]:
            self.overlapping(self.rows, most, full_tile)
            return []

        taps, depth = self.tile.variant
        number = b.select(b.icmp_signed("<", self.rows, i64(most)), self.rows, i64(most))
        shorter = [functools.partial(emit_slices, rows, i64(0)) for rows in range(1, most)]
        v.switch(number, [list, *shorter, full_tiles])

    def emit_full_tile(self, rows: int, x: Any, y: Any) -> None:
        v = self.v
        targets = [p for row in self.row_pointers(y, self.y_row, rows) for p in self.places(row)]
        if not self.tile.streams:
            following = v.at(y, v.ir.mul(self.y_row, i64(rows)))
            self.prefetch_rows(following, self.y_row, rows, self.tile.vectors)
        bias = [v.load_aligned(v.at(self.bias, j * v.lanes)) for j in range(self.tile.vectors)]
        for value, place in zip(self.emit_products(x, bias * rows), targets, strict=True):
            self.store(value, *place)

    def emit_products(self, x: Any, sums: list[Any]) -> list[Any]:
        """Every product of a full tile; step by step, or LLVM loads so far ahead that it spills."""
        v, (taps, depth) = self.v, self.tile.variant
        x_rows, place = v.rows(x, self.x_row, self.tile.rows), i64(0)
        for step in range(taps * depth):
            tap, channel = divmod(step, depth)
            if channel == 0 and tap > 0:
                # Hidden, or LLVM keeps the offset of every tap, in memory.
                place = v.hidden(v.ir.add(place, self.x_tap))
            w = v.at(self.w, step * self.tile.width)
            sums = self.multiply(x_rows, place, i64(channel), w, v.pinned(sums))
        return v.pinned(sums)

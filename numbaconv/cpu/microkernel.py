"""The register tiles, as LLVM vector IR.

A *panel kernel* computes `rows` positions of one panel of output channels:

    y[l*y_row + j] = epilogue(Σ_t Σ_i x[l*x_row + t*x_tap + i] · w[(t*depth + i)*NR + j])

for l < rows, t < taps, j < NR, with i < depth (dense), or without i and with x read at
lane j (depthwise). Contract of every panel kernel:

* Strides are in elements and may be negative or zero; x and y need element alignment only.
  `w` is a packed panel of NR = vectors*lanes columns, padded with zeros, on a cache line.
* The sum of one output is one chain of multiply-adds in the order of (tap, channel) that
  starts from the bias; `accumulate` continues a chain from what y holds. Its bits depend on
  neither the tile nor the row at which an output sits.
* Only `last_lanes` lanes of the last vector are read or written in x and y if the tile is
  `masked`, else all. Nothing of y is read unless `accumulate` is set. x and y do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llvmlite import ir

from .vector import VectorBuilder, i8, i64, void

# Steps of the inner loop per turn: at 1, loop counters take 4-8 % of the issue slots that
# the multiply-adds want on a core with two 512-bit FMA units; 4 and 8 are alike.
UNROLL = 4


Family = Literal["dense", "depthwise"]


@dataclass(frozen=True)
class Tile:
    """The compile-time description of one panel kernel.

    Attributes
    ----------
    family : {"dense", "depthwise"}
        Whether x is broadcast over the channels of the panel or read with them.
    bits, lanes : int
        Element width, and elements of a vector (VL).
    rows, vectors : int
        MR positions and NR/VL vectors of channels held in registers.
    masked : bool
        Whether the last vector is partial.
    fma : bool
        Whether the processor fuses multiply-adds.
    """

    family: Family
    bits: int
    lanes: int
    rows: int
    vectors: int
    masked: bool
    fma: bool

    @property
    def width(self) -> int:
        """Channels of the panel, NR."""
        return self.lanes * self.vectors

    @property
    def name(self) -> str:
        """As in BLIS: `dense_f32_6x64`, `depthwise_f64_8x16_masked`."""
        masked = "_masked" if self.masked else ""
        fused = "" if self.fma else "_nofma"
        return f"{self.family}_f{self.bits}_{self.rows}x{self.width}v{self.lanes}{masked}{fused}"


# Order of the arguments of a panel kernel: pointers, then 64-bit integers.
POINTERS = ("x", "w", "bias", "y")
INTEGERS = ("x_row", "x_tap", "y_row", "rows", "taps", "depth", "last_lanes", "accumulate")


class PanelEmitter:
    """Emits the body of the panel kernel that a `Tile` describes."""

    def __init__(self, builder: ir.IRBuilder, tile: Tile, arguments: Sequence[Any]) -> None:
        self.tile = tile
        self.v = VectorBuilder(builder, tile.bits, tile.lanes, tile.fma)
        for name, value in zip(POINTERS + INTEGERS, arguments, strict=True):
            setattr(self, name, value)

    x: Any
    w: Any
    bias: Any
    y: Any
    x_row: Any
    x_tap: Any
    y_row: Any
    rows: Any
    taps: Any
    depth: Any
    last_lanes: Any
    accumulate: Any

    def emit(self) -> None:
        """Cover `rows` positions by tiles, each of exactly as many rows as it computes.

        Full tiles first; the last MR+1 … 2*MR-1 rows are halved, since a tile of one row
        is bound by the latency of its few chains.
        """
        v, b, most = self.v, self.v.ir, self.tile.rows
        self.mask = v.first_lanes(self.last_lanes) if self.tile.masked else None

        def is_less(n: Any, limit: int) -> Any:
            return b.icmp_signed("<", n, i64(limit))

        def step(left: Any) -> Any:
            half = b.ashr(b.add(left, i64(1)), i64(1))
            tail = b.select(is_less(left, most + 1), left, half)
            return b.select(is_less(left, 2 * most), tail, i64(most))

        entry, head, done = b.block, b.append_basic_block("tiles"), b.append_basic_block("done")
        join = b.append_basic_block("next_tile")
        b.cbranch(b.icmp_signed(">", self.rows, i64(0)), head, done)
        b.position_at_end(head)
        left, x, y = (b.phi(value.type) for value in (self.rows, self.x, self.y))
        for phi, value in ((left, self.rows), (x, self.x), (y, self.y)):
            phi.add_incoming(value, entry)
        count = step(left)
        full = b.append_basic_block(f"rows{most}")
        switch = b.switch(count, full)
        for rows in range(most, 0, -1):
            block = full if rows == most else b.append_basic_block(f"rows{rows}")
            if rows < most:
                switch.add_case(i64(rows), block)
            b.position_at_end(block)
            self.emit_tile(rows, x, y)
            b.branch(join)
        b.position_at_end(join)
        rest = b.sub(left, count)
        for phi, value in (
            (left, rest),
            (x, v.at(x, b.mul(count, self.x_row))),
            (y, v.at(y, b.mul(count, self.y_row))),
        ):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed(">", rest, i64(0)), head, done)
        b.position_at_end(done)

    def emit_tile(self, rows: int, x: Any, y: Any) -> None:
        """One register tile: chains started, reduced, stored."""
        y_rows = [self.v.at(y, self.v.ir.mul(self.y_row, i64(m))) for m in range(rows)]
        sums = self.emit_start(y_rows)
        sums = self.emit_reduction(rows, x, sums)
        for m, row in enumerate(y_rows):
            for j in range(self.tile.vectors):
                self.store(sums[m * self.tile.vectors + j], row, j)

    def emit_start(self, y_rows: list[Any]) -> list[Any]:
        """The first value of each chain: the bias, or the partial sum in y."""
        v, vectors = self.v, range(self.tile.vectors)
        return v.choose(
            v.ir.icmp_signed("!=", self.accumulate, i64(0)),
            lambda: [self.load(row, j) for row in y_rows for j in vectors],
            lambda: [v.load(v.at(self.bias, j * v.lanes)) for j in vectors] * len(y_rows),
        )

    def emit_reduction(self, rows: int, x: Any, sums: list[Any]) -> list[Any]:
        """Σ over taps, and over input channels where they are summed."""
        v, width = self.v, self.tile.width
        x_rows = v.rows(x, self.x_row, rows)
        if self.tile.family == "depthwise":

            def tap(t: Any, carried: list[Any]) -> list[Any]:
                w, *sums = carried
                return [v.at(w, width), *self.multiply(x_rows, v.ir.mul(t, self.x_tap), w, sums)]

            return v.loop(i64(0), self.taps, 1, [self.w, *sums], tap)[1:]

        # Only the full tile is unrolled: the others run once a panel, and cost compile time.
        unroll = UNROLL if rows == self.tile.rows else 1
        unrolled = v.ir.and_(self.depth, i64(-unroll))

        def tap_of_channels(t: Any, carried: list[Any]) -> list[Any]:
            base = v.ir.mul(t, self.x_tap)

            def channels(i: Any, carried: list[Any], count: int) -> list[Any]:
                w, *sums = carried
                for u in range(count):
                    sums = self.multiply(x_rows, v.ir.add(base, i), v.at(w, u * width), sums, u)
                return [v.at(w, count * width), *sums]

            carried = v.loop(i64(0), unrolled, unroll, carried, lambda i, c: channels(i, c, unroll))
            if unroll == 1:
                return carried
            return v.loop(unrolled, self.depth, 1, carried, lambda i, c: channels(i, c, 1))

        return v.loop(i64(0), self.taps, 1, [self.w, *sums], tap_of_channels)[1:]

    def multiply(
        self, x_rows: list[Any], offset: Any, w: Any, sums: list[Any], ahead: int = 0
    ) -> list[Any]:
        """One step of every chain: MR loads of x against NR/VL vectors of w."""
        v, vectors = self.v, range(self.tile.vectors)
        columns = [v.load(v.at(w, j * v.lanes), v.lanes * v.bits // 8) for j in vectors]
        updated = []
        for m, row in enumerate(x_rows):
            place = v.at(v.at(row, offset), ahead)
            if self.tile.family == "dense":
                factors = [v.broadcast(v.ir.load(place))] * self.tile.vectors
            else:
                factors = [self.load(place, j) for j in vectors]
            for j in vectors:
                updated.append(v.fma(factors[j], columns[j], sums[m * self.tile.vectors + j]))
        return updated

    def is_partial(self, j: int) -> bool:
        return self.tile.masked and j == self.tile.vectors - 1

    def load(self, row: Any, j: int) -> Any:
        place = self.v.at(row, j * self.v.lanes)
        return self.v.masked_load(place, self.mask) if self.is_partial(j) else self.v.load(place)

    def store(self, value: Any, row: Any, j: int) -> None:
        place = self.v.at(row, j * self.v.lanes)
        if self.is_partial(j):
            self.v.masked_store(value, place, self.mask)
        else:
            self.v.store(value, place)


def standalone_module(tile: Tile, triple: str) -> ir.Module:
    """The panel kernel alone in a module, to read its assembly for any processor."""
    module = ir.Module(tile.name)
    module.triple = triple
    pointer = (ir.FloatType() if tile.bits == 32 else ir.DoubleType()).as_pointer()
    arguments = [i8.as_pointer(), *[pointer] * len(POINTERS), *[i64] * len(INTEGERS)]
    function = ir.Function(module, ir.FunctionType(void, arguments), tile.name)
    builder = ir.IRBuilder(function.append_basic_block())
    PanelEmitter(builder, tile, function.args[1:]).emit()
    builder.ret_void()
    return module

"""What every panel kernel is: its contract, its compile-time description, its row loop.

A *panel kernel* computes `rows` positions of one panel of output channels:

    y[l*y_row + j] = epilogue(Σ_t Σ_i x[l*x_row + t*x_tap + …] · w[…])    for l < rows, t < taps

and is emitted as LLVM vector IR by the `Emitter` of its family. Contract of all of them:

* Strides are in elements and may be negative or zero; x and y need element alignment only.
  `w` is a packed panel (see `packing`), padded with zeros, on a cache line.
* The sum of one output is one chain of multiply-adds that starts from the bias, or a fixed tree
  of chains that start from zero, to which the bias is added (dot products). Its bits depend on
  neither the tile nor the row at which an output sits.
* `accumulate` continues a chain from what y holds. Only dense tiles do that: others get all
  products of an output at once.
* Of the last vector of a `masked` tile only `last_lanes` lanes are in use: nothing else is
  written in y (`dense`), read in x (`narrow`), or either (sliced families). Nothing of y is read
  unless `accumulate` is set. x and y do not overlap.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llvmlite import ir

from .vector import LINE, Mask, VectorBuilder, i64


@dataclass(frozen=True)
class Tile:
    """The compile-time description of one panel kernel.

    Attributes
    ----------
    family : str
        Name of the family whose emitter writes the code.
    bits, lanes : int
        Element width, and elements of a vector (VL).
    rows, vectors : int
        MR positions and NR/VL vectors of channels held in registers.
    masked : bool
        Whether the last vector is partial.
    fma : bool
        Whether the processor fuses multiply-adds.
    variant : tuple of int and str
        What else a family compiles in: a named tuple of its own; of `dense`, names. Strings that
        are empty do not show in the tile's name.
    streams : bool
        Whether y is written past the caches: it lies on multiples of the vector's size, or the
        tile looks whether it does (`fir`).
    """

    family: str
    bits: int
    lanes: int
    rows: int
    vectors: int
    masked: bool
    fma: bool
    variant: Any = ()
    streams: bool = False

    @property
    def width(self) -> int:
        """Columns of packed weights that lie side by side, NR."""
        return self.lanes * self.vectors

    @property
    def name(self) -> str:
        """As in BLIS: `dense_f32_6x64v16`, with what else distinguishes it."""
        suffixes = [f"_{value}" for value in self.variant if value != ""]
        suffixes += ["_masked"] * self.masked + ["_nofma"] * (not self.fma)
        suffixes += ["_streams"] * self.streams
        shape = f"{self.rows}x{self.width}v{self.lanes}"
        return f"{self.family}_f{self.bits}_{shape}{''.join(suffixes)}"


# Arguments of a panel kernel: pointers, then 64-bit integers. `x_channel` and `y_channel` are 1
# except in families along the positions. `depth` is the channels that one output sums;
# `slices` is how many slices of NR columns the panel has, `x_slice` from one to the next in x
# (families that go along the channels themselves). `x_bytes` is the size of all of x, by which a
# kernel knows whether it comes from far away and is worth a prefetch; `w_next` says how far from
# `w` those weights lie that the next call reads.
POINTERS = ("x", "w", "bias", "y")
INTEGERS = (
    "x_row", "x_tap", "x_channel", "x_slice", "y_row", "y_channel",
    "rows", "taps", "depth", "slices", "last_lanes", "accumulate", "x_bytes", "w_next",
)  # fmt: skip


class Emitter(ABC):
    """Emits the body of the panel kernel that a `Tile` describes."""

    family: ClassVar[str]

    variant: Any
    x: Any
    w: Any
    bias: Any
    y: Any
    x_row: Any
    x_tap: Any
    x_channel: Any
    x_slice: Any
    y_row: Any
    y_channel: Any
    rows: Any
    taps: Any
    depth: Any
    slices: Any
    last_lanes: Any
    accumulate: Any
    x_bytes: Any
    w_next: Any

    def __init__(self, builder: ir.IRBuilder, tile: Tile, arguments: Sequence[Any]) -> None:
        self.tile, self.variant = tile, tile.variant
        self.v = VectorBuilder(builder, tile.bits, tile.lanes, tile.fma)
        for name, value in zip(POINTERS + INTEGERS, arguments, strict=True):
            setattr(self, name, value)

    @abstractmethod
    def emit(self) -> None:
        """Emit the whole kernel."""

    def cover_rows(self, emit_tile: Callable[[int, Any, Any], None]) -> None:
        """Cover `rows` positions by tiles of up to MR of them: `emit_tile(rows, x, y)`."""
        places = (self.x, self.y)
        self.cover(self.rows, self.tile.rows, places, (self.x_row, self.y_row), emit_tile)

    def cover(
        self, total: Any, most: int, places: tuple[Any, Any], steps: tuple[Any, Any],
        emit_tile: Callable[[int, Any, Any], None],
    ) -> None:  # fmt: skip
        """Cover `total` items by tiles, each of exactly as many as it computes.

        `places` and `steps` are those of the first item in x and y, and from one to the next.

        Full tiles of `most` first; the last most+1 … 2*most-1 items are halved, since a tile of
        one is bound by the latency of its few chains. `emit_tile(items, x, y)` emits one tile.
        """
        v, b = self.v, self.v.ir
        entry, head, done = b.block, b.append_basic_block("tiles"), b.append_basic_block("done")
        join = b.append_basic_block("next_tile")
        b.cbranch(b.icmp_signed(">", total, i64(0)), head, done)
        b.position_at_end(head)
        first = (total, *places)
        left, x, y = (b.phi(value.type) for value in first)
        for phi, value in zip((left, x, y), first, strict=True):
            phi.add_incoming(value, entry)
        count = self.items_of_next_tile(left, most)
        full = b.append_basic_block(f"items{most}")
        switch = b.switch(count, full)
        for items in range(most, 0, -1):
            block = full if items == most else b.append_basic_block(f"items{items}")
            if items < most:
                switch.add_case(i64(items), block)
            b.position_at_end(block)
            emit_tile(items, x, y)
            b.branch(join)
        b.position_at_end(join)
        rest = b.sub(left, count)
        for phi, value in (
            (left, rest),
            (x, v.at(x, b.mul(count, steps[0]))),
            (y, v.at(y, b.mul(count, steps[1]))),
        ):
            phi.add_incoming(value, b.block)
        b.cbranch(b.icmp_signed(">", rest, i64(0)), head, done)
        b.position_at_end(done)

    def sliding_spacing(self) -> Any:
        """Positions from one output of a tile to the next where taps slide: dilation/stride.

        It is no integer only in windows of a strip for each tap, as far apart as all outputs reach
        (`window_shape`): rounded up, each output is then a residue of its own.
        """
        b = self.v.ir
        is_still = b.icmp_signed("==", self.x_row, i64(0))  # all rows are one row
        row = b.select(is_still, i64(1), self.x_row)
        whole = b.sdiv(self.x_tap, row)
        is_exact = b.icmp_signed("==", b.mul(whole, row), self.x_tap)
        spacing = b.select(is_exact, whole, b.add(whole, i64(1)))
        return b.select(is_still, i64(1), spacing)

    def by_residues(self, spacing: Any, emit: Callable[[Any, Any, Any], None]) -> None:
        """`emit(rows, x, y)` of the positions of each residue modulo `spacing`."""
        v, b = self.v, self.v.ir

        def residue(r: Any, carried: list[Any]) -> list[Any]:
            beyond = b.sub(b.add(self.rows, b.sub(spacing, i64(1))), r)
            x, y = v.at(self.x, b.mul(r, self.x_row)), v.at(self.y, b.mul(r, self.y_row))
            emit(b.sdiv(beyond, spacing), x, y)
            return []

        v.loop(i64(0), spacing, 1, [], residue)

    def items_of_next_tile(self, left: Any, most: int) -> Any:
        b = self.v.ir

        def is_less(limit: int) -> Any:
            return b.icmp_signed("<", left, i64(limit))

        half = b.ashr(b.add(left, i64(1)), i64(1))
        tail = b.select(is_less(most + 1), left, half)
        return b.select(is_less(2 * most), tail, i64(most))

    def overlapping(self, total: Any, step: int, emit_tile: Callable[[Any], None]) -> None:
        """Cover `total` items, `step` or more, by tiles of so many: `emit_tile(first)`.

        The last one is shifted back and computes some items again, with the same bits.
        """
        v, b = self.v, self.v.ir
        last = b.sub(total, i64(step))

        def tile(i: Any, carried: list[Any]) -> list[Any]:
            first = b.mul(i, i64(step))
            emit_tile(b.select(b.icmp_signed("<", first, last), first, last))
            return []

        v.loop(i64(0), b.sdiv(b.add(total, i64(step - 1)), i64(step)), 1, [], tile)

    def cover_overlapping(
        self, total: Any, most: int, places: tuple[Any, Any], steps: tuple[Any, Any],
        emit_tile: Callable[[int, Any, Any], None],
    ) -> None:  # fmt: skip
        """As `cover`, by full tiles, the last one shifted back; or by one of fewer items.

        For tiles whose taps slide if they are full: one that computes some items again takes as
        long as one of half the rows.
        """
        v, b = self.v, self.v.ir

        def tile(items: int, first: Any) -> None:
            x, y = (v.at(p, b.mul(first, s)) for p, s in zip(places, steps, strict=True))
            emit_tile(items, x, y)

        def full_tiles() -> list[Any]:
            self.overlapping(total, most, functools.partial(tile, most))
            return []

        def short_tile(items: int) -> list[Any]:
            tile(items, i64(0))
            return []

        shorter = [functools.partial(short_tile, items) for items in range(1, most)]
        number = b.select(b.icmp_signed("<", total, i64(most)), total, i64(most))
        v.switch(number, [list, *shorter, full_tiles])

    def shifted_back(self, column: Any, s: Any, width: int) -> Any:
        """Where slice `s` begins in y: the last one ends where the channels do."""
        b = self.v.ir
        is_last = b.icmp_signed("==", s, b.sub(self.slices, i64(1)))
        return b.sub(column, b.select(is_last, b.sub(i64(width), self.last_lanes), i64(0)))

    def in_blocks(
        self, count: Any, most: int, sums: list[Any],
        block: Callable[[Any, list[Any], int], list[Any]],
    ) -> list[Any]:  # fmt: skip
        """Take `count` taps in blocks of `most`, a power of two, then in one of what is left.

        `block(first, sums, taps)` emits one. The smaller a block the more loads it takes a tap:
        depthwise K7 in one block instead of 4, 2 and 1 is 1.1× faster.
        """
        v, b = self.v, self.v.ir
        whole = b.and_(count, i64(-most))
        sums = v.loop(i64(0), whole, most, sums, lambda first, sums: block(first, sums, most))
        rests = [functools.partial(block, whole, sums, taps) for taps in range(1, most)]
        return v.switch(b.sub(count, whole), [lambda: sums, *rests])

    def row_pointers(self, base: Any, stride: Any, rows: int) -> list[Any]:
        return [self.v.at(base, self.v.ir.mul(stride, i64(m))) for m in range(rows)]

    def prefetch_rows(self, base: Any, stride: Any, rows: int, vectors: int) -> None:
        """Ask for the lines of `rows` rows of so many vectors, soon to be written."""
        self.prefetch_lines(self.row_pointers(base, stride, rows), vectors)

    def prefetch_lines(self, rows: Iterable[Any], vectors: int) -> None:
        """The same of rows at these addresses."""
        line, size = LINE * 8 // self.v.bits, vectors * self.v.lanes
        for row in rows:
            for first in range(0, size, line):
                self.v.prefetch(self.v.at(row, first), writes=True)

    def load(self, place: Any, mask: Any = None) -> Any:
        return self.v.load(place) if mask is None else self.v.masked_load(place, mask)

    def store_past_caches(self, values: list[Any], y: Any) -> None:
        """Store vectors that follow each other past the caches, if `y` is a multiple of their size.

        For tiles that may begin anywhere in y.
        """
        v, b = self.v, self.v.ir
        size = v.lanes * v.bits // 8
        beyond = b.and_(b.ptrtoint(y, i64), i64(size - 1))
        with b.if_else(b.icmp_signed("==", beyond, i64(0))) as (is_aligned, is_not):
            for block, streams in ((is_aligned, True), (is_not, False)):
                with block:
                    for m, value in enumerate(values):
                        v.store(value, v.at(y, m * v.lanes), streams)

    def store(self, values: Iterable[Any], places: Iterable[tuple[Any, Mask | None]]) -> None:
        """Store vectors to addresses, whole ones first; masks are of the same lanes."""
        stores = list(zip(values, places, strict=True))
        for value, (place, mask) in stores:
            if mask is None:
                self.v.store(value, place, self.tile.streams)
        masks = [mask for _, (_, mask) in stores if mask is not None]
        if masks:
            partial = [(value, place) for value, (place, mask) in stores if mask is not None]
            self.v.masked_store(partial, masks[0])

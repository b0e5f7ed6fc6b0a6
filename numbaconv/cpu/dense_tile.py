"""The tile of dense convolution: rows of x broadcast against vectors of weights.

A GEMM tile whose rows overlap: with dilation 1 the receptive field of a position is one contiguous
slice of x, so the reduction is one loop of K*C_in and nothing of x is packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .microkernel import Emitter, Tile
from .vector import LINE, i64

# Steps of the inner loop per turn: at 1, loop counters take 4-8 % of the issue slots that
# the multiply-adds want on a core with two 512-bit FMA units; 4 and 8 are alike, with vectors of
# 256 bits too. Tiles of four vectors of AVX-512 whose weights stay near take 8: on Zen 4
# 64 → 128 K1 gains 1.006-1.013×, where tiles of three lose 0.5 %.
UNROLL, UNROLL_MORE = 4, 8

# Variants of the tile: weights of the next block are prefetched; weights are prefetched as they are
# read, since they are read once; lines of y are prefetched; the chain runs over the taps of one
# channel; y is stored by a few rows at a time; and a turn prefetches x of the next tile: with a
# number, so many lines behind those of this one, or, of one tap, what that tile reads in the same
# turn.
PREFETCH_WEIGHTS, STREAM_WEIGHTS = "prefetch_w", "stream_w"
PREFETCH_OUTPUTS, ONE_CHANNEL, STORE_BY_ROWS = "prefetch_y", "one_channel", "by_rows"
PREFETCH_X, PREFETCH_ROWS = "prefetch_x", "prefetch_rows"

# Vectors of a line that are stored at once where y is stored by rows. On Zen 4 12 of 24 take no
# time, and all of them fill the store queue: the next tile waits for 30-60 cycles.
MOST_STORED = 12

# How many bytes ahead weights are streamed: 6192 products of 4 x 48 x 48, 55 MB of weights, take
# 5.4 ms without, 3.8 at 2 KiB, 2.8 at 8 KiB, 3.2 at 16 KiB.
STREAM_AHEAD = 8 << 10


def prefetched_x_lines(tile: Tile) -> int:
    """Lines of x that a turn of the full tile asks for."""
    counts = [name.removeprefix(PREFETCH_X) for name in tile.variant if PREFETCH_X in name]
    return int(counts[0]) if counts else 0


def unroll_of(vector_bits: int, vectors: int, variant: Sequence[str]) -> int:
    """Steps per turn of the full tile: taps that lie apart need an address each, so one."""
    if ONE_CHANNEL in variant:
        return 1
    is_wide = vector_bits == 512 and vectors == 4
    return UNROLL_MORE if is_wide and PREFETCH_WEIGHTS not in variant else UNROLL


def has_own_loop_of_one_tap(tile: Tile) -> bool:
    """Whether the full tile has code of its own for one tap, which merged ones are too.

    Around a loop over taps LLVM keeps addresses in memory. Without it 64 → 128 K3 gains 1.014×,
    96 → 96 K3 1.01×, 256 → 256 K3 nothing, and eight pointwise layers 1.00-1.03× (Zen 4). In tiles
    of many rows it keeps them there anyway, and those of four vectors that prefetch x, or of three
    that prefetch weights too or store by rows; and with shorter vectors (tests/codegen).
    """
    is_long_vector = tile.lanes * tile.bits == LINE * 8
    does_more = PREFETCH_WEIGHTS in tile.variant or STORE_BY_ROWS in tile.variant
    has_room = not prefetched_x_lines(tile) or (tile.vectors == 3 and not does_more)
    has_taps = not {ONE_CHANNEL, PREFETCH_ROWS} & set(tile.variant)
    return is_long_vector and tile.vectors > 2 and has_room and has_taps


class DenseEmitter(Emitter):
    """y[l, j] = Σ_t Σ_i x[l*x_row + t*x_tap + i] · w[t*depth + i, j]

    The tile's variant says what suits the layer, see `dense.variant_of`.
    """

    family = "dense"

    def emit(self) -> None:
        self.mask = self.v.first_lanes(self.last_lanes) if self.tile.masked else None
        self.x_lines = prefetched_x_lines(self.tile)
        self.unroll = unroll_of(self.v.bits * self.v.lanes, self.tile.vectors, self.variant)
        self.cover_rows(self.emit_tile)

    def weights_ahead(self, rows: int) -> Any:
        """How far ahead of the weights of a step those lie that a tile of `rows` asks for, if any.

        Those of the next block are all asked for by every tile: if some lines of a turn have come
        to the second cache and others have not, reading them takes longer than if none had
        (768 → 3072 K1 lost 1.1-1.2× where a tile asked for a line or two of its turn, and less
        than 16 or 8 tiles shared a block). Tiles of few rows are bound by the way from the
        last cache, and lose 1.2-1.8× by asking; from more than half of the rows on they gain
        1.0-1.2×.
        """
        if STREAM_WEIGHTS in self.variant:
            return i64(STREAM_AHEAD * 8 // self.v.bits)
        is_asking = PREFETCH_WEIGHTS in self.variant and 2 * rows > self.tile.rows
        return self.w_next if is_asking else None

    def places(self, row: Any) -> list[tuple[Any, Any]]:
        """Address and mask of each vector of a row of y."""
        vectors = self.tile.vectors
        return [
            (self.v.at(row, j * self.v.lanes), self.mask if j == vectors - 1 else None)
            for j in range(vectors)
        ]

    def emit_tile(self, rows: int, x: Any, y: Any) -> None:
        targets = [
            place for row in self.row_pointers(y, self.y_row, rows) for place in self.places(row)
        ]
        is_full = rows == self.tile.rows
        if PREFETCH_OUTPUTS in self.variant and is_full and not self.tile.streams:
            following = self.v.at(y, self.v.ir.mul(self.y_row, i64(rows)))
            self.prefetch_rows(following, self.y_row, rows, self.tile.vectors)
        sums = self.emit_start(rows, targets)
        x_rows = self.v.rows(x, self.x_row, rows)
        if is_full and STORE_BY_ROWS in self.variant:
            self.emit_rows_apart(x_rows, sums, targets)
        else:
            _, _, *sums = self.emit_reduction(x_rows, sums, i64(0))
            self.store(sums, targets)

    def emit_start(self, rows: int, targets: list[tuple[Any, Any]]) -> list[Any]:
        """The first value of each chain: the bias, or the partial sum in y."""
        v = self.v
        return v.choose(
            v.ir.icmp_signed("!=", self.accumulate, i64(0)),
            lambda: [self.load(*place) for place in targets],
            lambda: [v.load(v.at(self.bias, j * v.lanes)) for j in range(self.tile.vectors)] * rows,
        )

    def emit_reduction(self, x_rows: list[Any], sums: list[Any], kept: Any) -> list[Any]:
        """Taps outside, channels inside; a merged reduction is one tap of many channels.

        All steps but so many last ones, which are `kept` back. Where weights and x go on, and the
        sums.
        """
        v = self.v
        if PREFETCH_ROWS in self.variant:
            return self.emit_taps(x_rows, sums, 1, kept)
        if len(x_rows) < self.tile.rows or not has_own_loop_of_one_tap(self.tile):
            return self.emit_taps(x_rows, sums, self.taps, kept)
        return v.choose(
            v.ir.icmp_signed("==", self.taps, i64(1)),
            lambda: self.emit_taps(x_rows, sums, 1, kept),
            lambda: self.emit_taps(x_rows, sums, self.taps, kept),
        )

    def emit_taps(self, x_rows: list[Any], sums: list[Any], taps: Any, kept: Any) -> list[Any]:
        """So many taps, a number that is compiled in or a value."""
        v, b = self.v, self.v.ir
        ahead = self.weights_ahead(len(x_rows))
        depth = b.sub(self.depth, kept)
        if taps == 1:
            carried = [self.w, self.next_x(x_rows, i64(0)), *sums]
            return self.emit_chain(x_rows, i64(0), depth, i64(1), ahead, carried)
        last_tap = b.sub(taps, i64(1))
        carried = [self.w, self.next_x(x_rows, b.mul(last_tap, self.x_tap)), *sums]
        if ONE_CHANNEL in self.variant:
            count = b.mul(taps, self.depth)  # taps that follow each other are merged
            return self.emit_chain(x_rows, i64(0), count, self.x_tap, ahead, carried)

        def tap(t: Any, carried: list[Any]) -> list[Any]:
            base = b.mul(t, self.x_tap)
            count = b.select(b.icmp_signed("<", t, last_tap), self.depth, depth)
            return self.emit_chain(x_rows, base, count, i64(1), ahead, carried)

        return v.loop(i64(0), taps, 1, carried, tap)

    def emit_rows_apart(
        self, x_rows: list[Any], sums: list[Any], targets: list[tuple[Any, Any]]
    ) -> None:
        """A tile whose rows take the last turn of steps, and are stored, a few at a time.

        If the last tap has no whole turn, all at once.
        """
        b = self.v.ir
        has_turn = b.icmp_signed(">=", self.depth, i64(self.unroll))
        kept = b.select(has_turn, i64(self.unroll), i64(0))
        w, next_x, *sums = self.emit_reduction(x_rows, sums, kept)
        with b.if_else(has_turn) as (rows_apart, at_once):
            with rows_apart:
                self.prefetch_x(next_x, x_rows, self.unroll)
                self.emit_last_turn(x_rows, w, sums, targets)
            with at_once:
                self.store(sums, targets)

    def emit_last_turn(
        self, x_rows: list[Any], w: Any, sums: list[Any], targets: list[tuple[Any, Any]]
    ) -> None:
        """The turn that was kept back, and the stores, of MOST_STORED vectors after each other."""
        v, b, vectors = self.v, self.v.ir, self.tile.vectors
        last_tap = b.mul(b.sub(self.taps, i64(1)), self.x_tap)
        place = b.add(last_tap, b.sub(self.depth, i64(self.unroll)))
        together = MOST_STORED // vectors
        for first in range(0, len(x_rows), together):
            rows = x_rows[first : first + together]
            part = slice(first * vectors, (first + len(rows)) * vectors)
            w = v.hidden(w)  # or LLVM loads all weights once, into more registers than there are
            last_sums = self.emit_steps(rows, place, i64(1), w, sums[part], self.unroll)
            self.store(v.pinned(last_sums), targets[part])

    def emit_chain(
        self, x_rows: list[Any], base: Any, count: Any, step: Any, ahead: Any, carried: list[Any]
    ) -> list[Any]:
        """`count` products of every sum, with x from `base` on by `step`.

        Carries w, what x is to be prefetched, and the sums.
        """
        v, width = self.v, self.tile.width
        # Only the full tile is unrolled: the others run once a panel, and cost compile time.
        unroll = self.unroll if len(x_rows) == self.tile.rows else 1

        def turn(i: Any, carried: list[Any], count: int) -> list[Any]:
            w, next_x, *sums = carried
            place = v.ir.add(base, v.ir.mul(i, step))
            if ahead is not None:
                self.prefetch_weights(v.at(w, ahead), count)
            if count > 1:
                next_x = self.prefetch_x(next_x, x_rows, count)
            sums = self.emit_steps(x_rows, place, step, w, sums, count)
            return [v.at(w, count * width), next_x, *sums]

        return v.unrolled_loop(count, unroll, carried, turn)

    def next_x(self, x_rows: list[Any], last_tap: Any) -> Any:
        """What x to prefetch first: behind the last row; by rows, the step to the next ones."""
        if PREFETCH_ROWS in self.variant:
            return self.v.ir.mul(self.x_row, i64(len(x_rows)))
        return self.v.at(self.v.at(x_rows[-1], last_tap), self.depth)

    def prefetch_x(self, next_x: Any, x_rows: list[Any], steps: int) -> Any:
        """Ask for x of the next tile in a turn of `steps`, and say what the next turn asks for.

        By rows a line is asked for in each turn that reads of it, which takes no time beside the
        multiply-adds of two vectors and more.
        """
        if PREFETCH_ROWS in self.variant:
            next_x = self.v.hidden(next_x)  # or LLVM keeps an address for each row, in memory
            for row in x_rows:
                self.v.prefetch(self.v.at(row, next_x))
            return self.v.ir.add(next_x, i64(steps))
        line = LINE * 8 // self.v.bits
        for k in range(self.x_lines):
            self.v.prefetch(self.v.at(next_x, k * line))
        return self.v.at(next_x, self.x_lines * line)

    def emit_steps(
        self, x_rows: list[Any], place: Any, step: Any, w: Any, sums: list[Any], count: int
    ) -> list[Any]:
        """`count` products of every sum, with x from `place` on by `step`."""
        for u in range(count):
            further = self.v.ir.mul(step, i64(u))
            sums = self.multiply(x_rows, place, further, self.v.at(w, u * self.tile.width), sums)
        return sums

    def prefetch_weights(self, w: Any, steps: int) -> None:
        """Ask for the lines of so many steps."""
        line = LINE * 8 // self.v.bits
        for first in range(0, steps * self.tile.width, line):
            self.v.prefetch(self.v.at(w, first))

    def multiply(
        self, x_rows: list[Any], place: Any, further: Any, w: Any, sums: list[Any]
    ) -> list[Any]:
        """One step of every chain: MR broadcasts of x against NR/VL vectors of w."""
        v, vectors = self.v, self.tile.vectors
        columns = [v.load_aligned(v.at(w, j * v.lanes)) for j in range(vectors)]
        updated = []
        for m, row in enumerate(x_rows):
            factor = v.broadcast(v.ir.load(v.at(v.at(row, place), further)))
            for j in range(vectors):
                updated.append(v.fma(factor, columns[j], sums[m * vectors + j]))
        return updated

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
# channel; and, with a number, so many lines of x, behind those that a tile reads, are prefetched a
# turn.
PREFETCH_WEIGHTS, STREAM_WEIGHTS = "prefetch_w", "stream_w"
PREFETCH_OUTPUTS, ONE_CHANNEL, PREFETCH_X = "prefetch_y", "one_channel", "prefetch_x"

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
    that prefetch weights too; and with shorter vectors (tests/codegen).
    """
    is_long_vector = tile.lanes * tile.bits == LINE * 8
    has_room = not prefetched_x_lines(tile) or (
        tile.vectors == 3 and PREFETCH_WEIGHTS not in tile.variant
    )
    return is_long_vector and tile.vectors > 2 and has_room and ONE_CHANNEL not in tile.variant


class DenseEmitter(Emitter):
    """y[l, j] = Σ_t Σ_i x[l*x_row + t*x_tap + i] · w[t*depth + i, j]

    The tile's variant says what suits the layer, see `dense.variant_of`.
    """

    family = "dense"

    def emit(self) -> None:
        self.mask = self.v.first_lanes(self.last_lanes) if self.tile.masked else None
        self.x_lines = prefetched_x_lines(self.tile)
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
        sums = self.emit_reduction(rows, x, sums)
        self.store(sums, targets)

    def emit_start(self, rows: int, targets: list[tuple[Any, Any]]) -> list[Any]:
        """The first value of each chain: the bias, or the partial sum in y."""
        v = self.v
        return v.choose(
            v.ir.icmp_signed("!=", self.accumulate, i64(0)),
            lambda: [self.load(*place) for place in targets],
            lambda: [v.load(v.at(self.bias, j * v.lanes)) for j in range(self.tile.vectors)] * rows,
        )

    def emit_reduction(self, rows: int, x: Any, sums: list[Any]) -> list[Any]:
        """Taps outside, channels inside; a merged reduction is one tap of many channels."""
        v = self.v
        x_rows = v.rows(x, self.x_row, rows)
        if rows < self.tile.rows or not has_own_loop_of_one_tap(self.tile):
            return self.emit_taps(x_rows, sums, self.taps)
        return v.choose(
            v.ir.icmp_signed("==", self.taps, i64(1)),
            lambda: self.emit_taps(x_rows, sums, 1),
            lambda: self.emit_taps(x_rows, sums, self.taps),
        )

    def emit_taps(self, x_rows: list[Any], sums: list[Any], taps: Any) -> list[Any]:
        """So many taps, a number that is compiled in or a value."""
        v = self.v
        ahead = self.weights_ahead(len(x_rows))
        if taps == 1:
            carried = [self.w, v.at(x_rows[-1], self.depth), *sums]
            return self.emit_chain(x_rows, i64(0), self.depth, i64(1), ahead, carried)[2:]
        last_tap = v.ir.mul(v.ir.sub(taps, i64(1)), self.x_tap)
        carried = [self.w, v.at(v.at(x_rows[-1], last_tap), self.depth), *sums]
        if ONE_CHANNEL in self.variant:
            count = v.ir.mul(taps, self.depth)  # taps that follow each other are merged
            return self.emit_chain(x_rows, i64(0), count, self.x_tap, ahead, carried)[2:]

        def tap(t: Any, carried: list[Any]) -> list[Any]:
            base = v.ir.mul(t, self.x_tap)
            return self.emit_chain(x_rows, base, self.depth, i64(1), ahead, carried)

        return v.loop(i64(0), taps, 1, carried, tap)[2:]

    def emit_chain(
        self, x_rows: list[Any], base: Any, count: Any, step: Any, ahead: Any, carried: list[Any]
    ) -> list[Any]:
        """`count` products of every sum, with x from `base` on by `step`.

        Carries w, where x is to be prefetched, and the sums.
        """
        v, width = self.v, self.tile.width
        # Only the full tile is unrolled: the others run once a panel, and cost compile time.
        is_full = len(x_rows) == self.tile.rows
        unroll = unroll_of(v.bits * v.lanes, self.tile.vectors, self.variant) if is_full else 1

        def turn(i: Any, carried: list[Any], count: int) -> list[Any]:
            w, behind, *sums = carried
            place = v.ir.add(base, v.ir.mul(i, step))
            if ahead is not None:
                self.prefetch_weights(v.at(w, ahead), count)
            if count > 1:
                line = LINE * 8 // v.bits
                for k in range(self.x_lines):
                    v.prefetch(v.at(behind, k * line))
                behind = v.at(behind, self.x_lines * line)
            for u in range(count):
                further = v.ir.mul(step, i64(u))
                sums = self.multiply(x_rows, place, further, v.at(w, u * width), sums)
            return [v.at(w, count * width), behind, *sums]

        return v.unrolled_loop(count, unroll, carried, turn)

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

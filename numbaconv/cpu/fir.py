"""One channel in, one out: an FIR filter, with vectors along the positions.

An unaligned load of x serves one tap. Taps that are VL apart read the same vectors one
further, so taps are taken by residue modulo VL, and each load serves a block of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ..problem import ConvProblem
from ..weights import Weights
from .blocking import Panel
from .family import Family
from .microkernel import Emitter, Tile
from .packing import PackedWeights, pack_bias
from .target import Target
from .vector import i64

# By vector registers: vectors of a tile, and most taps of one residue held beside them. An
# unaligned load takes nearly three times as long as a product, so what is left of a residue is
# one block too: K101, six or seven taps, is 1.25× faster so.
VECTORS = {32: (16, 8), 16: (8, 4)}

# Vectors of the tiles of a short signal.
FEW_VECTORS = 4


class FirEmitter(Emitter):
    """y[l] = Σ_r Σ_j x[l + (r + j*VL)*x_tap] · w[r + j*VL], r < VL; x_row == y_row == 1.

    The tile's variant is (most taps of a block,), 1 where they do not slide.
    """

    family = "fir"

    def emit(self) -> None:
        """The largest tiles that fit, the last one shifted back; or a partial vector."""
        v, b = self.v, self.v.ir
        self.bias_vector = v.broadcast(b.load(self.bias))
        sizes = (self.tile.rows // v.lanes, FEW_VECTORS, 1)

        def part() -> list[Any]:
            self.emit_tile(1, self.x, self.y, v.first_lanes(self.rows))
            return []

        number = i64(len(sizes))
        for i, vectors in reversed(list(enumerate(sizes))):
            fits = b.icmp_signed(">=", self.rows, i64(vectors * v.lanes))
            number = b.select(fits, i64(i), number)
        v.switch(number, [*(functools.partial(self.emit_tiles, n) for n in sizes), part])

    def emit_tiles(self, vectors: int) -> list[Any]:
        """All positions. A few vectors for the last ones would wait for their few chains."""

        def tile(first: Any) -> None:
            self.emit_tile(vectors, self.v.at(self.x, first), self.v.at(self.y, first), None)

        self.overlapping(self.rows, vectors * self.v.lanes, tile)
        return []

    def emit_tile(self, vectors: int, x: Any, y: Any, mask: Any) -> None:
        v, b, lanes = self.v, self.v.ir, self.v.lanes
        is_less = b.icmp_signed("<", self.taps, i64(lanes))
        residues = b.select(is_less, self.taps, i64(lanes))
        most = self.tile.variant[0] if vectors > 1 else 1

        def residue(r: Any, sums: list[Any]) -> list[Any]:
            """Taps r, r + VL, … below K: blocks of `most`, then one of what is left."""
            count = b.sdiv(b.add(b.sub(self.taps, r), i64(lanes - 1)), i64(lanes))

            def block(j: Any, sums: list[Any], taps: int) -> list[Any]:
                tap = b.add(r, b.mul(j, i64(lanes)))
                return self.slide(taps, v.at(x, b.mul(tap, self.x_tap)), tap, sums, mask)

            return self.in_blocks(count, most, sums, block)

        sums = v.loop(i64(0), residues, 1, [self.bias_vector] * vectors, residue)
        self.store(sums, ((v.at(y, m * lanes), mask) for m in range(vectors)))

    def slide(self, taps: int, x: Any, tap: Any, sums: list[Any], mask: Any) -> list[Any]:
        """Vector i of x serves tap j of output vector i - j."""
        v, sums = self.v, list(sums)
        factors = [
            v.broadcast(v.ir.load(v.at(v.at(self.w, tap), j * v.lanes))) for j in range(taps)
        ]
        for i in range(len(sums) + taps - 1):
            value = self.load(v.at(x, i * v.lanes), mask)
            for j in range(taps):
                if 0 <= i - j < len(sums):
                    sums[i - j] = v.fma(value, factors[j], sums[i - j])
        return sums


class Fir(Family):
    """C_in == C_out == 1, stride 1."""

    name = "fir"
    emitter = FirEmitter
    needs_unit_rows = True

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g = problem.geometry
        if g.in_channels > 1 or g.out_channels > 1:
            return f"{g.in_channels} → {g.out_channels} channels: not a filter of one signal"
        if g.stride > 1:
            return f"stride={g.stride}: outputs are not side by side in x"
        if problem.step > 1 and g.kernel_size > target.lanes(problem.dtype):
            # Whether x is thinned depends on the padding, and so must not the order of sums.
            return f"x is read every {problem.step} positions: taps are summed one after another"
        return None

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        lanes = target.lanes(problem.dtype)
        vectors, block = VECTORS[target.registers]
        tile = Tile(
            self.emitter.family, problem.dtype.itemsize * 8, lanes, vectors * lanes, vectors=1,
            masked=False, fma=target.fma,
            variant=(block if problem.geometry.dilation == 1 else 1,),
        )  # fmt: skip
        return [Panel(tile, 0, 1, 0, 0, 1)]

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        return max(1, target.l2 // 8 // (tile.rows * problem.dtype.itemsize)) * tile.rows

    def pack(self, weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
        """The taps as they are."""
        packed = PackedWeights.empty(weights.filter.size, panels, weights)
        packed.filter[:] = weights.filter.reshape(-1)
        pack_bias(packed, weights, panels)
        return packed


FIR = Fir()

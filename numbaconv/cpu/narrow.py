"""Narrow C_out: vectors lie along the input channels, and each output is a dot product.

A dense tile would leave most lanes idle: at C_out = 1 fifteen of sixteen. Here each output
keeps VL partial sums, which one tree of shuffles adds up after the last tap.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

from ..problem import ConvProblem
from .blocking import Panel, round_up, run_length
from .family import PackingGroups
from .microkernel import Emitter, Tile
from .sliced import groups_of_slice, outputs_apart, tap_bytes
from .target import CACHE_WAY, Target
from .vector import LINE, i64
from .work import (
    DOT_OUTPUT,
    FEWEST,
    dot_time,
    lanes_ratio,
    planar_declines,
    planar_time,
    positions_pay,
)

# By instruction set and C_out: MR and taps of a block where taps slide, and MR where they do
# not. The largest whose loops keep everything in registers (tests/codegen).
TILES: dict[str, dict[int, tuple[int, int, int]]] = {
    "avx512": {
        1: (13, 8, 10), 2: (6, 4, 12), 3: (8, 2, 8), 4: (5, 2, 6),
        5: (4, 2, 4), 6: (3, 2, 3), 7: (2, 2, 2), 8: (2, 2, 2),
    },
    "avx2": {1: (8, 4, 10), 2: (4, 2, 5), 3: (2, 2, 3), 4: (2, 2, 2)},
    "avx": {1: (6, 4, 10), 2: (3, 4, 4), 3: (2, 2, 2), 4: (2, 1, 2)},
    "sse": {1: (4, 2, 7), 2: (2, 2, 4)},
    "neon": {1: (12, 4, 12), 2: (8, 2, 8)},
}  # fmt: skip

# Bytes of x above which its rows are prefetched: 32 → 1 K7 loses 7 % where x is near, gains 1.2×
# at 8 MiB and 2× at 38.
FAR_X = 4 << 20

# Outputs of AVX-512 tiles that leave a register for that (tests/codegen); others do without.
FEW_OUTPUTS = 2

# Outputs of a tile are dilation/stride apart, so that taps slide over them. Its most rows: with 13
# LLVM compares with the stack in the loop (tests/codegen). Zen 4, 1000 positions, over taps that do
# not slide: 64 → 1 K7 gains 1.2-1.7× with dilation 2 and 1.1-1.5× with 8, 512 → 4 K7 d8 2×,
# 1024 → 1 K7 3.4×, whose rows collide in the first cache; 64 → 4 loses 1 %.
APART, MOST_ROWS_APART = "apart", 12

# Of the multiply-add peak, what tiles reach with all lanes busy: dot products pay for one load a
# product and for the tree, dense tiles for their stores. They are of panels that lie side by side:
# by the shares of whole layers (`work.RATES`) 64 → 63 and 31 K3 lose 2-3 %, 40 → 7 1.13× (Zen 4).
DOT_SHARE, DENSE_SHARE = 0.65, 0.85


class NarrowVariant(NamedTuple):
    """What a tile compiles in: most taps of a block, and whether outputs lie `APART`.

    Blocks of one tap do not slide.
    """

    tap_block: int
    spacing: str = ""


class NarrowEmitter(Emitter):
    """y[l, co] = Σ_v Σ_t x[l*x_row + t*x_tap + v*VL :][:VL] · w[v, t, co, :VL]"""

    family = "narrow"
    variant: NarrowVariant

    def emit(self) -> None:
        spacing = self.sliding_spacing() if self.variant.spacing == APART else i64(1)
        self.row_step = self.v.ir.mul(spacing, self.x_row)
        self.y_step = self.v.ir.mul(spacing, self.y_row)
        cover = self.cover_overlapping if self.variant.tap_block > 1 else self.cover

        def emit_positions(rows: Any, x: Any, y: Any) -> None:
            steps = (self.row_step, self.y_step)
            cover(rows, self.tile.rows, (x, y), steps, self.emit_tile)

        self.by_residues(spacing, emit_positions)

    def emit_tile(self, rows: int, x: Any, y: Any) -> None:
        v, b = self.v, self.v.ir
        if rows == self.tile.rows and self.v.is_avx512 and self.tile.vectors <= FEW_OUTPUTS:
            self.prefetch_inputs(x)
        whole = b.sdiv(self.depth, i64(v.lanes))
        weights = b.mul(self.taps, i64(self.tile.width))

        def channels(i: Any, sums: list[Any]) -> list[Any]:
            place = v.at(x, b.mul(i, i64(v.lanes)))
            return self.emit_taps(rows, place, v.at(self.w, b.mul(i, weights)), sums, None)

        sums = v.loop(i64(0), whole, 1, [v.zero()] * (rows * self.tile.vectors), channels)
        if self.tile.masked:
            place = v.at(x, b.mul(whole, i64(v.lanes)))
            last = v.at(self.w, b.mul(whole, weights))
            sums = self.emit_taps(rows, place, last, sums, v.first_lanes(self.last_lanes))
        self.emit_results(sums, self.row_pointers(y, self.y_step, rows))

    def prefetch_inputs(self, x: Any) -> None:
        """Ask for the rows of x that the tile after the next one reads anew."""
        v, b, rows = self.v, self.v.ir, self.tile.rows
        with b.if_then(b.icmp_signed(">", self.x_bytes, i64(FAR_X))):
            last = b.mul(b.sub(self.taps, i64(1)), self.x_tap)
            start = v.at(x, b.add(b.mul(self.row_step, i64(2 * rows)), last))

            def line(i: Any, carried: list[Any]) -> list[Any]:
                for row in self.row_pointers(v.at(start, i), self.row_step, rows):
                    v.prefetch(row)
                return []

            v.loop(i64(0), self.depth, LINE * 8 // v.bits, [], line)

    def emit_taps(self, rows: int, x: Any, w: Any, sums: list[Any], mask: Any) -> list[Any]:
        """All taps of one vector of input channels."""
        v, b, outputs = self.v, self.v.ir, self.tile.vectors

        def block(first: Any, sums: list[Any], taps: int) -> list[Any]:
            """Row i serves tap j of output i - j."""
            sums = list(sums)
            row = v.hidden(v.at(x, b.mul(first, self.x_tap)))
            factors = v.at(w, b.mul(first, i64(self.tile.width)))
            columns = [v.load_aligned(v.at(factors, c * v.lanes)) for c in range(taps * outputs)]
            for i in range(rows + taps - 1):
                value = self.load(row, mask)
                row = v.at(row, self.row_step)
                for j in range(max(0, i - rows + 1), min(taps, i + 1)):
                    for co in range(outputs):
                        at = (i - j) * outputs + co
                        sums[at] = v.fma(value, columns[j * outputs + co], sums[at])
            return sums

        most = self.variant.tap_block if rows == self.tile.rows else 1
        return self.in_blocks(self.taps, most, sums, block)

    def emit_results(self, sums: list[Any], y_rows: list[Any]) -> None:
        """Add up each vector, VL at a time, add the bias and store.

        Rows that follow each other are stored by vectors: on a Zen 4 32 → 1 K7 gains 1.07×, 16 → 1
        K7 1.15×, 64 → 3 K3 1.1×, 128 → 8 K1 1.2×, 16 → 4 K3 1.37×.
        """
        v, b, outputs = self.v, self.v.ir, self.tile.vectors
        is_full = len(y_rows) == self.tile.rows  # others would only take longer to compile
        if not v.is_avx512 or not is_full:
            self.store_rows(sums, y_rows)
            return
        with b.if_else(b.icmp_signed("==", self.y_step, i64(outputs))) as (together, apart):
            with together:
                for first in range(0, len(sums), v.lanes):
                    some = sums[first : first + v.lanes]
                    mask = None if len(some) == v.lanes else v.first_lanes(i64(len(some)))
                    place = v.at(y_rows[0], first)
                    self.store([b.fadd(v.totals(some), self.biases(first))], [(place, mask)])
            with apart:
                self.store_rows(sums, y_rows)

    def store_rows(self, sums: list[Any], y_rows: list[Any]) -> None:
        """The same row by row, of rows that lie apart: those of a group, or of other panels.

        Over one element at a time 512 → 64 K3 in 8 groups gains 1.2×, 64 → 8 K5 in 4 1.2× (Zen 4).
        """
        v, b, outputs = self.v, self.v.ir, self.tile.vectors
        together = v.lanes // outputs
        bias = self.biases(0)
        for first in range(0, len(y_rows), together):
            rows = y_rows[first : first + together]
            totals = v.totals(sums[first * outputs :][: len(rows) * outputs])
            results = b.fadd(totals, bias)
            for k, row in enumerate(rows):
                lanes = range(k * outputs, (k + 1) * outputs)
                v.store(v.shuffle(results, results, lanes), row)

    def biases(self, first: int) -> Any:
        """The bias of outputs that fill a vector, from one of those of the first row on."""
        v, outputs = self.v, self.tile.vectors
        each = self.load(self.bias, v.first_lanes(i64(outputs)))
        return v.shuffle(each, each, [(first + k) % outputs for k in range(v.lanes)])


def dot_panel(
    problem: ConvProblem,
    target: Target,
    outputs: int,
    first: int = 0,
    x_offset: int = 0,
    column: int = 0,
) -> Panel:
    """A panel of channels `first` … `first+outputs-1`, each by dot products."""
    g = problem.geometry
    lanes, depth = target.lanes(problem.dtype), g.group_in_channels
    sliding_rows, block, rows = TILES[target.isa][outputs]
    spacing = outputs_apart(g)
    if spacing > 1:
        sliding_rows = min(sliding_rows, MOST_ROWS_APART)
    is_long = problem.length_out >= sliding_rows * spacing
    if g.stride == g.dilation or (spacing > 1 and is_long):
        rows = sliding_rows
    else:
        block, spacing = 1, 1
    tile = Tile(
        NarrowEmitter.family, problem.dtype.itemsize * 8, lanes, rows,
        vectors=outputs, masked=depth % lanes > 0, fma=target.fma,
        variant=NarrowVariant(block, APART if spacing > 1 else ""),
    )  # fmt: skip
    columns = -(-(-(-depth // lanes) * tile.width) // depth)
    last_lanes = depth % lanes or lanes
    return Panel(
        tile, first, outputs, x_offset, column, last_lanes, slice_columns=columns, sums_lanes=True
    )


def vectors_of_dots(problem: ConvProblem, outputs: int, target: Target) -> float:
    """What so many outputs take, in vectors of a dense tile; infinity where there are no tiles."""
    lanes, depth = target.lanes(problem.dtype), problem.geometry.group_in_channels
    if outputs not in TILES.get(target.isa, ()):
        return math.inf
    vectors = -(-depth // lanes)
    taps = problem.geometry.kernel_size
    added = DOT_OUTPUT / (taps * vectors) if target.fma_units == 1 else 0
    return outputs * vectors / depth * (1 + added) * DENSE_SHARE / DOT_SHARE


def do_positions_gain(problem: ConvProblem, target: Target) -> bool:
    """Whether channel-last arrays are faster by vectors of positions than by dot products.

    Of groups, both layouts together: channel-first ones lose by the order of dot products.
    """
    g = problem.geometry
    as_thinned = replace(g, stride=g.phases, dilation=g.phase_dilation)
    positions = planar_time(replace(problem, geometry=as_thinned), target)
    longer = lanes_ratio(problem, target) if g.num_groups > 1 else 1
    return positions < dot_time(problem, target) * longer


class Narrow(PackingGroups):
    """Fewer output channels of a group than lanes."""

    name = "narrow"
    emitter = NarrowEmitter

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        if self.packs_groups(problem):
            return super().run(problem, tile, target)
        rows = tile.rows * outputs_apart(problem.geometry)
        return run_length(problem, rows, target, self.copies_x(problem))

    def packs_groups(self, problem: ConvProblem) -> bool:
        """Only where taps lie on the same few sets of the first cache.

        Zen 4: 1024 → 8 K9 and K15 in 4 groups, 512 with dilation 2, 256 with 4 gain 1.2×; 768 → 8
        and 512 → 8 would lose 1.25× by K9, 1.1× by K31.
        """
        return super().packs_groups(problem) and tap_bytes(problem) % CACHE_WAY == 0

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        if reason := self.unfit(problem, target):
            return reason
        if positions_pay(problem, target):
            return "vectors of positions take less time than a transposition and dot products"
        return None

    def has_its_order(self, problem: ConvProblem, target: Target) -> bool:
        """Whether a layer sums as dot products do, by whatever kernel."""
        return self.unfit(problem, target) is None

    def unfit(self, problem: ConvProblem, target: Target) -> str | None:
        """Why a layer does not go by dot products, in whatever order of axes and of any length."""
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        per_group = "/G" if g.num_groups > 1 else ""
        c_in = f"C_in{per_group}={g.group_in_channels}"
        c_out = f"C_out{per_group}={g.group_out_channels}"
        if g.num_groups > 1 and target.fma_units > 1:
            # By AVX2 (Zen 4) 512 → 32 K3 in 8 groups gains 1.4×, and channel-first loses 2×.
            return f"num_groups={g.num_groups}: of one group where two multiply-adds start a cycle"
        if g.group_out_channels > lanes // 2:
            return f"{c_out} fills more than half of {lanes} lanes"
        if groups_of_slice(g, lanes) > 1:
            return f"{c_in}, {c_out}: several groups fit in {lanes} lanes"
        if g.group_out_channels not in TILES.get(target.isa, ()):
            return f"{c_out}: no tiles for the instruction set {target.isa!r}"
        if vectors_of_dots(problem, g.group_out_channels, target) > 1:
            return f"{c_in} fills {lanes} lanes less well than {c_out}"
        # Whether x is thinned depends on the padding, and so must not the order of sums.
        may_be_thinned = problem.step * g.common_step > 1
        if (may_be_thinned and g.num_groups == 1) or planar_declines(problem, target):
            return None
        is_measured = g.reduction >= FEWEST or target.fma_units == 1
        if is_measured and do_positions_gain(problem, target):
            return f"{c_in} fills {lanes} lanes less well than positions do"
        return None

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        panels: list[Panel] = []
        for group in range(g.num_groups):
            # Where packed weights are on a whole vector.
            column = panels[-1].last_column if panels else 0
            column = round_up(column, lanes // math.gcd(lanes, g.reduction))
            first, x_offset = group * g.group_out_channels, group * g.group_in_channels
            panels.append(dot_panel(problem, target, g.group_out_channels, first, x_offset, column))
        return panels


NARROW = Narrow()

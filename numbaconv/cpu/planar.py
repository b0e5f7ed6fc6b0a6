"""Vectors along the positions of one channel, in x and in y: for channel-first arrays.

The microkernel with its roles exchanged: weights are broadcast, and the rows of the tile are
output channels. Nothing is transposed, where channel-last tiles go through a window and back;
and no lane is idle however few the channels. With a stride x is sorted (`window.phase_shape`).
The chain of each output is that of the kernel for channel-last arrays, so are its bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..plan import Array
from ..problem import ConvProblem
from ..weights import Weights
from .blocking import Panel, split_evenly
from .dense import remainder_of
from .depthwise import DEPTHWISE
from .family import Family
from .interleaved import INTERLEAVED
from .microkernel import Emitter, Tile
from .narrow import NARROW
from .packing import PackedWeights
from .planar_choice import declines_channel_first, declines_channel_last
from .sliced import tap_pitch
from .sliding import SLIDING
from .small_groups import SMALL_GROUPS
from .target import Target
from .vector import i64
from .work import planar_declines

# By instruction set: vectors of positions for 1, 2, … output channels of a tile. The most whose
# loops keep everything in registers, read off the assembly (tests/codegen).
VECTORS = {
    "avx512": (12, 10, 6, 6, 5, 4, 3, 3),
    "avx2": (6, 4, 3, 2, 2, 2),
    "avx": (6, 4, 3, 2, 2, 2),
    "sse": (6, 3, 2, 2),
    "neon": (12, 8, 6, 5, 4, 3),
}

# Steps of the inner loop per turn, as in the dense tile.
UNROLL = 2

# Positions of a run whose x is copied, if they fit in a quarter of L2: a window takes a while to
# begin, and its receptive fields overlap. Of runs of 480, 2 → 1 K31 takes 0.7 of the time, 1 → 8 K4
# s2 0.92, 64 → 4 K31 0.97 (Zen 4, 4000 to 16000 positions); longer ones gain nothing.
COPIED_RUN = 1920

# Groups of one slice each that share a panel: threads may divide panels. With a panel for each, 128
# groups take twice to seven times as long at 100 positions.
PANEL_GROUPS = 32

# The order of dot products: see `PlanarVariant`.
BY_LANES = "lanes"


def order_of(problem: ConvProblem, target: Target) -> int | str:
    """The order of sums of the kernel that takes channel-last arrays, see `PlanarVariant`."""
    if NARROW.has_its_order(problem, target):
        return BY_LANES
    if any(f.declines(problem, target) is None for f in (DEPTHWISE, SLIDING, SMALL_GROUPS)):
        return max(1, tap_pitch(problem.geometry))
    return int(problem.geometry.group_in_channels == 1)  # all the same, and one loop


def in_order(filter: Array, order: int | str, lanes: int) -> Array:
    """The products (tap and ci) of each output channel, as `PlanarVariant` says."""
    if order == BY_LANES:
        digits = (lanes - 1).bit_length()
        turns = [int(f"{i:0{digits}b}"[::-1], 2) for i in range(lanes)]
        channels = [c for lane in turns for c in range(lane, filter.shape[1], lanes)]
        filter = filter[:, channels].swapaxes(0, 1)
    elif isinstance(order, int) and order:
        residues = np.concatenate([np.arange(r, len(filter), order) for r in range(order)])
        filter = filter[residues].swapaxes(0, 1)
    return filter.reshape(-1, filter.shape[2])


class PlanarVariant(NamedTuple):
    """What a tile compiles in: output channels of a slice, phases, and the order of sums.

    Of more than one phase, strips of x that taps read by turns, also the rows from one tap of a
    strip to the next.

    The order is that of the kernel for channel-last arrays, whose bits are kept: 0 tap by tap;
    otherwise channel by channel, over the taps by their residue modulo it (`sliced.tap_pitch`); or
    `BY_LANES`, as dot products do: each lane of a vector of channels has a sum of its own, and
    these are added up by a tree.
    """

    outputs: int
    phases: int
    phase_dilation: int
    order: int | str


class PlanarEmitter(Emitter):
    """y[l + co*y_channel] = Σ_t Σ_ci x[l + t*x_tap + ci*x_channel] · w[s, (t, ci), co]

    With phases tap t reads x[l + t%P*x_tap + t//P*phase_dilation + …].
    A slice is a group, or a part of the one group of a panel. The last slice is shifted back over
    the one before it if it has fewer channels, which writes the same values twice.
    """

    family = "planar"
    variant: PlanarVariant
    order: Any  # a number, or `BY_LANES`

    def emit(self) -> None:
        """Tiles of up to MR positions, then a partial vector."""
        v, b = self.v, self.v.ir
        self.outputs, self.phases, self.phase_dilation, self.order = self.variant
        if self.order == BY_LANES:
            self.levels = (v.lanes - 1).bit_length()
            most_sums = self.outputs * self.tile.rows // v.lanes
            with b.goto_entry_block():
                self.room = b.alloca(v.vector, (self.levels + 1) * most_sums)
        whole, most = b.sdiv(self.rows, i64(v.lanes)), self.tile.rows // v.lanes
        self.cover(whole, most, (self.x, self.y), (i64(v.lanes), i64(v.lanes)), self.emit_tile)
        done = b.mul(whole, i64(v.lanes))
        rest = b.sub(self.rows, done)
        with b.if_then(b.icmp_signed(">", rest, i64(0))):
            self.emit_tile(1, v.at(self.x, done), v.at(self.y, done), rest)

    def emit_tile(self, vectors: int, x: Any, y: Any, rest: Any = None) -> None:
        """All channels of `vectors` vectors of positions, or of the last `rest` positions."""
        v, b = self.v, self.v.ir
        steps = b.mul(self.taps, self.depth)

        def body(s: Any, carried: list[Any]) -> list[Any]:
            column = b.mul(s, i64(self.outputs))
            x_slice = v.at(x, b.mul(b.mul(s, self.x_slice), self.x_channel))
            y_slice = v.at(y, b.mul(self.shifted_back(column, s, self.outputs), self.y_channel))
            w = v.at(self.w, b.mul(column, steps))
            self.emit_slice(s, vectors, x_slice, w, v.at(self.bias, column), y_slice, rest)
            return []

        v.loop(i64(0), self.slices, 1, [], body)

    def emit_slice(
        self, s: Any, vectors: int, x: Any, w: Any, bias: Any, y: Any, rest: Any
    ) -> None:
        """One slice of channels: its sums start from the bias, or it is added; and end in y."""
        v, b = self.v, self.v.ir
        ahead = None
        if vectors * v.lanes == self.tile.rows:
            self.prefetch_outputs(y)
            ahead = self.ahead(s, vectors)
        biases = [
            v.broadcast(b.load(v.at(bias, c))) for c in range(self.outputs) for _ in range(vectors)
        ]
        mask = None if rest is None else v.first_lanes(rest)
        run = self.run_of(vectors, mask, ahead)
        if self.order == BY_LANES:
            totals = self.totals_of_lanes(x, w, len(biases), run)
            sums = [b.fadd(total, bias) for total, bias in zip(totals, biases, strict=True)]
        else:
            _, *sums = self.in_order(x, [w, *biases], run)
        rows = self.row_pointers(y, self.y_channel, self.outputs)
        self.store(sums, ((v.at(row, k * v.lanes), mask) for row in rows for k in range(vectors)))

    def run_of(
        self, vectors: int, mask: Any, ahead: Any
    ) -> Callable[[Any, Any, Any, list[Any]], list[Any]]:
        """What emits products of `vectors` vectors of positions that lie a step apart."""
        v, b = self.v, self.v.ir

        def run(base: Any, count: Any, step: Any, carried: list[Any]) -> list[Any]:
            """The steps of one channel and residue, or of one tap."""

            def steps(i: Any, carried: list[Any], number: int) -> list[Any]:
                w, *sums = carried
                for u in range(number):
                    place = v.at(base, b.mul(b.add(i, i64(u)), step))
                    if ahead is not None:
                        v.prefetch(v.at(place, ahead))
                    values = [self.load(v.at(place, k * v.lanes), mask) for k in range(vectors)]
                    sums = self.multiply(values, v.at(w, u * self.outputs), sums)
                return [v.at(w, number * self.outputs), *sums]

            return v.unrolled_loop(count, 1 if ahead is None else UNROLL, carried, steps)

        return run

    def totals_of_lanes(
        self, x: Any, w: Any, count: int,
        run: Callable[[Any, Any, Any, list[Any]], list[Any]],
    ) -> list[Any]:  # fmt: skip
        """What `VectorBuilder.totals` makes of the sums of each lane, which begin at zero.

        Lanes come in the order of their reversed digits, so that the tree adds neighbours: what
        waits for its neighbour is pending, one sum a level.
        """
        v, b, lanes = self.v, self.v.ir, self.v.lanes

        def pending(level: int) -> list[Any]:
            return [b.gep(self.room, [i64(level * count + m)]) for m in range(count)]

        def add_up(i: Any, level: int, sums: list[Any]) -> None:
            """Add what is pending on this level, or wait there."""
            if level == self.levels:
                for value, place in zip(sums, pending(level), strict=True):
                    b.store(value, place)
                return
            is_first = b.icmp_signed("==", b.and_(i, i64(1 << level)), i64(0))
            with b.if_else(is_first) as (first, second):
                with first:
                    for value, place in zip(sums, pending(level), strict=True):
                        b.store(value, place)
                with second:
                    places = zip(pending(level), sums, strict=True)
                    added = [b.fadd(b.load(place), value) for place, value in places]
                    add_up(i, level + 1, added)

        def lane(i: Any, carried: list[Any]) -> list[Any]:
            number = b.lshr(b.bitreverse(i), i64(64 - self.levels))
            first = v.at(x, b.mul(number, self.x_channel))
            last = b.add(b.sub(self.depth, number), i64(lanes - 1))

            def channel(j: Any, carried: list[Any]) -> list[Any]:
                base = v.at(first, b.mul(b.mul(j, i64(lanes)), self.x_channel))
                return self.over_taps(base, carried, run)

            zeros = [v.zero()] * count
            w, *sums = v.loop(i64(0), b.sdiv(last, i64(lanes)), 1, [*carried, *zeros], channel)
            add_up(i, 0, sums)
            return [w]

        v.loop(i64(0), i64(lanes), 1, [w], lane)
        return [b.load(place) for place in pending(self.levels)]

    def in_order(
        self, x: Any, carried: list[Any], run: Callable[[Any, Any, Any, list[Any]], list[Any]]
    ) -> list[Any]:
        """All products of one output: `run(x, count, step, carried)` of those a step apart."""
        v, b, pitch = self.v, self.v.ir, i64(self.order)

        def channel(ci: Any, carried: list[Any]) -> list[Any]:
            first = v.at(x, b.mul(ci, self.x_channel))

            def residue(r: Any, carried: list[Any]) -> list[Any]:
                count = b.sdiv(b.add(b.sub(self.taps, r), i64(self.order - 1)), pitch)
                step = b.mul(pitch, self.x_tap) if self.phases == 1 else i64(self.phase_dilation)
                return run(v.at(first, b.mul(r, self.x_tap)), count, step, carried)

            if self.order == 1:
                return self.over_taps(first, carried, run)
            return v.loop(i64(0), pitch, 1, carried, residue)

        def all_channels(base: Any, count: Any, step: Any, carried: list[Any]) -> list[Any]:
            def tap(i: Any, carried: list[Any]) -> list[Any]:
                return run(v.at(base, b.mul(i, step)), self.depth, self.x_channel, carried)

            return v.loop(i64(0), count, 1, carried, tap)

        if self.order == 0:
            return self.over_taps(x, carried, all_channels)
        return v.loop(i64(0), self.depth, 1, carried, channel)

    def over_taps(
        self, x: Any, carried: list[Any], run: Callable[[Any, Any, Any, list[Any]], list[Any]]
    ) -> list[Any]:
        """All taps one after another: those a step apart in x, `run(x, count, step, carried)`."""
        v, b, phases = self.v, self.v.ir, i64(self.phases)
        if self.phases == 1:
            return run(x, self.taps, self.x_tap, carried)

        def turn(j: Any, carried: list[Any]) -> list[Any]:
            left = b.sub(self.taps, b.mul(j, phases))
            count = b.select(b.icmp_signed("<", left, phases), left, phases)
            count = v.hidden(count)  # or LLVM writes the taps out, with a way out behind each
            return run(v.at(x, b.mul(j, i64(self.phase_dilation))), count, self.x_tap, carried)

        turns = b.sdiv(b.add(self.taps, i64(self.phases - 1)), phases)
        return v.loop(i64(0), turns, 1, carried, turn)

    def prefetch_outputs(self, y: Any) -> None:
        """Ask for the lines of y behind this tile: its planes are too many for the hardware."""
        rows = self.tile.rows
        following = self.v.at(y, rows)
        self.prefetch_rows(following, self.y_channel, self.outputs, rows // self.v.lanes)

    def ahead(self, s: Any, vectors: int) -> Any:
        """How far ahead of its own x this slice prefetches: it asks for one vector in so many."""
        b = self.v.ir
        return b.add(i64(self.tile.rows), b.mul(b.srem(s, i64(vectors)), i64(self.v.lanes)))

    def multiply(self, values: list[Any], w: Any, sums: list[Any]) -> list[Any]:
        """One step of every chain: a broadcast weight of each channel against the positions."""
        v, updated = self.v, []
        for c in range(self.outputs):
            factor = v.broadcast(v.ir.load(v.at(w, c)))
            for k, value in enumerate(values):
                updated.append(v.fma(value, factor, sums[c * len(values) + k]))
        return updated


class Planar(Family):
    """Channel-first arrays, and few channels, if the filter stays near."""

    name = "planar"
    emitter = PlanarEmitter
    needs_unit_rows = True

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        if target.isa not in VECTORS:
            return f"no tiles for the instruction set {target.isa!r}"
        if reason := planar_declines(problem, target):
            return reason
        if INTERLEAVED.order(problem, target):
            return f"{g.in_channels} channels with a filter each: positions of all share vectors"
        if problem.length_out < lanes:
            return f"{problem.length_out} positions do not fill {lanes} lanes"
        if dots := remainder_of(problem, target).dots:
            return f"the last {dots} channels of a group are summed in another order"
        if problem.layout == "NLC":
            return declines_channel_last(problem, target)
        return declines_channel_first(problem, target)

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        run = super().run(problem, tile, target)
        if not self.copies_x(problem):
            return run
        g = problem.geometry
        row_bytes = (g.stride * g.in_channels + g.out_channels) * problem.dtype.itemsize
        fitting = min(COPIED_RUN, target.l2 // 4 // row_bytes)
        return max(run, fitting // tile.rows * tile.rows)

    def stores_lines(self, problem: ConvProblem, target: Target) -> bool:
        """Tiles may begin within a line, and do not look where."""
        return False

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        vectors = VECTORS[target.isa]
        phase_dilation = g.phase_dilation if g.phases > 1 else 0
        slices = -(-g.group_out_channels // len(vectors))
        outputs = -(-g.group_out_channels // slices)
        tile = Tile(
            self.emitter.family, problem.dtype.itemsize * 8, lanes,
            vectors[outputs - 1] * lanes, vectors=1, masked=False, fma=target.fma,
            variant=PlanarVariant(outputs, g.phases, phase_dilation, order_of(problem, target)),
        )  # fmt: skip
        first, panels = 0, []
        for groups in split_evenly(g.num_groups, PANEL_GROUPS if slices == 1 else 1):
            panels.append(
                Panel(
                    tile, first * g.group_out_channels, groups * g.group_out_channels,
                    x_offset=first * g.group_in_channels, column=first * slices * outputs,
                    last_lanes=g.group_out_channels - (slices - 1) * outputs,
                    slices=groups * slices, x_slice=g.group_in_channels if slices == 1 else 0,
                    slice_columns=outputs,
                )
            )  # fmt: skip
            first += groups
        return panels

    def pack(self, weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
        """Order the filter as (slice, product, channel), the last slice shifted back."""
        taps, depth, _ = weights.filter.shape
        order = panels[0].tile.variant.order
        products = in_order(weights.filter, order, panels[0].tile.lanes)
        packed = PackedWeights.empty(taps * depth * panels[-1].last_column, panels, weights)
        packed.bias[:] = 0
        for panel in panels:
            for s in range(panel.slices):
                column = panel.column + s * panel.width
                channels = panel.channels_of(s)
                block = packed.filter[column * taps * depth :][: taps * depth * panel.width]
                block.reshape(taps * depth, -1)[...] = products[:, channels]
                if weights.bias is not None:
                    packed.bias[column : column + panel.width] = weights.bias[channels]
        if order == BY_LANES:
            packed.bias[:] += 0  # no -0.0, as `pack_dots` has none
        return packed


PLANAR = Planar()

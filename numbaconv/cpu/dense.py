"""Dense convolution: output channels sum over input channels, in groups or not.

The microkernel is a GEMM tile whose rows overlap: with dilation 1 the receptive field of a
position is one contiguous slice of x, so the reduction is one loop of K*C_in and nothing of x
is packed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..problem import ConvProblem, Geometry
from . import blocking
from .blocking import Band, Panel, split_evenly
from .family import Family
from .microkernel import Emitter, Tile
from .target import Target
from .vector import LINE, i64

# Steps of the inner loop per turn: at 1, loop counters take 4-8 % of the issue slots that
# the multiply-adds want on a core with two 512-bit FMA units; 4 and 8 are alike. AVX takes 8, since
# a turn prefetches a line of weights (below): 1.01-1.08× at up to 128 positions. There is no
# register for it where x is prefetched too, nor with NEON.
UNROLL, UNROLL_AVX = 4, 8

# Variants of the tile: weights of the next block are prefetched, by a line or by two a turn;
# weights are prefetched as they are read, since they are read once; lines of y are prefetched;
# the chain runs over the taps of one channel. And "prefetch_x" with a number: so many lines of
# x, behind those that a tile reads, are prefetched a turn.
PREFETCH_WEIGHTS, PREFETCH_FASTER, STREAM_WEIGHTS = "prefetch_w", "prefetch_w2", "stream_w"
PREFETCH_OUTPUTS, ONE_CHANNEL, PREFETCH_X = "prefetch_y", "one_channel", "prefetch_x"

# Lines that a turn of the inner loop asks for.
PREFETCHED_LINES = {PREFETCH_WEIGHTS: 1, PREFETCH_FASTER: 2}

# Positions up to which a short block of weights is streamed: products of 768 channels in 16
# groups, K128, gain 1.6 times at 4 and 8 positions, 1.25 at 32.
FEW = 48

# How many bytes ahead weights are streamed: 6192 products of 4 x 48 x 48, 55 MB of weights, take
# 5.4 ms without, 3.8 at 2 KiB, 2.8 at 8 KiB, 3.2 at 16 KiB.
STREAM_AHEAD = 8 << 10

# Reductions shorter than this write y faster than the stores find its lines: 1 → 100 K9 gains
# 1.3×, 1 → 512 K10 1.1×; at 64 steps it is 2 % slower.
SHORT = 32

# Products of an output up to which they are all written out (`short`). With AVX2 (Zen 3) 1 → 512
# K10 s5 gains 1.45×, 1 → 32 K7 1.3×, 16 → 64 K1 1.25×, 12 → 64 K3 1.1×; 48 → 64 K1 loses 3 %.
MOST_WRITTEN_OUT = 36

# The emitter of those: `short.ShortEmitter`, which builds upon the one below. And the most rows of
# its tiles of 1, 2, … vectors, whose sums and factors stay in registers (tests/codegen).
SHORT_FAMILY = "short"
SHORT_ROWS = {
    "avx512": (10, 10, 7, 6), "avx2": (8, 6), "avx": (6, 4), "sse": (6, 4), "neon": (9, 9, 7, 5),
}  # fmt: skip

# Taps from which groups read a window of their own channels. In x the rows of a group are
# C_in apart and collide in the first cache; in the window they follow each other, and so do
# the taps.
PACKED_FROM_TAPS = 8


# Where x is used little, its rows are asked for a tile ahead: products of an element of x up to
# which that pays. Beyond the second cache 128 → 32 K1 gains 1.2-1.3×, 256 → 16 K1 1.6×, 64 → 64 K3
# 1.08×, 64 → 128 K8 s4 1.04×; nearer, up to 1 % is lost or gained.
FEW_PRODUCTS = 512


# Lines of x that a turn asks for at most: outputs far apart skip most of what lies between.
MOST_X_LINES = 4


def reads_x_little(geometry: Geometry) -> bool:
    """Whether few products are made with each element of x."""
    products = geometry.kernel_size * geometry.out_channels
    return geometry.num_groups == 1 and products <= FEW_PRODUCTS * geometry.stride


def prefetched_x_lines(tile: Tile) -> int:
    """Lines of x that a turn of the full tile asks for."""
    counts = [name.removeprefix(PREFETCH_X) for name in tile.variant if PREFETCH_X in name]
    return int(counts[0]) if counts else 0


def unroll_of(tile: Tile) -> int:
    """Steps per turn of the full tile: taps that lie apart need an address each, so one."""
    if ONE_CHANNEL in tile.variant:
        return 1
    is_avx = tile.lanes * tile.bits == 256
    return UNROLL_AVX if is_avx and not prefetched_x_lines(tile) else UNROLL


class DenseEmitter(Emitter):
    """y[l, j] = Σ_t Σ_i x[l*x_row + t*x_tap + i] · w[t*depth + i, j]

    The tile's variant says what suits the layer, see `variant_of`.
    """

    family = "dense"

    def emit(self) -> None:
        self.mask = self.v.first_lanes(self.last_lanes) if self.tile.masked else None
        self.lines = sum(PREFETCHED_LINES.get(name, 0) for name in self.tile.variant)
        self.x_lines = prefetched_x_lines(self.tile)
        if self.lines:
            self.begin_prefetch()
        self.cover_rows(self.emit_tile)

    def begin_prefetch(self) -> None:
        """Point at the first line of the next block of weights."""
        b = self.v.ir
        self.ahead = b.alloca(i64)  # from tile to tile
        b.store(self.w_next, self.ahead)

    def next_line(self) -> Any:
        """How far ahead of its own weights this tile prefetches: some lines further every tile.

        A turn of the inner loop reads a few lines and asks for one of those at the same
        place in the next block, so some 16 tiles bring all of it to the second cache. Else
        the first tile of a block waits for the last cache while the others wait for nothing:
        1.1-1.3 times slower where the filter outgrows the second cache. Where 12 tiles share a
        block, two lines a turn gain 1.15 times; in longer runs they lose 2 %.
        """
        v, b = self.v, self.v.ir
        line, turn = self.lines * LINE * 8 // v.bits, unroll_of(self.tile) * self.tile.width
        ahead = b.load(self.ahead)
        following = b.add(ahead, i64(line))
        is_inside = b.icmp_signed("<", following, b.add(self.w_next, i64(turn)))
        b.store(b.select(is_inside, following, self.w_next), self.ahead)
        return ahead

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
        if PREFETCH_OUTPUTS in self.tile.variant and is_full and not self.tile.streams:
            following = self.v.at(y, self.v.ir.mul(self.y_row, i64(rows)))
            self.prefetch_rows(following, self.y_row, rows, self.tile.vectors)
        sums = self.emit_start(rows, targets)
        sums = self.emit_reduction(rows, x, sums)
        for value, place in zip(sums, targets, strict=True):
            self.store(value, *place)

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
        ahead = None
        if STREAM_WEIGHTS in self.tile.variant:
            ahead = i64(STREAM_AHEAD * 8 // v.bits)
        elif self.lines and rows == self.tile.rows:
            ahead = self.next_line()
        last_tap = v.ir.mul(v.ir.sub(self.taps, i64(1)), self.x_tap)
        behind = v.at(v.at(x_rows[-1], last_tap), self.depth)
        carried = [self.w, behind, *sums]
        if ONE_CHANNEL in self.tile.variant:
            count = v.ir.mul(self.taps, self.depth)  # taps that follow each other are merged
            return self.emit_chain(x_rows, i64(0), count, self.x_tap, ahead, carried)[2:]

        def tap(t: Any, carried: list[Any]) -> list[Any]:
            base = v.ir.mul(t, self.x_tap)
            return self.emit_chain(x_rows, base, self.depth, i64(1), ahead, carried)

        return v.loop(i64(0), self.taps, 1, carried, tap)[2:]

    def emit_chain(
        self, x_rows: list[Any], base: Any, count: Any, step: Any, ahead: Any, carried: list[Any]
    ) -> list[Any]:
        """`count` products of every sum, with x from `base` on by `step`.

        Carries w, where x is to be prefetched, and the sums.
        """
        v, width = self.v, self.tile.width
        # Only the full tile is unrolled: the others run once a panel, and cost compile time.
        unroll = unroll_of(self.tile) if len(x_rows) == self.tile.rows else 1

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

    def prefetch_weights(self, w: Any, count: int) -> None:
        """Ask for some lines of a turn, or for all lines of its `count` steps."""
        lines = self.lines if count > 1 else 0
        if STREAM_WEIGHTS in self.tile.variant:
            lines = count * self.tile.vectors
        for k in range(lines):
            self.v.prefetch(self.v.at(w, k * self.v.lanes))

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


def variant_of(
    problem: ConvProblem, vectors: int, target: Target, sharing: int | None, x_is_near: bool
) -> tuple[str, ...]:
    """What suits the reduction: its length, its weights against the first cache, its taps.

    Prefetching weights makes shorter loops 3-6 % slower, and tiles of one vector have so many
    rows that no register is left for it. With vectors shorter than a line a turn reads few lines,
    and one of them is fast enough: with AVX2 (Zen 3) two lose 1.1-1.36× at 36 to 128 positions.
    """
    g = problem.geometry
    variant = []
    if problem.dtype.itemsize * 8 in target.prefetch_bits:
        is_long = g.reduction * vectors * target.vector_bytes > target.l1
        if vectors > 1 and is_long:
            is_fast = sharing is not None and target.vector_bytes >= LINE
            variant.append(PREFETCH_FASTER if is_fast else PREFETCH_WEIGHTS)
        elif sharing is not None and sharing <= FEW:
            variant.append(STREAM_WEIGHTS)
        elif g.reduction < SHORT:
            variant.append(PREFETCH_OUTPUTS)
        if g.reduction >= SHORT and not x_is_near and reads_x_little(g):
            new_bytes = target.tile_rows[vectors - 1] * g.stride * problem.dtype.itemsize
            lines = -(-new_bytes * UNROLL // (g.kernel_size * LINE))
            variant.append(f"{PREFETCH_X}{min(lines, MOST_X_LINES)}")
    if g.group_in_channels == 1 and g.dilation > 1:
        variant.append(ONE_CHANNEL)
    return tuple(variant)


def rows_taken(variant: tuple[str, ...], vectors: int, itemsize: int) -> int:
    """Rows of a tile that its variant leaves no registers for: read off the assembly.

    The step from tap to tap takes the register of a row's address, or of a weight's; the place
    of x to prefetch that of one or two, where a tile of one vector has many rows.
    """
    taken = int(ONE_CHANNEL in variant and vectors > 1)
    if vectors == 1 and any(PREFETCH_X in name for name in variant):
        taken += itemsize // 4
    return taken


def cut_channels(
    problem: ConvProblem,
    target: Target,
    *,
    first: int,
    channels: int,
    x_offset: int,
    column: int,
    sharing: int | None = None,
    x_is_near: bool = False,
) -> list[Panel]:
    """Cut `channels` channels of y into panels of nearly equal width.

    `sharing` is the number of positions that share a block of weights, where those come from
    the last cache; None if they are as many as a run, or weights come from nearer. `x_is_near`
    says that x has just been written.
    """
    lanes = target.lanes(problem.dtype)
    panels = []
    for vectors in split_evenly(-(-channels // lanes), len(target.tile_rows)):
        count = min(vectors * lanes, channels)
        variant = variant_of(problem, vectors, target, sharing, x_is_near)
        rows = target.tile_rows[vectors - 1] - rows_taken(variant, vectors, problem.dtype.itemsize)
        tile = Tile(
            DenseEmitter.family, problem.dtype.itemsize * 8, lanes, rows, vectors,
            masked=count < vectors * lanes, fma=target.fma, variant=variant,
        )  # fmt: skip
        last_lanes = count - (vectors - 1) * lanes
        panels.append(Panel(tile, first, count, x_offset, column, last_lanes))
        first, channels, column = first + count, channels - count, panels[-1].last_column
    return panels


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
    is_joined, has_masks = problem.layout == "NLC", target.isa == "avx512"
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
    g, rows = problem.geometry, SHORT_ROWS.get(target.isa, target.tile_rows)
    tile = dataclasses.replace(
        panel.tile, family=SHORT_FAMILY, rows=rows[vectors - 1], vectors=vectors,
        variant=(g.kernel_size, g.group_in_channels),
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
    rows = SHORT_ROWS.get(target.isa, target.tile_rows)

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


class Dense(Family):
    """One group: every output channel sees every input channel."""

    name = "dense"
    sums_channels = True
    emitter = DenseEmitter

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        if problem.geometry.num_groups > 1:
            return f"num_groups={problem.geometry.num_groups}: output channels see different inputs"
        return None

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        g = problem.geometry
        positions = problem.batch * problem.length_out
        is_far = blocking.is_far_filter(problem, target)
        sharing = positions if is_far and positions <= blocking.FEW_POSITIONS else None
        panels: list[Panel] = []
        for group in range(g.num_groups):
            cut = cut_channels(
                problem, target, first=group * g.group_out_channels, channels=g.group_out_channels,
                x_offset=group * g.group_in_channels,
                column=panels[-1].last_column if panels else 0, sharing=sharing,
            )  # fmt: skip
            panels += written_out(cut, problem, target)
        return panels

    def band(self, problem: ConvProblem, panels: int, run: int, target: Target) -> Band:
        return blocking.band_of(problem, panels, run, target)


class Grouped(Dense):
    """Several groups: the dense tiles, group by group.

    Lanes beyond C_out/G stay idle: groups much narrower than a vector are for `SmallGroups`.
    """

    name = "grouped"

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        return None

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        if self.packs_groups(problem):
            return blocking.MAX_RUN // tile.rows * tile.rows
        return super().run(problem, tile, target)

    def band(self, problem: ConvProblem, panels: int, run: int, target: Target) -> Band:
        g = problem.geometry
        if not self.packs_groups(problem):
            return super().band(problem, panels, run, target)
        channels = g.group_in_channels
        return Band(panels // g.num_groups, channels, step=channels, reads_in_place=False)

    def packs_groups(self, problem: ConvProblem) -> bool:
        g = problem.geometry
        return g.kernel_size >= PACKED_FROM_TAPS and g.num_groups > 1


DENSE, GROUPED = Dense(), Grouped()

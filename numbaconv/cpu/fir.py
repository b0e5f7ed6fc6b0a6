"""Signals with an FIR filter of their own: one channel, or those of a channel-first array.

With a stride x is sorted into phases (`window.phase_shape`), of which each is a filter of its own
without one; then few channels of a channel-last array are signals too. Of the time of tiles along
channels 1 channel takes 0.11 by K63 s4 and 0.35 by K63 s2, 2 channels 0.25 by K31 s4 (Zen 4).

Vectors lie along the positions. Few taps, and those of several signals, are taken one after the
other: an unaligned load of x serves one tap, or by turns a permutation of vectors that are held.
Many taps of one signal that are VL apart read the same vectors one further, so they are taken by
residue modulo VL, and each load serves a block of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..problem import ConvProblem
from ..weights import Weights
from .blocking import Panel, split_evenly
from .family import Family
from .interleaved import INTERLEAVED
from .microkernel import Emitter, Tile
from .packing import PackedWeights, pack_bias
from .sliced import MOST_WRITTEN_TAPS, tap_pitch
from .target import Target
from .vector import i64
from .work import channels_pay, permutes_taps, signals_pay

# By vector registers: vectors of a tile, and most taps of one residue held beside them. An
# unaligned load takes nearly three times as long as a product, so what is left of a residue is
# one block too: K101, six or seven taps, is 1.25× faster so.
VECTORS = {32: (16, 8), 16: (8, 4)}

# Vectors of the tiles of shorter signals, if less than those of the largest, and how many tiles of
# a size a signal has at least where taps do not slide: the last one computes some positions again.
# Where they do, the first is left out: its code takes 0.18 s of a first call.
SHORTER, FEWEST_TILES = (8, 4), 3

# Vectors of the shortest interior: less is copied whole.
INTERIOR_VECTORS = 8

# Steps of the loop over taps per turn, where products need no register of their own.
UNROLL = 2

# Vectors of tiles whose taps are read by permutations too: on 1000 positions 1.03-1.1× faster than
# 12, which take as long on 4000.
PERMUTED_VECTORS = 8

# Taps that are read by permutations at most, each of which takes a register for its lanes.
MOST_PERMUTED = 5

# Instruction sets on which taps may be written out: for others LLVM begins so many products at once
# that sums go to the stack (tests/codegen).
WRITE_TAPS = ("avx512", "avx2")

# Signals of one panel: threads may divide panels.
PANEL_SIGNALS = 32


# How a tile may read the taps that are written out. They lie side by side then: with dilation 1 and
# unit rows x_tap is 1, in windows too.
BY_TURNS = "by_turns"


class FirVariant(NamedTuple):
    """What a tile compiles in.

    Attributes
    ----------
    tap_block : int
        Most taps of a block, 1 where they do not slide, or 0 for one tap after the other.
    written_taps : int
        Taps that are written out, or 0 for any.
    reading : str
        `BY_TURNS` or nothing.
    pitch : int
        Taps are taken by their residue modulo this: as other kernels do, or phase by phase.
    phase_dilation : int
        Rows from one tap of a phase to the next, 0 without phases.
    """

    tap_block: int
    written_taps: int
    reading: str
    pitch: int
    phase_dilation: int

    @property
    def phases(self) -> int:
        """Strips of x that taps read by turns."""
        return self.pitch if self.phase_dilation else 1

    def permuted(self, taps: int) -> range:
        """Of so many taps of one strip those whose x is permuted from vectors that are held."""
        return range(1, 2 * min(taps // 2, MOST_PERMUTED) if self.reading == BY_TURNS else 0, 2)

    def order(self, taps: int) -> list[int]:
        """So many taps of one strip, as they are summed."""
        step = self.pitch // self.phases
        return [t for r in range(step) for t in range(r, taps, step)]


class FirEmitter(Emitter):
    """y[l, s] = Σ_t x[l + t*x_tap, s] · w[s, t]; x_row == y_row == 1.

    Each slice is a signal. With P > 1 phases tap t reads x[l + t%P*x_tap + t//P*phase_dilation, s].
    """

    family = "fir"
    variant: FirVariant

    def emit(self) -> None:
        """Signal by signal."""
        v, b = self.v, self.v.ir

        def signal(s: Any, carried: list[Any]) -> list[Any]:
            x = v.at(self.x, b.mul(b.mul(s, self.x_slice), self.x_channel))
            w = v.at(self.w, b.mul(s, self.taps))
            bias = v.broadcast(b.load(v.at(self.bias, s)))
            self.emit_signal(x, w, bias, v.at(self.y, b.mul(s, self.y_channel)))
            return []

        v.loop(i64(0), self.slices, 1, [], signal)

    def emit_signal(self, x: Any, w: Any, bias: Any, y: Any) -> None:
        """The largest tiles that fit, the last one shifted back; or a partial vector."""
        v, b = self.v, self.v.ir
        slides = self.variant.tap_block > 1
        most = self.tile.rows // v.lanes
        sizes = [most, *(size for size in SHORTER[slides:] if size < most), 1]

        def tiles(vectors: int) -> list[Any]:
            """All positions. A few vectors for the last ones would wait for their few chains."""

            def tile(first: Any) -> None:
                self.emit_tile(vectors, v.at(x, first), w, bias, v.at(y, first), None)

            self.overlapping(self.rows, vectors * v.lanes, tile)
            return []

        def part() -> list[Any]:
            self.emit_tile(1, x, w, bias, y, v.first_lanes(self.rows))
            return []

        number = i64(len(sizes))
        for i, vectors in reversed(list(enumerate(sizes))):
            fewest = 1 if slides or vectors <= SHORTER[-1] else FEWEST_TILES
            fits = b.icmp_signed(">=", self.rows, i64(fewest * vectors * v.lanes))
            number = b.select(fits, i64(i), number)
        v.switch(number, [*(functools.partial(tiles, n) for n in sizes), part])

    def emit_tile(self, vectors: int, x: Any, w: Any, bias: Any, y: Any, mask: Any) -> None:
        v, sums = self.v, [bias] * vectors
        if self.variant.written_taps:
            sums = self.emit_written(x, w, sums, mask)
        else:
            sums = self.emit_counted(x, w, sums, mask)
        if self.tile.streams and mask is None:
            self.store_past_caches(sums, y)
        else:
            self.store(sums, ((v.at(y, m * v.lanes), mask) for m in range(vectors)))

    def emit_written(self, x: Any, w: Any, sums: list[Any], mask: Any) -> list[Any]:
        """Phases of a number of taps that is known, and then those of one less."""
        v, b, phases = self.v, self.v.ir, self.variant.phases
        tap_step = i64(self.variant.phase_dilation) if phases > 1 else self.x_tap
        by_turns = self.variant.reading == BY_TURNS and len(sums) > 1
        most = -(-self.variant.written_taps // phases)
        long = self.variant.written_taps - (most - 1) * phases

        def phase(taps: int, r: Any, sums: list[Any]) -> list[Any]:
            strip, factors = v.at(x, b.mul(r, self.x_tap)), v.at(w, r)
            if by_turns:
                return self.emit_by_turns(taps, strip, factors, sums)
            for t in self.variant.order(taps):
                place = v.at(strip, b.mul(i64(t), tap_step))
                sums = self.slide(1, place, v.at(factors, t * phases), sums, mask)
            return sums

        if phases == 1:
            return phase(most, i64(0), sums)
        sums = v.loop(i64(0), i64(long), 1, sums, functools.partial(phase, most))
        if most == 1:
            return sums
        return v.loop(i64(long), i64(phases), 1, sums, functools.partial(phase, most - 1))

    def emit_by_turns(self, taps: int, x: Any, w: Any, sums: list[Any]) -> list[Any]:
        """The taps of a strip: by turns x is loaded for one and permuted from vectors held."""
        v, lanes, phases, sums = self.v, self.v.lanes, self.variant.phases, list(sums)
        permuted = self.variant.permuted(taps)
        w = v.hidden(w)  # else LLVM holds all factors, and has no registers left
        held, behind = [], len(sums) * lanes + taps - 1
        for first in range(0, behind, lanes):
            is_whole = first + lanes <= behind
            mask = None if is_whole else v.first_lanes(i64(behind - first))
            held.append(self.load(v.at(x, first), mask))
        for t in self.variant.order(taps):
            factor = v.broadcast(v.ir.load(v.at(w, t * phases)))
            for m in range(len(sums)):
                if t == 0:
                    value = held[m]
                elif t in permuted:
                    value = v.shuffle(held[m], held[m + 1], range(t, t + lanes))
                else:
                    value = v.load(v.at(x, m * lanes + t))
                sums[m] = v.fma(value, factor, sums[m])
        return sums

    def emit_counted(self, x: Any, w: Any, sums: list[Any], mask: Any) -> list[Any]:
        """Any number of taps, by their residue modulo the pitch."""
        v, b, pitch = self.v, self.v.ir, i64(self.variant.pitch)
        self.tap_step = b.mul(pitch, self.x_tap)  # from one tap of a residue to the next
        if self.variant.phases > 1:
            self.tap_step = i64(self.variant.phase_dilation)

        def residue(r: Any, sums: list[Any]) -> list[Any]:
            count = b.sdiv(b.add(b.sub(self.taps, r), b.sub(pitch, i64(1))), pitch)
            strip, factors = v.at(x, b.mul(r, self.x_tap)), v.at(w, r)
            if self.variant.tap_block:
                return self.emit_residues(count, strip, factors, sums, mask)
            return self.emit_one_by_one(count, strip, factors, sums, mask)

        if self.variant.pitch == 1:
            return residue(i64(0), sums)
        return v.loop(i64(0), pitch, 1, sums, residue)

    def emit_one_by_one(self, count: Any, x: Any, w: Any, sums: list[Any], mask: Any) -> list[Any]:
        """`count` taps, none of which shares its x with another."""
        v, b = self.v, self.v.ir

        def turn(i: Any, sums: list[Any], taps: int) -> list[Any]:
            for u in range(taps):
                tap = b.add(i, i64(u))
                factor = v.at(w, b.mul(tap, i64(self.variant.pitch)))
                sums = self.slide(1, v.at(x, b.mul(tap, self.tap_step)), factor, sums, mask)
            return sums

        return v.unrolled_loop(count, UNROLL if self.tile.fma else 1, sums, turn)

    def emit_residues(self, taps: Any, x: Any, w: Any, sums: list[Any], mask: Any) -> list[Any]:
        """Taps r, r + VL, … of each residue r: blocks of the most, then what is left."""
        v, b, lanes = self.v, self.v.ir, self.v.lanes
        most = self.variant.tap_block if len(sums) > 1 else 1
        residues = b.select(b.icmp_signed("<", taps, i64(lanes)), taps, i64(lanes))

        def residue(r: Any, sums: list[Any]) -> list[Any]:
            count = b.sdiv(b.add(b.sub(taps, r), i64(lanes - 1)), i64(lanes))

            def block(j: Any, sums: list[Any], taps: int) -> list[Any]:
                tap = b.add(r, b.mul(j, i64(lanes)))
                factors = v.at(w, b.mul(tap, i64(self.variant.pitch)))
                return self.slide(taps, v.at(x, b.mul(tap, self.tap_step)), factors, sums, mask)

            return self.in_blocks(count, most, sums, block)

        return v.loop(i64(0), residues, 1, sums, residue)

    def slide(self, taps: int, x: Any, w: Any, sums: list[Any], mask: Any) -> list[Any]:
        """Vector i of x serves tap j of output vector i - j."""
        v, sums = self.v, list(sums)
        step = self.variant.pitch * v.lanes
        factors = [v.broadcast(v.ir.load(v.at(w, j * step))) for j in range(taps)]
        for i in range(len(sums) + taps - 1):
            value = self.load(v.at(x, i * v.lanes), mask)
            for j in range(taps):
                if 0 <= i - j < len(sums):
                    sums[i - j] = v.fma(value, factors[j], sums[i - j])
        return sums


class Fir(Family):
    """C_in == C_out == G: one channel; more if channel-first, or with a stride, where that pays.

    Taps of several channels are summed in the order of the kernel for channel-last arrays, whose
    bits are kept.
    """

    name = "fir"
    emitter = FirEmitter
    needs_unit_rows = True

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g = problem.geometry
        if not g.in_channels == g.out_channels == g.num_groups:
            return (
                f"{g.in_channels} → {g.out_channels} channels in {g.num_groups} group(s): "
                f"not signals with a filter of their own"
            )
        if g.num_groups == 1:
            return None
        if problem.layout == "NLC" and not signals_pay(problem, target):
            return f"positions of {g.num_groups} channels are not side by side in x"
        if problem.layout == "NCL" and channels_pay(problem, target):
            return f"{g.kernel_size} taps of {g.num_groups} channels pay for a transposition"
        if g.phases not in (1, tap_pitch(g)) and g.kernel_size > g.phases:
            return f"stride={g.stride}, dilation={g.dilation}: taps are summed one after another"
        return None

    def tile(self, problem: ConvProblem, target: Target) -> Tile:
        """The tile of all signals, whose taps are written out if they are few."""
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        vectors, block = VECTORS[target.registers]
        written, reading = 0, ""
        pitch, phase_dilation = INTERLEAVED.order(problem, target) or 1, 0
        if g.phases > 1:
            pitch, phase_dilation = g.phases, g.phase_dilation
        if permutes_taps(problem, target):
            vectors, written, reading = PERMUTED_VECTORS, g.kernel_size, BY_TURNS
        elif g.kernel_size <= MOST_WRITTEN_TAPS and target.isa in WRITE_TAPS:
            written = g.kernel_size
        if g.num_groups > 1 or written or g.phase_taps <= lanes:
            block = 0
        elif g.phase_dilation > 1:
            block = 1
        return Tile(
            self.emitter.family, problem.dtype.itemsize * 8, lanes, vectors * lanes, vectors=1,
            masked=False, fma=target.fma,
            variant=FirVariant(block, written, reading, pitch, phase_dilation),
        )  # fmt: skip

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        g, tile = problem.geometry, self.tile(problem, target)
        first, panels = 0, []
        for signals in split_evenly(g.num_groups, PANEL_SIGNALS):
            panels.append(
                Panel(
                    tile, first, signals, x_offset=first, column=first, last_lanes=1,
                    slices=signals, x_slice=1, slice_columns=1,
                )
            )  # fmt: skip
            first += signals
        return panels

    def interior(self, tile: Tile) -> tuple[int, int]:
        """Tiles begin anywhere."""
        return tile.lanes, INTERIOR_VECTORS * tile.lanes

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        return max(1, target.l2 // 8 // (tile.rows * problem.dtype.itemsize)) * tile.rows

    def pack(self, weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
        """The taps of each signal as they are."""
        taps, _, signals = weights.filter.shape
        packed = PackedWeights.empty(weights.filter.size, panels, weights)
        packed.filter.reshape(signals, taps)[...] = weights.filter[:, 0].T
        pack_bias(packed, weights, panels)
        return packed


FIR = Fir()

"""A few interleaved channels, each with a filter of its own: their positions share vectors.

A depthwise tile would leave lanes idle: with stereo sound fourteen of sixteen. In memory the next
position follows, so that a slice is P positions of all C channels, P*C <= VL, and weights are
repeated P times in its lanes. To the code for slices that is a layer of P*C channels whose stride
is P: taps slide where P is a multiple of the dilation, or the dilation one of P. Of the time of
depthwise tiles 2 channels take 0.13 by K101 and 0.25 by K7, 4 channels 0.27 by K11, 8 channels 0.51
by K31 (Zen 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..problem import ConvProblem, Geometry
from ..weights import Weights
from .blocking import Band, Panel
from .family import Family
from .microkernel import Tile
from .packing import PackedWeights
from .sliced import Sliced, SlicedEmitter, SlicedVariant, positions_of_slice, tap_pitch
from .target import Target
from .vector import i64
from .work import channels_pay


class InterleavedEmitter(SlicedEmitter):
    """y[i*P*C + j] = Σ_t x[i*P*C + t*x_tap + j] · w[t, j], j < P*C; x_row == y_row == C."""

    family = "interleaved"

    def emit(self) -> None:
        """Whole slices, then what is left of one."""
        v, b, positions, width = self.v, self.v.ir, self.variant.positions, self.variant.groups
        whole, rest = b.sdiv(self.rows, i64(positions)), b.srem(self.rows, i64(positions))
        done = b.mul(whole, i64(width))
        last = (v.at(self.x, done), self.w, self.bias, v.at(self.y, done))
        self.rows, self.x_row, self.y_row = whole, i64(width), i64(width)
        super().emit()
        with b.if_then(b.icmp_signed(">", rest, i64(0))):
            mask = v.first_lanes(b.mul(rest, i64(width // positions)))
            self.emit_vectors(1, [last], mask, mask)

    def part_of(self, groups: Any) -> Any:
        return self.first_lanes(groups)

    def value_at(self, place: Any, part: Any) -> Any:
        return self.load(place, part)


class Interleaved(Sliced):
    """C_in == C_out == G, at most half a vector."""

    name = "interleaved"
    emitter = InterleavedEmitter
    joins_positions = True

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        if reason := self.unfit(problem, target):
            return reason
        if problem.layout == "NCL" and not channels_pay(problem, target):
            taps = problem.geometry.kernel_size
            return f"{taps} taps do not pay for the transposition of channel-first arrays"
        return None

    def unfit(self, problem: ConvProblem, target: Target) -> str | None:
        """Why a layer does not sum in this order, in whatever order of axes and of any length."""
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        if not 1 < g.in_channels == g.out_channels == g.num_groups:
            return (
                f"{g.in_channels} → {g.out_channels} channels in {g.num_groups} group(s): "
                f"not several with a filter each"
            )
        if g.stride > 1 or problem.step > 1:
            return f"stride={g.stride * problem.step}: outputs are not side by side in x"
        if positions_of_slice(problem, target) < 2:
            return f"no two positions of {g.in_channels} channels fit in {lanes} lanes"
        return None

    def order(self, problem: ConvProblem, target: Target) -> int:
        """Taps are summed by their residue modulo this, by whatever kernel; 0 for other layers."""
        is_fit = positions_of_slice(problem, target) > 1
        return max(1, self.pitch(problem, target)) if is_fit else 0

    def pitch(self, problem: ConvProblem, target: Target) -> int:
        """Taps from one that slides to the next, 0 if none do."""
        return tap_pitch(self.of_slices(problem, target))

    def of_slices(self, problem: ConvProblem, target: Target) -> Geometry:
        """The same taps from slice to slice."""
        return dataclasses.replace(problem.geometry, stride=positions_of_slice(problem, target))

    def tile_rows(self, problem: ConvProblem, target: Target) -> tuple[int, int]:
        return self.rows_of(self.of_slices(problem, target), target)

    # Rows follow each other, and do not collide in the first cache as those of more channels may.
    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        return Family.run(self, problem, tile, target)

    def band(self, problem: ConvProblem, panels: int, run: int, target: Target) -> Band:
        return Family.band(self, problem, panels, run, target)

    def interior(self, tile: Tile) -> tuple[int, int]:
        """Tiles begin anywhere."""
        return tile.variant.positions, tile.rows

    def least_window(self, tile: Tile) -> int:
        """As many as a slice, so that taps that slide lie as in x: not in a strip for each."""
        return tile.variant.positions

    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        channels, lanes = problem.geometry.in_channels, target.lanes(problem.dtype)
        positions = positions_of_slice(problem, target)
        rows, block = self.tile_rows(problem, target)
        tile = Tile(
            self.emitter.family, problem.dtype.itemsize * 8, lanes, rows * positions, vectors=1,
            masked=False, fma=target.fma,
            variant=SlicedVariant(
                block, depth=1, outputs=1, groups=positions * channels, positions=positions,
                pitch=self.pitch(problem, target), written_taps=0, prefetches="", edge="",
            ),
        )  # fmt: skip
        return [Panel(tile, 0, channels, x_offset=0, column=0, last_lanes=channels)]

    def pack(self, weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
        """Filter and bias as for one position, repeated along the lanes."""
        taps, _, channels = weights.filter.shape
        lanes, positions = panels[0].tile.lanes, panels[0].tile.variant.positions
        packed = PackedWeights.empty(taps * lanes, panels, weights)
        packed.filter[:], packed.bias[:] = 0, 0
        repeated = (positions, channels)
        rows = packed.filter.reshape(taps, lanes)[:, : positions * channels]
        rows.reshape(taps, *repeated)[...] = weights.filter
        if weights.bias is not None:
            packed.bias[: positions * channels].reshape(repeated)[...] = weights.bias
        return packed


INTERLEAVED = Interleaved()

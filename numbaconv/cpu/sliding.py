"""Sliding: groups of at most a vector of outputs, x broadcast to all of its lanes.

A dense tile of one vector takes a load for every product, where one slides over many taps here.
"""

from __future__ import annotations

from typing import Any

from ..problem import ConvProblem, Geometry
from .sliced import Sliced, SlicedEmitter, groups_of_slice, tap_pitch
from .target import Target

# Taps that slide, of those of each residue, where not all do: 64 → 16 s2 gains 1.07× by K8, loses
# 1.13× by K4.
FEWEST_TAPS = 4

# Input channels from which the loads of a dense tile are enough, whatever the dilation: 4 → 16 K3
# d64 loses 1.05× there, 2 → 10 K20 d3 1.3×, whose taps begin a new loop each.
FEW_CHANNELS = 8


class SlidingEmitter(SlicedEmitter):
    """A slice is one group."""

    family = "sliding"

    def value_at(self, place: Any, part: Any) -> Any:
        return self.v.broadcast(self.v.ir.load(place))


class Sliding(Sliced):
    """C_out/G of at most a vector."""

    name = "sliding"
    emitter = SlidingEmitter

    def compiled_depth(self, geometry: Geometry) -> int:
        return 0

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        if g.group_out_channels > lanes:
            return f"C_out/G={g.group_out_channels}: wider tiles share their loads"
        if g.num_groups > 1 and groups_of_slice(g, lanes) > 1:
            return f"groups of {g.group_out_channels} channels: several fit in {lanes} lanes"
        pitch = tap_pitch(g)
        # Whether x is thinned depends on the padding, and so must not the order of sums.
        is_merged = g.num_groups == 1 and g.dilation == g.common_step
        has_long_loops = is_merged or g.group_in_channels >= FEW_CHANNELS
        if target.fma_units == 1 and has_long_loops:
            # Zen 4: 16 → 16 K3 gains 1.2× at 16 positions and 1.01-1.07× at more, 64 → 16 K8 s2
            # 1.13×, 15 → 15 K51 d8 1.01×. Groups of 12 to 48 inputs gain 0.97-1.05×, dilated ones
            # 1.0-1.9×, those of 64 and more up to 1.6×; of 8, K3, they lose 1.03-1.1×.
            return "one multiply-add a cycle: the loads of dense tiles keep up with it"
        if pitch > 1 and g.kernel_size < FEWEST_TAPS * pitch:
            return f"{g.kernel_size} taps, of which every {pitch}th slides"
        if not pitch:
            return f"stride={g.stride}, dilation={g.dilation}: no two outputs share rows of x"
        return None


SLIDING = Sliding()

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
        if pitch > 1 and g.kernel_size < FEWEST_TAPS * pitch:
            return f"{g.kernel_size} taps, of which every {pitch}th slides"
        if not pitch:
            return f"stride={g.stride}, dilation={g.dilation}: no two outputs share rows of x"
        return None


SLIDING = Sliding()

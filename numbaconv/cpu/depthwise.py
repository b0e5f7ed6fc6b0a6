"""Depthwise convolution: every channel has a filter of its own, and lanes are channels."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ..problem import ConvProblem
from .sliced import FAR, TILES, Sliced, SlicedEmitter, lines_held, tap_pitch
from .target import Target
from .vector import i64

# Bytes of x above which lines of y and x are prefetched: of y for the square of the taps, of x
# for each tap. Of y: K31 on 512 channels loses 1.1× at 8 MiB by it and gains 1.5× at 32, K9 gains
# 1.1× at 6 MiB, K7 as much at 2, K4 loses 2 % at 0.6 MiB and gains 3 % at 1.8. Of x: K31 loses 5 %
# at 8 MiB and gains 1.05-1.2× from 32 on, K9 loses 2 % at 6 MiB and gains 1.27× at 60, K4 gains
# 1.1× at 80.
FAR_Y, FAR_X = 24 << 10, 1 << 20

# Most rows of its tiles, and where the first cache holds fewer than so many rows' lines at once: K4
# on 512 channels gains 1.2× by 4 rows, on 1536 3.3×; on 200 it loses 1.25×, on 1600 1.2×.
FAR_ROWS, FAR_ROWS_COLLIDING, FEW_LINES = 8, 4, 64

# Most rows of its tiles where one multiply-add starts in a cycle, which ten sums keep busy; more
# read more rows of x at once, whose lines collide. Zen 4, 10 rows against 14: K31 on 512 channels
# gains 1.04-1.08×, K4 on 1536 1.06-1.11×, K9 on 200 1.07-1.1×, K7 on 96 1.1× and 0.95× at 47 MiB.
ROWS_OF_ONE_UNIT = 10


class DepthwiseEmitter(SlicedEmitter):
    """A slice is VL channels of x, and the same of y."""

    family = "depthwise"

    def part_of(self, groups: Any) -> Any:
        return self.first_lanes(groups)

    def value_at(self, place: Any, part: Any) -> Any:
        return self.load(place, part)

    def prefetch_next_tile(self, x: Any, y: Any) -> None:
        if not self.v.is_avx512:
            super().prefetch_next_tile(x, y)
            return
        b = self.v.ir
        with self.if_far(b.mul(b.mul(self.taps, self.taps), i64(FAR_Y))):
            self.prefetch_outputs(y)
        with self.if_far(b.mul(self.taps, i64(FAR_X))):
            self.prefetch_inputs(x)

    def if_far(self, limit: Any) -> AbstractContextManager[Any]:
        """Emit a block for an x of more than `limit` bytes."""
        b = self.v.ir
        return b.if_then(b.icmp_signed(">", self.x_bytes, limit))


class Depthwise(Sliced):
    """C_in == C_out == G."""

    name = "depthwise"
    emitter = DepthwiseEmitter

    def tile_rows(self, problem: ConvProblem, target: Target) -> tuple[int, int]:
        g = problem.geometry
        rows, block = super().tile_rows(problem, target)
        if target.fma_units == 1:
            rows = min(rows, ROWS_OF_ONE_UNIT)
        if self.prefetches(problem, target) == FAR:
            do_collide = lines_held(problem, target) < FEW_LINES
            rows = min(rows, FAR_ROWS_COLLIDING if do_collide else FAR_ROWS)
        is_masked = g.in_channels < target.lanes(problem.dtype)
        if target.isa == "avx2" and is_masked and tap_pitch(g) > 1:
            rows -= 1  # beside the mask LLVM would spill a sum
        return rows, block

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g = problem.geometry
        if g.group_in_channels > 1 or g.num_groups == 1:
            return f"C_in/G={g.group_in_channels} with {g.num_groups} group(s): channels are summed"
        if g.group_out_channels > 1:
            return f"channel multiplier {g.group_out_channels}: lanes of x and y do not match"
        if target.isa not in TILES:
            return f"no tiles for the instruction set {target.isa!r}"
        return None


DEPTHWISE = Depthwise()

"""Small groups: a few of them side by side in one vector.

One input channel of each group is one short load, and a constant permutation spreads it over the
lanes of that group's outputs. Spreading rows into scratch for all taps to read was slower.
"""

from __future__ import annotations

from typing import Any

from ..problem import ConvProblem
from .sliced import MOST_WRITTEN_TAPS, TILES, Sliced, SlicedEmitter, groups_of_slice, tap_pitch
from .target import Target
from .vector import i64

# Of the multiply-add peak, what slices reach next to dense tiles, if permutations serve several
# taps and if each serves one.
PERMUTING_SHARE, GATHERING_SHARE, DENSE_SHARE = 0.65, 0.45, 0.85


class SmallGroupsEmitter(SlicedEmitter):
    """A slice is a few groups."""

    family = "groups"

    def part_of(self, groups: Any) -> Any:
        """Lanes read, or their mask; where groups are read one by one, from first to second."""
        if self.groups == 2:
            return self.variant.depth if groups == 2 else 0
        if isinstance(groups, int):
            lanes = groups * self.variant.depth
            return lanes if lanes.bit_count() == 1 else self.first_lanes(lanes)
        return self.first_lanes(self.v.ir.mul(groups, i64(self.variant.depth)))

    def emit_channels(self, x: Any, w: Any, sums: list[Any], part: Any) -> list[Any]:
        if self.groups == 2:
            return super().emit_channels(x, w, sums, part)
        for ci in range(self.variant.depth):
            self.ci = ci  # each has a permutation of its own
            sums = self.emit_channel(i64(ci), x, w, sums, part)
        return sums

    def value_at(self, place: Any, part: Any) -> Any:
        v, lanes = self.v, range(self.v.lanes)
        if self.groups == 2:
            first, second = (v.broadcast(v.ir.load(v.at(place, offset))) for offset in (0, part))
            of_both = [lane + (lane >= self.outputs) * v.lanes for lane in lanes]
            return v.shuffle(first, second, of_both)
        raw = v.load(place, lanes=part) if isinstance(part, int) else self.load(place, part)
        groups = [min(lane // self.outputs, self.groups - 1) for lane in lanes]
        return v.shuffle(raw, raw, [group * self.variant.depth + self.ci for group in groups])


# The most of MR and taps of a block: permutations and their indices take registers. On AVX-512, 14
# rows of two groups by K3 take 1.3× the time of 10, by K16 3 % less.
LARGEST = {"avx512": (10, 8), "avx2": (6, 4), "avx": (6, 2)}

# The same with AVX-512 and taps that are not written out: a permutation serves up to 16 products.
# Zen 4, 64 → 128 in 16 groups gains 1.12× by K9, 1.05× by K16 and K31, 64 → 64 in 32 1.02× by K31;
# 64 → 128 in 64 by K12 loses 1.03×, 20 positions of K16 lose 1.14×.
LARGEST_OF_MANY_TAPS = (8, 16)


class SmallGroups(Sliced):
    """Groups of few channels, channel multipliers among them."""

    name = "small groups"
    emitter = SmallGroupsEmitter
    writes_taps = ("avx512",)

    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        g, lanes = problem.geometry, target.lanes(problem.dtype)
        if g.num_groups == 1:
            return "num_groups=1: there is one group"
        if groups_of_slice(g, lanes) < 2:
            return (
                f"groups of {g.group_in_channels} → {g.group_out_channels} channels: "
                f"no two of them fit in {lanes} lanes"
            )
        if target.isa not in TILES:
            return f"no tiles for the instruction set {target.isa!r}"
        share = PERMUTING_SHARE if tap_pitch(g) else GATHERING_SHARE
        if min(groups_of_slice(g, lanes), g.num_groups) * share < DENSE_SHARE:
            return f"groups of {g.group_out_channels} channels fill {lanes} lanes well enough"
        return None

    def tile_rows(self, problem: ConvProblem, target: Target) -> tuple[int, int]:
        rows, block = super().tile_rows(problem, target)
        if (
            target.isa == "avx512"
            and block > 1
            and problem.geometry.kernel_size > MOST_WRITTEN_TAPS
        ):
            return LARGEST_OF_MANY_TAPS
        most_rows, most_taps = LARGEST.get(target.isa, (rows, block))
        return min(rows, most_rows), min(block, most_taps)


SMALL_GROUPS = SmallGroups()

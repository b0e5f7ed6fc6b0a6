"""What a family of kernels decides, and what all of them share.

A family is one small file: when it declines, how it cuts the work, and the emitter of its
panel kernel. The loops around it are the macrokernel's.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..problem import ConvProblem
from ..weights import Weights
from . import blocking
from .blocking import Band, Inside, Panel, ReductionBlock
from .microkernel import Emitter, Tile
from .packing import PackedWeights, pack
from .target import Target

if TYPE_CHECKING:
    from .panel_plan import PanelPlan


# Taps from which groups read a window of their own channels.
PACKED_FROM_TAPS = 8


class Family(ABC):
    """A kernel of `dispatch` that runs as panels under the macrokernel.

    Attributes
    ----------
    name : str
        As `explain` shows it.
    emitter : type of Emitter
    sums_channels : bool
        Whether the reduction runs over channels of x, in one chain of (tap, channel). Only
        then can it be cut into blocks, and taps that follow each other be merged.
    needs_unit_rows : bool
        Whether positions must lie side by side in x and y; with a stride those of a phase do, in
        windows (`window.phase_shape`).
    joins_positions : bool
        Whether all channels of a position must be followed by those of the next one.
    """

    name: ClassVar[str]
    emitter: ClassVar[type[Emitter]]
    sums_channels: ClassVar[bool] = False
    needs_unit_rows: ClassVar[bool] = False
    joins_positions: ClassVar[bool] = False

    @abstractmethod
    def declines(self, problem: ConvProblem, target: Target) -> str | None:
        """Return why this family does not take `problem`, None if it does."""

    @abstractmethod
    def panels(self, problem: ConvProblem, target: Target) -> list[Panel]:
        """Cut the output channels into panels."""

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        """Positions of one run."""
        return blocking.run_length(problem, tile.rows, target, self.copies_x(problem))

    def interior(self, tile: Tile) -> tuple[int, int]:
        """Of how many positions the interior begins at a multiple, and how many it has at least."""
        return tile.rows, 2 * tile.rows

    def least_window(self, tile: Tile) -> int:
        """Positions that windows have room for, however few a border has."""
        return 1

    def sorts_x(self, problem: ConvProblem) -> bool:
        """Whether windows hold x phase by phase: positions then follow each other in one."""
        return self.needs_unit_rows and problem.geometry.stride > 1

    def copies_x(self, problem: ConvProblem) -> bool:
        """Whether all of a contiguous x goes through windows, for another axis is contiguous."""
        is_signal = problem.geometry.in_channels == 1
        if self.needs_unit_rows:
            is_contiguous = is_signal or problem.layout == "NCL"
            return problem.step > 1 or self.sorts_x(problem) or not is_contiguous
        return problem.layout == "NCL" and not is_signal

    def band(self, problem: ConvProblem, panels: int, run: int, target: Target) -> Band:
        """How many of the panels go over all positions before the next ones do."""
        channels = problem.geometry.in_channels
        return Band(panels, channels, step=0, is_copied=self.sorts_x(problem))

    def stores_lines(self, problem: ConvProblem, target: Target) -> bool:
        """Whether stores past the caches fill whole lines at once."""
        return True

    def pack(self, weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
        """Copy filter and bias into the order in which the panel kernel reads them."""
        return pack(weights, panels)

    def plan(self, problem: ConvProblem, weights: Weights, target: Target) -> PanelPlan:
        """Bind this family to `problem` and `weights`."""
        from .panel_plan import PanelPlan

        return PanelPlan(problem, weights, target, self)


class PackingGroups(Family):
    """Panels of one group each, which read a window of its own channels where taps are many.

    In x the rows of a group are C_in apart and collide in the first cache; in the window they
    follow each other, and so do the taps.
    """

    def run(self, problem: ConvProblem, tile: Tile, target: Target) -> int:
        if self.packs_groups(problem):
            return blocking.MAX_RUN // tile.rows * tile.rows
        return super().run(problem, tile, target)

    def band(self, problem: ConvProblem, panels: int, run: int, target: Target) -> Band:
        g = problem.geometry
        if not self.packs_groups(problem):
            return super().band(problem, panels, run, target)
        channels = g.group_in_channels
        return Band(panels // g.num_groups, channels, step=channels, is_copied=True)

    def packs_groups(self, problem: ConvProblem) -> bool:
        g = problem.geometry
        return g.kernel_size >= PACKED_FROM_TAPS and g.num_groups > 1


@dataclass(frozen=True)
class Blocking:
    """All sizes of one problem on one target.

    Attributes
    ----------
    problem, target, family
        What they were derived from.
    panels : tuple of Panel
    tile : Tile
        The widest of the panels' tiles.
    run : int
        Positions of one run.
    band : Band
    inside : Inside
        Positions that read x in place if it is channel-last in memory.
    reduction : tuple of ReductionBlock
    is_block_by_block : bool
        Whether a block goes over all panels before the next one does.
    """

    problem: ConvProblem
    target: Target
    family: Family
    panels: tuple[Panel, ...]
    tile: Tile
    run: int
    band: Band
    inside: Inside
    reduction: tuple[ReductionBlock, ...]
    is_block_by_block: bool

    def workers(self, threads: int) -> tuple[int, bool]:
        """Return (workers, whether they divide panels rather than positions)."""
        if threads == 1 or not blocking.deserves_threads(self.problem):
            return 1, False
        panels = len(self.panels)
        tiles = -(-self.problem.batch * self.problem.length_out // self.tile.rows)
        are_alike = len({(panel.slices, panel.sums_lanes) for panel in self.panels}) == 1
        if blocking.is_mostly_filter(self.problem) and panels % threads == 0 and are_alike:
            return threads, True
        if tiles >= 4 * threads or tiles >= panels:
            return min(threads, tiles), False
        return min(threads, panels), True


@functools.lru_cache(maxsize=1024)
def blocking_for(problem: ConvProblem, target: Target, family: Family) -> Blocking:
    """Derive all sizes; remembered, since `conv1d` asks in every call."""
    panels = tuple(family.panels(problem, target))
    tile = max(panels, key=lambda panel: (not panel.sums_lanes, panel.tile.width)).tile
    g = problem.geometry
    run = family.run(problem, tile, target)
    band = family.band(problem, len(panels), run, target)
    inside = Inside(0, 0)
    if not band.is_copied:
        inside = blocking.inside_of(problem, *family.interior(tile))
    by_blocks = family.sums_channels and blocking.is_block_by_block(problem, target)
    if by_blocks:
        run = -(-problem.length_out // tile.rows) * tile.rows
        band = dataclasses.replace(band, panels=len(panels))
    reduction = [ReductionBlock(0, g.kernel_size, 0, g.group_in_channels)]
    if family.sums_channels:
        reduction = blocking.blocks_of(problem, tile.width, target)
    assert len(reduction) == 1 or not any(panel.sums_lanes for panel in panels)
    return Blocking(
        problem, target, family, panels, tile, run, band, inside, tuple(reduction), by_blocks
    )

"""A kernel compiled for one problem, one device and one layout of its operands."""

from __future__ import annotations

import functools

from ..problem import ConvProblem
from . import compiler
from .driver import Driver, Function, driver
from .kernel import Family, Site, Tile, x_offset
from .launch import Launch


@functools.cache
def loaded(owner: Driver, tile: Tile, ordinal: int) -> Function:
    """The kernel of `tile` on a device, which is current."""
    capability = owner.device(ordinal).capability
    return owner.load(compiler.image(tile, compiler.for_capability(capability)))


class CudaPlan:
    """A family with its tile, bound to a device and to the layout of x, y and weights.

    Plans are immutable and may be used by several threads at once.

    Parameters
    ----------
    problem : ConvProblem
    site : Site
    family : Family
    """

    def __init__(self, problem: ConvProblem, site: Site, family: Family) -> None:
        self.problem = problem
        self.site = site
        self.tile = family.tile(problem, site)
        self.shape = family.launch_shape(problem, site, self.tile)
        self._x_offset = x_offset(problem, site)

    @functools.cached_property
    def launch(self) -> Launch:
        """The prepared launch; its making compiles or loads the kernel."""
        owner, ordinal = driver(), self.site.device.ordinal
        with owner.current(ordinal):
            function = loaded(owner, self.tile, ordinal)
            return Launch(owner, function, self.tile, self.shape, ordinal)

    def execute(self, x: int, filter: int, bias: int, y: int, stream: int) -> None:
        """Compute all of y on `stream`, which belongs to the current device."""
        if 0 not in self.problem.out_shape:
            self.launch(x + self._x_offset, filter, bias, y, stream)

    def details(self) -> dict[str, str]:
        """Facts for `explain`."""
        device, shape = self.site.device, self.shape
        return {
            "tile": self.tile.name,
            "device": f"{device.name} (compute capability {device.capability[0]}."
            f"{device.capability[1]}, {device.multiprocessors} multiprocessors)",
            "launch": f"{' x '.join(map(str, shape.grid))} blocks of {self.tile.threads} threads, "
            f"{shape.shared / 1024:.1f} KiB of shared memory",
            "hardware": self.tile.SEEN_ON,
        }

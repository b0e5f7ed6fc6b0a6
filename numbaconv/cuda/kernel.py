"""What every CUDA kernel says of itself, and what it is told of the place where it runs.

Everything here is plain Python: nothing is compiled and no device is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..plan import direct_error_bound
from ..problem import ConvProblem
from .storage import storage_of

if TYPE_CHECKING:
    from .plan import CudaPlan

ADDRESSES = ("x", "w", "bias", "y")

# `padding_mode` as kernels get it.
MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}

# Bytes of a tensor map.
MAP_BYTES = 128

# Blocks along the second and third axis of a grid.
MAX_BLOCKS_YZ = 65535


@dataclass(frozen=True)
class Device:
    """What dispatch and blocking need to know of a GPU.

    Attributes
    ----------
    ordinal : int
    name : str
    capability : (int, int)
        Compute capability, (9, 0) for sm_90.
    multiprocessors : int
    shared_memory : int
        Most bytes of shared memory that one block can have.
    """

    ordinal: int
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int


@dataclass(frozen=True)
class Operand:
    """Where an array lies: strides in bytes, and a power of two that divides its address."""

    strides: tuple[int, ...]
    alignment: int

    def allows(self, width: int) -> bool:
        """Whether pieces of `width` bytes may be read along the last axis, row by row."""
        return self.alignment >= width and all(s % width == 0 for s in self.strides[:-1])


@dataclass(frozen=True)
class Site:
    """The device a problem runs on, and how its operands lie there.

    Attributes
    ----------
    x, y : Operand
        (N, L, C_in) and (N, L_out, C_out).
    filter, bias : Operand
        (K, C_in/G, C_out) and (C_out,).
    """

    device: Device
    x: Operand
    y: Operand
    filter: Operand
    bias: Operand

    def refuses_copies(self, problem: ConvProblem) -> str | None:
        """Return why channels cannot be copied to shared memory in words, None if they can."""
        if self.device.capability < (8, 0):
            return "asynchronous copies need compute capability 8.0"
        if not self.is_channel_last(problem):
            return "channels do not lie side by side in x, filter or y"
        if self.width(problem) is None:
            return "channels are not whole words of 4 bytes, or not aligned to them"
        return None

    def is_channel_last(self, problem: ConvProblem) -> bool:
        """Whether channels lie side by side in x and y, and the filter without gaps."""
        size = problem.dtype.itemsize
        _, depth, outputs = problem.geometry.filter_shape
        dense = (depth * outputs * size, outputs * size, size)
        return (
            self.x.strides[2] == self.y.strides[2] == size
            and self.filter.strides == dense
            and self.bias.strides == (size,)
        )

    def width(self, problem: ConvProblem) -> int | None:
        """Bytes of the widest piece, 16 or 4, that divides all rows; None for less."""
        g, size = problem.geometry, problem.dtype.itemsize
        operands = (self.x, self.y, self.filter, self.bias)
        for width in (16, 4):
            channels = (g.group_in_channels * size, g.group_out_channels * size)
            whole = all(c % width == 0 for c in channels)
            if whole and all(operand.allows(width) for operand in operands):
                return width
        return None


@dataclass(frozen=True)
class MapShape:
    """A tensor map without its address: three axes, the innermost first, of 16-bit elements.

    Attributes
    ----------
    extents : (int, int, int)
        Elements along each axis; what a box has beyond them is zero.
    strides : (int, int)
        Bytes along the second and the third.
    box : (int, int, int)
        Elements of a box along each axis, those included that `steps` leaves out.
    steps : (int, int, int)
        Every how many elements are taken.
    """

    extents: tuple[int, int, int]
    strides: tuple[int, int]
    box: tuple[int, int, int]
    steps: tuple[int, int, int] = (1, 1, 1)


@dataclass(frozen=True)
class LaunchShape:
    """Grid, bytes of shared memory, and the value of each parameter that is no address.

    `maps` names the parameters that are addresses of tensor maps, with the parameter whose
    array each describes.
    """

    grid: tuple[int, int, int]
    shared: int
    values: dict[str, int]
    maps: dict[str, tuple[str, MapShape]] = field(default_factory=dict)


class Tile(ABC):
    """One compiled kernel: a small description from which its code is generated.

    Subclasses are frozen dataclasses, so that their `repr` names all that shapes the code.
    Parameters are the four addresses, then `LONG` (int64), then `SHORT` (int32).
    """

    LONG: ClassVar[tuple[str, ...]]
    SHORT: ClassVar[tuple[str, ...]]
    # As `explain` says it; a family that has met a GPU names it here.
    SEEN_ON: ClassVar[str] = "interpreted only, this kernel has not met a GPU yet"
    # Whether it has instructions of compute capability 9.0 alone.
    HOPPER_ONLY: ClassVar[bool] = False
    # Blocks that shall fit on a multiprocessor at once: bounds the registers of a thread.
    min_blocks: ClassVar[int] = 1

    @property
    @abstractmethod
    def name(self) -> str:
        """As `explain` shows it."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """Threads of a block."""

    @abstractmethod
    def function(self) -> Callable[..., Any]:
        """The kernel's Python function; this imports numba-cuda."""

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names in the order of the kernel's signature."""
        return (*ADDRESSES, *cls.LONG, *cls.SHORT)


class Family(ABC):
    """A kernel of `dispatch` on CUDA devices."""

    name: ClassVar[str]

    @abstractmethod
    def declines(self, problem: ConvProblem, site: Site) -> str | None:
        """Return why this family does not take `problem` there, None if it does."""

    @abstractmethod
    def tile(self, problem: ConvProblem, site: Site) -> Tile:
        """The tile that suits."""

    @abstractmethod
    def launch_shape(self, problem: ConvProblem, site: Site, tile: Any) -> LaunchShape:
        """How `tile` is launched."""

    @abstractmethod
    def shipped(self) -> list[Tile]:
        """Tiles that `tile` may return, for tests: all of a few, examples of a series."""

    def error_bound(self, problem: ConvProblem) -> str:
        """As `numbaconv.plan.direct_error_bound`; narrow results are rounded once more."""
        bound = direct_error_bound(problem)
        if problem.out_dtype == problem.accumulator_dtype:
            return bound
        return f"{bound}; and half a unit in the last place of {problem.out_dtype} for y"

    def plan(self, problem: ConvProblem, site: Site) -> CudaPlan:
        """Compile or load the tile for the site's device, ready to launch."""
        from .plan import CudaPlan

        return CudaPlan(problem, site, self)


def common_values(problem: ConvProblem, site: Site) -> dict[str, int]:
    """Parameters that most kernels have. Negative padding has been cropped: see `x_offset`."""
    g = problem.geometry
    left, _ = problem.padding
    return {
        "x_n": site.x.strides[0], "x_l": site.x.strides[1],
        "y_n": site.y.strides[0], "y_l": site.y.strides[1],
        "length": problem.cropped_length, "length_out": problem.length_out,
        "channels": g.in_channels, "out_channels": g.out_channels,
        "group_in": g.group_in_channels, "group_out": g.group_out_channels,
        "taps": g.kernel_size, "stride": g.stride, "dilation": g.dilation,
        "left": max(0, left), "mode": MODES[g.padding_mode], "has_bias": int(problem.has_bias),
    }  # fmt: skip


def x_offset(problem: ConvProblem, site: Site) -> int:
    """Bytes from the first element of x to the first that negative padding leaves."""
    return max(0, -problem.padding[0]) * site.x.strides[1]


def storage(problem: ConvProblem) -> Any:
    return storage_of(problem.dtype)


def fits_int32(problem: ConvProblem) -> bool:
    """Whether positions and channels of one row can be counted by kernels."""
    g = problem.geometry
    reach = (problem.length_out + 512) * g.stride + g.span + problem.length
    return max(reach, g.reduction * g.out_channels) < 2**31

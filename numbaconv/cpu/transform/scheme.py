"""What a transform is: how many points, planes and products, and what its filter becomes.

A *plane* holds one real number of every tile and channel. A *product* is one real GEMM, from
one plane of transformed input (two, where its sum runs over a real and an imaginary part) to
one plane of transformed output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Products:
    """`count` products alike: number i reads plane `x_planes[i]` and writes `y_planes[i]`.

    `terms` planes are summed, that one and those after it.
    """

    terms: int
    x_planes: tuple[int, ...]
    y_planes: tuple[int, ...]


class Scheme(ABC):
    """One transform: so many positions of x for `outputs(taps)` positions of y."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As the literature writes it."""

    @property
    @abstractmethod
    def points(self) -> int:
        """Positions of x in a tile."""

    @property
    @abstractmethod
    def planes(self) -> int:
        """Planes of transformed input, and of transformed output."""

    @abstractmethod
    def outputs(self, taps: int) -> int:
        """Positions of y in a tile, for a filter of so many taps."""

    @abstractmethod
    def products(self) -> tuple[Products, ...]:
        """All GEMMs, in the order in which their matrices are stored."""

    @property
    @abstractmethod
    def filter_points(self) -> int:
        """Rows that the transform of the filter reads, zeros after the last tap."""

    @abstractmethod
    def matrices(self, planes: Array) -> list[Array]:
        """From planes of the transformed filter (plane, C_in, C_out) to matrices.

        One array for each of `products()`: (product, terms*C_in, C_out).
        """

    def macs(self, depth: int) -> int:
        """Multiply-adds of all GEMMs for one tile and one output channel."""
        return sum(p.terms * len(p.x_planes) for p in self.products()) * depth


@dataclass(frozen=True)
class Winograd(Scheme):
    """Toom-Cook F(m, r); see `toom_cook`."""

    tile_outputs: int
    taps: int

    @property
    def name(self) -> str:
        return f"F({self.tile_outputs},{self.taps})"

    @property
    def points(self) -> int:
        return self.tile_outputs + self.taps - 1

    @property
    def planes(self) -> int:
        return self.points

    @property
    def filter_points(self) -> int:
        return self.taps

    def outputs(self, taps: int) -> int:
        return self.tile_outputs

    def products(self) -> tuple[Products, ...]:
        planes = tuple(range(self.points))
        return (Products(1, planes, planes),)

    def matrices(self, planes: Array) -> list[Array]:
        return [planes]


@dataclass(frozen=True)
class RealFFT(Scheme):
    """A real Fourier transform with overlap-save; see `fourier`.

    `gauss` makes each complex product from three real ones, whose third operand is a plane of
    sums; otherwise two GEMMs of twice the depth make it.
    """

    size: int
    gauss: bool

    @property
    def points(self) -> int:
        return self.size

    @property
    def name(self) -> str:
        return f"FFT{self.points}{'' if self.gauss else ' (4 products)'}"

    @property
    def slots(self) -> int:
        """Complex frequencies."""
        return self.points // 2 - 1

    @property
    def parts(self) -> int:
        """Planes of a complex frequency."""
        return 3 if self.gauss else 2

    @property
    def planes(self) -> int:
        return 2 + self.parts * self.slots

    @property
    def filter_points(self) -> int:
        return self.points

    def outputs(self, taps: int) -> int:
        return self.points - taps + 1

    def products(self) -> tuple[Products, ...]:
        if self.gauss:
            planes = tuple(range(self.planes))
            return (Products(1, planes, planes),)
        slots = range(2, self.planes, 2)
        reads = tuple(plane for plane in slots for _ in range(2))
        writes = tuple(plane + part for plane in slots for part in range(2))
        return (Products(1, (0, 1), (0, 1)), Products(2, reads, writes))

    def matrices(self, planes: Array) -> list[Array]:
        """Conjugates, since a correlation is wanted, over `points`, since inverses are not."""
        planes = planes / self.points
        real, re, im = planes[:2], planes[2 :: self.parts], -planes[3 :: self.parts]
        if not self.gauss:
            forward = np.concatenate([re, -im], axis=1)
            across = np.concatenate([im, re], axis=1)
            both = np.stack([forward, across], axis=1)
            return [real, both.reshape(-1, *both.shape[2:])]
        # (a + ib)(re + i·im) = (s - b(re + im)) + i(s + a(im - re)), with s = (a + b)·re.
        three = np.stack([im - re, re + im, re], axis=1)
        return [np.concatenate([real, three.reshape(-1, *three.shape[2:])])]

"""What a transform is: how many points, planes and products, and what its filter becomes.

A *plane* holds one real number of every tile and channel. A *product* is one real GEMM, from
one plane of transformed input to one of transformed output; where real and imaginary parts
share a matrix, from two to two, and its sum runs over two such pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from .folding import Folding

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Products:
    """`count` products alike: number i reads plane `x_planes[i]` and writes `y_planes[i]`.

    `terms` planes are summed, that one and those after it. `stacked` planes, one behind the
    other, are the rows of one GEMM.
    """

    terms: int
    stacked: int
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
    def input_planes(self) -> int:
        """Planes of transformed input."""

    @property
    @abstractmethod
    def output_planes(self) -> int:
        """Planes of transformed output."""

    @property
    def stacked(self) -> int:
        """Planes that are the rows of one GEMM, at most."""
        return max(kind.stacked for kind in self.products())

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

    def depth_of(self, x_plane: int, folding: Folding) -> int:
        """Input channels over which the product that reads a plane sums."""
        return folding.depth


def product_sizes(scheme: Scheme, depth: int, columns: int) -> list[int]:
    """Elements of one matrix of each kind of product."""
    return [products.terms * depth * columns for products in scheme.products()]


def spectrum_size(scheme: Scheme, depth: int, columns: int) -> int:
    """Elements of all matrices of one group."""
    sizes = product_sizes(scheme, depth, columns)
    kinds = scheme.products()
    return sum(size * len(kind.x_planes) for size, kind in zip(sizes, kinds, strict=True))


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
    def input_planes(self) -> int:
        return self.points

    @property
    def output_planes(self) -> int:
        return self.points

    @property
    def filter_points(self) -> int:
        return self.taps

    def outputs(self, taps: int) -> int:
        return self.tile_outputs

    def products(self) -> tuple[Products, ...]:
        planes = tuple(range(self.points))
        return (Products(1, 1, planes, planes),)

    def matrices(self, planes: Array) -> list[Array]:
        return [planes]

    def depth_of(self, x_plane: int, folding: Folding) -> int:
        # The last point is infinity, where a filter is its last tap; some phases have none.
        return folding.last_depth if x_plane == self.points - 1 else folding.depth


@dataclass(frozen=True)
class RealFFT(Scheme):
    """A real Fourier transform with overlap-save; see `fourier`.

    `gauss` makes each complex product from three real ones, whose third operand is a plane of
    sums: the fewest multiplications. Otherwise one GEMM makes it from four, which reads two
    matrices where Gauss has three: with W = re + i·im, and inputs a + ib,

        [-b]        [a]        [a·re - b·im]
        [ a] · im + [b] · re = [a·im + b·re]

    Its planes are -b, a and b, of which the first two and the last two are stacked.
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
    def input_parts(self) -> int:
        """Planes of a complex frequency of the input."""
        return 3

    @property
    def output_parts(self) -> int:
        """The same of the output."""
        return 3 if self.gauss else 2

    @property
    def input_planes(self) -> int:
        return 2 + self.input_parts * self.slots

    @property
    def output_planes(self) -> int:
        return 2 + self.output_parts * self.slots

    @property
    def filter_points(self) -> int:
        return self.points

    def outputs(self, taps: int) -> int:
        return self.points - taps + 1

    def products(self) -> tuple[Products, ...]:
        if self.gauss:
            planes = tuple(range(self.input_planes))
            return (Products(1, 1, planes, planes),)
        reads = tuple(range(2, self.input_planes, self.input_parts))
        writes = tuple(range(2, self.output_planes, 2))
        return (Products(1, 1, (0, 1), (0, 1)), Products(2, 2, reads, writes))

    def matrices(self, planes: Array) -> list[Array]:
        """Conjugates, since a correlation is wanted, over `points`, since inverses are not."""
        planes = planes / self.points
        real, parts = planes[:2], planes[2:].reshape(-1, self.input_parts, *planes.shape[1:])
        re, im = (parts[:, 0], -parts[:, 1]) if self.gauss else (parts[:, 1], -parts[:, 2])
        if not self.gauss:
            return [real, np.concatenate([im, re], axis=1)]
        # (a + ib)(re + i·im) = (s - b(re + im)) + i(s + a(im - re)), with s = (a + b)·re.
        three = np.stack([im - re, re + im, re], axis=1)
        return [np.concatenate([real, three.reshape(-1, *three.shape[2:])])]

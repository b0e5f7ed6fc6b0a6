"""Stride, dilation and long one-channel kernels, folded into one shape of tile.

The skeleton knows only this: *rows* of x, each `row_positions` positions of all channels, lie
`unit` positions apart, and output u of a residue class sums

    y[u] = Σ_t Σ_p  rows[phases*(u + t) + p] · w[t, p]        t < taps, p < phases

* Dilation: with g = gcd(stride, dilation), the outputs that are equal modulo dilation/g form
  a *residue class*, in which neighbours read rows `dilation` positions apart. Nothing is
  copied; a residue class is a row stride.
* Stride: taps that are equal modulo stride/g form a *phase*. Each phase is a convolution of
  stride 1, with a filter as short as its share of the taps; phases become input channels.
* Polyphase: for one channel in and out, B neighbouring positions become the channels of a
  row, and the filter a Toeplitz matrix for each of ceil((K + B - 1)/B) taps (Vaidyanathan
  1993, section 10.2). This turns a long FIR filter into matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...problem import ConvProblem, Geometry

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Folding:
    """How a problem looks to the skeleton.

    Attributes
    ----------
    taps, phases, residues : int
        As above.
    unit : int
        Positions of x between rows.
    row_positions : int
        Positions of a row: 1, or B of the polyphase form.
    depth, columns : int
        Input channels (of all phases) and output channels of one group's GEMMs.
    last_depth : int
        Input channels of the first phases, those that have the last tap: with K = 3 and stride 2
        the second phase has one tap less.
    groups : int
    """

    taps: int
    phases: int
    residues: int
    unit: int
    row_positions: int
    depth: int
    last_depth: int
    columns: int
    groups: int


def fold(geometry: Geometry) -> Folding:
    """Fold stride and dilation."""
    g = math.gcd(geometry.stride, geometry.dilation)
    phases = geometry.stride // g
    taps = -(-geometry.kernel_size // phases)
    return Folding(
        taps=taps,
        phases=phases,
        residues=geometry.dilation // g,
        unit=geometry.dilation,
        row_positions=1,
        depth=phases * geometry.group_in_channels,
        last_depth=(geometry.kernel_size - (taps - 1) * phases) * geometry.group_in_channels,
        columns=geometry.group_out_channels,
        groups=geometry.num_groups,
    )


def fold_polyphase(geometry: Geometry, block: int) -> Folding:
    """Fold `block` neighbouring positions of one channel into the channels of a row."""
    taps = -(-(geometry.kernel_size + block - 1) // block)
    return Folding(
        taps=taps, phases=1, residues=1, unit=block, row_positions=block,
        depth=block, last_depth=block, columns=block, groups=1,
    )  # fmt: skip


def folded_filter(filter: Array, folding: Folding) -> Array:
    """Order a filter (K, C_in/G, C_out) as (taps, depth, G*columns), with zeros where it ends."""
    kernel_size, depth, out_channels = filter.shape
    if folding.row_positions > 1:
        block = folding.row_positions
        # w[t, c, v] is tap t*block + c - v: all taps along a line, seen with a falling stride.
        line = np.zeros((folding.taps + 1) * block, filter.dtype)
        line[block : block + kernel_size] = filter[:, 0, 0]
        step = line.strides[0]
        shape = (folding.taps, block, block)
        return np.lib.stride_tricks.as_strided(
            line[block:], shape, (block * step, step, -step), writeable=False
        )
    padded = np.zeros((folding.taps * folding.phases, depth, out_channels), filter.dtype)
    padded[:kernel_size] = filter
    return padded.reshape(folding.taps, folding.phases * depth, out_channels)


@dataclass(frozen=True)
class Tiling:
    """Which positions of y a tile holds.

    A tile is `positions` outputs of one residue class of one row of the batch; the last one
    of a class is shifted back so that it is whole, unless the class is shorter than a tile.
    The one before it leaves it what both could write, so that no output has two owners.
    Tiles of all classes at one place follow each other: they read neighbouring rows.
    """

    length_out: int
    residues: int
    positions: int

    def class_length(self, residue: int) -> int:
        """Outputs of a residue class."""
        return (self.length_out - residue + self.residues - 1) // self.residues

    @property
    def long_classes(self) -> int:
        """The first classes have one output more than the others."""
        return self.length_out % self.residues

    @property
    def long_tiles(self) -> int:
        """Tiles of a class with one output more."""
        return -(-(self.length_out // self.residues + 1) // self.positions)

    @property
    def short_tiles(self) -> int:
        return -(-(self.length_out // self.residues) // self.positions)

    @property
    def tiles(self) -> int:
        """Tiles of one row of the batch."""
        long = self.long_classes
        return long * self.long_tiles + (self.residues - long) * self.short_tiles

    def outputs_of(self, tile: int) -> range:
        """Positions of y in tile number `tile` of a row."""
        t = min(tile // self.residues, self.short_tiles)
        residue = tile - t * self.residues
        length = self.class_length(residue)
        shifted = max(0, length - self.positions)
        first = min(t * self.positions, shifted)
        last = length if first == shifted else min(first + self.positions, shifted)
        return range(residue + first * self.residues, residue + last * self.residues, self.residues)


def tiling_of(problem: ConvProblem, folding: Folding, outputs: int) -> Tiling:
    """The tiles of a transform that gives so many rows of output."""
    return Tiling(problem.length_out, folding.residues, outputs * folding.row_positions)

"""Filter and bias in the order in which panel kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..interop import aligned_empty, large_page_empty
from ..weights import Weights
from .blocking import Panel


@dataclass(frozen=True)
class PackedWeights:
    """The filter in the order its family reads it, and the bias by columns of panels."""

    filter: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any]

    @classmethod
    def empty(cls, size: int, panels: Sequence[Panel], weights: Weights) -> PackedWeights:
        """Room for a filter of `size` elements and for the bias, each on a cache line."""
        dtype = weights.filter.dtype
        return cls(large_page_empty(size, dtype), aligned_empty(panels[-1].last_column, dtype))


def pack_bias(packed: PackedWeights, weights: Weights, panels: Sequence[Panel]) -> None:
    """Write the bias of panels of one slice, zeros in between and where there is none."""
    packed.bias[:] = 0
    if weights.bias is not None:
        for panel in panels:
            channels = weights.bias[panel.first : panel.first + panel.channels]
            packed.bias[panel.column :][: panel.channels] = channels


def pack(weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
    """Copy the filter into zero-padded slices of NR columns, each on a cache line; or by lanes.

    Depthwise filters (K, 1, C) and dense ones (K, C_in/G, C_out) have the same form. A
    panel begins at `panel.column * K*C_in/G` in the filter and `panel.column` in the bias,
    where `column` counts the columns of the panels before it.
    """
    taps, depth, _ = weights.filter.shape
    packed = PackedWeights.empty(taps * depth * panels[-1].last_column, panels, weights)
    packed.bias[:] = 0
    for panel in panels:
        if panel.sums_lanes:
            pack_dots(packed, weights, panel)
        else:
            pack_slices(packed, weights, panel)
    return packed


def pack_slices(packed: PackedWeights, weights: Weights, panel: Panel) -> None:
    """Copy a panel of columns: (slice, product, column)."""
    rows = weights.filter.reshape(-1, weights.filter.shape[2])
    reduction = len(rows)
    for s in range(panel.slices):
        column, channels = panel.column + s * panel.width, panel.channels_of(s)
        count = channels.stop - channels.start
        block = packed.filter[column * reduction :][: panel.width * reduction]
        block = block.reshape(reduction, panel.width)
        block[:, :count] = rows[:, channels]
        block[:, count:] = 0
        if weights.bias is not None:
            packed.bias[column : column + count] = weights.bias[channels]


def pack_dots(packed: PackedWeights, weights: Weights, panel: Panel) -> None:
    """Copy a panel of dot products: (vector of input channels, tap, output, lane)."""
    channels = slice(panel.first, panel.first + panel.channels)
    filter_ = weights.filter[:, :, channels]
    taps, depth, outputs = filter_.shape
    lanes = panel.tile.lanes
    vectors = -(-depth // lanes)
    block = packed.filter[panel.column * taps * depth :][: vectors * taps * outputs * lanes]
    block = block.reshape(vectors, taps, outputs, lanes)
    for vector in range(vectors):
        part = filter_[:, vector * lanes : (vector + 1) * lanes]
        block[vector, :, :, : part.shape[1]] = part.transpose(0, 2, 1)
        block[vector, :, :, part.shape[1] :] = 0
    if weights.bias is not None:
        packed.bias[panel.column :][:outputs] = weights.bias[channels] + 0

"""Filter and bias in the order in which panel kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..interop import aligned_empty
from ..weights import Weights
from .blocking import Panel


@dataclass(frozen=True)
class PackedWeights:
    """Panels one after another: of the filter (tap, channel, column), and of the bias."""

    filter: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any]


def pack(weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
    """Copy filter and bias into zero-padded panels of NR columns, each on a cache line.

    Depthwise filters (K, 1, C) and dense ones (K, C_in/G, C_out) have the same form.
    Panel p begins at row `panel.column * K*C_in/G` of the filter and `panel.column` of
    the bias, where `column` counts the columns of the panels before it.
    """
    taps, depth, _ = weights.filter.shape
    reduction = taps * depth
    rows = weights.filter.reshape(reduction, -1)
    width = panels[-1].column + panels[-1].tile.width
    dtype = weights.filter.dtype
    filter_, bias = aligned_empty(reduction * width, dtype), aligned_empty(width, dtype)
    for panel in panels:
        channels = slice(panel.first, panel.first + panel.channels)
        begin, end = panel.column, panel.column + panel.tile.width
        block = filter_[begin * reduction : end * reduction].reshape(reduction, end - begin)
        block[:, : panel.channels] = rows[:, channels]
        block[:, panel.channels :] = 0
        bias[begin:end] = 0
        if weights.bias is not None:
            bias[begin : begin + panel.channels] = weights.bias[channels]
    return PackedWeights(filter_, bias)

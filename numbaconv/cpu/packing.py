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
    filter_offsets: tuple[int, ...]
    bias_offsets: tuple[int, ...]


def pack(weights: Weights, panels: Sequence[Panel]) -> PackedWeights:
    """Copy filter and bias into zero-padded panels of NR columns, each on a cache line.

    Depthwise filters (K, 1, C) and dense ones (K, C_in/G, C_out) have the same form.
    """
    taps, depth, _ = weights.filter.shape
    reduction = taps * depth
    rows = weights.filter.reshape(reduction, -1)
    width = sum(panel.tile.width for panel in panels)
    dtype = weights.filter.dtype
    packed, bias = aligned_empty(reduction * width, dtype), aligned_empty(width, dtype)
    filter_offsets, bias_offsets, done = [], [], 0
    for panel in panels:
        channels = slice(panel.first, panel.first + panel.channels)
        filter_offsets.append(done * reduction)
        bias_offsets.append(done)
        end = done + panel.tile.width
        block = packed[done * reduction : end * reduction].reshape(reduction, panel.tile.width)
        block[:, : panel.channels] = rows[:, channels]
        block[:, panel.channels :] = 0
        bias[done:end] = 0
        if weights.bias is not None:
            bias[done : done + panel.channels] = weights.bias[channels]
        done = end
    return PackedWeights(packed, bias, tuple(filter_offsets), tuple(bias_offsets))

"""The one gate for all: what is right, and who is not timed because it is wrong."""

from __future__ import annotations

import math

import numpy as np

from ..problems import Problem
from .base import Array

# Of max|y|, over the whole output.
TOLERANCE = 1e-4

# Positions computed or compared at once.
BLOCK = 1 << 14


def reference(problem: Problem, x: Array, w: Array) -> Array:
    """y in float64, by one product of matrices a tap, or by FFT for long single channels."""
    p = problem
    left, right = p.padding
    padded = np.pad(x.astype(np.float64), ((0, 0), (left, right), (0, 0)))
    taps = w.astype(np.float64)
    if p.in_channels == p.out_channels == p.stride == p.dilation == 1 and p.kernel_size > 64:
        from scipy.signal import oaconvolve

        return oaconvolve(padded, taps[::-1].reshape(1, -1, 1), mode="valid", axes=1)
    y = np.zeros(p.y_shape)
    for first in range(0, p.length_out, BLOCK):
        rows = slice(first, min(first + BLOCK, p.length_out))
        for k in range(p.kernel_size):
            y[:, rows] += tap_product(p, padded, taps, k, rows)
    return y


def tap_product(problem: Problem, padded: Array, taps: Array, k: int, rows: slice) -> Array:
    """What tap k adds to the outputs `rows`, group by group."""
    p, count = problem, rows.stop - rows.start
    first = rows.start * p.stride + k * p.dilation
    seen = padded[:, first : first + (count - 1) * p.stride + 1 : p.stride]
    split = seen.reshape(p.batch, count, p.groups, -1).transpose(0, 2, 1, 3)
    weights = taps[k].reshape(-1, p.groups, p.out_channels // p.groups).transpose(1, 0, 2)
    product = split * weights if weights.shape[1] == 1 else split @ weights
    return product.transpose(0, 2, 1, 3).reshape(p.batch, count, p.out_channels)


class Truth:
    """The float64 y of a layer, to compare results with."""

    def __init__(self, y: Array) -> None:
        self.y = y
        self.scale = max(
            float(np.abs(y[:, first : first + BLOCK]).max())
            for first in range(0, y.shape[1], BLOCK)
        )

    def error(self, result: Array) -> float:
        """max|result - y| / max|y|; infinite for NaN and for another shape."""
        if result.shape != self.y.shape:
            return math.inf
        worst = 0.0
        for first in range(0, self.y.shape[1], BLOCK):
            rows = slice(first, first + BLOCK)
            with np.errstate(all="ignore"):
                error = float(np.abs(result[:, rows] - self.y[:, rows]).max())
            if math.isnan(error):
                return math.inf
            worst = max(worst, error)
        return worst / self.scale

    def complaint(self, result: object, contiguous: bool) -> str | None:
        """Say what is wrong with a result, None if nothing is."""
        if not isinstance(result, np.ndarray) or result.dtype != np.float32:
            return f"not a float32 array but {getattr(result, 'dtype', type(result).__name__)}"
        if result.shape != self.y.shape:
            return f"shape {result.shape} where {self.y.shape} was expected"
        if contiguous and not result.flags.c_contiguous:
            return "not contiguous in N-L-C order"
        error = self.error(result)
        return f"error {error:.1e} of max|y|" if not error <= TOLERANCE else None

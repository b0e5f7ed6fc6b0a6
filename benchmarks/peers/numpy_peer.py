"""What a user of NumPy writes today: one `matmul` a tap; `oaconvolve` for single channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..problems import Problem
from ..roofline import aligned
from .base import Array, Layer, NotOffered, Prepared, Way

PACKAGES = ("scipy",)


def environment(threads: int) -> dict[str, str]:
    return {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


def start(threads: int) -> None:
    from scipy import fft

    fft.set_global_backend("scipy")
    fft.set_workers(threads).__enter__()


def by_groups(y: Array, groups: int) -> Array:
    """(N, L, C) seen as (N, G, L, C/G); (N, L, C) itself for one group."""
    if groups == 1:
        return y
    return y.reshape(*y.shape[:2], groups, -1).transpose(0, 2, 1, 3)


def tap_weights(layer: Layer) -> Array:
    """w as (K, C_in, C_out), or (K, G, C_in/G, C_out/G)."""
    p = layer.problem
    if p.groups == 1:
        return layer.w
    split = layer.w.reshape(p.kernel_size, -1, p.groups, p.out_channels // p.groups)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3))


def product(p: Problem) -> Callable[..., Array]:
    """A product of matrices, or elementwise where every group has one channel."""
    if p.in_channels != p.groups:
        return np.matmul
    return multiply_rows if p.out_channels != p.groups else multiply_channels


def multiply_rows(rows: Array, weights: Array, out: Array | None = None) -> Array:
    return np.multiply(rows, weights, out=out)


def multiply_channels(rows: Array, weights: Array, out: Array | None = None) -> Array:
    # (N, L, G), not by groups: one long inner loop.
    return np.multiply(rows, weights.reshape(-1), out=out)


def rows_of(padded: Array, p: Problem, k: int) -> Array:
    """The inputs that tap k sees."""
    first = k * p.dilation
    return padded[:, first : first + (p.length_out - 1) * p.stride + 1 : p.stride]


def allocating(layer: Layer) -> Prepared:
    p, weights, multiply = layer.problem, tap_weights(layer), product(layer.problem)
    groups = 1 if multiply is multiply_channels else p.groups

    def run() -> Array:
        padded = np.pad(layer.x, ((0, 0), p.padding, (0, 0))) if any(p.padding) else layer.x
        y = np.zeros(p.y_shape, np.float32)
        view = by_groups(y, groups)
        for k in range(p.kernel_size):
            view += multiply(by_groups(rows_of(padded, p, k), groups), weights[k])
        return y

    return Prepared(run)


def into(layer: Layer) -> Prepared:
    p, weights, multiply = layer.problem, tap_weights(layer), product(layer.problem)
    groups = 1 if multiply is multiply_channels else p.groups
    left = p.padding[0]
    padded = np.zeros((p.batch, p.length + sum(p.padding), p.in_channels), np.float32)
    y, term = aligned(p.y_shape), aligned(p.y_shape)
    view, term_view = by_groups(y, groups), by_groups(term, groups)

    def run() -> Array:
        padded[:, left : left + p.length] = layer.x
        multiply(by_groups(rows_of(padded, p, 0), groups), weights[0], out=view)
        for k in range(1, p.kernel_size):
            multiply(by_groups(rows_of(padded, p, k), groups), weights[k], out=term_view)
            np.add(view, term_view, out=view)
        return y

    return Prepared(run)


def overlap_add(layer: Layer) -> Prepared:
    from scipy.signal import oaconvolve

    p = layer.problem
    if not p.in_channels == p.out_channels == p.groups:
        raise NotOffered("oaconvolve is for one input channel an output channel")
    if (p.stride, p.dilation) != (1, 1):
        raise NotOffered("oaconvolve has neither stride nor dilation")
    first = p.kernel_size - 1 - p.padding[0]
    if first < 0 or first + p.length_out > p.length + p.kernel_size - 1:
        raise NotOffered("the padding is wider than the kernel")
    flipped = np.ascontiguousarray(layer.w[::-1].reshape(1, p.kernel_size, p.in_channels))

    def run() -> Array:
        y = oaconvolve(layer.x, flipped, axes=1)[:, first : first + p.length_out]
        return np.ascontiguousarray(y)

    return Prepared(run)


WAYS = (
    Way("matmul a tap, out=", "nlc", True, into),
    Way("matmul a tap", "nlc", False, allocating),
    Way("oaconvolve", "nlc", False, overlap_add),
)

"""The definition, in NumPy: slow, right, and always available.

It is the last entry of every list of kernels, so every valid problem has an answer,
also under NUMBA_DISABLE_JIT.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .plan import Array, BoundCall, Plan
from .problem import ConvProblem
from .weights import Weights

name = "reference"


def declines(problem: ConvProblem, target: Any) -> str | None:
    return None


def plan(problem: ConvProblem, weights: Weights, target: Any) -> ReferencePlan:
    return ReferencePlan(problem, weights)


def padded(x: np.ndarray[Any, Any], padding: tuple[int, int], mode: str) -> np.ndarray[Any, Any]:
    """Crop by negative padding, then pad positions (axis 1) by the rule `mode`."""
    left, right = padding
    length = x.shape[1]
    cropped = x[:, max(0, -left) : length - max(0, -right)]
    widths = ((0, 0), (max(0, left), max(0, right)), (0, 0))
    names = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return np.pad(cropped, widths, mode=names[mode])  # type: ignore[call-overload]


def convolve(
    problem: ConvProblem,
    x: np.ndarray[Any, Any],
    filter: np.ndarray[Any, Any],
    bias: np.ndarray[Any, Any] | None,
    accumulator: Any = np.float64,
) -> np.ndarray[Any, Any]:
    """Sum tap by tap and channel by channel in `accumulator` precision.

    Each output is one chain of additions, so its bits depend on nothing but its own
    receptive field.

    Returns
    -------
    numpy.ndarray
        (N, L_out, C_out) in `accumulator` precision.
    """
    g = problem.geometry
    signal = padded(x, problem.padding, g.padding_mode).astype(accumulator)
    taps = np.asarray(filter, accumulator)
    y = np.zeros(problem.out_shape, accumulator)
    if bias is not None:
        y += bias
    outputs = np.arange(g.out_channels)
    with np.errstate(invalid="ignore", over="ignore"):
        for k in range(g.kernel_size):
            first = k * g.dilation
            rows = signal[:, first : first + (problem.length_out - 1) * g.stride + 1 : g.stride]
            for ci in range(g.group_in_channels):
                seen = outputs // g.group_out_channels * g.group_in_channels + ci
                y += rows[:, :, seen] * taps[k, ci]
    return y


class ReferencePlan(Plan):
    """Executes the definition in float64."""

    def __init__(self, problem: ConvProblem, weights: Weights) -> None:
        self.problem, self.weights = problem, weights

    def bind(self, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> BoundCall:
        return ReferenceCall(self, x_strides, y_strides)

    def details(self, threads: int | None, x_strides: tuple[int, ...]) -> dict[str, str]:
        return {"accumulator": "float64", "threads": "1"}


class ReferenceCall(BoundCall):
    """A `ReferencePlan` with the strides of x and y."""

    def __init__(
        self, plan: ReferencePlan, x_strides: tuple[int, ...], y_strides: tuple[int, ...]
    ) -> None:
        self.plan, self.x_strides, self.y_strides = plan, x_strides, y_strides

    def __call__(self, x: Array, y: Array, threads: int | None) -> bool:
        # The result is complete before y is written, so overlap does no harm.
        problem, weights = self.plan.problem, self.plan.weights
        signal = as_strided(x, problem.in_shape, self.x_strides)
        with np.errstate(over="ignore"):
            as_strided(y, problem.out_shape, self.y_strides)[...] = convolve(
                problem, signal, weights.filter, weights.bias
            )
        return True

"""Calls on CUDA devices: what the layer and the function share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import dispatch
from ..dispatch import Choice, Explanation
from ..interop import as_numpy, is_on_cuda
from ..problem import ConvProblem
from ..weights import Weights
from . import arrays, driver
from .arrays import View
from .kernel import Operand, Site
from .memory import DeviceArray
from .plan import CudaPlan

# NLC to NCL and back.
SWAPPED = (0, 2, 1)


def require(reason: str) -> None:
    """Raise a RuntimeError that says what to install if CUDA cannot be used."""
    missing = driver.missing()
    if missing is not None:
        raise RuntimeError(f"{reason}, but {missing}, {driver.ELSE}")


def ordinal_of(device: str) -> int:
    """The number in "cuda:1"; 0 for "cuda"."""
    _, _, number = device.partition(":")
    ordinal = int(number or 0)
    driver.driver().device(ordinal)
    return ordinal


@dataclass(frozen=True)
class DeviceWeights:
    """Filter (K, C_in/G, C_out) and bias on one device."""

    filter: View
    bias: View | None

    @classmethod
    def of(cls, weights: Weights, ordinal: int) -> DeviceWeights:
        """The weights of a layer, copied at the first call on this device."""
        form = ("cuda", ordinal)
        made: DeviceWeights = weights.packed(form, lambda weights: cls.copied(weights, ordinal))
        return made

    @classmethod
    def copied(cls, weights: Weights, ordinal: int) -> DeviceWeights:
        bias = None if weights.bias is None else copied_view(weights.bias, ordinal)
        return cls(copied_view(weights.filter, ordinal), bias)


def copied_view(array: np.ndarray[Any, Any], ordinal: int) -> View:
    """A copy of a host array on the device."""
    return arrays.view(DeviceArray.copy_of(array, ordinal), "the copy", 0)


def operand(view: View | None, size: int) -> Operand:
    """What a site needs to know of an array; a missing bias is as good as any."""
    return Operand((size,), 16) if view is None else Operand(view.strides, view.alignment)


def site_of(problem: ConvProblem, x: View, weights: DeviceWeights, y: View) -> Site:
    size = problem.dtype.itemsize
    operands = (operand(v, size) for v in (x, y, weights.filter, weights.bias))
    return Site(driver.driver().device(x.ordinal), *operands)


def choose(problem: ConvProblem, site: Site) -> Choice:
    """The first kernel that accepts `problem` there."""
    return dispatch.choose(problem, dispatch.cuda_kernels(), site)


@functools.lru_cache(maxsize=1024)
def plan_for(problem: ConvProblem, site: Site) -> CudaPlan:
    """The plan of the kernel of `choose`, remembered."""
    family: Any = choose(problem, site).kernel
    plan: CudaPlan = family.plan(problem, site)
    return plan


# --- arguments


def checked_view(value: Any, name: str, dtype: np.dtype[Any], stream: int) -> View:
    """Describe an array of exactly this dtype, or say what differs."""
    view = arrays.view(value, name, stream)
    if view.dtype != dtype:
        raise TypeError(
            f"{name} has dtype {view.dtype} but {dtype} is expected; nothing is cast silently"
        )
    if any(stride % dtype.itemsize for stride in view.strides) or view.address % dtype.itemsize:
        raise ValueError(f"{name} is not aligned to its elements, which a GPU cannot read")
    return view


def checked_x(view: View, in_channels: int, permute: bool) -> View:
    """x as (N, L, C_in), or what is wrong with it."""
    layout = "(N, C_in, L)" if permute else "(N, L, C_in)"
    if len(view.shape) != 3:
        raise ValueError(
            f"x must have 3 dimensions {layout}, got {len(view.shape)} with shape {view.shape}"
        )
    x = view.transposed(SWAPPED) if permute else view
    if x.shape[2] != in_channels:
        raise ValueError(
            f"x must have {in_channels} channels in {layout}, got {x.shape[2]} "
            f"with shape {view.shape}"
        )
    return x


def extent(view: View) -> tuple[int, int]:
    """First and last byte + 1 of a view."""
    reaches = [(n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True)]
    low = view.address + sum(min(0, reach) for reach in reaches)
    high = view.address + sum(max(0, reach) for reach in reaches) + view.dtype.itemsize
    return (low, high) if math.prod(view.shape) else (0, 0)


def checked_out(value: Any, problem: ConvProblem, x: View, permute: bool, stream: int) -> View:
    """`out` as (N, L_out, C_out), or what is wrong with it."""
    if not is_on_cuda(value):
        raise TypeError(
            f"out must lie on the CUDA device of x, got {type(value).__name__} in host memory"
        )
    view = checked_view(value, "out", problem.out_dtype, stream)
    n, length, channels = problem.out_shape
    wanted = (n, channels, length) if permute else (n, length, channels)
    if view.shape != wanted:
        raise ValueError(f"out must have shape {wanted}, got {view.shape}")
    if view.ordinal != x.ordinal:
        raise ValueError(f"out lies on device {view.ordinal}, x on device {x.ordinal}")
    if view.is_read_only:
        raise ValueError("out is read-only; pass a writeable array")
    (a, b), (c, d) = extent(x), extent(view)
    if a < d and c < b:
        raise ValueError("out overlaps x, which a GPU cannot do; pass another array")
    return view.transposed(SWAPPED) if permute else view


# --- calls

MakeProblem = Callable[[int, int], ConvProblem]


def on_device(
    x: Any,
    out: Any,
    make_problem: MakeProblem,
    make_weights: Callable[[int, int], DeviceWeights],
    dtype: np.dtype[Any],
    permute: bool,
) -> Any:
    """Convolve an array that lies on a device; `make_weights` is given (ordinal, stream)."""
    stream = arrays.current_stream(x)
    view = checked_view(x, "x", dtype, stream)
    problem, view = make_problem_of(view, make_problem, permute)
    with driver.driver().current(view.ordinal):
        weights = make_weights(view.ordinal, stream)
        if out is None:
            n, length, channels = problem.out_shape
            shape = (n, channels, length) if permute else (n, length, channels)
            out = arrays.empty_like_kind(x, shape, problem.out_dtype, view.ordinal)
            y = checked_view(out, "the result", problem.out_dtype, stream)
            y = y.transposed(SWAPPED) if permute else y
        else:
            y = checked_out(out, problem, view, permute, stream)
        run(problem, view, weights, y, stream)
        arrays.hand_over(x, out, stream)
    return out


def make_problem_of(
    view: View, make_problem: MakeProblem, permute: bool
) -> tuple[ConvProblem, View]:
    """The problem that x makes, and x as (N, L, C_in)."""
    if len(view.shape) != 3:
        checked_x(view, 0, permute)
    shape = view.transposed(SWAPPED).shape if permute else view.shape
    problem = make_problem(shape[0], shape[1])
    return problem, checked_x(view, problem.geometry.in_channels, permute)


def run(problem: ConvProblem, x: View, weights: DeviceWeights, y: View, stream: int) -> None:
    """Launch the kernel of `problem`; the device of x is current."""
    bias = 0 if weights.bias is None else weights.bias.address
    plan = plan_for(problem, site_of(problem, x, weights, y))
    plan.execute(x.address, weights.filter.address, bias, y.address, stream)


def from_host(
    x: np.ndarray[Any, Any], problem: ConvProblem, weights: Weights, ordinal: int
) -> np.ndarray[Any, Any]:
    """Copy x (N, L, C_in) in, convolve, and copy y (N, L_out, C_out) back."""
    result = DeviceArray(problem.out_shape, problem.out_dtype, ordinal)
    with driver.driver().current(ordinal):
        there = DeviceWeights.of(weights, ordinal)
        y = arrays.view(result, "the result", 0)
        copied = copied_view(x, ordinal)  # which must live until the answer is back
        run(problem, copied, there, y, 0)
        return result.copy_to_host()


def explain(
    x: Any, make_problem: MakeProblem, weights: Weights, dtype: np.dtype[Any], permute: bool,
    ordinal: int,
) -> Explanation:  # fmt: skip
    """Say which kernel runs for x, and why each one before it does not."""
    if is_on_cuda(x):
        seen = checked_view(x, "x", dtype, arrays.current_stream(x))
    else:
        array = as_numpy(x, "x")
        strides = arrays.contiguous_strides(array.shape, dtype.itemsize)
        if permute and array.ndim == 3:  # it will be copied channel-last
            n, channels, length = array.shape
            _, l, c = arrays.contiguous_strides((n, length, channels), dtype.itemsize)
            strides = (length * l, c, l)
        seen = View(x, 0, array.shape, strides, array.dtype, False, ordinal)
    problem, seen = make_problem_of(seen, make_problem, permute)
    y_strides = arrays.contiguous_strides(problem.out_shape, dtype.itemsize)
    if permute and is_on_cuda(x):
        n, length, channels = problem.out_shape
        y_strides = (channels * length * dtype.itemsize, dtype.itemsize, length * dtype.itemsize)
    y = View(None, 0, problem.out_shape, y_strides, dtype, False, seen.ordinal)
    site = site_of(problem, seen, DeviceWeights.of(weights, seen.ordinal), y)
    choice = choose(problem, site)
    family: Any = choice.kernel
    details = plan_for(problem, site).details()
    return Explanation(family.name, choice.declined, details, family.error_bound(problem))

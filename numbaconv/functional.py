"""From arrays to a plan and back: what the layer and the function share."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._threads import as_threads
from .dispatch import make_plan
from .interop import as_numpy, empty_output, is_masked, is_native, is_on_cuda, require_dtype
from .plan import Array, Plan
from .problem import (
    PRECISIONS,
    Algorithm,
    ConvProblem,
    Geometry,
    Padding,
    PaddingMode,
    Precision,
    as_dtype,
    as_flag,
    as_integer,
    as_word,
)
from .weights import Weights, checked


def channel_last(array: Array, permute: bool) -> Array:
    """View (N, C, L) as (N, L, C) if `permute`, and back: the two are one transposition."""
    return array.transpose(0, 2, 1) if permute else array


def filter_to_kio(array: Array, permute: bool) -> Array:
    """View (C_out, C_in/G, K) as (K, C_in/G, C_out) if `permute`, and back."""
    return array.transpose(2, 1, 0) if permute else array


def checked_input(value: Any, geometry: Geometry, dtype: np.dtype[Any], permute: bool) -> Array:
    """Return x as a channel-last view that kernels can read, or say what is wrong with it."""
    x = as_numpy(value, "x")
    layout = "(N, C_in, L)" if permute else "(N, L, C_in)"
    if x.ndim != 3:
        raise ValueError(f"x must have 3 dimensions {layout}, got {x.ndim} with shape {x.shape}")
    require_dtype(x, "x", dtype)
    x = channel_last(x, permute)
    if x.shape[2] != geometry.in_channels:
        shape = channel_last(x, permute).shape
        raise ValueError(
            f"x must have {geometry.in_channels} channels in {layout}, "
            f"got {x.shape[2]} with shape {shape}"
        )
    return x if is_native(x) else x.astype(dtype, order="C")


def checked_out(value: Any, problem: ConvProblem, permute: bool) -> Array:
    """Return `out` as a channel-last view, or say what is wrong with it."""
    if not isinstance(value, np.ndarray) or is_masked(value):
        raise TypeError(f"out must be a NumPy array, got {type(value).__name__}")
    shape = problem.out_shape
    wanted = (shape[0], shape[2], shape[1]) if permute else shape
    if value.shape != wanted:
        raise ValueError(f"out must have shape {wanted}, got {value.shape}")
    require_dtype(value, "out", problem.out_dtype)
    if not value.flags.writeable:
        raise ValueError("out is read-only; pass a writeable array")
    return channel_last(np.asarray(value), permute)


def positions_read(x: Array, plan: Plan) -> Array:
    """View those positions of a channel-last x that the plan is for."""
    return x if plan.problem.step == 1 else x[:, :: plan.problem.step]


def execute(
    plan: Plan, x: Array, out: Array | None, permute: bool, threads: int | None = None
) -> Array:
    """Run `plan`; `x` and `out` are channel-last views. Returns y in the caller's order."""
    x = positions_read(x, plan)
    n, length, channels = plan.problem.out_shape
    if out is None:
        shape = (n, channels, length) if permute else (n, length, channels)
        out = channel_last(empty_output(shape, plan.problem.out_dtype), permute)
    if is_native(out):
        plan.execute(x, out, threads)
    else:
        result = np.empty(plan.problem.out_shape, plan.problem.out_dtype)
        plan.execute(x, result, threads)
        out[...] = result
    return channel_last(out, permute)


def function_geometry(
    shape: tuple[int, ...],
    stride: int,
    padding: Padding,
    dilation: int,
    num_groups: int,
    padding_mode: PaddingMode,
    permute: bool,
) -> Geometry:
    """The geometry that a filter's shape and the parameters of `conv1d` describe."""
    layout = "(C_out, C_in/G, K)" if permute else "(K, C_in/G, C_out)"
    if len(shape) != 3:
        raise ValueError(
            f"filter must have 3 dimensions {layout}, got {len(shape)} with shape {shape}"
        )
    if 0 in shape:
        raise ValueError(f"filter {layout} must not be empty, got shape {shape}")
    taps, depth, out_channels = shape[::-1] if permute else shape
    groups = as_integer(num_groups, "num_groups", minimum=1)
    return Geometry(
        taps, depth * groups, out_channels, stride, padding, dilation, groups, padding_mode
    )


def conv1d(
    x: Any,
    filter: Any,
    bias: Any = None,
    *,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    num_groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    permute: bool = False,
    out: Any = None,
    algorithm: Algorithm = "auto",
    threads: int | None = None,
    precision: Precision = "exact",
) -> Any:
    """Convolve the rows of `x` with a filter (cross-correlation: the kernel is not flipped).

    The filter is packed in every call; where one filter meets many inputs, use `Conv1D`.

    Parameters
    ----------
    x : array, shape (N, L, C_in)
        float32 or float64, any strides; (N, C_in, L) with `permute`. An array on a CUDA
        device, which may also be float16 or bfloat16, is convolved there, on the caller's
        current stream.
    filter : array, shape (K, C_in/G, C_out)
        Of the dtype of `x`; (C_out, C_in/G, K) with `permute`.
    bias : array, shape (C_out,), optional
        Of the dtype of `x`.
    stride, dilation : int, default 1
        Positions between outputs, and between the taps of the kernel.
    padding : int, (int, int), "same", "valid" or "causal", default 0
        Positions added on the left and right; negative values crop. "same" gives
        ceil(L/stride) outputs, "causal" is (dilation*(K-1), 0).
    num_groups : int, default 1
        G: output channels of one group see the input channels of that group only.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What stands in the padding.
    permute : bool, default False
        Order axes as PyTorch does.
    out : array, optional
        Where to write y: its shape and dtype, any strides. Overlap with `x` is allowed in
        host memory. On the device of `x` if that is a CUDA device.
    algorithm : {"auto", "direct", "winograd", "fft"}
        "direct" sums products one by one: every element holds the bound that `explain`
        states, and its bits depend on its receptive field alone. "winograd" and "fft" save
        products by transforms along the positions; their bound is relative to the largest
        numbers, and what they do not serve is summed directly. "auto" takes the one that is
        estimated to be the fastest.
    threads : int, optional
        Threads of this call, by default those of `set_num_threads`.
    precision : {"exact", "3xtf32", "tf32"}
        How a GPU may multiply float32: "tf32" rounds factors to 11 bits, "3xtf32" splits each
        into two such numbers and comes close to float32. The CPU is always exact.

    Returns
    -------
    array, shape (N, L_out, C_out)
        `out` if given, else a new array of the kind of `x`. (N, C_out, L_out) with `permute`.
        L_out = (L + left + right - dilation*(K-1) - 1)//stride + 1.

    Raises
    ------
    TypeError
        For inputs that are not arrays, or whose dtypes differ.
    ValueError
        For shapes and parameters that do not fit together.
    RuntimeError
        For an array on a CUDA device where numba-cuda or a driver is missing.

    See Also
    --------
    Conv1D : the layer, which packs its filter once.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import conv1d
    >>> x = np.arange(5.0).reshape(1, 5, 1)
    >>> difference = np.array([-1.0, 1.0]).reshape(2, 1, 1)
    >>> conv1d(x, difference, padding="causal").ravel().tolist()
    [0.0, 1.0, 1.0, 1.0, 1.0]
    """
    permute = as_flag(permute, "permute")
    if is_on_cuda(x):
        from .cuda.function import conv1d_on_device

        return conv1d_on_device(
            x, filter, bias, out, stride=stride, padding=padding, dilation=dilation,
            num_groups=num_groups, padding_mode=padding_mode, permute=permute,
            algorithm=algorithm, precision=precision,
        )  # fmt: skip
    as_word(precision, "precision", PRECISIONS)
    problem, weights, x = function_problem(
        x, filter, bias, stride=stride, padding=padding, dilation=dilation,
        num_groups=num_groups, padding_mode=padding_mode, permute=permute, algorithm=algorithm,
    )  # fmt: skip
    target = None if out is None else checked_out(out, problem, permute)
    threads = None if threads is None else as_threads(threads)
    y = execute(make_plan(problem, weights), x, target, permute, threads)
    return y if out is None else out


def function_problem(
    x: Any,
    filter: Any,
    bias: Any,
    *,
    stride: int,
    padding: Padding,
    dilation: int,
    num_groups: int,
    padding_mode: PaddingMode,
    permute: bool,
    algorithm: Algorithm,
) -> tuple[ConvProblem, Weights, Array]:
    """Validate the arguments of `conv1d`; return its problem, weights and channel-last x."""
    taps = as_numpy(filter, "filter")
    geometry = function_geometry(
        taps.shape, stride, padding, dilation, num_groups, padding_mode, permute
    )
    dtype = as_dtype(as_numpy(x, "x").dtype, "the dtype of x")
    require_dtype(taps, "filter", dtype)
    x = checked_input(x, geometry, dtype, permute)
    if bias is not None:
        bias = checked(bias, "bias", (geometry.out_channels,), dtype).astype(dtype, copy=False)
    taps = np.ascontiguousarray(filter_to_kio(taps, permute), dtype)
    problem = ConvProblem(
        geometry, x.shape[0], x.shape[1], dtype, has_bias=bias is not None, algorithm=algorithm,
        layout="NCL" if permute else "NLC",
        filter_is_new=True,
    )  # fmt: skip
    return problem, Weights(geometry, taps, bias), x

"""`conv1d` where x lies on a CUDA device."""

from __future__ import annotations

from typing import Any

from ..functional import filter_to_kio, function_geometry
from ..interop import as_numpy, is_on_cuda
from ..problem import Algorithm, ConvProblem, Padding, PaddingMode, Precision, as_dtype
from . import arrays
from .arrays import View
from .execute import DeviceWeights, checked_view, copied_view, on_device, require


def conv1d_on_device(
    x: Any,
    filter: Any,
    bias: Any,
    out: Any,
    *,
    stride: int,
    padding: Padding,
    dilation: int,
    num_groups: int,
    padding_mode: PaddingMode,
    permute: bool,
    algorithm: Algorithm,
    precision: Precision,
) -> Any:
    """As `numbaconv.conv1d`. A filter on the device is read in place, one of NumPy is copied."""
    require("x lies on a CUDA device")
    current = arrays.current_stream(x)
    seen = arrays.view(x, "x", current)
    dtype = as_dtype(seen.dtype, "the dtype of x", on_cuda=True)

    def weight_view(value: Any, name: str) -> View:
        if is_on_cuda(value):
            return checked_view(value, name, dtype, current)
        array = as_numpy(value, name)
        if array.dtype != dtype:
            raise TypeError(f"{name} has dtype {array.dtype}, x has {dtype}; nothing is cast")
        if name == "filter" and array.ndim == 3:  # copied in the order that kernels prefer
            return copied_view(filter_to_kio(array, permute), seen.ordinal)
        return copied_view(array, seen.ordinal)

    taps = weight_view(filter, "filter")
    shape = taps.shape if is_on_cuda(filter) else as_numpy(filter, "filter").shape
    geometry = function_geometry(
        shape, stride, padding, dilation, num_groups, padding_mode, permute
    )
    if permute and is_on_cuda(filter):
        taps = taps.transposed((2, 1, 0))
    bias_view = None if bias is None else weight_view(bias, "bias")
    if bias_view is not None and bias_view.shape != (geometry.out_channels,):
        raise ValueError(f"bias must have shape {(geometry.out_channels,)}, got {bias_view.shape}")
    for name, view in (("filter", taps), ("bias", bias_view)):
        if view is not None and view.ordinal != seen.ordinal:
            raise ValueError(f"{name} lies on device {view.ordinal}, x on device {seen.ordinal}")
    weights = DeviceWeights(taps, bias_view)

    def make_problem(batch: int, length: int) -> ConvProblem:
        return ConvProblem(
            geometry, batch, length, dtype, has_bias=bias is not None, algorithm=algorithm,
            precision=precision,
        )  # fmt: skip

    return on_device(x, out, make_problem, lambda *place: weights, dtype, permute)

"""`conv1d` inside a user's own `@njit` function.

The compiled code calls back into Python for each convolution: it takes the GIL, about 60 µs
for planning and packing, and then runs the same kernel, to the same bits, as a call from
Python does. Nothing of this package is compiled into the user's function, so one that is
kept by `cache=True` always runs the kernels of the package that is installed.
"""

from __future__ import annotations

from numba import objmode
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import overload

from .functional import conv1d


@overload(conv1d)
def conv1d_overload(
    x, filter, bias=None, stride=1, padding=0, dilation=1, num_groups=1,
    padding_mode="zeros", permute=False, out=None, algorithm="auto", threads=None,
    precision="exact",
):  # fmt: skip
    """Type the result by x, and leave validation to the function itself."""
    for name, value in (("x", x), ("filter", filter)):
        if not isinstance(value, types.Array) or value.ndim != 3:
            raise TypingError(f"conv1d: {name} must be an array of 3 dimensions, got {value}")
    writes_out = isinstance(out, types.Array)
    result = out if writes_out else types.Array(x.dtype, 3, "C")

    def call(
        x, filter, bias=None, stride=1, padding=0, dilation=1, num_groups=1,
        padding_mode="zeros", permute=False, out=None, algorithm="auto", threads=None,
        precision="exact",
    ):  # fmt: skip
        with objmode(y=result):
            y = conv1d(
                x, filter, bias, stride=stride, padding=padding, dilation=dilation,
                num_groups=num_groups, padding_mode=padding_mode, permute=permute,
                out=out, algorithm=algorithm, threads=threads, precision=precision,
            )  # fmt: skip
        return y  # noqa: RET504 - objmode has no return

    return call

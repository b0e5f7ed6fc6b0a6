"""From Python into a macrokernel: in this thread, or spread over several.

Launchers call it by address and know no dtype and no algorithm, so that direct and transformed
convolution share the one of arrays of a dtype, and the one of addresses.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.core import types

from .. import _jit
from .memory import address, call_address, record, stack_zeros


def signature_of(dtype: np.dtype, integers: int = 7) -> types.Type:
    """The C signature of a macrokernel: its dtype (no value), then integers."""
    element = types.DType(types.float32 if dtype.itemsize == 4 else types.float64)
    return types.void(element, *[types.int64] * integers)


@_jit.inner(result=types.boolean)
def overlap(call, x, y):
    """Whether the memory that x and y span has a byte in common."""
    c = record(call, 0, "extent")
    return x + c.x_low < y + c.y_high and y + c.y_low < x + c.x_high


@_jit.jit
def launch(kernel, call, x, y, extra):
    """Run a macrokernel in this thread, unless x and y (arrays or addresses) overlap.

    `extra` is its last argument: whether panels are divided, or the address of what to redo.
    Returns whether it ran.
    """
    x_address, y_address = address(x), address(y)
    if overlap(call, x_address, y_address):
        return False
    call_address(kernel, (0, call, x_address, y_address, 0, 1, stack_zeros(1), extra))
    return True


@_jit.parallel_jit
def launch_parallel(kernel, call, x, y, workers, extra):
    """As `launch`, by `workers`, each in a thread."""
    x_address, y_address = address(x), address(y)
    if overlap(call, x_address, y_address):
        return False
    queue = stack_zeros(workers)
    for worker in numba.prange(workers):
        call_address(kernel, (0, call, x_address, y_address, worker, workers, queue, extra))
    return True


@_jit.jit
def launch_ranges(kernel, call, x, y, ranges):
    """Run `macrokernel.convolve_range` for each pair (first, last) of positions."""
    x_address, y_address = address(x), address(y)
    for i in range(ranges.shape[0]):
        call_address(kernel, (0, call, x_address, y_address, ranges[i, 0], ranges[i, 1]))

"""From whatever the caller holds to a NumPy view of its memory, without a copy if possible."""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

# Codes of DLPack: memory of a device, and memory that host and device share.
CPU, CUDA, CUDA_MANAGED = 1, 2, 13


def dlpack_device(value: Any) -> tuple[int, int]:
    """(kind, number) of the device of an array; the CPU if it does not say."""
    ask = getattr(value, "__dlpack_device__", None)
    kind, number = ask() if ask is not None else (CPU, 0)
    return int(kind), int(number)


def is_on_cuda(value: Any) -> bool:
    """Whether `value` is an array on a CUDA device."""
    if isinstance(value, np.ndarray):
        return False
    if dlpack_device(value)[0] in (CUDA, CUDA_MANAGED):
        return True
    return hasattr(value, "__cuda_array_interface__")


def is_masked(value: Any) -> bool:
    """Whether `value` is a masked array: asked without importing what NumPy loads late."""
    return isinstance(value, getattr(sys.modules.get("numpy.ma"), "MaskedArray", ()))


def as_numpy(value: Any, name: str) -> np.ndarray[Any, Any]:
    """Return an ndarray that shares memory with `value`.

    Parameters
    ----------
    value : array
        An ndarray, or any object with `__array_interface__` or (CPU) DLPack.
    name : str
        The argument's name, for the error.

    Raises
    ------
    TypeError
        For masked arrays, object arrays, and everything that is not an array.
    """
    if type(value) is np.ndarray:
        array = value
    elif is_masked(value):
        raise TypeError(
            f"{name} is a masked array, and a convolution has no meaning for masked values; "
            f"pass {name}.filled(...)"
        )
    elif isinstance(value, np.ndarray) or hasattr(value, "__array_interface__"):
        array = np.asarray(value)
    elif hasattr(value, "__cuda_array_interface__"):
        raise TypeError(
            f"{name} lies on a CUDA device, and an array in host memory is expected; "
            f"copy it to the host first"
        )
    elif hasattr(value, "__dlpack__"):
        try:
            array = np.from_dlpack(value)
        except (RuntimeError, BufferError, TypeError) as error:
            raise TypeError(
                f"{name} of type {type(value).__name__} offers DLPack but not to NumPy: {error}"
            ) from error
    else:
        advice = f"; pass np.asarray({name}, dtype)" if isinstance(value, (list, tuple)) else ""
        raise TypeError(f"{name} must be a NumPy array, got {type(value).__name__}{advice}")
    if array.dtype.hasobject:
        raise TypeError(f"{name} must hold floating-point numbers, got dtype {array.dtype}")
    return array


def is_native(array: np.ndarray[Any, Any]) -> bool:
    """Whether kernels can read `array` in place: aligned elements in native byte order."""
    return (
        array.flags.aligned
        and array.dtype.isnative
        and all(stride % array.itemsize == 0 for stride in array.strides)
    )


def require_dtype(array: np.ndarray[Any, Any], name: str, dtype: np.dtype[Any]) -> None:
    """Refuse to cast silently; byte order alone is not another dtype."""
    if array.dtype.newbyteorder("=") == dtype:
        return
    advice = f"use {name}.astype({str(dtype)!r})"
    if name == "out":
        advice = f"pass one of dtype {str(dtype)!r}"
    elif array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        advice = "pass real numbers"
    raise TypeError(
        f"{name} has dtype {array.dtype} but {dtype} is expected; "
        f"nothing is cast silently, {advice}"
    )


def address_of(array: np.ndarray[Any, Any]) -> int:
    """The address of the first element."""
    return int(array.ctypes.data)


# Outputs from this size on start on a cache line: NumPy's 16 bytes make every vector store
# straddle two lines, 12-19 % of the time of layers bound by their stores. It costs 1 µs.
ALIGNED_FROM_BYTES = 1 << 16


def output_maker(
    shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[], np.ndarray[Any, Any]]:
    """A function that makes new C-contiguous arrays for results, as fast as `np.empty` itself."""
    size = math.prod(shape)
    if size * dtype.itemsize < ALIGNED_FROM_BYTES:
        return functools.partial(np.empty, shape, dtype)
    return lambda: aligned_empty(size, dtype).reshape(shape)


def empty_output(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """A new C-contiguous array for results."""
    return output_maker(shape, dtype)()


# Bytes of a large page. Weights of 26 MB that are read once a call take 2.7 ms from pages of 4 KiB
# and 1.0 ms from large ones: addresses are looked up 512 times less often.
LARGE_PAGE = 2 << 20


def large_page_empty(size: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """A 1-D array on a cache line, and on large pages where it fills some and the system can.

    What `np.empty` returns may lie where small pages were used before.
    """
    if size * dtype.itemsize < LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return aligned_empty(size, dtype)
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, (size * dtype.itemsize // LARGE_PAGE + 2) * LARGE_PAGE, flags=private)
    with contextlib.suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    buffer = np.frombuffer(memory, dtype)
    skip = -address_of(buffer) % LARGE_PAGE // dtype.itemsize
    return buffer[skip : skip + size]


def aligned_empty(size: int, dtype: np.dtype[Any], alignment: int = 64) -> np.ndarray[Any, Any]:
    """A 1-D array whose first element sits on a cache line.

    NumPy gives 16 bytes; a 64-byte vector load that straddles two lines costs two.
    """
    padding = alignment // dtype.itemsize
    buffer = np.empty(size + padding, dtype)
    skip = (-address_of(buffer) % alignment) // dtype.itemsize
    return buffer[skip : skip + size]

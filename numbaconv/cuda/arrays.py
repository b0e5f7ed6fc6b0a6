"""Arrays of other libraries on CUDA devices: where they lie, and new ones of the same kind.

An array is described by `__cuda_array_interface__` (version 3) where it can be, else by
DLPack, which knows bfloat16.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..interop import dlpack_device
from ..problem import as_bfloat16
from .driver import driver
from .memory import DeviceArray

# JAX has streams of its own that it does not tell.
JAX = ("jax", "jaxlib")

LEGACY_STREAM = 1  # as both protocols name it; the driver calls it 0 too


@dataclass
class View:
    """An array on a device.

    Attributes
    ----------
    owner : object
        What the caller gave, or what keeps the memory alive.
    address : int
    shape, strides : tuple of int
        Strides in bytes.
    dtype : numpy.dtype
    is_read_only : bool
    ordinal : int
        The device.
    """

    owner: Any
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    is_read_only: bool
    ordinal: int

    def transposed(self, axes: tuple[int, ...]) -> View:
        """The same memory with other axes."""
        return View(
            self.owner, self.address, tuple(self.shape[a] for a in axes),
            tuple(self.strides[a] for a in axes), self.dtype, self.is_read_only, self.ordinal,
        )  # fmt: skip

    @property
    def alignment(self) -> int:
        """A power of two, 16 at most, that divides the address."""
        return min(16, self.address & -self.address) if self.address else 16


def contiguous_strides(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Strides in bytes of a C-contiguous array."""
    strides = []
    for extent in reversed(shape):
        strides.append(size)
        size *= extent
    return tuple(reversed(strides))


def view(value: Any, name: str, stream: int) -> View:
    """Describe an array on a CUDA device, in order after what its library does on it.

    Parameters
    ----------
    value : object
        With `__cuda_array_interface__` or DLPack.
    name : str
        The argument's name, for errors.
    stream : int
        On which it will be used.

    Raises
    ------
    TypeError
        If the array does not let itself be described, or holds no floating-point numbers.
    """
    if isinstance(value, DeviceArray):
        strides = contiguous_strides(value.shape, value.dtype.itemsize)
        return View(value, value.address, value.shape, strides, value.dtype, False, value.ordinal)
    try:
        if library_of(value) in JAX:
            value.block_until_ready()
        # No type string names bfloat16, and libraries differ in what they say instead.
        if not str(getattr(value, "dtype", "")).endswith("bfloat16"):
            interface = getattr(value, "__cuda_array_interface__", None)
            if interface is not None and not interface["typestr"].startswith(("<V", "|V")):
                return _view_of_interface(value, interface)
        return _view_of_dlpack(value, name, stream)
    except (RuntimeError, BufferError, AttributeError) as error:
        raise TypeError(
            f"{name} of type {type(value).__name__} does not let its memory be used: {error}"
        ) from error


def _view_of_interface(value: Any, interface: dict[str, Any]) -> View:
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides = interface.get("strides") or contiguous_strides(shape, dtype.itemsize)
    address, is_read_only = interface["data"]
    if interface.get("mask") is not None:
        raise BufferError("masked arrays have no convolution")
    ordinal = device_of(value, address or 0)
    return View(value, address or 0, shape, tuple(strides), dtype, bool(is_read_only), ordinal)


# --- DLPack


class _DLDevice(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("ordinal", ctypes.c_int32))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


FLOAT, BFLOAT = 2, 4  # DLDataTypeCode

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _view_of_dlpack(value: Any, name: str, stream: int) -> View:
    # The capsule is never renamed, so it releases the tensor itself when the view goes.
    capsule = value.__dlpack__(stream=stream or LEGACY_STREAM)
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    dtype: np.dtype[Any] | None = None
    if tensor.lanes == 1 and tensor.code == FLOAT:
        dtype = np.dtype(f"f{tensor.bits // 8}")
    elif tensor.lanes == 1 and (tensor.code, tensor.bits) == (BFLOAT, 16):
        dtype = np.dtype(as_bfloat16(f"{name} of bfloat16"))
    if dtype is None:
        raise TypeError(
            f"{name} must hold floating-point numbers, got DLPack code {tensor.code} "
            f"with {tensor.bits} bits"
        )
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        strides = tuple(stride * dtype.itemsize for stride in tensor.strides[: tensor.ndim])
    else:
        strides = contiguous_strides(shape, dtype.itemsize)
    address = (tensor.data or 0) + tensor.byte_offset
    return View((value, capsule), address, shape, strides, dtype, False, tensor.device.ordinal)


# --- what differs from library to library


def library_of(value: Any) -> str:
    """The top-level package that an array comes from."""
    return type(value).__module__.partition(".")[0]


def device_of(value: Any, address: int) -> int:
    """The device of an array."""
    if library_of(value) == "torch":
        return int(value.device.index)
    if library_of(value) == "cupy":
        return int(value.device.id)
    if address == 0:  # an empty array lies nowhere
        return int(dlpack_device(value)[1])
    return driver().device_of(address)


def current_stream(value: Any) -> int:
    """The stream on which the caller's library works now.

    torch and CuPy have a current stream; where there is none it is the one that the array
    names, or the default stream.
    """
    library = library_of(value)
    if library == "torch":
        return int(sys.modules["torch"].cuda.current_stream(value.device).cuda_stream)
    if library == "cupy":
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)
    interface = getattr(value, "__cuda_array_interface__", None)
    return int((interface or {}).get("stream") or 0)


def hand_over(value: Any, y: Any, stream: int) -> None:
    """Let others use `y`, the result for `value`, in order after the launch on `stream`."""
    if library_of(value) in JAX:
        driver().synchronize(stream)
    if isinstance(y, DeviceArray):
        y.stream = stream or LEGACY_STREAM


def empty_like_kind(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], ordinal: int) -> Any:
    """A new C-contiguous array of the library that `value` comes from, on its device."""
    library = library_of(value)
    if library == "torch":
        return value.new_empty(shape)
    if library == "cupy":
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(ordinal):
            return cupy.empty(shape, dtype)
    if library in ("numba", "numba_cuda"):
        from .frontend import cuda

        with cuda.gpus[ordinal]:
            return cuda.device_array(shape, dtype)
    if library in JAX:
        # JAX has no memory to write to but that of its arrays: this one nobody else has seen.
        numpy = sys.modules["jax"].numpy
        return numpy.empty(shape, dtype, device=value.device).block_until_ready()
    return DeviceArray(shape, dtype, ordinal)

"""The CUDA driver through ctypes: the functions that the package calls.

numba-cuda compiles; loading, launching and copying go through here, because a launch from a
prepared parameter block costs a tenth of a launch through a dispatcher.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .kernel import MAP_BYTES, Device, MapShape

INSTALL = "pip install 'numbaconv[cu13]' (or 'numbaconv[cu12]')"
ELSE = "or use device='cpu' and NumPy arrays"

LIBRARIES = {"win32": "nvcuda.dll"}
LIBRARY = "libcuda.so.1"

# CUdevice_attribute
MULTIPROCESSORS, SHARED_MEMORY, MAJOR, MINOR = 16, 97, 75, 76
# CUfunction_attribute
DYNAMIC_SHARED = 8
# CUpointer_attribute
DEVICE_OF_POINTER = 9

# Of cuTensorMapEncodeTiled: elements of 16 bits, the swizzle of 128 bytes, lines of 256 bytes.
UINT16, SWIZZLE_128, PROMOTE_256 = 1, 3, 3

# Dynamic shared memory that a kernel may have without asking.
DEFAULT_SHARED = 48 << 10


class CudaError(RuntimeError):
    """The driver refused a call."""


def missing() -> str | None:
    """What CUDA lacks on this machine, in one sentence; None if it can be used."""
    if importlib.util.find_spec("numba_cuda") is None:
        return f"numba-cuda is not installed: {INSTALL}"
    try:
        driver()
    except RuntimeError as error:
        return str(error)
    return None


_driver: Driver | None = None


def driver() -> Driver:
    """The driver of this machine, which stays loaded.

    Raises
    ------
    RuntimeError
        If there is no driver or no device.
    """
    global _driver
    if _driver is not None:
        return _driver
    name = LIBRARIES.get(sys.platform, LIBRARY)
    try:
        library = ctypes.CDLL(name)
    except OSError:
        raise RuntimeError(
            f"no NVIDIA driver was found ({name}): install one from NVIDIA"
        ) from None
    _driver = Driver(library)
    return _driver


class Function:
    """A kernel that has been loaded on one device."""

    def __init__(self, handle: ctypes.c_void_p, module: ctypes.c_void_p) -> None:
        self.handle = handle
        self.module = module
        self.shared = DEFAULT_SHARED


class Driver:
    """The functions of a driver library, each failure as a `CudaError`.

    Parameters
    ----------
    library : ctypes.CDLL
        libcuda, or something that looks like it.
    """

    def __init__(self, library: Any) -> None:
        self.library = library
        library.cuLaunchKernel.argtypes = [
            ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_void_p,
        ]  # fmt: skip
        self.launch_kernel = library.cuLaunchKernel
        try:
            self._call("cuInit", 0)
            count = ctypes.c_int()
            self._call("cuDeviceGetCount", ctypes.byref(count))
        except CudaError as error:
            raise RuntimeError(f"the NVIDIA driver does not start: {error}") from error
        if count.value == 0:
            raise RuntimeError("the NVIDIA driver finds no device")
        self.device_count = count.value
        self._contexts: dict[int, ctypes.c_void_p] = {}
        self._lock = threading.Lock()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(status, ctypes.byref(text))
            why = text.value.decode() if text.value else "unknown"
            raise CudaError(f"{name} failed with {status} ({why})")

    # --- devices and contexts
    @functools.cache  # noqa: B019 - one driver lives as long as the process
    def device(self, ordinal: int) -> Device:
        """What is known of a device."""
        if not 0 <= ordinal < self.device_count:
            raise RuntimeError(
                f"device='cuda:{ordinal}' is not there, this machine has {self.device_count}"
            )

        def attribute(number: int) -> int:
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), number, ordinal)
            return value.value

        name = ctypes.create_string_buffer(100)
        self._call("cuDeviceGetName", name, len(name), ordinal)
        return Device(
            ordinal, name.value.decode(), (attribute(MAJOR), attribute(MINOR)),
            attribute(MULTIPROCESSORS), attribute(SHARED_MEMORY),
        )  # fmt: skip

    def _context(self, ordinal: int) -> ctypes.c_void_p:
        """The primary context, which all libraries of a process share."""
        with self._lock:
            if ordinal not in self._contexts:
                context = ctypes.c_void_p()
                self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
                self._contexts[ordinal] = context
            return self._contexts[ordinal]

    @contextmanager
    def current(self, ordinal: int) -> Iterator[None]:
        """Work on a device; the caller's device is as before afterwards."""
        wanted, now = self._context(ordinal), ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(now))
        if now.value == wanted.value:
            yield
            return
        self._call("cuCtxPushCurrent_v2", wanted)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(now))

    def device_of(self, address: int) -> int:
        """The device on which an address lies."""
        ordinal = ctypes.c_int()
        self._call(
            "cuPointerGetAttribute", ctypes.byref(ordinal), DEVICE_OF_POINTER,
            ctypes.c_uint64(address),
        )  # fmt: skip
        return ordinal.value

    # --- memory
    def allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return address.value

    def synchronize(self, stream: int) -> None:
        """Wait for all work on a stream of the current device."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def free(self, address: int) -> None:
        """Give memory back once no kernel can use it any more."""
        self._call("cuCtxSynchronize")
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def to_device(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy a contiguous array to the device, and wait for it."""
        self._call(
            "cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
        )  # fmt: skip
        # From pageable memory it may return early, and other streams do not wait for it.
        self.synchronize(0)

    def to_device_later(self, address: int, array: np.ndarray[Any, Any], stream: int) -> None:
        """Copy a contiguous array, which must live until then, when `stream` comes to it."""
        self._call(
            "cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes), ctypes.c_void_p(stream),
        )  # fmt: skip

    def is_capturing(self, stream: int) -> bool:
        """Whether a graph is being captured on `stream`."""
        status = ctypes.c_int()
        self._call("cuStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(status))
        return status.value != 0

    def encode_map(self, base: int, shape: MapShape) -> np.ndarray[Any, Any]:
        """The tensor map of 16-bit elements at `base`, as bytes."""
        room = np.zeros(MAP_BYTES + 64, np.uint8)  # a map lies on a multiple of 64 bytes
        first = -room.ctypes.data % 64
        code = room[first : first + MAP_BYTES]

        def numbers(kind: Any, values: Sequence[int]) -> Any:
            return (kind * len(values))(*values)

        self._call(
            "cuTensorMapEncodeTiled", ctypes.c_void_p(code.ctypes.data), UINT16, 3,
            ctypes.c_void_p(base), numbers(ctypes.c_uint64, shape.extents),
            numbers(ctypes.c_uint64, shape.strides), numbers(ctypes.c_uint32, shape.box),
            numbers(ctypes.c_uint32, shape.steps), 0, SWIZZLE_128, PROMOTE_256, 0,
        )  # fmt: skip
        return code

    def to_host(self, array: np.ndarray[Any, Any], address: int) -> None:
        """Copy to a contiguous array, after all that the device has been asked before."""
        self._call(
            "cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
        )  # fmt: skip

    # --- kernels
    def load(self, image: Any) -> Function:
        """Load a compiled kernel on the current device."""
        module, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), image.code)
        self._call("cuModuleGetFunction", ctypes.byref(handle), module, image.entry.encode())
        return Function(handle, module)

    def allow_shared(self, function: Function, size: int) -> None:
        """Let a kernel have more dynamic shared memory than the default."""
        if size > function.shared:
            self._call("cuFuncSetAttribute", function.handle, DYNAMIC_SHARED, size)
            function.shared = size

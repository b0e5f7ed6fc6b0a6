"""Memory of our own on a device: weights, copies of NumPy arrays, results nobody else can hold."""

from __future__ import annotations

import contextlib
import math
import weakref
from typing import Any

import numpy as np

from .driver import Driver, driver


def _release(owner: Driver, address: int, ordinal: int) -> None:
    with contextlib.suppress(Exception), owner.current(ordinal):  # at exit the context may be gone
        owner.free(address)


class DeviceArray:
    """A C-contiguous array on a device, for every library that reads the CUDA array interface.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    ordinal : int
        The device.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], ordinal: int) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.ordinal = ordinal
        self.stream: int | None = None  # on which it is being written
        self.nbytes = math.prod(shape) * dtype.itemsize
        owner = driver()
        with owner.current(ordinal):
            self.address = owner.allocate(self.nbytes)
        weakref.finalize(self, _release, owner, self.address, ordinal).atexit = False

    @classmethod
    def copy_of(cls, array: np.ndarray[Any, Any], ordinal: int) -> DeviceArray:
        """Copy from the host."""
        array = np.ascontiguousarray(array)
        copy = cls(array.shape, array.dtype, ordinal)
        if array.size:
            with driver().current(ordinal):
                driver().to_device(copy.address, array)
        return copy

    def copy_to_host(self) -> np.ndarray[Any, Any]:
        """Copy to the host, once the device has computed it."""
        array = np.empty(self.shape, self.dtype)
        if array.size:
            with driver().current(self.ordinal):
                driver().to_host(array, self.address)
        return array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False),
            "strides": None, "version": 3, "stream": self.stream,
        }  # fmt: skip

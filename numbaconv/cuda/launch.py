"""A launch with everything prepared but the addresses and the stream."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from .driver import CudaError, Driver, Function
from .kernel import ADDRESSES, LaunchShape, Tile
from .tensor_map import maps_of


class Launch:
    """A kernel, its grid and its block of parameters.

    A call allocates nothing and waits for nothing, so a CUDA graph can capture it. One that needs
    tensor maps writes those of arrays that it has not seen.

    Parameters
    ----------
    driver : Driver
    function : Function
        Loaded on the device that is current in every call.
    tile : Tile
    shape : LaunchShape
    ordinal : int
        Number of that device.
    """

    def __init__(
        self, driver: Driver, function: Function, tile: Tile, shape: LaunchShape, ordinal: int = 0
    ) -> None:
        driver.allow_shared(function, shape.shared)
        long = (*ADDRESSES, *tile.LONG)
        values = {name: 0 for name in (*ADDRESSES, *shape.maps)} | shape.values
        self._block: list[Any] = [ctypes.c_int64(values[name]) for name in long]
        self._block += [ctypes.c_int32(values[name]) for name in tile.SHORT]
        pointers = [ctypes.addressof(value) for value in self._block]
        self._parameters = (ctypes.c_void_p * len(pointers))(*pointers)
        self._addresses = tuple(self._block[: len(ADDRESSES)])
        named = dict(zip(long, self._block, strict=False))
        self._tensor_maps = maps_of(driver, ordinal) if shape.maps else None
        self._maps = [
            (named[name], named[array], described, self._tensor_maps.table(described))
            for name, (array, described) in shape.maps.items()
            if self._tensor_maps is not None
        ]
        self._function = function  # keeps it loaded
        self._grid = shape.grid
        # Objects of C are passed on as they are; plain integers would be converted in each call,
        # which made the call to the driver 1.5 times as long.
        numbers = (*shape.grid, tile.threads, 1, 1, shape.shared)
        self._fixed = (function.handle, *map(ctypes.c_uint, numbers))
        self._launch_kernel = driver.launch_kernel
        # The driver copies the block during the call; until then it must not change.
        self._lock = threading.Lock()

    def __call__(self, x: int, w: int, bias: int, y: int, stream: int) -> None:
        """Compute y on `stream`; all others are addresses."""
        px, pw, pb, py = self._addresses
        with self._lock:
            px.value = x
            pw.value = w
            pb.value = bias
            py.value = y
            for place, array, described, known in self._maps:
                found = known.get(array.value)
                if found is None and self._tensor_maps is not None:
                    found = self._tensor_maps.address(array.value, described, stream)
                place.value = found
            status: Any = self._launch_kernel(*self._fixed, stream, self._parameters, None)
        if status:
            raise CudaError(f"cuLaunchKernel failed with {status} on grid {self._grid}")

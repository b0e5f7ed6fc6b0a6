"""Descriptions of arrays by which Hopper's tensor memory accelerator copies boxes of them."""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

from .driver import Driver
from .kernel import MAP_BYTES, MapShape

# Maps of one block of device memory; a program that always reuses its arrays needs few.
BLOCK = 4096


class TensorMaps:
    """The maps of one device, each written once and never changed, since graphs may hold it.

    Parameters
    ----------
    driver : Driver
        The device is current in every call.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._known: dict[MapShape, dict[int, int]] = {}
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._captured: list[np.ndarray[Any, Any]] = []  # what graphs copy from
        self._grow()

    def _grow(self) -> None:
        first = self._driver.allocate(BLOCK * MAP_BYTES)
        self._free = [first + i * MAP_BYTES for i in reversed(range(BLOCK))]

    def table(self, shape: MapShape) -> dict[int, int]:
        """Where the maps of this shape lie, by the addresses of their arrays; to read only."""
        return self._known.setdefault(shape, {})

    def address(self, base: int, shape: MapShape, stream: int) -> int:
        """Where the map of the array at `base` lies, for kernels on `stream`."""
        with self._lock:
            found = self.table(shape).get(base)
            if found is not None:
                return found
            if not self._free:
                self._grow()
            place, code = self._free.pop(), self._driver.encode_map(base, shape)
            if self._driver.is_capturing(stream):  # the copy becomes a part of the graph
                self._captured.append(code)
                self._driver.to_device_later(place, code, stream)
            else:
                self._driver.to_device(place, code)
                self.table(shape)[base] = place
        return place


@functools.cache
def maps_of(driver: Driver, ordinal: int) -> TensorMaps:
    """The maps of a device, which is current."""
    return TensorMaps(driver)

"""Memory that notices what hardware would let pass.

Global memory knows its allocations. Shared memory knows which bytes have been written, and
which warps have read and written each word since the last barrier.
"""

import numpy as np

from tests.cuda.ptx.program import InterpreterError

GLOBAL_BASE = 0x7F0000000000
SHARED_BASE = 0x400  # not 0, so that an address that was forgotten is out of bounds
GAP = 256  # bytes without owner behind each allocation

NOBODY, SEVERAL = -1, 9999


class GlobalMemory:
    """A flat device memory of allocations that do not touch."""

    def __init__(self, size=1 << 24, base=GLOBAL_BASE):
        self.base = base
        self.bytes = np.full(size, 0xFF, np.uint8)
        self.is_owned = np.zeros(size, bool)
        self.top = GAP

    def allocate(self, size):
        begin = self.top
        self.top += -(-(size + GAP) // 256) * 256
        if self.top > self.bytes.size:
            raise InterpreterError("global memory is full")
        self.bytes[begin : begin + size] = 0xFF
        self.is_owned[begin : begin + size] = True
        return self.base + begin

    def free(self, address, size):
        begin = address - self.base
        self.is_owned[begin : begin + size] = False

    def write(self, address, data):
        begin = address - self.base
        self.bytes[begin : begin + data.size] = data

    def read(self, address, size):
        begin = address - self.base
        return self.bytes[begin : begin + size].copy()

    def places(self, addresses, width, what):
        """Indices of `width` bytes at each address, all of which somebody owns."""
        offsets = addresses - self.base
        if offsets.size and (
            offsets.min() < 0 or offsets.max() + width > self.bytes.size or (offsets % width).any()
        ):
            raise InterpreterError(f"global {what} out of bounds or misaligned by {width}")
        places = offsets[:, None] + np.arange(width)
        if not self.is_owned[places].all():
            raise InterpreterError(f"global {what} outside of every array")
        return places


class SharedMemory:
    """The shared memory of one block."""

    def __init__(self, size):
        self.bytes = np.full(SHARED_BASE + size, 0xFF, np.uint8)
        self.is_written = np.zeros(SHARED_BASE + size, bool)
        words = self.bytes.size // 4 + 1
        self.interval = 1  # between two barriers
        self.writer = np.full(words, NOBODY, np.int32)
        self.written_in = np.zeros(words, np.int64)
        self.reader = np.full(words, NOBODY, np.int32)
        self.read_in = np.zeros(words, np.int64)
        self.is_public = np.zeros(words, bool)  # to the asynchronous proxy, see `warpgroup`

    def barrier(self):
        self.interval += 1

    def _places(self, addresses, width, what):
        low, high = addresses.min(initial=SHARED_BASE), addresses.max(initial=0) + width
        if low < SHARED_BASE or high > self.bytes.size or (addresses % width).any():
            raise InterpreterError(
                f"shared {what} of {width} bytes out of bounds or misaligned: "
                f"{low:#x} to {high:#x} of {self.bytes.size:#x}"
            )
        return addresses[:, None] + np.arange(width)

    @staticmethod
    def _words(addresses, width):
        return (addresses[:, None] + np.arange(0, width, 4)) >> 2

    def load(self, addresses, width, threads):
        places = self._places(addresses, width, "load")
        if not self.is_written[places].all():
            raise InterpreterError("shared memory is read that nobody has written")
        words, warps = self._words(addresses, width), (threads >> 5)[:, None]
        if ((self.written_in[words] == self.interval) & (self.writer[words] != warps)).any():
            raise InterpreterError("race: a warp reads what another has written since a barrier")
        others = (self.read_in[words] == self.interval) & (self.reader[words] != warps)
        self.reader[words] = np.where(others, SEVERAL, warps)
        self.read_in[words] = self.interval
        return self.bytes[places]

    def _claim(self, addresses, width, threads):
        """Mark words as written by these threads' warps."""
        words, warps = self._words(addresses, width), (threads >> 5)[:, None]
        if ((self.read_in[words] == self.interval) & (self.reader[words] != warps)).any():
            raise InterpreterError("race: a warp writes what another has read since a barrier")
        if ((self.written_in[words] == self.interval) & (self.writer[words] != warps)).any():
            raise InterpreterError("race: two warps write one word between two barriers")
        self.writer[words] = warps
        self.written_in[words] = self.interval
        self.is_public[words] = False
        if (self.writer[words] != warps).any():  # in one and the same instruction
            raise InterpreterError("race: two warps write one word between two barriers")

    def store(self, addresses, width, data, threads):
        places = self._places(addresses, width, "store")
        self._claim(addresses, width, threads)
        self.bytes[places] = data
        self.is_written[places] = True

    def begin_copy(self, addresses, width, threads):
        """An asynchronous copy is on its way: until it lands the bytes are nobody's."""
        places = self._places(addresses, width, "copy")
        self._claim(addresses, width, threads)
        self.is_written[places] = False

    def land_copy(self, addresses, width, data, threads):
        """The copy has landed for the threads that made it; others need a barrier."""
        places = self._places(addresses, width, "copy")
        self.bytes[places] = data
        self.is_written[places] = True
        words = self._words(addresses, width)
        self.is_public[words] = False
        self.writer[words] = (threads >> 5)[:, None]
        self.written_in[words] = self.interval

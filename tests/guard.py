"""Arrays whose memory ends where reading kills the process.

An array in a malloc'ed block has readable bytes around it, and a kernel that reads a
vector too many goes unnoticed. Here the first or the last byte touches a page without
any access rights.
"""

import ctypes
import mmap
import os
import sys

import numpy as np

IS_AVAILABLE = sys.platform in ("linux", "darwin")
SIDES = ("left", "right")

_PAGE = mmap.PAGESIZE
_PROT_NONE = 0


def _forbid(address):
    """Take all access rights from the page at `address`."""
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    if mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), ctypes.c_int(_PROT_NONE)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _bytes_at_guard(size, side):
    """`size` writable bytes, with an unreadable page right before or right after them."""
    room = -(-size // _PAGE) * _PAGE
    pages = np.frombuffer(mmap.mmap(-1, room + 2 * _PAGE), np.uint8)
    address = pages.__array_interface__["data"][0]
    _forbid(address)
    _forbid(address + _PAGE + room)
    first = _PAGE if side == "left" else _PAGE + room - size
    return pages[first : first + size]


def guarded(array, side):
    """A copy of `array` with the same strides, flush against a forbidden page on `side`.

    The memory between its elements, where there is any, holds NaN.
    """
    reaches = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    below = -sum(min(0, reach) for reach in reaches) if array.size else 0
    above = sum(max(0, reach) for reach in reaches) + array.itemsize if array.size else 0
    memory = _bytes_at_guard(below + above, side)
    memory[:] = 0xFF
    copy = np.ndarray(array.shape, array.dtype, memory, below, array.strides)
    copy[...] = array
    return copy

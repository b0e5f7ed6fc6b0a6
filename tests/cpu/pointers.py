"""Pointers into arrays, for jitted code of tests."""

import numba

from numbaconv.cpu.memory import address, pointer


@numba.njit
def data(array):
    """The address of an array's first element, as a pointer."""
    return pointer(address(array), array.dtype)

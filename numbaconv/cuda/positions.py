"""The position of x that a position of the padded signal shows."""

from __future__ import annotations

from typing import Any

from numba import int32


def source_position(l: Any, length: Any, mode: Any) -> Any:
    """Return the position of x that stands at `l`, or -1 for a zero; see `kernel.MODES`.

    Positions beyond the padding, which a tile may ask for past the last output, give any
    position of x or -1.
    """
    if (l >= 0) & (l < length):
        return int32(l)
    if mode == 0:
        return int32(-1)
    if mode == 1:
        l = int32(-l) if l < 0 else int32(int32(2) * (length - int32(1)) - l)
    elif mode == 2:
        l = int32(0) if l < 0 else int32(length - int32(1))
    else:
        l = int32(l + length) if l < 0 else int32(l - length)
    if (l >= 0) & (l < length):
        return int32(l)
    return int32(-1)

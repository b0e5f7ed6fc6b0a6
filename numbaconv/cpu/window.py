"""Windows: small copies of x in which the padding is real.

Where a run of positions reaches over a border of x, or x is not channel-last in memory,
its receptive field is copied into scratch and the same panel kernels read that instead.
x is never padded, unfolded or transposed as a whole.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from numba.core import types

from .. import _jit
from ..problem import Geometry
from .memory import (
    clear_block,
    copy_block,
    larger,
    load,
    offset,
    record,
    smaller,
    store,
)  # fmt: skip

# Codes of the padding modes in jitted code.
ZEROS, REFLECT, REPLICATE, CIRCULAR = range(4)
MODE_CODES = {"zeros": ZEROS, "reflect": REFLECT, "replicate": REPLICATE, "circular": CIRCULAR}


@dataclass(frozen=True)
class WindowShape:
    """How a run of outputs is laid out in scratch.

    Output l and tap t read row `l*stride + t*dilation` of the window. Where receptive
    fields overlap these are the problem's own and the window is one strip of x; where
    taps or outputs lie far apart there is one strip for each, and the gaps are left out.

    For kernels whose vectors lie along positions, rows of a strip are as far apart in x as outputs
    are: a strip then holds the positions that taps t, t + strips, … meet (a *phase*), and output l
    and tap t read row `l + t % strips * dilation + t // strips * phase_dilation`.

    Attributes
    ----------
    stride, dilation : int
        Rows of the window between outputs and between taps.
    strips : int
        Strips of consecutive positions of x; 0 stands for one strip an output.
    pitch, step : int
        From one strip to the next, in rows of the window and in positions of x.
    first_rows, more_rows : int
        Rows of a strip that one output needs, and that each further output adds.
    every : int
        Positions of x from one row of a strip to the next.
    phase_dilation : int
        Rows between taps of one phase; 0 without phases.
    long_strips : int
        Strips with as many taps as the first; those behind have one less, and less rows by
        `phase_dilation`.
    """

    stride: int
    dilation: int
    strips: int
    pitch: int
    step: int
    first_rows: int
    more_rows: int
    every: int = 1
    phase_dilation: int = 0
    long_strips: int = 1

    def strip_rows(self, positions: int) -> int:
        """Rows of the longest strip of a window of so many outputs."""
        return self.first_rows + (positions - 1) * self.more_rows

    def in_planes(self, channels: int) -> WindowShape:
        """The same where each strip has a plane for each channel, its rows side by side."""
        dilation = self.dilation * (channels if self.strips > 1 else 1)
        return replace(self, pitch=self.pitch * channels, dilation=dilation)

    def rows(self, positions: int) -> int:
        """Rows of the window."""
        return ((self.strips or positions) - 1) * self.pitch + self.strip_rows(positions)


def window_shape(
    positions: int, kernel_size: int, stride: int, dilation: int, keeps_stride: bool = False
) -> WindowShape:
    """Lay out the receptive field of at most `positions` outputs without its gaps.

    Gaps between outputs stay if `keeps_stride`, where to copy them takes less time.
    """
    reach = (positions - 1) * stride + 1
    span = (kernel_size - 1) * dilation + 1
    # Kernels in which taps slide need equal steps between outputs and taps, so gaps of the
    # stride's own width stay.
    if dilation > max(reach, stride):
        return WindowShape(
            stride, dilation=reach, strips=kernel_size, pitch=reach, step=dilation,
            first_rows=1, more_rows=stride,
        )  # fmt: skip
    if stride > span and not keeps_stride:
        return WindowShape(
            stride=span, dilation=dilation, strips=0, pitch=span, step=stride,
            first_rows=span, more_rows=0,
        )  # fmt: skip
    return WindowShape(
        stride, dilation, strips=1, pitch=0, step=0, first_rows=span, more_rows=stride
    )


def phase_shape(positions: int, geometry: Geometry) -> WindowShape:
    """Lay out the receptive field of at most `positions` outputs phase by phase.

    >>> phase_shape(10, Geometry(5, 1, 1, stride=4)).strips
    4
    """
    phases, tap = geometry.phases, geometry.phase_dilation
    strips = min(phases, geometry.kernel_size)
    if phases == 1 and tap > positions:  # taps lie far apart
        return WindowShape(
            1, dilation=positions, strips=geometry.kernel_size, pitch=positions,
            step=geometry.dilation, first_rows=1, more_rows=1, every=geometry.stride,
        )  # fmt: skip
    taps = geometry.phase_taps
    first_rows = (taps - 1) * tap + 1
    pitch = first_rows + positions - 1
    return WindowShape(
        1, dilation=tap if phases == 1 else pitch, strips=strips, pitch=pitch,
        step=geometry.dilation, first_rows=first_rows, more_rows=1, every=geometry.stride,
        phase_dilation=tap, long_strips=geometry.kernel_size - (taps - 1) * strips,
    )  # fmt: skip


@_jit.inner(result=types.int64)
def padded_source(index, length, mode):
    """The position of x that stands at `index` of the padded signal, -1 for a zero."""
    if 0 <= index < length:
        return index
    if mode == REFLECT:
        return -index if index < 0 else 2 * (length - 1) - index
    if mode == REPLICATE:
        return 0 if index < 0 else length - 1
    if mode == CIRCULAR:
        return index + length if index < 0 else index - length
    return -1


@_jit.inner
def fill_strip(
    copier, target, target_row, target_channel, x, x_row, x_channel, channels,
    length, first, every, rows, mode,
):  # fmt: skip
    """Write rows first, first + every, … of the padded signal; `copier` is for `copy_block`."""
    inside_first = smaller(rows_before(0, first, every), rows)
    inside_last = larger(smaller(rows_before(length, first, every), rows), inside_first)
    copy_block(
        copier, offset(target, inside_first * target_row), target_row, target_channel,
        offset(x, (first + inside_first * every) * x_row), every * x_row, x_channel,
        inside_last - inside_first, channels,
    )  # fmt: skip
    fill_border(
        target, target_row, target_channel, x, x_row, x_channel, channels, length,
        first, every, 0, inside_first, mode,
    )  # fmt: skip
    fill_border(
        target, target_row, target_channel, x, x_row, x_channel, channels, length,
        first, every, inside_last, rows, mode,
    )  # fmt: skip


@_jit.inner(result=types.int64)
def rows_before(position, first, every):
    """How many of the positions first, first + every, … lie before `position`."""
    return larger(0, position - first + every - 1) // every


@_jit.inner
def fill_border(
    target, target_row, target_channel, x, x_row, x_channel, channels, length,
    first, every, begin, end, mode,
):  # fmt: skip
    """Write rows `begin` … `end-1` of a strip."""
    if mode == ZEROS:
        border = offset(target, begin * target_row)
        clear_block(border, target_row, target_channel, end - begin, channels)
        return
    for row in range(begin, end):
        source = padded_source(first + row * every, length, mode)
        for c in range(channels):
            value = load(x, source * x_row + c * x_channel)
            store(target, row * target_row + c * target_channel, value)


def fill_window(window, call, x, origin, outputs, first_channel):
    """Write the receptive field of `outputs` outputs, the first at `origin` of the signal.

    The window takes one band of channels of x, from `first_channel`.
    """
    c = record(call, 0, "call")
    source = offset(x, first_channel * c.x_channel)
    strips = c.window_strips if c.window_strips else outputs
    rows = c.window_first_rows + (outputs - 1) * c.window_more_rows
    begin = end = 0  # rows that are copied for all strips at once
    is_merged = c.x_row == c.band_channels and c.x_channel == 1
    if c.window_every > 1 and strips > 1 and c.window_step == 1 and (is_merged or c.x_row == 1):
        least = rows - (c.window_phase_dilation if c.window_long_strips < strips else 0)
        begin = smaller(rows_before(0, origin, c.window_every), least)
        end = smaller(rows_before(c.length, origin + strips - 1, c.window_every), least)
        end = larger(begin, end)
        copy_phases(window, call, source, origin, strips, begin, end, is_merged)
    for strip in range(strips):
        if strip == c.window_long_strips:
            rows -= c.window_phase_dilation
        target = offset(window, strip * c.window_pitch * c.window_row)
        first = origin + strip * c.window_step
        for row, last in ((0, begin), (end, rows)):
            if row < last:
                fill_strip(
                    c.copier, offset(target, row * c.window_row), c.window_row, c.window_channel,
                    source, c.x_row, c.x_channel, c.band_channels,
                    c.length, first + row * c.window_every, c.window_every, last - row, c.mode,
                )  # fmt: skip


@_jit.inner
def copy_phases(window, call, x, origin, strips, begin, end, is_merged):
    """Copy rows `begin` … `end-1` of all phases, which lie side by side in x.

    With all channels, or one channel after the other. A phase alone would load all of x again.
    """
    c = record(call, 0, "call")
    channels, planes, plane = c.band_channels, strips, c.window_pitch
    if is_merged:
        channels, planes, plane = 1, strips * channels, c.window_channel
    first = (origin + begin * c.window_every) * c.x_row
    for channel in range(channels):
        copy_block(
            c.copier, offset(window, channel * c.window_channel + begin), 1, plane,
            offset(x, channel * c.x_channel + first), c.window_every * c.x_row, 1,
            end - begin, planes,
        )  # fmt: skip


@functools.cache
def filler_address(dtype: np.dtype) -> int:
    """Compile `fill_window` for `dtype`, once a process, and return its address.

    Called by that: inlined into the loops it takes a tenth of the time of the first call.
    """
    pointer = types.CPointer(types.float32 if dtype.itemsize == 4 else types.float64)
    signature = types.void(pointer, types.int64, pointer, *[types.int64] * 3)
    return _jit.c_address(fill_window, signature)


@functools.cache
def strip_address(dtype: np.dtype) -> int:
    """The same of `fill_strip`, for windows that are laid out elsewhere."""
    pointer = types.CPointer(types.float32 if dtype.itemsize == 4 else types.float64)
    integers = [types.int64] * 2
    signature = types.void(
        types.int64, pointer, *integers, pointer, *integers, *integers, *integers, *integers
    )
    return _jit.c_address(fill_strip.py_func, signature)

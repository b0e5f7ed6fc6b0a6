"""Windows: small copies of x in which the padding is real.

Where a run of positions reaches over a border of x, or x is not channel-last in memory,
its receptive field is copied into scratch and the same panel kernels read that instead.
x is never padded, unfolded or transposed as a whole.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numba.core import types

from .. import _jit
from .memory import (
    call_address,
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
    """

    stride: int
    dilation: int
    strips: int
    pitch: int
    step: int
    first_rows: int
    more_rows: int

    def rows(self, positions: int) -> int:
        """Rows of a window of so many outputs."""
        last = self.first_rows + (positions - 1) * self.more_rows
        return ((self.strips or positions) - 1) * self.pitch + last


def window_shape(
    positions: int, kernel_size: int, stride: int, dilation: int, keeps_stride: bool = False
) -> WindowShape:
    """Lay out the receptive field of at most `positions` outputs without its gaps.

    Gaps between outputs stay if `keeps_stride`, for kernels that compile the stride in.
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


def fill_strip(
    copier, target, target_row, target_channel, x, x_row, x_channel, channels,
    length, first, rows, mode,
):  # fmt: skip
    """Write rows `first` … `first+rows-1` of the padded signal; `copier` is for `copy_block`.

    Called by its address: inlined into the loops it takes a tenth of the time of the first call.
    """
    inside_first = smaller(larger(first, 0), first + rows)
    inside_last = larger(smaller(first + rows, length), inside_first)
    copy_block(
        copier, offset(target, (inside_first - first) * target_row), target_row, target_channel,
        offset(x, inside_first * x_row), x_row, x_channel,
        inside_last - inside_first, channels,
    )  # fmt: skip
    fill_border(
        target, target_row, target_channel, x, x_row, x_channel, channels, length,
        first, first, inside_first, mode,
    )  # fmt: skip
    fill_border(
        target, target_row, target_channel, x, x_row, x_channel, channels, length,
        first, inside_last, first + rows, mode,
    )  # fmt: skip


@_jit.inner
def fill_border(
    target, target_row, target_channel, x, x_row, x_channel, channels, length,
    first, begin, end, mode,
):  # fmt: skip
    """Write rows `begin` … `end-1` of the padded signal; row `first` stands at `target`."""
    if mode == ZEROS:
        border = offset(target, (begin - first) * target_row)
        clear_block(border, target_row, target_channel, end - begin, channels)
        return
    for index in range(begin, end):
        source = padded_source(index, length, mode)
        row = (index - first) * target_row
        for c in range(channels):
            value = load(x, source * x_row + c * x_channel)
            store(target, row + c * target_channel, value)


@functools.cache
def filler_address(dtype: np.dtype) -> int:
    """Compile `fill_strip` for `dtype`, once a process, and return its address."""
    pointer = types.CPointer(types.float32 if dtype.itemsize == 4 else types.float64)
    integers = [types.int64] * 2
    signature = types.void(
        types.int64, pointer, *integers, pointer, *integers, *integers, *integers, types.int64
    )
    return _jit.c_address(fill_strip, signature)


@_jit.inner
def fill_window(window, call, x, origin, outputs, first_channel):
    """Write the receptive field of `outputs` outputs, the first at `origin` of the signal.

    The window takes one band of channels of x, from `first_channel`.
    """
    c = record(call, 0, "call")
    strips = c.window_strips if c.window_strips else outputs
    rows = c.window_first_rows + (outputs - 1) * c.window_more_rows
    for strip in range(strips):
        arguments = (
            c.copier,
            offset(window, strip * c.window_pitch * c.window_row), c.window_row, c.window_channel,
            offset(x, first_channel * c.x_channel), c.x_row, c.x_channel, c.band_channels,
            c.length, origin + strip * c.window_step, rows, c.mode,
        )  # fmt: skip
        call_address(c.filler, arguments)

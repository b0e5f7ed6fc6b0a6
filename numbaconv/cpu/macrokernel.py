"""The loops around every panel kernel: bands, positions, panels, blocks of the reduction.

One macrokernel serves all families. Band by band of the panels, it splits the positions of y
into runs that read x in place and runs that read a window, and hands each run to the panel
kernels.

It is compiled once for each dtype into a C function, which launchers call by address.
"""

from __future__ import annotations

import functools

import numpy as np
from numba.core import types

from .. import _jit
from .launch import signature_of
from .memory import (
    allocate,
    call_address,
    offset,
    pointer,
    record,
    release,
    smaller,
)  # fmt: skip
from .sharing import first_item, next_unit, pieces_of
from .window import fill_window


@_jit.inner
def compute_run(
    element, call, source, row, tap, channel, is_window, is_merged, y, rows, first, last,
    first_block, last_block, stage,
):  # fmt: skip
    """Positions of one run for panels first … last-1; `source` is the first position's field."""
    c = record(call, 0, "call")
    weights, biases = pointer(c.weights, element), pointer(c.bias, element)
    for p in range(first, last):
        panel = record(c.panels, p, "panel")
        x_offset = panel.x_offset
        if is_window:
            x_offset -= p // c.band_panels * c.band_step
        y_panel = offset(y, panel.first_channel * c.y_channel)
        target, target_row, target_channel = y_panel, c.y_row, c.y_channel
        if c.stage_size:
            target, target_row, target_channel = stage, c.stage_row, c.stage_channel
        for b in range(first_block, last_block):
            block = record(c.blocks, b, "block")
            done = block.first_tap * block.full_depth + block.first_channel
            taps, depth = block.taps, block.depth
            if is_merged:  # taps follow each other in memory: one long row
                taps, depth = 1, taps * depth
            accumulate = b
            ahead = panel.width * (c.reduction if c.is_block_by_block else block.taps * block.depth)
            arguments = (
                0,
                offset(source, block.first_tap * tap + (x_offset + block.first_channel) * channel),
                offset(weights, panel.weights + done * panel.width),
                offset(biases, panel.bias),
                target,
                row, tap, channel, panel.x_slice, target_row, target_channel,
                rows, taps, depth, panel.slices, panel.last_lanes, accumulate, c.x_bytes, ahead,
            )  # fmt: skip
            call_address(panel.kernel, arguments)
        if c.stage_size:
            staged = (
                y_panel, c.y_row, c.y_channel, stage, c.stage_row, c.stage_channel,
                rows, panel.channels,
            )  # fmt: skip
            call_address(c.copier, staged)


@_jit.inner(result=types.int64)
def interior_from(call, first, last):
    """The first of the positions first … last-1 that is not left of an interior, or `last`."""
    c = record(call, 0, "call")
    l = first % c.length_out
    return smaller(last, first + c.inside_first - l) if l < c.inside_first else first


@_jit.inner
def compute_positions(
    element, call, x, y, first, last, first_panel, last_panel, window, stage
):  # fmt: skip
    """Positions first … last-1, counted through the batch, for some of the panels."""
    c = record(call, 0, "call")
    while first_panel < last_panel:
        band = first_panel // c.band_panels
        next_panel = smaller(last_panel, (band + 1) * c.band_panels)
        # First the interior, then a border on its left: weights of the next panel are brought
        # nearer while many positions share those of the last, and a border has few.
        interior = interior_from(call, first, last)
        step = 1 if c.is_block_by_block else c.block_count
        for first_block in range(0, c.block_count, step):
            begin, end = interior, last
            for _ in range(2):
                compute_band(
                    element, call, x, y, band, first_panel, next_panel, begin, end,
                    first_block, first_block + step, window, stage,
                )  # fmt: skip
                begin, end = first, interior
        first_panel = next_panel


@_jit.inner
def compute_band(
    element, call, x, y, band, first_panel, last_panel, first, last, first_block, last_block,
    window, stage,
):  # fmt: skip
    """Positions first … last-1 of the batch, for panels of one band and some blocks."""
    c = record(call, 0, "call")
    while first < last:
        n = first // c.length_out
        l = first - n * c.length_out
        rows = smaller(last - first, c.length_out - l)
        x_n = offset(x, n * c.x_batch)
        origin = l * c.stride - c.left
        is_window = not c.inside_first <= l < c.inside_last
        if is_window:
            rows = smaller(rows, c.window_run)
            if l < c.inside_first:
                rows = smaller(rows, c.inside_first - l)
            fill_window(window, call, x_n, origin, rows, band * c.band_step)
            source, is_merged = window, c.window_is_merged
            row, tap = c.window_stride * c.window_row, c.window_dilation * c.window_row
            channel = c.window_channel
        else:
            rows = smaller(rows, smaller(c.run, c.inside_last - l))
            source, is_merged = offset(x_n, origin * c.x_row), c.x_is_merged
            row, tap, channel = c.stride * c.x_row, c.dilation * c.x_row, c.x_channel
        compute_run(
            element, call, source, row, tap, channel, is_window, is_merged,
            offset(y, n * c.y_batch + l * c.y_row), rows, first_panel, last_panel,
            first_block, last_block, stage,
        )  # fmt: skip
        first += rows


def convolve(element, call, x_address, y_address, worker, workers, queue, divide_panels):
    """What one worker computes: pieces of the positions for all panels, or of the panels for all.

    `queue` counts the pieces that have been begun of each share.
    """
    c = record(call, 0, "call")
    x, y = offset(pointer(x_address, element), c.crop * c.x_row), pointer(y_address, element)
    scratch = allocate(c.window_size + c.stage_size, element)
    window = pointer(scratch, element)
    stage = offset(window, c.window_size)
    positions = c.batch * c.length_out
    total, multiple, least = positions, c.row_tile, c.least_piece
    if divide_panels:
        total, multiple, least = c.panel_count, 1, 1
    pieces = pieces_of(total // workers, least) if workers > 1 else 1
    unit = next_unit(queue, worker, workers, workers * pieces)
    while unit >= 0:
        first = first_item(total, unit, workers, pieces, multiple)
        last = first_item(total, unit + 1, workers, pieces, multiple)
        first_panel, last_panel = 0, c.panel_count
        if divide_panels:
            first, last, first_panel, last_panel = 0, positions, first, last
        compute_positions(
            element, call, x, y, first, last, first_panel, last_panel, window, stage
        )  # fmt: skip
        unit = next_unit(queue, worker, workers, workers * pieces)
    release(scratch)


def convolve_range(element, call, x_address, y_address, first, last):
    """Positions first … last-1, counted through the batch, of all panels."""
    c = record(call, 0, "call")
    x, y = offset(pointer(x_address, element), c.crop * c.x_row), pointer(y_address, element)
    scratch = allocate(c.window_size + c.stage_size, element)
    window = pointer(scratch, element)
    stage = offset(window, c.window_size)
    compute_positions(
        element, call, x, y, first, last, 0, c.panel_count, window, stage
    )  # fmt: skip
    release(scratch)


@functools.cache
def convolve_address(dtype: np.dtype) -> int:
    """Compile the macrokernel for `dtype`, once a process, and return its address."""
    return _jit.c_address(convolve, signature_of(dtype))


@functools.cache
def range_address(dtype: np.dtype) -> int:
    """The same of `convolve_range`."""
    return _jit.c_address(convolve_range, signature_of(dtype, integers=5))

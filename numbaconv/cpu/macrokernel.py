"""The loops around every panel kernel: bands, positions, panels, blocks of the reduction.

One macrokernel serves all families. Band by band of the panels, it splits the positions of y
into runs that read x in place and runs that read a window, and hands each run to the panel
kernels; or some runs together, where weights come from far and all of them are to meet those.

It is compiled once for each dtype into a C function, which launchers call by address.
"""

from __future__ import annotations

import functools

import numpy as np
from numba.core import types

from .. import _jit
from .launch import signature_of
from .memory import (
    address,
    allocate,
    call_address,
    offset,
    pointer,
    record,
    release,
    smaller,
    stack_zeros,
)  # fmt: skip
from .sharing import first_item, next_unit, pieces_of
from .tables import RUN

RUN_FIELDS = len(RUN.names or ())


@_jit.inner
def compute_runs(element, call, runs, count, first_panel, last_panel, stage):
    """`count` runs, which share each block of weights, for panels first … last-1.

    All blocks of a panel before the next one, or a block of all panels.
    """
    c = record(call, 0, "call")
    step = 1 if c.is_block_by_block else c.block_count
    for first_block in range(0, c.block_count, step):
        for p in range(first_panel, last_panel):
            for b in range(first_block, first_block + step):
                for i in range(count):
                    compute_run(element, call, runs, i, p, b, stage)


@_jit.inner
def compute_run(element, call, runs, i, p, b, stage):
    """Positions of one run, of one panel, and products of one block."""
    c, run = record(call, 0, "call"), record(runs, i, "run")
    source, row, tap, channel = pointer(run.source, element), run.row, run.tap, run.channel
    weights, biases = pointer(c.weights, element), pointer(c.bias, element)
    panel = record(c.panels, p, "panel")
    x_offset = panel.x_offset
    if run.is_window:
        x_offset -= p // c.band_panels * c.band_step
    y_panel = offset(pointer(run.y, element), panel.first_channel * c.y_channel)
    target, target_row, target_channel = y_panel, c.y_row, c.y_channel
    if c.stage_size:
        target, target_row, target_channel = stage, c.stage_row, c.stage_channel
    block = record(c.blocks, b, "block")
    done = block.first_tap * block.full_depth + block.first_channel
    taps, depth = block.taps, block.depth
    if run.is_merged and panel.merges_taps:  # taps follow each other in memory: one long row
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
        run.rows, taps, depth, panel.slices, panel.last_lanes, accumulate, c.x_bytes, ahead,
    )  # fmt: skip
    call_address(panel.kernel, arguments)
    if c.stage_size and b == c.block_count - 1:
        staged = (
            y_panel, c.y_row, c.y_channel, stage, c.stage_row, c.stage_channel,
            run.rows, panel.channels,
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
    element, call, x_address, y_address, first, last, first_panel, last_panel, scratch, runs
):  # fmt: skip
    """Positions first … last-1, counted through the batch, for some of the panels."""
    c = record(call, 0, "call")
    x, y = offset(pointer(x_address, element), c.crop * c.x_row), pointer(y_address, element)
    windows = pointer(scratch, element)
    stage = offset(windows, c.runs_together * c.window_size)
    while first_panel < last_panel:
        band = first_panel // c.band_panels
        next_panel = smaller(last_panel, (band + 1) * c.band_panels)
        # First the interior, then a border on its left: weights of the next panel are brought
        # nearer while many positions share those of the last, and a border has few.
        interior, done = interior_from(call, first, last), 0
        while done < last - first:
            count = 0
            while count < c.runs_together and done < last - first:
                begin, end = interior + done, last
                if begin >= last:
                    begin, end = begin - (last - first), interior
                window = offset(windows, count * c.window_size)
                done += begin_run(call, x, y, band, begin, end, window, runs, count)
                count += 1
            compute_runs(element, call, runs, count, first_panel, next_panel, stage)
        first_panel = next_panel


@_jit.inner(result=types.int64)
def begin_run(call, x, y, band, first, last, window, runs, i):
    """Make run `i` of positions from `first` on, in place or through `window`: how many it has."""
    c, run = record(call, 0, "call"), record(runs, i, "run")
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
        call_address(c.filler, (window, call, x_n, origin, rows, band * c.band_step))
        run.source, run.is_merged = address(window), c.window_is_merged
        run.row, run.tap = c.window_stride * c.window_row, c.window_dilation * c.window_row
        run.channel = c.window_channel
    else:
        rows = smaller(rows, smaller(c.run, c.inside_last - l))
        run.source, run.is_merged = address(offset(x_n, origin * c.x_row)), c.x_is_merged
        run.row, run.tap, run.channel = c.stride * c.x_row, c.dilation * c.x_row, c.x_channel
    run.is_window, run.rows = is_window, rows
    run.y = address(offset(y, n * c.y_batch + l * c.y_row))
    return rows


def convolve(element, call, x_address, y_address, worker, workers, queue, divide_panels):
    """What one worker computes: pieces of the positions for all panels, or of the panels for all.

    `queue` counts the pieces that have been begun of each share.
    """
    c = record(call, 0, "call")
    scratch = allocate(c.runs_together * c.window_size + c.stage_size, element)
    runs = stack_zeros(c.runs_together * RUN_FIELDS)
    positions = c.batch * c.length_out
    total, multiple, least = positions, c.row_tile, c.least_piece
    if divide_panels:
        total, multiple, least = c.panel_count, 1, 1
    first, last, first_panel, last_panel = 0, positions, 0, c.panel_count
    pieces, unit = 1, 0
    # One worker has no share to find: that takes a tenth of the shortest calls. (A function for the
    # share of several would read better, and takes 0.15 s of every first call to compile.)
    if workers > 1:
        pieces = pieces_of(total // workers, least)
        unit = next_unit(queue, worker, workers, workers * pieces)
    while unit >= 0:
        if workers > 1:
            first = first_item(total, unit, workers, pieces, multiple)
            last = first_item(total, unit + 1, workers, pieces, multiple)
            if divide_panels:
                first, last, first_panel, last_panel = 0, positions, first, last
        compute_positions(
            element, call, x_address, y_address, first, last, first_panel, last_panel, scratch, runs
        )  # fmt: skip
        unit = next_unit(queue, worker, workers, workers * pieces) if workers > 1 else -1
    release(scratch)


def convolve_range(element, call, x_address, y_address, first, last):
    """Positions first … last-1, counted through the batch, of all panels."""
    c = record(call, 0, "call")
    scratch = allocate(c.runs_together * c.window_size + c.stage_size, element)
    runs = stack_zeros(c.runs_together * RUN_FIELDS)
    compute_positions(
        element, call, x_address, y_address, first, last, 0, c.panel_count, scratch, runs
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

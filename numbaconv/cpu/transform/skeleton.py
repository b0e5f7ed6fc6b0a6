"""The loops of every transform: blocks of tiles forward, one GEMM for each product, and back.

A block of tiles is transformed into planes that stay in L2; the GEMMs (see `scheme.Products`) go
from plane to plane, by the panel kernels of direct convolution with a kernel of one tap. A tile
that reaches over a border, or x or y that are not channel-last in memory, go through scratch of
one tile.
"""

from __future__ import annotations

import functools

import numpy as np
from numba.core import types

from ... import _jit
from ..launch import signature_of
from ..memory import (
    allocate,
    call_address,
    fence,
    larger,
    load,
    offset,
    pointer,
    record,
    release,
    smaller,
    store,
)
from ..sharing import next_unit
from ..vector import LINE
from .runs import FIELDS, empty_stage, hold, place_in_stage, strip_at

# Elements of a cache line, or more.
LINE_ELEMENTS = 16

# A flag, and what runs hold of x and of y, lie in a line of their own in front of the planes.
assert (1 + 2 * FIELDS) * 8 <= LINE


@_jit.inner(result=types.int64)
def whole_lines(elements):
    return (elements + LINE_ELEMENTS - 1) // LINE_ELEMENTS * LINE_ELEMENTS


@_jit.inner(result=types.int64)
def sum_of_lines(sizes):
    total = 0
    for size in sizes:
        total += whole_lines(size)
    return total


@_jit.inner(result=types.UniTuple(types.int64, 3), inlined=True)
def locate(call, tile):
    """(row of the batch, first output, outputs) of a tile; see `folding.Tiling`."""
    c = record(call, 0, "transform")
    n = tile // c.row_tiles
    rest = tile - n * c.row_tiles
    t = smaller(rest // c.residues, c.short_tiles)
    residue = rest - t * c.residues
    length = (c.length_out - residue + c.residues - 1) // c.residues
    shifted = larger(0, length - c.positions)  # where the last tile of the class begins
    first = smaller(t * c.positions, shifted)
    last = length if first == shifted else smaller(first + c.positions, shifted)
    return n, residue + first * c.residues, last - first


@_jit.inner
def fill_tile(window, call, x, origin, outputs):
    """Copy the rows that `outputs` outputs of one group read; what follows them is zero."""
    c = record(call, 0, "transform")
    strip, strips = c.row_positions, c.points * c.phases
    if c.unit == strip:  # rows follow each other in x: one strip
        strip, strips = strip * strips, 1
    needed = c.phases * (outputs - 1) + c.kernel_size
    for i in range(strips):
        positions = smaller(strip, larger(0, needed - i * strip))
        if positions:
            arguments = (
                c.copier, offset(window, i * strip * c.in_channels), c.in_channels, 1,
                x, c.x_row, c.x_channel, c.in_channels,
                c.length, origin + i * c.unit, 1, positions, c.mode,
            )  # fmt: skip
            call_address(c.filler, arguments)
        for j in range((i * strip + positions) * c.in_channels, (i + 1) * strip * c.in_channels):
            store(window, j, 0.0)


@_jit.inner(result=types.UniTuple(types.int64, 2))
def plane_distances(call, tiles):
    """Elements from plane to plane of a block of so many tiles, of input and output."""
    c = record(call, 0, "transform")
    if c.is_stacked:
        return tiles * c.v_row, tiles * c.m_row
    return c.v_plane, c.m_plane


# Inlined, the functions of one tile take 0.93 of the time of small ones: F(4,3) of 16 channels.
@_jit.inner(inlined=True)
def transform_tile(call, x, group, tile, planes, v_plane, window, strip, held):
    """One tile of x into the planes."""
    c = record(call, 0, "transform")
    n, l, outputs = locate(call, tile)
    origin = l * c.stride - c.left
    source = offset(x, n * c.x_batch + group * c.in_channels * c.x_channel)
    reach = (c.points * c.phases - 1) * c.unit + c.row_positions
    if origin >= 0 and origin + reach <= c.length:
        if c.is_x_in_place:
            source, row = offset(source, origin * c.x_row), c.unit * c.x_row
        else:
            source = strip_at(call, source, n, origin, reach, strip, held)
            row = c.unit * c.in_channels
    else:
        fill_tile(window, call, source, origin, outputs)
        source, row = window, c.row_positions * c.in_channels
    width = c.row_positions * c.in_channels
    vectors = (width + c.lanes - 1) // c.lanes
    last_lanes = width - (vectors - 1) * c.lanes
    for phase in range(c.phases):
        arguments = (
            0,
            offset(source, phase * row), offset(planes, phase * width), planes,
            c.phases * row, v_plane, vectors, last_lanes, c.prefetched_rows, 0,
        )  # fmt: skip
        call_address(c.forward, arguments)


@_jit.inner(inlined=True)
def multiply_planes(call, group, tiles, inputs, outputs, zeros, element):
    """All GEMMs of one group for a block of tiles."""
    c = record(call, 0, "transform")
    v_plane, m_plane = plane_distances(call, tiles)
    weights = offset(pointer(c.weights, element), group * c.group_weights)
    for i in range(c.product_count):
        product = record(c.products, i, "product")
        for p in range(c.panel_count):
            panel = record(c.panels, p, "panel")
            arguments = (
                0,
                offset(inputs, product.x_plane * v_plane),
                offset(weights, product.weights + panel.first_channel * product.terms * c.depth),
                zeros,
                offset(outputs, product.y_plane * m_plane + panel.first_channel),
                c.v_row, v_plane, 1, 0, c.m_row, 1,
                tiles * product.stacked, product.terms, product.depth, 1, c.lanes, 0, 0,
                product.terms * product.depth * panel.width,
            )  # fmt: skip
            call_address(panel.kernel, arguments)


@_jit.inner(inlined=True)
def invert_tile(call, y, group, tile, planes, m_plane, stage, held, flag, element):
    """One tile of one group of y from the planes, with the bias."""
    c = record(call, 0, "transform")
    n, l, outputs = locate(call, tile)
    columns = c.row_positions * c.out_channels
    vectors = (columns + c.lanes - 1) // c.lanes
    if outputs == c.positions and c.is_y_in_place:
        target = offset(y, n * c.y_batch + l * c.y_row)
        row = c.residues * c.row_positions * c.y_row
    else:
        target, row = place_in_stage(call, y, n, l, outputs, stage, held), columns
    arguments = (
        0, planes, target, offset(pointer(c.bias, element), group * c.m_row),
        m_plane, row, vectors, columns - (vectors - 1) * c.lanes, c.outputs, flag,
    )  # fmt: skip
    call_address(c.inverse, arguments)


@_jit.inner(result=types.int64)
def first_tile_of(call, block):
    """Blocks are equal but for one step, and begin at multiples of it."""
    c = record(call, 0, "transform")
    steps = (c.total_tiles + c.step - 1) // c.step
    return smaller(c.total_tiles, steps * block // c.blocks * c.step)


def convolve_transformed(
    element, call, x_address, y_address, worker, workers, queue, redo
):  # fmt: skip
    """What one worker computes: units of one block of tiles and one group.

    `redo` is the address of a byte for each tile, and one for all: set where a value is not
    finite.
    """
    c = record(call, 0, "transform")
    x = offset(pointer(x_address, element), c.crop * c.x_row)
    y = pointer(y_address, element)
    marks = pointer(redo, np.uint8)
    # One buffer: what malloc gets back last it keeps, and of several large ones gives up some,
    # whose pages then fault in every call (7 of 24 ms at 27 MB).
    sizes = (
        c.v_size, c.m_size, c.points * c.depth, c.strip_positions * c.in_channels,
        (c.stage_positions + LINE_ELEMENTS) * c.out_channels, c.m_row,
    )  # fmt: skip
    scratch = allocate(sum_of_lines(sizes) + LINE_ELEMENTS, element)
    flag = pointer(scratch, np.int64)  # in a cache line of its own, with what runs hold
    in_strip, in_stage = offset(flag, 1), offset(flag, 1 + FIELDS)
    hold(in_stage, 0, 0, 0)
    inputs = pointer(scratch + LINE, element)
    outputs = offset(inputs, whole_lines(sizes[0]))
    window = offset(outputs, whole_lines(sizes[1]))
    strip = offset(window, whole_lines(sizes[2]))
    stage = offset(strip, whole_lines(sizes[3]))
    zeros = offset(stage, whole_lines(sizes[4]))
    for j in range(c.m_row):
        store(zeros, j, 0.0)
    unit = next_unit(queue, worker, workers, c.groups * c.blocks)
    while unit >= 0:
        # Groups inside: each takes a part of the same rows. Were they outside, x and y beyond L2
        # would be read and written anew by each: 128 → 128 K11 of 4 groups, 50 MB, 31 → 25 ms.
        block = unit // c.groups
        group = unit - block * c.groups
        first_tile = first_tile_of(call, block)
        tiles = first_tile_of(call, block + 1) - first_tile
        v_plane, m_plane = plane_distances(call, tiles)
        y_group = offset(y, group * c.out_channels * c.y_channel)
        hold(in_strip, 0, 0, 0)
        for q in range(tiles):
            planes, tile = offset(inputs, q * c.v_row), first_tile + q
            transform_tile(call, x, group, tile, planes, v_plane, window, strip, in_strip)
        multiply_planes(call, group, tiles, inputs, outputs, zeros, element)
        for q in range(tiles):
            planes, tile = offset(outputs, q * c.m_row), first_tile + q
            store(flag, 0, 0)
            invert_tile(
                call, y_group, group, tile, planes, m_plane, stage, in_stage, flag, element
            )  # fmt: skip
            if load(flag, 0):
                store(marks, tile, 1)
                store(marks, c.total_tiles, 1)
        empty_stage(call, y_group, stage, in_stage)
        unit = next_unit(queue, worker, workers, c.groups * c.blocks)
    if c.streams:  # before another thread reads y
        fence()
    release(scratch)


@functools.cache
def skeleton_address(dtype: np.dtype) -> int:
    """Compile the skeleton for `dtype`, once a process, and return its address."""
    return _jit.c_address(convolve_transformed, signature_of(dtype))

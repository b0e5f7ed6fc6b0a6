"""Copies between layouts that share no contiguous axis: by shuffles of vectors.

Compiled apart from the macrokernels, since most calls copy nothing or whole rows.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba.core import types
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

from .. import _jit
from .memory import lanes_of, load, offset, smaller, store
from .target import host
from .vector import VectorBuilder, i64

# Elements from which lines of the caller's array are prefetched before they are written: runs of
# 170 positions of 384 channels take 0.75 of the time, smaller blocks of the direct kernels 1.02.
LEAST_PREFETCHED = 48 << 10


def emit_transpose(v: VectorBuilder, rows: list) -> list:
    """Transpose VL vectors of VL lanes: log2(VL) rounds of exchanges between pairs."""
    distance = v.lanes // 2
    while distance:
        exchanged = list(rows)
        for i in range(v.lanes):
            if i & distance:
                continue
            low, high = rows[i], rows[i + distance]
            # Lanes without the bit stay in the low row and come from both at `l`; lanes with
            # it go to the high row, so that row bit and lane bit change places.
            stay = [l if not l & distance else v.lanes + l - distance for l in range(v.lanes)]
            swap = [l + distance if not l & distance else v.lanes + l for l in range(v.lanes)]
            exchanged[i] = v.shuffle(low, high, stay)
            exchanged[i + distance] = v.shuffle(low, high, swap)
        rows = exchanged
        distance //= 2
    return rows


# Bits of the parts of a register that instructions shuffle fast within.
PART_BITS = 128


def part_lanes(bits: int) -> int:
    """Elements of a part."""
    return PART_BITS // bits


def load_columns(v: VectorBuilder, first: Any, row: Any) -> list:
    """As many columns as a part has lanes, of VL rows that are `row` apart.

    Parts of rows are joined as they are loaded, which leaves half of the shuffles of
    `emit_transpose`, and those stay within parts: in the first cache a vector takes 3.6 cycles
    instead of 4.2, and a copy 2.7 (Zen 4).
    """
    part, vectors = part_lanes(v.bits), []
    bases = [v.at(first, v.ir.mul(row, i64(r))) for r in range(0, v.lanes, part)]
    for r in range(part):
        places = [v.at(base, v.ir.mul(row, i64(r))) for base in bases]
        vectors.append(v.joined([v.load(place, lanes=part) for place in places]))
    return emit_unpack(v, vectors)


def emit_unpack(v: VectorBuilder, vectors: list) -> list:
    """Transpose within each part of a register, of as many lanes as there are vectors."""
    part, width = len(vectors), 1
    while width < part:
        first = [i for i in range(part) if not i & width]
        lanes = [
            [start + lane for start in range(0, v.lanes, part) for lane in half]
            for half in (range(part // 2), range(part // 2, part))
        ]
        vectors = [
            v.shuffle(vectors[i], vectors[i + width], interleaved(half, width, v.lanes))
            for i in first
            for half in lanes
        ]
        width *= 2
    return vectors


def interleaved(lanes: list[int], width: int, count: int) -> list[int]:
    """Groups of `width` of these lanes, from the first and from the second vector in turns."""
    groups = [lanes[i : i + width] for i in range(0, len(lanes), width)]
    return [lane + second for group in groups for second in (0, count) for lane in group]


def load_every(v: VectorBuilder, place: Any, kind: types.Type, step: Any) -> Any:
    """VL elements `step` apart, by shuffles of all between them where the type tells it."""
    if not isinstance(kind, types.IntegerLiteral):
        return v.gather(place, step)
    step, last = kind.literal_value, v.lanes - 1
    vector, places = v.load(place), range(0, v.lanes, step)  # where it holds the first elements
    for i in range(1, step):
        first = min(i * v.lanes, last * (step - 1))  # nothing behind the last element is read
        more = range(len(places) * step - first, v.lanes, step)
        lanes = [*places, *(v.lanes + place for place in more)]
        vector = v.shuffle(vector, v.load(v.at(place, first)), lanes + [0] * (v.lanes - len(lanes)))
        places = range(len(lanes))
    return vector


@intrinsic(prefer_literal=True)
def move_every(typingctx, target, source, step):
    """target[c] = source[c*step] for c < VL."""
    bits = target.dtype.bitwidth

    def codegen(context, builder, signature, values):
        v = VectorBuilder(builder, bits, host().vector_bytes * 8 // bits, fma=False)
        v.store(load_every(v, values[1], step, values[2]), values[0])
        return context.get_dummy_value()

    return types.void(target, source, step), codegen


@intrinsic(prefer_literal=True)
def transpose_square(typingctx, target, target_row, source, source_row, step):
    """target[c*target_row + r] = source[r*source_row + c*step] for r, c < VL."""
    bits = target.dtype.bitwidth
    lanes = host().vector_bytes * 8 // bits

    def codegen(context, builder, signature, values):
        to, to_row, from_, from_row, by = values
        v = VectorBuilder(builder, bits, lanes, fma=False)
        if isinstance(step, types.IntegerLiteral) and step.literal_value == 1:
            parts = range(0, lanes, part_lanes(bits))
            columns = [
                column for c in parts for column in load_columns(v, v.at(from_, c), from_row)
            ]
        else:
            places = [v.at(from_, builder.mul(from_row, i64(r))) for r in range(lanes)]
            columns = emit_transpose(v, [load_every(v, place, step, by) for place in places])
        for c, column in enumerate(columns):
            v.store(column, v.at(to, builder.mul(to_row, i64(c))))
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, step), codegen


@intrinsic
def transpose_few_columns(typingctx, target, target_row, source, source_row):
    """target[c*target_row + r] = source[r*source_row + c] for r < VL, c of one part."""
    bits = target.dtype.bitwidth

    def codegen(context, builder, signature, values):
        to, to_row, from_, from_row = values
        v = VectorBuilder(builder, bits, host().vector_bytes * 8 // bits, fma=False)
        for c, column in enumerate(load_columns(v, from_, from_row)):
            v.store(column, v.at(to, builder.mul(to_row, i64(c))))
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), codegen


@intrinsic
def transpose_few_rows(typingctx, target, target_row, source, source_row):
    """target[c*target_row + r] = source[r*source_row + c] for r of one part, c < VL."""
    bits = target.dtype.bitwidth

    def codegen(context, builder, signature, values):
        to, to_row, from_, from_row = values
        v = VectorBuilder(builder, bits, host().vector_bytes * 8 // bits, fma=False)
        part = part_lanes(bits)
        rows = [v.load(v.at(from_, builder.mul(from_row, i64(r)))) for r in range(part)]
        for c, vector in enumerate(emit_unpack(v, rows)):
            for first in range(0, v.lanes, part):
                piece = v.shuffle(vector, vector, range(first, first + part))
                v.store(piece, v.at(to, builder.mul(to_row, i64(first + c))))
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), codegen


@intrinsic
def part_of(typingctx, base):
    """Elements of a part of a vector register."""
    lanes = part_lanes(base.dtype.bitwidth)

    def codegen(context, builder, signature, values):
        return i64(lanes)

    return types.int64(base), codegen


@intrinsic
def prefetch_square(typingctx, first, row):
    """Prefetch the lines at first[r*row], r < VL, which are to be written."""
    bits = first.dtype.bitwidth
    lanes = host().vector_bytes * 8 // bits

    def codegen(context, builder, signature, values):
        address, step = values
        v = VectorBuilder(builder, bits, lanes, fma=False)
        for r in range(lanes):
            v.prefetch(v.at(address, builder.mul(step, i64(r))), writes=True)
        return context.get_dummy_value()

    return types.void(first, types.int64), codegen


@intrinsic
def transpose_edge(typingctx, target, target_row, source, source_row, rows, columns):
    """target[c*target_row + r] = source[r*source_row + c] for r < rows ≤ VL, c < columns ≤ VL."""
    bits = target.dtype.bitwidth
    lanes = host().vector_bytes * 8 // bits

    def codegen(context, builder, signature, values):
        to, to_row, from_, from_row, rows, columns = values
        v = VectorBuilder(builder, bits, lanes, fma=False)
        is_row, is_column = v.first_lanes(rows), v.first_lanes(columns)

        def places(first, row, count):
            """Addresses of VL rows; those beyond the last are the last one again."""
            last = builder.sub(count, i64(1))
            numbers = [
                builder.select(builder.icmp_signed("<", last, i64(r)), last, i64(r))
                for r in range(lanes)
            ]
            return [v.at(first, builder.mul(row, number)) for number in numbers]

        vectors = [v.masked_load(place, is_column) for place in places(from_, from_row, rows)]
        stores = zip(emit_transpose(v, vectors), places(to, to_row, columns), strict=True)
        # In reverse, so that the last column is stored after those beyond it.
        v.masked_store(list(stores)[::-1], is_row)
        return context.get_dummy_value()

    integers = [types.int64] * 2
    return types.void(target, types.int64, source, types.int64, *integers), codegen


def emit_zip(v: VectorBuilder, vectors: list) -> list:
    """Element l of vector c, of a power of two of them, goes to place l*count + c of the row.

    The number of an element is the vector's, then the lane's; a round rotates its bits by one.
    """
    half = v.lanes // 2
    low = [lane + source for lane in range(half) for source in (0, v.lanes)]
    for _ in range(len(vectors).bit_length() - 1):
        middle = len(vectors) // 2
        vectors = [
            v.shuffle(a, b, [lane + first for lane in low])
            for a, b in zip(vectors[:middle], vectors[middle:], strict=True)
            for first in (0, half)
        ]
    return vectors


def emit_unzip(v: VectorBuilder, vectors: list) -> list:
    """The inverse of `emit_zip`."""
    for _ in range(len(vectors).bit_length() - 1):
        pairs = list(zip(vectors[0::2], vectors[1::2], strict=True))
        vectors = [
            v.shuffle(a, b, list(range(odd, 2 * v.lanes, 2))) for odd in (0, 1) for a, b in pairs
        ]
    return vectors


@intrinsic
def zip_planes(typingctx, target, source, plane, count):
    """target[r*count + c] = source[c*plane + r] for r < VL, c < count, a literal power of two."""
    if not isinstance(count, types.IntegerLiteral):
        raise RequireLiteralValue("count")
    vectors, bits = count.literal_value, target.dtype.bitwidth

    def codegen(context, builder, signature, values):
        v = VectorBuilder(builder, bits, host().vector_bytes * 8 // bits, fma=False)
        planes = [v.load(v.at(values[1], builder.mul(values[2], i64(c)))) for c in range(vectors)]
        for i, vector in enumerate(emit_zip(v, planes)):
            v.store(vector, v.at(values[0], i * v.lanes))
        return context.get_dummy_value()

    return types.void(target, source, types.int64, count), codegen


@intrinsic
def unzip_planes(typingctx, target, plane, source, count):
    """target[c*plane + r] = source[r*count + c] for r < VL, c < count, a literal power of two."""
    if not isinstance(count, types.IntegerLiteral):
        raise RequireLiteralValue("count")
    vectors, bits = count.literal_value, target.dtype.bitwidth

    def codegen(context, builder, signature, values):
        v = VectorBuilder(builder, bits, host().vector_bytes * 8 // bits, fma=False)
        row = [v.load(v.at(values[2], i * v.lanes)) for i in range(vectors)]
        for c, vector in enumerate(emit_unzip(v, row)):
            v.store(vector, v.at(values[0], builder.mul(values[1], i64(c))))
        return context.get_dummy_value()

    return types.void(target, types.int64, source, count), codegen


@_jit.inner(result=types.int64)
def zip_rows(target, source, plane, rows, count):
    """target[r*count + c] = source[c*plane + r] for whole vectors of r; return how many r."""
    lanes = lanes_of(target)
    whole = rows - rows % lanes
    for r in range(0, whole, lanes):
        to, planes = offset(target, r * count), offset(source, r)
        if count == 2:
            zip_planes(to, planes, plane, 2)
        elif count == 4:
            zip_planes(to, planes, plane, 4)
        elif count == 8:
            zip_planes(to, planes, plane, 8)
        else:
            return 0
    return whole


@_jit.inner(result=types.int64)
def unzip_rows(target, plane, source, rows, count):
    """target[c*plane + r] = source[r*count + c] for whole vectors of r; return how many r."""
    lanes = lanes_of(target)
    whole = rows - rows % lanes
    for r in range(0, whole, lanes):
        planes, row = offset(target, r), offset(source, r * count)
        if count == 2:
            unzip_planes(planes, plane, row, 2)
        elif count == 4:
            unzip_planes(planes, plane, row, 4)
        elif count == 8:
            unzip_planes(planes, plane, row, 8)
        else:
            return 0
    return whole


@_jit.inner
def copy_elements(
    target, target_row, target_column, source, source_row, source_column, rows, columns
):  # fmt: skip
    """target[r, c] = source[r, c], one by one."""
    for r in range(rows):
        for c in range(columns):
            value = load(source, r * source_row + c * source_column)
            store(target, r * target_row + c * target_column, value)


@_jit.inner
def transpose(target, target_row, source, source_row, source_column, rows, columns):
    """target[r*target_row + c] = source[r*source_row + c*source_column], by squares.

    What is left over goes by parts of vectors, or element by element unless `source_row` is 1.
    """
    lanes, part = lanes_of(target), part_of(target)
    # Inside goes the axis that is contiguous where rows lie further apart: the positions of the
    # caller's array, whose rows lie on pages of their own (in windows of 170 positions of 384
    # channels the other order takes three times as long).
    is_tall = source_column > target_row
    is_ahead = not is_tall and rows * columns >= LEAST_PREFETCHED
    r = c = 0
    while r < rows and c < columns:
        to = offset(target, r * target_row + c)
        square = offset(source, r * source_row + c * source_column)
        if r + lanes <= rows and c + lanes <= columns:
            if is_ahead:
                prefetch_square(offset(to, lanes * target_row), target_row)
            if source_row == 1:
                transpose_square(to, target_row, square, source_column, 1)
            elif source_row == 2:
                transpose_square(to, target_row, square, source_column, 2)
            else:
                transpose_square(to, target_row, square, source_column, source_row)
        elif source_row != 1:
            copy_elements(
                to, target_row, 1, square, source_row, source_column,
                smaller(lanes, rows - r), smaller(lanes, columns - c),
            )  # fmt: skip
        elif c + lanes <= columns and rows >= part:
            for first in range(r, rows, part):  # the last ones shifted back
                k = smaller(first, rows - part) - r
                few = offset(to, k * target_row)
                transpose_few_columns(few, target_row, offset(square, k), source_column)
        elif r + lanes <= rows and columns >= part:
            for first in range(c, columns, part):
                k = smaller(first, columns - part) - c
                few = offset(square, k * source_column)
                transpose_few_rows(offset(to, k), target_row, few, source_column)
        else:
            transpose_edge(
                to, target_row, square, source_column,
                smaller(lanes, columns - c), smaller(lanes, rows - r),
            )  # fmt: skip
        if is_tall:
            r += lanes
            if r >= rows:
                r, c = 0, c + lanes
        else:
            c += lanes
            if c >= columns:
                r, c = r + lanes, 0


@_jit.inner
def pick_columns(target, target_row, source, source_row, step, rows, columns):
    """target[r*target_row + c] = source[r*source_row + c*step], by vectors and what is left."""
    lanes = lanes_of(target)
    whole = columns - columns % lanes
    for r in range(rows):
        to, row = offset(target, r * target_row), offset(source, r * source_row)
        for c in range(0, whole, lanes):
            # By shuffles a vector takes 1.6 ns in steps of 2 and 2.7 of 3, where elements are
            # gathered 3.3 and 3.9; in steps of 4 it would take 3.5, and 3.7 gathered (Zen 4).
            if step == 2:
                move_every(offset(to, c), offset(row, c * step), 2)
            elif step == 3:
                move_every(offset(to, c), offset(row, c * step), 3)
            else:
                move_every(offset(to, c), offset(row, c * step), step)
    copy_elements(
        offset(target, whole), target_row, 1, offset(source, whole * step), source_row, step,
        rows, columns - whole,
    )  # fmt: skip


def copy_strided(
    target, target_row, target_column, source, source_row, source_column, rows, columns
):  # fmt: skip
    """target[r, c] = source[r, c] for any strides.

    Rows that are steps along rows of the source go by vectors, columns that are (transpositions) by
    VL×VL squares, or by shuffles of a few planes; what neither helps goes element by element.
    """
    if target_column != 1:  # name the axes so that columns of the target are contiguous
        target_row, target_column = target_column, target_row
        source_row, source_column = source_column, source_row
        rows, columns = columns, rows
    if target_column != 1:
        copy_elements(
            target, target_row, target_column, source, source_row, source_column, rows, columns
        )  # fmt: skip
    elif rows == 1 or abs(source_row) > abs(source_column):
        pick_columns(target, target_row, source, source_row, source_column, rows, columns)
    else:
        lanes, done_rows, done_columns = lanes_of(target), 0, 0
        if source_row == 1 and target_row == columns < lanes:
            done_rows = zip_rows(target, source, source_column, rows, columns)
        elif source_row == 1 and source_column == rows < lanes:
            done_columns = unzip_rows(target, target_row, source, columns, rows)
        to = offset(target, done_rows * target_row + done_columns)
        rest = offset(source, done_rows * source_row + done_columns * source_column)
        rows, columns = rows - done_rows, columns - done_columns
        if rows < part_of(target):
            pick_columns(to, target_row, rest, source_row, source_column, rows, columns)
        elif columns < part_of(target):  # inside goes the longer axis
            copy_elements(to, 1, target_row, rest, source_column, source_row, columns, rows)
        else:
            transpose(to, target_row, rest, source_row, source_column, rows, columns)


@functools.cache
def copier_address(dtype: np.dtype) -> int:
    """Compile `copy_strided` for `dtype`, once a process, and return its address."""
    pointer = types.CPointer(types.float32 if dtype.itemsize == 4 else types.float64)
    integers = [types.int64] * 2
    signature = types.void(pointer, *integers, pointer, *integers, *integers)
    return _jit.c_address(copy_strided, signature)

"""Raw memory for jitted code: typed pointers, and copies between layouts."""

from __future__ import annotations

import numba
from llvmlite import ir
from numba.core import types
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

from .. import _jit
from .tables import TABLES
from .target import host
from .vector import VectorBuilder, i64, void


@intrinsic
def pointer(typingctx, address, element):
    """The address (int64) as a pointer to elements of the dtype `element`."""
    result = types.CPointer(element.dtype)

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(result))

    return result(types.int64, element), codegen


@intrinsic
def record(typingctx, address, index, table):
    """Row `index` of a structured table at `address`; the dtype is named by a literal."""
    if not isinstance(table, types.StringLiteral):
        raise RequireLiteralValue("table")
    dtype = TABLES[table.literal_value]
    result = numba.from_dtype(dtype)

    def codegen(context, builder, signature, values):
        place = builder.add(values[0], builder.mul(values[1], i64(dtype.itemsize)))
        return builder.inttoptr(place, context.get_value_type(result))

    return result(types.int64, types.int64, table), codegen


@intrinsic
def call_address(typingctx, address, arguments):
    """Call a C function without result by its address (int64).

    Arguments are pointers and integers; the latter travel as 64 bits, whatever their type
    (a boolean passed as one bit leaves the rest of its register undefined).
    """

    def codegen(context, builder, signature, values):
        members = []
        for i, kind in enumerate(arguments):
            member = builder.extract_value(values[1], i)
            if not isinstance(kind, types.CPointer):
                member = context.cast(builder, member, kind, types.int64)
            members.append(member)
        function_type = ir.FunctionType(void, [member.type for member in members])
        builder.call(builder.inttoptr(values[0], function_type.as_pointer()), members)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


@intrinsic
def keep(typingctx, array):
    """Use `array`, so that it outlives the pointers into it: Numba frees at the last use."""

    def codegen(context, builder, signature, values):
        return context.get_dummy_value()

    return types.void(array), codegen


@intrinsic
def data(typingctx, array):
    """The address of an array's first element, as a pointer."""
    result = types.CPointer(array.dtype)

    def codegen(context, builder, signature, values):
        return context.make_array(array)(context, builder, values[0]).data

    return result(array), codegen


@intrinsic
def offset(typingctx, base, elements):
    """The pointer `elements` further."""

    def codegen(context, builder, signature, values):
        return builder.gep(values[0], [values[1]])

    return base(base, types.int64), codegen


@intrinsic
def load(typingctx, base, index):
    """base[index]"""

    def codegen(context, builder, signature, values):
        return builder.load(builder.gep(values[0], [values[1]]))

    return base.dtype(base, types.int64), codegen


@intrinsic
def store(typingctx, base, index, value):
    """base[index] = value"""

    def codegen(context, builder, signature, values):
        builder.store(values[2], builder.gep(values[0], [values[1]]))
        return context.get_dummy_value()

    return types.void(base, types.int64, base.dtype), codegen


@intrinsic
def move(typingctx, target, source, elements):
    """Copy contiguous elements by LLVM's memcpy."""
    size = target.dtype.bitwidth // 8

    def codegen(context, builder, signature, values):
        byte = ir.IntType(8).as_pointer()
        copy = builder.module.declare_intrinsic("llvm.memcpy", [byte, byte, i64])
        to, from_ = (builder.bitcast(value, byte) for value in values[:2])
        length = builder.mul(values[2], i64(size))
        builder.call(copy, [to, from_, length, ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(target, source, types.int64), codegen


@intrinsic
def clear(typingctx, target, elements):
    """Write zeros to contiguous elements by LLVM's memset."""
    size = target.dtype.bitwidth // 8

    def codegen(context, builder, signature, values):
        byte = ir.IntType(8).as_pointer()
        fill = builder.module.declare_intrinsic("llvm.memset", [byte, i64])
        to, length = builder.bitcast(values[0], byte), builder.mul(values[1], i64(size))
        builder.call(
            fill, [to, ir.Constant(ir.IntType(8), 0), length, ir.Constant(ir.IntType(1), 0)]
        )
        return context.get_dummy_value()

    return types.void(target, types.int64), codegen


@intrinsic
def move_vector(typingctx, target, source):
    """Copy one vector of VL elements."""
    bits = target.dtype.bitwidth

    def codegen(context, builder, signature, values):
        v = VectorBuilder(builder, bits, host().vector_bytes * 8 // bits, fma=False)
        v.store(v.load(values[1]), values[0])
        return context.get_dummy_value()

    return types.void(target, source), codegen


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


@intrinsic
def transpose_square(typingctx, target, target_row, source, source_row):
    """target[c*target_row + r] = source[r*source_row + c] for r, c < VL."""
    bits = target.dtype.bitwidth
    lanes = host().vector_bytes * 8 // bits

    def codegen(context, builder, signature, values):
        to, to_row, from_, from_row = values
        v = VectorBuilder(builder, bits, lanes, fma=False)
        rows = [v.load(v.at(from_, builder.mul(from_row, i64(r)))) for r in range(lanes)]
        for c, column in enumerate(emit_transpose(v, rows)):
            v.store(column, v.at(to, builder.mul(to_row, i64(c))))
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), codegen


@intrinsic
def transpose_strip(typingctx, target, target_row, source, source_row, count):
    """target[c*target_row + r] = source[r*source_row + c] for r < count ≤ VL, c < VL."""
    bits = target.dtype.bitwidth
    lanes = host().vector_bytes * 8 // bits

    def codegen(context, builder, signature, values):
        to, to_row, from_, from_row, rows = values
        v = VectorBuilder(builder, bits, lanes, fma=False)
        mask, last = v.first_lanes(rows), builder.sub(rows, i64(1))
        vectors = []
        for r in range(lanes):  # rows beyond the last are read from the last, and not stored
            row = builder.select(builder.icmp_signed("<", last, i64(r)), last, i64(r))
            vectors.append(v.load(v.at(from_, builder.mul(from_row, row))))
        for c, column in enumerate(emit_transpose(v, vectors)):
            v.masked_store(column, v.at(to, builder.mul(to_row, i64(c))), mask)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), codegen


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


@intrinsic
def lanes_of(typingctx, base):
    """Elements of one vector register, VL."""
    lanes = host().vector_bytes * 8 // base.dtype.bitwidth

    def codegen(context, builder, signature, values):
        return i64(lanes)

    return types.int64(base), codegen


@_jit.jit
def clear_block(target, target_row, target_column, rows, columns):
    """target[r, c] = 0 where rows or columns are contiguous."""
    if target_column != 1:
        target_row, rows, columns = target_column, columns, rows
    if target_row == columns:
        rows, columns = 1, rows * columns
    for r in range(rows):
        clear(offset(target, r * target_row), columns)


@_jit.jit
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


@_jit.jit
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


@_jit.jit
def copy_block(target, target_row, target_column, source, source_row, source_column, rows, columns):
    """target[r, c] = source[r, c] for any strides, by the fastest way they allow.

    Contiguous rows are moved; a transposition goes by VL×VL squares, or by shuffles of a few
    planes; what is left, and strides that no vector helps, go element by element.
    """
    if target_column != 1:  # name the axes so that columns of the target are contiguous
        target_row, target_column = target_column, target_row
        source_row, source_column = source_column, source_row
        rows, columns = columns, rows
    if target_column == 1 and source_column == 1:
        if target_row == columns and source_row == columns:
            move(target, source, rows * columns)
            return
        lanes = lanes_of(target)
        if columns % lanes == 0 and columns <= 8 * lanes:  # a memcpy takes 10 ns a row
            for r in range(rows):
                for c in range(0, columns, lanes):
                    move_vector(
                        offset(target, r * target_row + c), offset(source, r * source_row + c)
                    )
            return
        for r in range(rows):
            move(offset(target, r * target_row), offset(source, r * source_row), columns)
        return
    square_rows = square_columns = 0
    lanes = lanes_of(target)
    if target_column == 1 and source_row == 1 and target_row == columns < lanes:
        square_rows, square_columns = (
            zip_rows(target, source, source_column, rows, columns),
            columns,
        )
    elif target_column == 1 and source_row == 1 and source_column == rows < lanes:
        square_rows, square_columns = rows, unzip_rows(target, target_row, source, columns, rows)
    if target_column == 1 and source_row == 1 and square_rows * square_columns == 0:
        square_rows, square_columns = rows - rows % lanes, columns - columns % lanes
        # The longer axis inside: positions, which are contiguous in the caller's array.
        inside = max(square_rows, square_columns)
        for block in range(0, square_rows * square_columns // lanes, lanes):
            outer, inner = block // inside * lanes, block % inside
            r, c = (inner, outer) if square_rows == inside else (outer, inner)
            transpose_square(
                offset(target, r * target_row + c), target_row,
                offset(source, r + c * source_column), source_column,
            )  # fmt: skip
        if square_columns < columns:
            for r in range(0, square_rows, lanes):
                transpose_strip(
                    offset(target, r * target_row + square_columns), target_row,
                    offset(source, r + square_columns * source_column), source_column,
                    columns - square_columns,
                )  # fmt: skip
            square_columns = columns
    for r in range(rows):
        for c in range(square_columns if r < square_rows else 0, columns):
            value = load(source, r * source_row + c * source_column)
            store(target, r * target_row + c * target_column, value)

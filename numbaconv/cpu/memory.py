"""Raw memory for jitted code: typed pointers, and copies between layouts."""

from __future__ import annotations

import functools

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

from .. import _jit
from .tables import OBJECTS, TABLES
from .target import host
from .vector import LINE, VectorBuilder, i64, void


@intrinsic
def pointer(typingctx, address, element):
    """The address (int64) as a pointer to elements of the dtype `element`."""
    result = types.CPointer(element.dtype)

    def codegen(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(result))

    return result(types.int64, element), codegen


@functools.cache
def row_type(table):
    """The Numba type of a table's rows; making one of fifty fields takes a millisecond."""
    return numba.from_dtype({**TABLES, **OBJECTS}[table])


@intrinsic
def record(typingctx, address, index, table):
    """Row `index` of a structured table at `address`; the dtype is named by a literal."""
    if not isinstance(table, types.StringLiteral):
        raise RequireLiteralValue("table")
    result = row_type(table.literal_value)

    def codegen(context, builder, signature, values):
        place = builder.add(values[0], builder.mul(values[1], i64(result.size)))
        return builder.inttoptr(place, context.get_value_type(result))

    return result(types.int64, types.int64, table), codegen


@intrinsic
def address(typingctx, array):
    """The address (int64) of an array's first element, or of a pointer; an address is one."""

    def codegen(context, builder, signature, values):
        if isinstance(array, types.CPointer):
            return builder.ptrtoint(values[0], i64)
        if not isinstance(array, types.Array):
            return context.cast(builder, values[0], array, types.int64)
        return builder.ptrtoint(context.make_array(array)(context, builder, values[0]).data, i64)

    return types.int64(array), codegen


# Numba compiles a function of its own for each use of `min` and `max`, 0.04 s a time.
@intrinsic
def smaller(typingctx, a, b):
    """The smaller one of two integers."""

    def codegen(context, builder, signature, values):
        return builder.select(builder.icmp_signed("<", *values), *values)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def larger(typingctx, a, b):
    """The larger one of two integers."""

    def codegen(context, builder, signature, values):
        return builder.select(builder.icmp_signed(">", *values), *values)

    return types.int64(types.int64, types.int64), codegen


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
def stack_zeros(typingctx, count):
    """The address of `count` zeros (int64) that live until the calling function returns."""

    def codegen(context, builder, signature, values):
        place = builder.alloca(i64, size=values[0])
        with cgutils.for_range(builder, values[0]) as loop:
            builder.store(i64(0), builder.gep(place, [loop.index]))
        return builder.ptrtoint(place, i64)

    return types.int64(types.int64), codegen


# Bytes in front of scratch, for the address to free.
HEADER = 8


@intrinsic
def allocate(typingctx, elements, element):
    """The address (int64) of room for elements of the dtype `element`; it begins a cache line.

    A tenth of a first call goes into np.empty. Where there is no memory, the process ends: a
    kernel is a C function, which cannot raise, and must not leave y as it was.
    """

    def codegen(context, builder, signature, values):
        size = builder.mul(values[0], i64(element.dtype.bitwidth // 8))
        place = context.nrt.allocate_unchecked(builder, builder.add(size, i64(HEADER + LINE - 1)))
        with builder.if_then(cgutils.is_null(builder, place), likely=False):
            trap = ir.FunctionType(void, [])
            builder.call(builder.module.declare_intrinsic("llvm.trap", fnty=trap), [])
        place = builder.ptrtoint(place, i64)
        line = builder.and_(builder.add(place, i64(HEADER + LINE - 1)), i64(-LINE))
        builder.store(place, builder.inttoptr(builder.sub(line, i64(HEADER)), i64.as_pointer()))
        return line

    return types.int64(types.int64, element), codegen


@intrinsic
def release(typingctx, address):
    """Give back what `allocate` returned."""

    def codegen(context, builder, signature, values):
        place = builder.inttoptr(builder.sub(values[0], i64(HEADER)), i64.as_pointer())
        byte = ir.IntType(8).as_pointer()
        context.nrt.free(builder, builder.inttoptr(builder.load(place), byte))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


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
def fence(typingctx):
    """Finish all stores, those past the caches too, before any that follow."""

    def codegen(context, builder, signature, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def move_vector(typingctx, target, source):
    """Copy one vector of VL elements."""
    bits = target.dtype.bitwidth

    def codegen(context, builder, signature, values):
        v = VectorBuilder(builder, bits, host().vector_bytes * 8 // bits, fma=False)
        v.store(v.load(values[1]), values[0])
        return context.get_dummy_value()

    return types.void(target, source), codegen


@intrinsic
def lanes_of(typingctx, base):
    """Elements of one vector register, VL."""
    lanes = host().vector_bytes * 8 // base.dtype.bitwidth

    def codegen(context, builder, signature, values):
        return i64(lanes)

    return types.int64(base), codegen


@_jit.inner
def clear_block(target, target_row, target_column, rows, columns):
    """target[r, c] = 0 where rows or columns are contiguous."""
    if target_column != 1:
        target_row, rows, columns = target_column, columns, rows
    if target_row == columns:
        rows, columns = 1, rows * columns
    for r in range(rows):
        clear(offset(target, r * target_row), columns)


@_jit.inner
def copy_block(
    copier, target, target_row, target_column, source, source_row, source_column, rows, columns
):  # fmt: skip
    """target[r, c] = source[r, c] where rows or columns are contiguous in both, or by `copier`.

    That is the address of `transposition.copy_strided`, which few plans need; or 0.
    """
    if target_column != 1:  # name the axes so that columns of the target are contiguous
        target_row, target_column = target_column, target_row
        source_row, source_column = source_column, source_row
        rows, columns = columns, rows
    if not target_column == source_column == 1:
        arguments = (
            target, target_row, target_column, source, source_row, source_column, rows, columns
        )  # fmt: skip
        call_address(copier, arguments)
        return
    if target_row == columns and source_row == columns:
        rows, columns = 1, rows * columns
    lanes = lanes_of(target)
    if columns % lanes == 0 and columns <= 8 * lanes:  # a memcpy takes 10 ns a row
        for r in range(rows):
            for c in range(0, columns, lanes):
                move_vector(offset(target, r * target_row + c), offset(source, r * source_row + c))
        return
    for r in range(rows):
        move(offset(target, r * target_row), offset(source, r * source_row), columns)

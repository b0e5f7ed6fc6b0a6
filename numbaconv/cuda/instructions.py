"""PTX instructions as functions that kernels call: nothing here knows of tiles or pipelines.

Registers of a thread travel as tuples of one type, which are values to LLVM and never become
arrays in local memory. Global addresses are int64, addresses in shared memory int32, both in
bytes. A *word* is 32 bits, whatever it holds: one float32, or two elements of 16 bits.

The instructions are those of the PTX ISA, section 9.7: "Warp-level matrix instructions" for
`ldmatrix` and `mma.sync`, "Asynchronous copy" for `cp.async`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from .frontend import RequireLiteralValue, intrinsic, signature, types
from .storage import BF16, F16, F32, Storage

i16, i32, i64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
f32, f64 = ir.FloatType(), ir.DoubleType()
void = ir.VoidType()

GLOBAL, SHARED = 1, 3


# --- emission


def assembly(
    builder: ir.IRBuilder,
    result: ir.Type,
    arguments: Sequence[Any],
    text: str,
    constraints: str,
    has_effects: bool = True,
) -> Any:
    """Call `text` as inline assembly."""
    function = ir.FunctionType(result, [value.type for value in arguments])
    code = ir.InlineAsm(function, text, constraints, side_effect=has_effects)
    return builder.call(code, list(arguments))


def items(builder: ir.IRBuilder, value: Any, count: int) -> list[Any]:
    return [builder.extract_value(value, i) for i in range(count)]


def as_tuple(builder: ir.IRBuilder, values: Sequence[Any]) -> Any:
    result = ir.Constant(ir.ArrayType(values[0].type, len(values)), ir.Undefined)
    for i, value in enumerate(values):
        result = builder.insert_value(result, value, i)
    return result


def tuple_of(element: Any, count: int) -> Any:
    return types.UniTuple(element, count)


def literal(value: Any) -> int:
    if not isinstance(value, types.IntegerLiteral):
        raise RequireLiteralValue("an integer constant is needed here")
    return int(value.literal_value)


def statement(text: str, constraints: str, *arguments: Any) -> Callable[..., Any]:
    """An instruction without a result."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        assembly(builder, void, values, text, constraints)
        return context.get_dummy_value()

    sig = signature(types.void, *arguments)
    names = ", ".join(f"a{i}" for i in range(len(arguments)))
    space = {"sig": sig, "emit": emit}
    exec(f"def instruction(typing_context{', ' if names else ''}{names}): return sig, emit", space)
    return intrinsic(space["instruction"])


# --- addresses


@intrinsic
def shared_address(typing_context: Any, array: Any) -> Any:
    """The int32 address of the first element of a shared array."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, values[0]).data
        pointer = builder.addrspacecast(data, data.type.pointee.as_pointer(SHARED))
        return builder.ptrtoint(pointer, i32)

    return signature(types.int32, array), emit


# --- words to and from memory


@functools.cache
def load_words(space: int, count: int) -> Callable[..., Any]:
    """(address) -> `count` words, by one instruction."""

    def load(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            vector = ir.VectorType(i32, count) if count > 1 else i32
            loaded = builder.load(
                builder.inttoptr(values[0], vector.as_pointer(space)), align=4 * count
            )
            if count == 1:
                return as_tuple(builder, [loaded])
            return as_tuple(
                builder, [builder.extract_element(loaded, i32(i)) for i in range(count)]
            )

        place = types.int32 if space == SHARED else types.int64
        return signature(tuple_of(types.int32, count), place), emit

    return intrinsic(load)


@functools.cache
def load_words_if(count: int) -> Callable[..., Any]:
    """(global address, int32 condition) -> `count` words, zeros where the condition is 0.

    No branch, and nothing is read where the condition is 0. The memory must not change while
    the kernel runs.
    """

    def load(typing_context: Any, address: Any, condition: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            registers = ", ".join(f"${i}" for i in range(count))
            zeros = "".join(f"mov.b32 ${i}, 0; " for i in range(count))
            vector, target = (f".v{count}", f"{{{registers}}}") if count > 1 else ("", registers)
            text = (
                f"{{ .reg .pred p; setp.ne.b32 p, ${count + 1}, 0; {zeros}"
                f"@p ld.global.nc{vector}.b32 {target}, [${count}]; }}"
            )
            result = ir.LiteralStructType([i32] * count) if count > 1 else i32
            constraints = ",".join(["=&r"] * count) + ",l,r"
            loaded = assembly(builder, result, values, text, constraints)
            words = items(builder, loaded, count) if count > 1 else [loaded]
            return as_tuple(builder, words)

        return signature(tuple_of(types.int32, count), types.int64, types.int32), emit

    return intrinsic(load)


@functools.cache
def store_words(space: int, count: int) -> Callable[..., Any]:
    """(address, `count` words), by one instruction."""

    def store(typing_context: Any, address: Any, words: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            parts = items(builder, values[1], count)
            vector = ir.VectorType(i32, count) if count > 1 else i32
            value = parts[0]
            if count > 1:
                value = ir.Constant(vector, ir.Undefined)
                for i, part in enumerate(parts):
                    value = builder.insert_element(value, part, i32(i))
            pointer = builder.inttoptr(values[0], vector.as_pointer(space))
            builder.store(value, pointer, align=4 * count)
            return context.get_dummy_value()

        place = types.int32 if space == SHARED else types.int64
        return signature(types.void, place, tuple_of(types.int32, count)), emit

    return intrinsic(store)


# --- words and numbers


@functools.cache
def unpack(storage: Storage) -> Callable[..., Any]:
    """(words) -> the float32 that they hold; the lower half of a word comes first."""

    def widen(builder: ir.IRBuilder, word: Any) -> list[Any]:
        if storage == F32:
            return [builder.bitcast(word, f32)]
        if storage == BF16:
            halves = builder.shl(word, i32(16)), builder.and_(word, i32(-65536))
            return [builder.bitcast(half, f32) for half in halves]
        text = "{ .reg .b16 l, h; mov.b32 {l, h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h; }"
        pair = ir.LiteralStructType([f32, f32])
        return items(builder, assembly(builder, pair, [word], text, "=f,=f,r", False), 2)

    def convert(typing_context: Any, words: Any) -> Any:
        count = words.count

        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            parts = items(builder, values[0], count)
            return as_tuple(builder, [number for w in parts for number in widen(builder, w)])

        return signature(tuple_of(types.float32, count * storage.per_word), words), emit

    return intrinsic(convert)


@functools.cache
def pack(storage: Storage) -> Callable[..., Any]:
    """(float32 numbers) -> words, rounded to the nearest even number of the storage."""

    def convert(typing_context: Any, numbers: Any) -> Any:
        count = numbers.count // storage.per_word

        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            parts = items(builder, values[0], numbers.count)
            if storage == F32:
                return as_tuple(builder, [builder.bitcast(part, i32) for part in parts])
            text = f"cvt.rn.{storage.name}x2.f32 $0, $1, $2;"  # the first source goes to the top
            words = [
                assembly(builder, i32, [high, low], text, "=r,f,f", False)
                for low, high in zip(parts[::2], parts[1::2], strict=True)
            ]
            return as_tuple(builder, words)

        return signature(tuple_of(types.int32, count), numbers), emit

    return intrinsic(convert)


@functools.cache
def load_element(storage: Storage) -> Callable[..., Any]:
    """(global address) -> one element as a number of the accumulator's type."""

    def load(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            kind = {"f32": f32, "f64": f64}.get(storage.name, i16)
            pointer = builder.inttoptr(values[0], kind.as_pointer(GLOBAL))
            value = builder.load(pointer, align=storage.size)
            if storage == BF16:
                return builder.bitcast(builder.shl(builder.zext(value, i32), i32(16)), f32)
            if storage == F16:
                return assembly(builder, f32, [value], "cvt.f32.f16 $0, $1;", "=f,h", False)
            return value

        return signature(getattr(types, storage.accumulator), types.int64), emit

    return intrinsic(load)


@functools.cache
def store_element(storage: Storage) -> Callable[..., Any]:
    """(global address, number of the accumulator's type), rounded to the storage."""

    def store(typing_context: Any, address: Any, number: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            value = values[1]
            if storage.size == 2:
                text = f"cvt.rn.{storage.name}.f32 $0, $1;"
                value = assembly(builder, i16, [value], text, "=h,f", False)
            pointer = builder.inttoptr(values[0], value.type.as_pointer(GLOBAL))
            builder.store(value, pointer, align=storage.size)
            return context.get_dummy_value()

        return signature(types.void, types.int64, getattr(types, storage.accumulator)), emit

    return intrinsic(store)


# --- arithmetic on tuples of float32


@intrinsic
def zeros(typing_context: Any, count: Any) -> Any:
    """`count` float32 zeros, for a constant count."""
    length = literal(count)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        return as_tuple(builder, [ir.Constant(f32, 0.0)] * length)

    return signature(tuple_of(types.float32, length), count), emit


@intrinsic
def fma(typing_context: Any, sums: Any, left: Any, right: Any) -> Any:
    """sums[i] + left[i]*right[i], rounded once."""
    count = sums.count

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        s, l, r = (items(builder, value, count) for value in values)
        return as_tuple(builder, [builder.fma(l[i], r[i], s[i]) for i in range(count)])

    return signature(sums, sums, left, right), emit


@intrinsic
def add(typing_context: Any, left: Any, right: Any) -> Any:
    """left[i] + right[i]."""
    count = left.count

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        l, r = (items(builder, value, count) for value in values)
        return as_tuple(builder, [builder.fadd(l[i], r[i]) for i in range(count)])

    return signature(left, left, right), emit


@intrinsic
def outer_product(typing_context: Any, sums: Any, left: Any, right: Any) -> Any:
    """sums[i*len(right) + j] + left[i]*right[j], each rounded once."""
    rows, columns = left.count, right.count

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        s = items(builder, values[0], rows * columns)
        l, r = items(builder, values[1], rows), items(builder, values[2], columns)
        return as_tuple(
            builder,
            [
                builder.fma(l[i], r[j], s[i * columns + j])
                for i in range(rows)
                for j in range(columns)
            ],
        )

    return signature(sums, sums, left, right), emit


# --- matrix products of a warp


@functools.cache
def load_matrix(is_transposed: bool) -> Callable[..., Any]:
    """(shared address of a row of 16 bytes) -> four 8x8 matrices of 16-bit elements."""

    def load(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            how = ".trans" if is_transposed else ""
            text = f"ldmatrix.sync.aligned.m8n8.x4{how}.shared.b16 {{$0,$1,$2,$3}}, [$4];"
            result = ir.LiteralStructType([i32] * 4)
            loaded = assembly(builder, result, values, text, "=r,=r,=r,=r,r,~{memory}")
            return as_tuple(builder, items(builder, loaded, 4))

        return signature(tuple_of(types.int32, 4), types.int32), emit

    return intrinsic(load)


@intrinsic
def round_tf32(typing_context: Any, words: Any) -> Any:
    """The tf32 nearest to each float32, ties away from zero."""
    count = words.count

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        text = "cvt.rna.tf32.f32 $0, $1;"
        parts = items(builder, values[0], count)
        return as_tuple(
            builder, [assembly(builder, i32, [part], text, "=r,r", False) for part in parts]
        )

    return signature(words, words), emit


# Rows, columns and words of the operands of one `mma.sync`: 16x8 sums, four words of the left
# matrix and two of the right for each thread.
MMA_SHAPE = {"tf32": "m16n8k8", "f16": "m16n8k16", "bf16": "m16n8k16"}


def emit_mma(builder: ir.IRBuilder, kind: str, left: Any, right: Any, sums: Any) -> list[Any]:
    """One `mma.sync`: 4 words of the left matrix, 2 of the right, 4 sums."""
    text = (
        f"mma.sync.aligned.{MMA_SHAPE[kind]}.row.col.f32.{kind}.{kind}.f32 "
        "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
    )
    constraints = "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f"
    result = ir.LiteralStructType([f32] * 4)
    done = assembly(builder, result, [*left, *right, *sums], text, constraints, False)
    return items(builder, done, 4)


def emit_mma_tile(builder: ir.IRBuilder, kind: str, left: Any, right: Any, sums: list[Any]) -> None:
    """All products of a warp's tile, in place in `sums`.

    Columns run to and fro, so that neighbours in time share an operand (as in CUTLASS).
    """
    rows, columns = len(left) // 4, len(right) // 2
    for i in range(rows):
        for step in range(columns):
            j = step if i % 2 == 0 else columns - 1 - step
            at = 4 * (i * columns + j)
            sums[at : at + 4] = emit_mma(
                builder, kind, left[4 * i : 4 * i + 4], right[2 * j : 2 * j + 2], sums[at : at + 4]
            )


@functools.cache
def matrix_product(kind: str) -> Callable[..., Any]:
    """(sums, left words, right words) -> sums + left @ right, by `mma.sync` of `kind`."""

    def multiply(typing_context: Any, sums: Any, left: Any, right: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
            s, l, r = (
                items(builder, value, count.count)
                for value, count in zip(values, (sums, left, right), strict=True)
            )
            emit_mma_tile(builder, kind, l, r, s)
            return as_tuple(builder, s)

        return signature(sums, sums, left, right), emit

    return intrinsic(multiply)


@intrinsic
def matrix_product_3xtf32(typing_context: Any, sums: Any, left: Any, right: Any) -> Any:
    """As `matrix_product`, on float32 words, with about the accuracy of float32.

    Each operand is a sum of two tf32 numbers; the product of the two lower ones is left out
    (Ootomo and Yokota 2022). The upper one is truncated, so that the rest is exact.
    """

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        s, l, r = (
            items(builder, value, count.count)
            for value, count in zip(values, (sums, left, right), strict=True)
        )

        def split(word: Any) -> tuple[Any, Any]:
            upper = builder.and_(word, i32(-8192))
            rest = builder.fsub(builder.bitcast(word, f32), builder.bitcast(upper, f32))
            return upper, builder.bitcast(rest, i32)

        left_parts = list(zip(*map(split, l), strict=True))
        right_parts = list(zip(*map(split, r), strict=True))
        for a, b in ((1, 0), (0, 1), (0, 0)):  # the small products first
            emit_mma_tile(builder, "tf32", left_parts[a], right_parts[b], s)
        return as_tuple(builder, s)

    return signature(sums, sums, left, right), emit


@intrinsic
def is_finite(typing_context: Any, numbers: Any) -> Any:
    """Whether all of a tuple of float32 are finite."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> Any:
        parts = items(builder, values[0], numbers.count)
        total = parts[0]
        for part in parts[1:]:  # 0*x is 0 or NaN, and NaN stays
            total = builder.fma(part, ir.Constant(f32, 0.0), total)
        bits = builder.and_(builder.bitcast(total, i32), i32(0x7F800000))
        return builder.icmp_unsigned("!=", bits, i32(0x7F800000))

    return signature(types.boolean, numbers), emit


# --- copies to shared memory that overlap with arithmetic


@functools.cache
def copy_async(width: int) -> Callable[..., Any]:
    """(shared address, global address, bytes): copy `width` bytes, zeros beyond `bytes`."""
    cache = "cg" if width == 16 else "ca"
    return statement(
        f"cp.async.{cache}.shared.global [$0], [$1], {width}, $2;",
        "r,l,r,~{memory}", types.int32, types.int64, types.int32,
    )  # fmt: skip


commit_copies = statement("cp.async.commit_group;", "~{memory}")


@functools.cache
def wait_for_copies(pending: int) -> Callable[..., Any]:
    """Wait until at most `pending` groups of this thread's copies are under way."""
    return statement(f"cp.async.wait_group {pending};", "~{memory}")

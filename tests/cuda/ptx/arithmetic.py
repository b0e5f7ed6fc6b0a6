"""Instructions that compute registers from registers.

Each function takes the block, the instruction and a mask of threads (None for all).
"""

import numpy as np

from tests.cuda.ptx.program import InterpreterError
from tests.cuda.ptx.values import (
    UNSIGNED,
    bits_of,
    dtype_of,
    from_bf16,
    round_to_tf32,
    to_half,
    unsigned,
)

BINARY = {
    "add": np.add, "sub": np.subtract, "max": np.maximum, "min": np.minimum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
}  # fmt: skip
COMPARISONS = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
    "hs": np.greater_equal, "equ": np.equal, "neu": np.not_equal, "ltu": np.less,
    "leu": np.less_equal, "gtu": np.greater, "geu": np.greater_equal,
}  # fmt: skip


def move(block, code, mask):
    target, source = code.operands
    kind = unsigned(code.type)
    if target.startswith("{"):
        value, names = block.value(source, kind), block.listed(target)
        width = bits_of(kind) // len(names)
        for i, name in enumerate(names):
            part = (value >> value.dtype.type(i * width)).astype(UNSIGNED[width])
            block.put(name, part, mask)
    elif source.startswith("{"):
        names = block.listed(source)
        width = bits_of(kind) // len(names)
        value = np.zeros(block.threads, dtype_of(kind))
        for i, name in enumerate(names):
            part = block.value(name, f"u{width}").astype(value.dtype)
            value |= part << value.dtype.type(i * width)
        block.put(target, value, mask)
    else:
        block.put(target, block.value(source, kind), mask)


def binary(block, code, mask):
    kind = unsigned(code.type)
    left, right = (block.value(operand, kind) for operand in code.operands[1:])
    if code.type[0] == "f" and code.name in ("max", "min"):  # the number wins over NaN
        result = {"max": np.fmax, "min": np.fmin}[code.name](left, right)
    else:
        result = BINARY[code.name](left, right)
    block.put(code.operands[0], result, mask)


def unary(block, code, mask):
    value = block.value(code.operands[1], unsigned(code.type))
    result = {"not": np.invert, "neg": np.negative, "abs": np.abs}[code.name](value)
    block.put(code.operands[0], result, mask)


def multiply(block, code, mask):
    """mul and mad of integers, mul of floats."""
    kind = code.type
    left, right = (block.value(operand, kind) for operand in code.operands[1:3])
    sum_kind = kind
    if "wide" in code.parts:
        sum_kind = f"{kind[0]}{2 * bits_of(kind)}"
        wide = dtype_of(sum_kind)
        result = left.astype(wide) * right.astype(wide)
    elif "hi" in code.parts:
        bits = bits_of(kind)
        products = [(int(a) * int(b)) >> bits for a, b in zip(left, right, strict=True)]
        result = np.array([p & ((1 << bits) - 1) for p in products], UNSIGNED[bits])
        result = result.view(left.dtype)
    else:
        result = left * right
    if code.name == "mad":
        result = result + block.value(code.operands[3], sum_kind)
    block.put(code.operands[0], result, mask)


def fused(block, code, mask):
    """fma, through float64: exact products of float32, two roundings of the sum at worst."""
    a, b, c = (block.value(operand, code.type) for operand in code.operands[1:])
    wide = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
    block.put(code.operands[0], wide.astype(a.dtype), mask)


def divide(block, code, mask):
    left, right = (block.value(operand, code.type) for operand in code.operands[1:])
    if code.type[0] == "f":
        result = left / right
    else:  # truncates, as C does
        safe = np.where(right == 0, 1, right)
        quotient = np.floor_divide(np.abs(left.astype(object)), np.abs(safe.astype(object)))
        signs = np.where((left < 0) == (right < 0), 1, -1)
        quotient = (quotient * signs).astype(left.dtype)
        result = quotient if code.name == "div" else left - quotient * right
    block.put(code.operands[0], result, mask)


def shift(block, code, mask):
    kind = unsigned(code.type)
    value, count = block.value(code.operands[1], kind), block.value(code.operands[2], "u32")
    bits = bits_of(kind)
    clamped = np.minimum(count, bits - 1).astype(value.dtype)
    result = value << clamped if code.name == "shl" else value >> clamped
    if kind[0] != "s":
        result = np.where(count >= bits, 0, result).astype(value.dtype)
    block.put(code.operands[0], result, mask)


def extract_bits(block, code, mask):
    value = block.value(code.operands[1], code.type)
    first, length = (
        block.value(operand, "u32").astype(value.dtype) for operand in code.operands[2:]
    )
    one = value.dtype.type(1)
    block.put(code.operands[0], (value >> first) & ((one << length) - one), mask)


def insert_bits(block, code, mask):
    """bfi: the lowest bits of one number in the place of some of another."""
    kind = unsigned(code.type)
    bits, into = (block.value(operand, kind) for operand in code.operands[1:3])
    first, length = (int(operand) for operand in code.operands[3:])
    field = into.dtype.type(((1 << length) - 1) << first)
    block.put(code.operands[0], (into & ~field) | ((bits << into.dtype.type(first)) & field), mask)


def compare(block, code, mask):
    kind = unsigned(code.type)
    left, right = (block.value(operand, kind) for operand in code.operands[1:3])
    result = COMPARISONS[code.parts[1]](left, right)
    if code.parts[1].endswith("u") and code.type[0] == "f":
        result |= np.isnan(left) | np.isnan(right)
    if code.parts[2] in ("and", "or", "xor"):
        result = BINARY[code.parts[2]](result, block.value(code.operands[3], "pred"))
    block.put(code.operands[0], result, mask)


def select(block, code, mask):
    kind = unsigned(code.type)
    left, right = (block.value(operand, kind) for operand in code.operands[1:3])
    block.put(code.operands[0], np.where(block.value(code.operands[3], "pred"), left, right), mask)


def convert(block, code, mask):
    target, source = code.parts[-2:]
    if target == "tf32":
        result = round_to_tf32(block.value(code.operands[1], "u32"))
    elif target in ("f16x2", "bf16x2"):
        upper, lower = (to_half(block.value(o, "f32"), target) for o in code.operands[1:])
        result = (upper.astype(np.uint32) << np.uint32(16)) | lower
    elif target in ("f16", "bf16") and source == "f32":
        result = to_half(block.value(code.operands[1], "f32"), target)
    elif source == "bf16":
        result = from_bf16(block.value(code.operands[1], "u16"))
    elif source == "f16":
        bits = np.ascontiguousarray(block.value(code.operands[1], "u16"))
        result = bits.view(np.float16).astype(dtype_of(target))
    else:
        result = block.value(code.operands[1], unsigned(source)).astype(dtype_of(unsigned(target)))
    block.put(code.operands[0], result, mask)


def dispatch(code):
    """The function for an instruction, or None."""
    name, is_float = code.name, code.type[0] == "f"
    if name == "mov" or name == "cvta":
        return move
    if name in BINARY:
        return binary
    if name in ("not", "neg", "abs"):
        return unary
    if name == "fma" or (name == "mad" and is_float):
        return fused
    table = {
        "mul": multiply, "mad": multiply, "div": divide, "rem": divide, "shl": shift,
        "shr": shift, "bfe": extract_bits, "bfi": insert_bits, "setp": compare,
        "selp": select, "cvt": convert,
    }  # fmt: skip
    return table.get(name)


def unknown(block, code, mask):
    raise InterpreterError(f"not modelled: {code.text}")

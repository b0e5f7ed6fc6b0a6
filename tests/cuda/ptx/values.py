"""Numbers of PTX types as NumPy arrays, one element for each thread."""

import re

import numpy as np

UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOATING = {16: np.float16, 32: np.float32, 64: np.float64}


def bits_of(kind):
    """32 for "f32"."""
    return int(re.sub(r"\D", "", kind))


def dtype_of(kind):
    """The dtype of a PTX type; untyped bits are unsigned."""
    family = {"s": SIGNED, "f": FLOATING}.get(kind[0], UNSIGNED)
    return np.dtype(family[bits_of(kind)])


def unsigned(kind):
    """The unsigned type of the same width."""
    return "u" + kind[1:] if kind[0] == "b" else kind


def from_bf16(bits):
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(numbers):
    """Round to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    halves = (rounded >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FFF), halves)


def to_half(numbers, kind):
    """Bits of float32 numbers as f16 or bf16."""
    if kind.startswith("bf"):
        return to_bf16(numbers)
    return numbers.astype(np.float16).view(np.uint16)


def halves_of(words, kind):
    """(lower, upper) numbers of words of two halves, as float64."""
    words = np.ascontiguousarray(words)
    parts = (
        (words & np.uint32(0xFFFF)).astype(np.uint16),
        (words >> np.uint32(16)).astype(np.uint16),
    )
    if kind.startswith("bf"):
        return tuple(from_bf16(part).astype(np.float64) for part in parts)
    return tuple(part.view(np.float16).astype(np.float64) for part in parts)


def tf32_of(words):
    """What a tensor core reads of a word: 11 bits of the significand."""
    return (np.ascontiguousarray(words) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def round_to_tf32(words):
    """Nearest, ties away from zero."""
    finite = (words & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    return np.where(finite, words + np.uint32(0x1000), words) & np.uint32(0xFFFFE000)

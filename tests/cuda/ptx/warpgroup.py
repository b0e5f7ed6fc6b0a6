"""Products of four warps on Hopper, whose factors lie in shared memory.

A product is computed when it is begun. That nobody changes its factors before it is awaited, and
that the asynchronous proxy could see them, is checked.
"""

import re

import numpy as np

from tests.cuda.ptx.memory import SEVERAL
from tests.cuda.ptx.program import InterpreterError
from tests.cuda.ptx.values import halves_of

SWIZZLE_128 = 1
WARPGROUP = 128


def execute(block, code, mask):
    part = code.parts[1]
    groups = warpgroups_of(block, mask)
    if part == "mma_async":
        multiply(block, code, groups)
    elif part == "commit_group":
        for group in groups:
            block.product_groups[group].append(block.open_products.pop(group, []))
    elif part == "wait_group":
        for group in groups:
            waiting = block.product_groups[group]
            while len(waiting) > int(code.operands[0]):
                for places, seen in waiting.pop(0):
                    shared = block.shared  # where a copy is under way, nothing is written
                    is_same = np.array_equal(shared.bytes[places], seen)
                    if not is_same or not shared.is_written[places].all():
                        raise InterpreterError("a factor of a product changed before it was done")
    elif part != "fence":
        raise InterpreterError(f"not modelled: {code.opcode}")


def warpgroups_of(block, mask):
    """Numbers of the warpgroups that execute, each of them whole."""
    if block.threads % WARPGROUP:
        raise InterpreterError("wgmma in a block without whole warpgroups")
    active = np.ones(block.threads, bool) if mask is None else mask
    active = active.reshape(-1, WARPGROUP)
    if (active.any(1) != active.all(1)).any():
        raise InterpreterError("wgmma in a diverged warpgroup")
    return np.flatnonzero(active.any(1))


def multiply(block, code, groups):
    """m64nNk16 of f16 or bf16: left k-major, right along the columns, float32 sums."""
    columns = int(re.fullmatch(r"m64n(\d+)k16", code.parts[4])[1])
    kind = code.parts[6]
    if kind not in ("f16", "bf16") or code.operands[-4:] != ("1", "1", "0", "1"):
        raise InterpreterError(f"not modelled: {code.text}")
    names = block.listed(code.operands[0])
    if not block.value(code.operands[3], "pred").all():
        raise InterpreterError("products without sums are not modelled")
    left, right = (block.value(operand, "u64") for operand in code.operands[1:3])
    row, column = fragment(len(names))
    values = [block.value(name, "f32").copy() for name in names]
    mask = np.zeros(block.threads, bool)
    for group in groups:
        threads = slice(group * WARPGROUP, (group + 1) * WARPGROUP)
        mask[threads] = True
        a = read(block, group, Descriptor(left[threads]), left_offsets)
        b = read(block, group, Descriptor(right[threads]), right_offsets, columns)
        product = (number(a, kind) @ number(b, kind)).astype(np.float32)
        for i, value in enumerate(values):
            value[threads] += product[row + 8 * (i >> 1 & 1), column[i]]
    for name, value in zip(names, values, strict=True):
        block.put(name, value, mask)


def fragment(count):
    """The first row of each thread, and for each sum the columns of the threads."""
    thread = np.arange(WARPGROUP)
    row = 16 * (thread >> 5) + ((thread & 31) >> 2)
    return row, [8 * (i >> 2) + 2 * (thread & 3) + (i & 1) for i in range(count)]


class Descriptor:
    """Where a matrix lies, by the fields of the descriptor that all threads give, in bytes."""

    def __init__(self, given):
        bits = int(given[0])
        if (given != given[0]).any():
            raise InterpreterError("threads of a warpgroup differ in a descriptor")
        if bits >> 62 != SWIZZLE_128 or bits >> 49 & 7:
            raise InterpreterError("only the swizzle of 128 bytes is modelled")
        self.start, self.leading, self.stride = (
            (bits >> shift & 0x3FFF) << 4 for shift in (0, 16, 32)
        )


def left_offsets(descriptor):
    """64 rows of 16 elements of k, which follow each other."""
    m, k = np.arange(64)[:, None], np.arange(16)
    return descriptor.stride * (m // 8) + 128 * (m % 8) + 2 * k


def right_offsets(descriptor, columns):
    """16 rows, one for each k, in blocks of 64 columns."""
    k, n = np.arange(16)[:, None], np.arange(columns)
    block = descriptor.leading * (n // 64) + descriptor.stride * (k // 8)
    return block + 128 * (k % 8) + 2 * (n % 64)


def read(block, group, descriptor, offsets, *arguments):
    """16-bit elements of one matrix, each at its offset and then swizzled."""
    addresses = descriptor.start + offsets(descriptor, *arguments)
    addresses ^= (addresses >> 7 & 7) << 4
    flat, shared = addresses.ravel(), block.shared
    data = shared.load(flat, 2, np.full(flat.size, group * WARPGROUP))
    words = flat >> 2
    if not shared.is_public[words].all():
        raise InterpreterError("a factor is not visible to the asynchronous proxy")
    shared.reader[words] = SEVERAL
    places = flat[:, None] + np.arange(2)
    block.open_products.setdefault(group, []).append((places, shared.bytes[places].copy()))
    return np.ascontiguousarray(data).view(np.uint16).reshape(addresses.shape)


def number(bits, kind):
    low, _ = halves_of(bits.astype(np.uint32), kind)
    return np.asarray(low, np.float64)


def publish(block, code, mask):
    """fence.proxy.async: what the thread's warp has written can be read by products."""
    if "mbarrier_init" in code.parts or "tensormap::generic" in code.parts:
        return
    if "async" not in code.parts:
        raise InterpreterError(f"not modelled: {code.opcode}")
    threads = block.thread if mask is None else block.thread[mask]
    shared = block.shared
    shared.is_public[np.isin(shared.writer, np.unique(threads >> 5))] = True

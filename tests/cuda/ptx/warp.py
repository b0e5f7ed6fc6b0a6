"""Instructions that a warp executes together: matrices of tensor cores."""

import re

import numpy as np

from tests.cuda.ptx.program import InterpreterError
from tests.cuda.ptx.values import halves_of, tf32_of

LANE = np.arange(32)
GROUP, IN_GROUP = LANE >> 2, LANE & 3  # as the PTX ISA names them in its figures of fragments


def require_whole_warps(block, mask, what):
    if mask is None:
        return
    warps = mask.reshape(-1, 32)
    if (warps.any(1) != warps.all(1)).any():
        raise InterpreterError(f"{what} in a diverged warp")


def load_matrix(block, code, mask):
    """ldmatrix: lanes 8i to 8i+7 give the rows of matrix i."""
    require_whole_warps(block, mask, "ldmatrix")
    names, addresses = block.listed(code.operands[0]), block.address(code.operands[1])
    asked = (block.thread & 31) < 8 * len(names)
    if mask is not None:
        asked &= mask
    rows = np.zeros((block.threads, 16), np.uint8)
    rows[asked] = block.shared.load(addresses[asked], 16, block.thread[asked])
    halves = rows.view(np.uint16).reshape(-1, 32, 8)
    for i, name in enumerate(names):
        matrix = halves[:, 8 * i : 8 * i + 8]
        if "trans" in code.parts:
            matrix = matrix.transpose(0, 2, 1)
        words = np.ascontiguousarray(matrix).reshape(-1, 8, 4, 2).view(np.uint32)
        block.put(name, words.reshape(block.threads), mask)


def multiply_matrices(block, code, mask):
    """mma.sync m16n8k8 of tf32, m16n8k16 of f16 and bf16, with float32 sums."""
    require_whole_warps(block, mask, "mma.sync")
    shape = next(part for part in code.parts if re.match(r"m\d+n\d+k\d+", part))
    kind = code.parts[-3]
    d, a, b, c = (block.listed(operand) for operand in code.operands)
    words = [[block.value(n, "u32").reshape(-1, 32) for n in names] for names in (a, b)]
    warps = block.threads // 32
    sums = np.zeros((warps, 16, 8))
    for i, name in enumerate(c):
        value = block.value(name, "f32").reshape(-1, 32)
        sums[:, GROUP + 8 * (i >> 1), 2 * IN_GROUP + (i & 1)] = value
    if (shape, kind) == ("m16n8k8", "tf32"):
        left, right = tf32_fragments(warps, *words)
    elif shape == "m16n8k16" and kind in ("f16", "bf16"):
        left, right = half_fragments(warps, *words, kind)
    else:
        raise InterpreterError(f"not modelled: {code.opcode}")
    product = (left @ right + sums).astype(np.float32)
    for i, name in enumerate(d):
        part = product[:, GROUP + 8 * (i >> 1), 2 * IN_GROUP + (i & 1)]
        block.put(name, np.ascontiguousarray(part).reshape(-1), mask)


def tf32_fragments(warps, a, b):
    left, right = np.zeros((warps, 16, 8)), np.zeros((warps, 8, 8))
    for i, word in enumerate(a):
        left[:, GROUP + 8 * (i & 1), IN_GROUP + 4 * (i >> 1)] = tf32_of(word)
    for i, word in enumerate(b):
        right[:, IN_GROUP + 4 * i, GROUP] = tf32_of(word)
    return left, right


def half_fragments(warps, a, b, kind):
    left, right = np.zeros((warps, 16, 16)), np.zeros((warps, 16, 8))
    for i, word in enumerate(a):
        for j, part in enumerate(halves_of(word, kind)):
            left[:, GROUP + 8 * (i & 1), 2 * IN_GROUP + j + 8 * (i >> 1)] = part
    for i, word in enumerate(b):
        for j, part in enumerate(halves_of(word, kind)):
            right[:, 2 * IN_GROUP + j + 8 * i, GROUP] = part
    return left, right

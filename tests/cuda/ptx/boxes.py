"""Boxes of arrays that arrive by themselves, and the barriers that count their bytes.

A box lands when somebody asks whether its barrier is complete, which is the latest legal time.
"""

import numpy as np

from tests.cuda.ptx.program import InterpreterError

# The fields of a tensor map as `FakeDriver.encode_map` writes them, int64 each.
MAP_FIELDS = 14


class Barrier:
    """One arrival and a number of bytes complete a phase."""

    def __init__(self):
        self.phase, self.is_awaited, self.bytes, self.boxes = 0, True, 0, []

    def settle(self):
        if not self.is_awaited and self.bytes == 0:
            self.phase, self.is_awaited = self.phase + 1, True


def barrier(block, code, mask):
    if "init" in code.parts:
        address = only(block, block.address(code.operands[0]), mask)
        if address % 8 or int(code.operands[1]) != 1:
            raise InterpreterError("a barrier is misaligned, or waits for several arrivals")
        block.barriers[address] = Barrier()
    elif "expect_tx" in code.parts:
        found = find(block, only(block, block.address(code.operands[1]), mask))
        if not found.is_awaited:
            raise InterpreterError("a barrier has more arrivals than it waits for")
        found.bytes += only(block, block.value(code.operands[2], "s32"), mask)
        found.is_awaited = False
        found.settle()
    elif "try_wait" in code.parts:
        wait(block, code, mask)
    else:
        raise InterpreterError(f"not modelled: {code.opcode}")


def wait(block, code, mask):
    """Land all boxes of the barrier; complete is a phase whose parity is not the current one."""
    addresses = block.address(code.operands[1])
    addresses = addresses if mask is None else addresses[mask]
    parity = block.value(code.operands[2], "s32")
    parity = int((parity if mask is None else parity[mask])[0])
    found = find(block, same(addresses))
    for box in found.boxes:
        found.bytes -= land(block, *box)
    found.boxes = []
    found.settle()
    is_complete = (found.phase & 1) != parity
    if not is_complete and mask is None:
        raise InterpreterError("deadlock: all wait for a barrier to which nothing is on its way")
    block.put(code.operands[0], np.full(block.threads, is_complete), mask)


def find(block, address):
    if address not in block.barriers:
        raise InterpreterError("a barrier is used that nobody has made")
    return block.barriers[address]


def same(values):
    if (values != values[0]).any():
        raise InterpreterError("threads that differ in a barrier are not modelled")
    return int(values[0])


def only(block, values, mask):
    """The value of the one thread that executes this."""
    if mask is None or mask.sum() != 1:
        raise InterpreterError("this is for one thread alone")
    return int(values[mask][0])


def load(block, code, mask):
    """cp.async.bulk.tensor.3d: nobody may read its target until it has landed."""
    target = only(block, block.address(code.operands[0]), mask)
    inner = code.operands[1][1:-1]
    place, _, listed = inner.partition(",")
    tensor_map = only(block, block.value(place.strip(), "u64"), mask)
    coordinates = [
        only(block, block.value(name, "s32"), mask) for name in block.listed(listed.strip())
    ]
    barrier_address = only(block, block.address(code.operands[2]), mask)
    fields = block.memory.read(tensor_map, 8 * MAP_FIELDS).view(np.int64)
    rows = target + 128 * np.arange(rows_of(fields))
    if target % 1024:
        raise InterpreterError("a box does not begin where the swizzle does")
    pieces = (rows[:, None] + 16 * np.arange(8)).ravel()
    thread = np.full(pieces.size, int(block.thread[mask][0]))
    block.shared.begin_copy(pieces, 16, thread)
    find(block, barrier_address).boxes.append((target, fields, coordinates, thread))


def rows_of(fields):
    """Positions of a box, for each entry of the batch."""
    box, steps = fields[6:9], fields[9:12]
    return -(-int(box[1]) // int(steps[1])) * int(box[2])


def land(block, target, fields, coordinates, thread):
    """Copy a box, zeros beyond the array; returns its bytes."""
    base, extents, strides, box, steps = (
        int(fields[12]), fields[:3], fields[3:5], fields[6:9], fields[9:12]
    )  # fmt: skip
    if box[0] * 2 != 128 or steps[0] != 1 or box[2] != 1 or (box > 256).any():
        raise InterpreterError("a box that is not modelled")
    if base % 16 or (strides % 16).any() or (steps > 8).any():
        raise InterpreterError("a tensor map that the driver would refuse")
    c = coordinates[0] + np.arange(64)
    l = coordinates[1] + np.arange(rows_of(fields)) * steps[1]
    n = coordinates[2]
    inside = ((c >= 0) & (c < extents[0])) & ((l >= 0) & (l < extents[1]))[:, None]
    inside &= 0 <= n < extents[2]
    addresses = base + 2 * c + l[:, None] * strides[0] + n * strides[1]
    data = np.zeros((*inside.shape, 2), np.uint8)
    data[inside] = block.memory.bytes[block.memory.places(addresses[inside], 2, "box")]
    rows = target + 128 * np.arange(l.size)
    pieces = rows[:, None] + ((np.arange(8) ^ (rows[:, None] >> 7 & 7)) << 4)
    block.shared.land_copy(pieces.ravel(), 16, data.reshape(-1, 16), thread)
    block.shared.is_public[(pieces.ravel()[:, None] + np.arange(0, 16, 4)) >> 2] = True
    return data.size

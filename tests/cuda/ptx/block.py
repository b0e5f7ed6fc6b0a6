"""One thread block: registers, control flow, loads and stores.

All threads run in lockstep while they agree; where they do not, those at the lowest place in
the code go first. Not modelled: time, and the memory model beyond barriers and copy groups.
"""

from collections import defaultdict

import numpy as np

from tests.cuda.ptx import arithmetic, boxes, warp, warpgroup
from tests.cuda.ptx.memory import SHARED_BASE, SharedMemory
from tests.cuda.ptx.program import InterpreterError
from tests.cuda.ptx.values import SIGNED, UNSIGNED, bits_of, dtype_of, unsigned

STEP_LIMIT = 20_000_000


class Block:
    """A block of threads about to run a program.

    Parameters
    ----------
    program : Program
    memory : GlobalMemory
    parameters : sequence of int
    index, grid : (int, int, int)
    threads : int
    shared : int
        Bytes of dynamic shared memory.
    """

    def __init__(self, program, memory, parameters, index, grid, threads, shared):
        if threads % 32:
            raise InterpreterError("a block has whole warps")
        self.program, self.memory = program, memory
        names = [name for _, name in program.parameters]
        self.parameters = dict(zip(names, parameters, strict=True))
        self.index, self.grid, self.threads = index, grid, threads
        self.dynamic_shared = shared
        self.shared = SharedMemory(program.static_shared + shared)
        self.registers = {}
        self.thread = np.arange(threads, dtype=np.uint32)
        self.place = np.zeros(threads, np.int64)  # of each thread, once they disagree
        self.is_alive = np.ones(threads, bool)
        self.is_waiting = np.zeros(threads, bool)
        self.open_copies, self.copy_groups = [], []
        self.barriers = {}  # by address, see `boxes`
        self.open_products, self.product_groups = {}, defaultdict(list)  # of warpgroups
        self.functions = [self._function(code) for code in program.code]

    def _function(self, code):
        if code.name in ("ld", "st"):
            return {"ld": load, "st": store}[code.name]
        if code.opcode.startswith("cp.async.bulk.tensor"):
            return boxes.load
        if code.name == "mbarrier":
            return boxes.barrier
        if code.opcode.startswith("cp.async"):
            return copy_async
        if code.name == "ldmatrix":
            return warp.load_matrix
        if code.name == "mma":
            return warp.multiply_matrices
        if code.name == "wgmma":
            return warpgroup.execute
        if code.name == "fence":
            return warpgroup.publish
        return arithmetic.dispatch(code) or arithmetic.unknown

    # --- registers
    def listed(self, operand):
        """Names in {a, b}, or the one name."""
        return [n.strip() for n in operand[1:-1].split(",")] if operand[0] == "{" else [operand]

    def value(self, operand, kind):
        """An operand as an array of a PTX type, "pred" for booleans."""
        if operand in self.registers:
            register = self.registers[operand]
            if kind == "pred" or register.dtype == np.bool_:
                return register
            dtype = dtype_of(kind)
            if register.dtype.itemsize != dtype.itemsize:
                register = register.astype(UNSIGNED[8 * dtype.itemsize])
            return register.view(dtype)
        if kind == "pred" and not operand.startswith("%"):
            return np.full(self.threads, int(operand) != 0)
        dtype = dtype_of(kind)
        plain = UNSIGNED[8 * dtype.itemsize]
        if operand.startswith("%"):
            special = np.asarray(self._special(operand)).astype(plain)
            return np.broadcast_to(special, (self.threads,)).view(dtype)
        if operand[:2] in ("0f", "0F"):
            return np.full(self.threads, np.uint32(int(operand[2:], 16))).view(np.float32)
        if operand[:2] in ("0d", "0D"):
            return np.full(self.threads, np.uint64(int(operand[2:], 16))).view(np.float64)
        if operand in self.program.shared:
            number = SHARED_BASE + self.program.shared[operand]
        else:
            number = int(operand, 0)
        bits = 8 * dtype.itemsize
        return np.full(self.threads, number & ((1 << bits) - 1), plain).view(dtype)

    def _special(self, name):
        register, _, axis = name[1:].partition(".")
        axis = "xyz".find(axis)
        vectors = {
            "tid": (self.thread, 0, 0), "ntid": (self.threads, 1, 1), "ctaid": self.index,
            "nctaid": self.grid,
        }  # fmt: skip
        if register in vectors and axis >= 0:
            return vectors[register][axis]
        if register == "dynamic_smem_size":
            return self.dynamic_shared
        if register == "laneid":
            return self.thread & 31
        raise InterpreterError(f"register {name} is not set or not modelled")

    def put(self, name, value, mask):
        """Set a register for the threads of `mask`."""
        if name == "_":
            return
        if value.dtype != np.bool_:
            value = np.ascontiguousarray(value).view(UNSIGNED[8 * value.dtype.itemsize])
            width = self._width(name)
            if 8 * value.dtype.itemsize != width:
                value = value.astype(UNSIGNED[width])
        if mask is None:
            self.registers[name] = value.copy()
            return
        old = self.registers.get(name)
        new = np.zeros(self.threads, value.dtype) if old is None else old.copy()
        new[mask] = value[mask]
        self.registers[name] = new

    def _width(self, name):
        if name in self.program.widths:
            return self.program.widths[name]
        if name.startswith(("%rd", "%fd")):
            return 64
        return 16 if name.startswith(("%rs", "%h")) else 32

    def address(self, operand):
        """The address in [register+offset] of each thread."""
        base, _, offset = operand[1:-1].partition("+")
        base = base.strip()
        kind = "s64" if self._width(base) == 64 else "u32"
        return self.value(base, kind).astype(np.int64) + (int(offset, 0) if offset else 0)

    # --- control flow
    def run(self):
        """Run to the end of all threads."""
        place, is_uniform = 0, True
        for _ in range(STEP_LIMIT):
            mask = None
            if not is_uniform:
                active = self._active()
                if active is None:
                    return
                place = int(self.place[active].min())
                mask = active & (self.place == place)
                if mask.all():
                    mask, is_uniform = None, True
            if place >= len(self.program.code):
                return
            next_place = self._step(place, mask)
            if next_place is None:
                is_uniform = False
            elif is_uniform:
                place = next_place
            else:
                self.place[mask] = next_place
        raise InterpreterError("the kernel does not end")

    def _active(self):
        """Threads that can go on, through a barrier if all wait; None when all are done."""
        active = self.is_alive & ~self.is_waiting
        if active.any():
            return active
        if not self.is_alive.any():
            return None
        self.is_waiting[:] = False
        self.shared.barrier()
        return self.is_alive

    def _step(self, place, mask):
        """Execute one instruction; the next place, or None if threads now differ."""
        code = self.program.code[place]
        chosen = mask
        if code.guard is not None:
            register, is_negated = code.guard
            holds = self.registers[register] != is_negated
            chosen = holds if mask is None else holds & mask
        if code.name == "bra":
            return self._branch(code, place, mask, chosen)
        if code.name in ("ret", "exit"):
            return self._leave(place, mask, chosen)
        if code.name in ("bar", "barrier"):
            if mask is None:
                self.shared.barrier()
                return place + 1
            self.is_waiting |= mask
            return place + 1
        if chosen is None or chosen.any():
            if chosen is not None and chosen.all():
                chosen = None
            with np.errstate(all="ignore"):
                self.functions[place](self, code, chosen)
        return place + 1

    def _branch(self, code, place, mask, chosen):
        target = self.program.labels[code.operands[0]]
        if code.guard is None:
            return target
        among = np.ones(self.threads, bool) if mask is None else mask
        if not chosen.any():
            return place + 1
        if (chosen == among).all():
            return target
        self.place[among] = place + 1
        self.place[chosen] = target
        return None

    def _leave(self, place, mask, chosen):
        among = np.ones(self.threads, bool) if mask is None else mask
        gone = among if chosen is None else chosen
        self.place[among] = place + 1
        self.is_alive &= ~gone
        return


# --- memory


def load(block, code, mask):
    names, kind = block.listed(code.operands[0]), unsigned(code.type)
    if "param" in code.parts:
        number = block.parameters[code.operands[1][1:-1].partition("+")[0].strip()]
        plain = UNSIGNED[bits_of(kind)]
        bits = number & ((1 << bits_of(kind)) - 1)
        block.put(names[0], np.full(block.threads, bits, plain), mask)
        return
    size = bits_of(kind) // 8
    addresses, threads = block.address(code.operands[1]), block.thread
    if mask is not None:
        addresses, threads = addresses[mask], threads[mask]
    width = size * len(names)
    if "shared" in code.parts:
        data = block.shared.load(addresses, width, threads)
    else:
        data = block.memory.bytes[block.memory.places(addresses, width, "load")]
    elements = np.ascontiguousarray(data).view(UNSIGNED[8 * size]).reshape(-1, len(names))
    for i, name in enumerate(names):
        value = np.zeros(block.threads, elements.dtype)
        value[slice(None) if mask is None else mask] = elements[:, i]
        if kind[0] == "s" and size < 4:
            value = value.view(SIGNED[8 * size]).astype(np.int32)
        block.put(name, value, mask)


def store(block, code, mask):
    names, size = block.listed(code.operands[1]), bits_of(code.type) // 8
    elements = np.stack([block.value(name, f"u{8 * size}") for name in names], 1)
    data = np.ascontiguousarray(elements).view(np.uint8).reshape(block.threads, -1)
    addresses, threads = block.address(code.operands[0]), block.thread
    if mask is not None:
        addresses, threads, data = addresses[mask], threads[mask], data[mask]
    if "shared" in code.parts:
        block.shared.store(addresses, data.shape[1], data, threads)
    else:
        block.memory.bytes[block.memory.places(addresses, data.shape[1], "store")] = data


# --- asynchronous copies


def copy_async(block, code, mask):
    if "commit_group" in code.parts:
        block.copy_groups.append(block.open_copies)
        block.open_copies = []
    elif "wait_group" in code.parts:
        while len(block.copy_groups) > int(code.operands[0]):
            for copy in block.copy_groups.pop(0):
                land(block, *copy)
    else:
        begin_copy(block, code, mask)


def begin_copy(block, code, mask):
    """cp.async: copies a part of `width` bytes, and zeros for the rest."""
    target, source, width = (
        block.address(code.operands[0]), block.address(code.operands[1]), int(code.operands[2]),
    )  # fmt: skip
    sizes = block.value(code.operands[3], "u32").astype(np.int64)
    chosen = slice(None) if mask is None else mask
    target, source, sizes, threads = (
        array[chosen] for array in (target, source, sizes, block.thread)
    )
    if not np.isin(sizes, (0, width)).all():
        raise InterpreterError(f"a copy of neither 0 nor {width} bytes: not modelled")
    block.shared.begin_copy(target, width, threads)
    block.memory.places(source[sizes > 0], width, "copy")
    block.open_copies.append((target, source, width, sizes > 0, threads))


def land(block, target, source, width, is_filled, threads):
    data = np.zeros((target.size, width), np.uint8)
    data[is_filled] = block.memory.bytes[block.memory.places(source[is_filled], width, "copy")]
    block.shared.land_copy(target, width, data, threads)


def launch(program, memory, parameters, grid, threads, shared=0):
    """Run all blocks of a grid, one after the other."""
    for z in range(grid[2]):
        for y in range(grid[1]):
            for x in range(grid[0]):
                Block(program, memory, parameters, (x, y, z), grid, threads, shared).run()

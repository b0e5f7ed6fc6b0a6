"""A thin layer over llvmlite that speaks in vectors: loads, masks, multiply-adds, loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir

i1, i8, i32, i64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
void = ir.VoidType()

# Bytes of a cache line.
LINE = 64


class Mask(NamedTuple):
    """The first lanes of a vector: how many, and a vector of bits."""

    count: Any
    lanes: Any


class VectorBuilder:
    """Emit vector code into an llvmlite builder.

    Parameters
    ----------
    builder : llvmlite.ir.IRBuilder
    bits : {32, 64}
        Width of the floating-point element.
    lanes : int
        Elements of one vector.
    fma : bool
        Emit `llvm.fma`; otherwise a multiplication and an addition.
    """

    def __init__(self, builder: ir.IRBuilder, bits: int, lanes: int, fma: bool) -> None:
        self.ir = builder
        self.bits, self.lanes, self.has_fma = bits, lanes, fma
        self.element = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.element, lanes)
        self.mask_type = ir.VectorType(i1, lanes)
        self.is_avx512 = bits * lanes == 512

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
        """Declare an LLVM intrinsic; llvmlite has no names for those on vectors."""
        known = self.ir.module.globals
        if name not in known:
            ir.Function(self.ir.module, ir.FunctionType(result, arguments), name)
        return known[name]

    # --- addresses
    def at(self, pointer: Any, offset: Any) -> Any:
        """The address `offset` elements on."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = i64(offset)
        return self.ir.gep(pointer, [offset])

    def rows(self, pointer: Any, stride: Any, count: int) -> list[Any]:
        """The addresses of `count` rows, each in a register of its own.

        The empty assembly hides how they are related: LLVM otherwise recomputes one
        from another by a chain of additions in the inner loop, and the additions take
        the ports of the multiply-adds (2-6 % slower without unrolling).
        """
        return [self.hidden(self.at(pointer, self.ir.mul(stride, i64(m)))) for m in range(count)]

    def hidden(self, value: Any) -> Any:
        """The same address or number, of which LLVM no longer knows where it came from."""
        hide = ir.InlineAsm(ir.FunctionType(value.type, [value.type]), "", "=r,0")
        return self.ir.call(hide, [value])

    def pinned(self, vectors: Sequence[Any]) -> list[Any]:
        """The same values; no instruction, but LLVM moves nothing past this place.

        As at the end of a loop, what computes them stays before, and what is loaded later behind.
        """
        register = "w" if self.ir.module.triple.startswith(("aarch64", "arm64")) else "x"
        register = "v" if self.is_avx512 else register
        pin = ir.InlineAsm(
            ir.FunctionType(self.vector, [self.vector]), "", f"={register},0,~{{memory}}",
            side_effect=True,
        )  # fmt: skip
        return [self.ir.call(pin, [vector]) for vector in vectors]

    # --- memory
    def load(self, pointer: Any, align: int | None = None, lanes: int | None = None) -> Any:
        """Load a vector, or one of fewer lanes."""
        vector = self.vector if lanes is None else ir.VectorType(self.element, lanes)
        value = self.ir.load(self.ir.bitcast(pointer, vector.as_pointer()))
        value.align = align or self.bits // 8
        return value

    def load_aligned(self, pointer: Any) -> Any:
        """Load a vector that starts at a multiple of its size."""
        return self.load(pointer, self.lanes * self.bits // 8)

    def store(self, value: Any, pointer: Any, streams: bool = False) -> Any:
        """Store a vector; if it `streams`, past the caches, to a multiple of its size."""
        store = self.ir.store(value, self.ir.bitcast(pointer, value.type.as_pointer()))
        store.align = self.bits // 8
        if streams:
            store.align *= self.lanes
            store.set_metadata("nontemporal", self.ir.module.add_metadata([i32(1)]))
        return store

    def store_aligned(self, value: Any, pointer: Any) -> None:
        """Store a vector at a multiple of its size."""
        self.store(value, pointer).align = self.lanes * self.bits // 8

    def masked_load(self, pointer: Any, mask: Mask) -> Any:
        """Load the lanes of `mask`; the others are zero."""
        pointer_type = self.vector.as_pointer()
        function = self.intrinsic(
            f"llvm.masked.load.v{self.lanes}f{self.bits}.p0",
            self.vector, [pointer_type, i32, self.mask_type, self.vector],
        )  # fmt: skip
        address = self.ir.bitcast(pointer, pointer_type)
        return self.ir.call(function, [address, i32(self.bits // 8), mask.lanes, self.zero()])

    def masked_store(self, stores: Sequence[tuple[Any, Any]], mask: Mask) -> None:
        """Store the lanes of `mask` of each (value, pointer), in this order.

        Without AVX-512 by halves, quarters, … of a vector, a branch for each and all values: an
        AMD core takes 20 cycles for one `vmaskmov` to memory (Zen 3: 6.5 ns), and there is none
        before AVX.
        """
        if self.is_avx512:
            for value, pointer in stores:
                self._store_by_mask(value, pointer, mask)
            return
        values, places = [value for value, _ in stores], [place for _, place in stores]
        with self.ir.if_then(self._has_part(mask, self.lanes)):
            for value, place in stores:
                self.store(value, place)
        size = self.lanes // 2
        while size:
            values = self._store_half(size, values, places, mask)
            size //= 2

    def _has_part(self, mask: Mask, size: int) -> Any:
        """Whether the power of two `size` is one of those that the count is the sum of."""
        return self.ir.icmp_signed("!=", self.ir.and_(mask.count, i64(size)), i64(0))

    def _store_half(self, size: int, values: list[Any], places: list[Any], mask: Mask) -> list[Any]:
        """Store the lower `size` lanes if all of them are masked; return the half that is left."""
        b, part = self.ir, ir.VectorType(self.element, size)
        lower, upper = (
            [self.shuffle(value, value, list(range(first, first + size))) for value in values]
            for first in (0, size)
        )

        def store() -> list[Any]:
            stored_before = b.and_(mask.count, i64(-2 * size))
            for value, place in zip(lower, places, strict=True):
                target = b.bitcast(self.at(place, stored_before), part.as_pointer())
                b.store(value, target).align = self.bits // 8
            return upper

        return self.choose(self._has_part(mask, size), store, lambda: lower)

    def _store_by_mask(self, value: Any, pointer: Any, mask: Mask) -> None:
        pointer_type = self.vector.as_pointer()
        function = self.intrinsic(
            f"llvm.masked.store.v{self.lanes}f{self.bits}.p0",
            void, [self.vector, pointer_type, i32, self.mask_type],
        )  # fmt: skip
        address = self.ir.bitcast(pointer, pointer_type)
        self.ir.call(function, [value, address, i32(self.bits // 8), mask.lanes])

    def prefetch(self, pointer: Any, *, writes: bool = False) -> None:
        """Ask for the cache line at `pointer`, whatever lies there, to read or write it soon.

        A line to read goes to the second cache, one to write to the first.
        """
        byte = i8.as_pointer()
        function = self.intrinsic("llvm.prefetch.p0", void, [byte, i32, i32, i32])
        locality, data = i32(3 if writes else 2), i32(1)
        address = self.ir.bitcast(pointer, byte)
        self.ir.call(function, [address, i32(int(writes)), locality, data])

    # --- values
    def zero(self) -> Any:
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def shuffle(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        mask = ir.Constant(ir.VectorType(i32, len(lanes)), list(lanes))
        return self.ir.shuffle_vector(a, b, mask)

    def joined(self, parts: list[Any]) -> Any:
        """One vector of parts, a power of two of them, in this order."""
        while len(parts) > 1:
            lanes = range(2 * parts[0].type.count)
            parts = [
                self.shuffle(a, b, lanes) for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    def gather(self, pointer: Any, step: Any) -> Any:
        """Load VL elements `step` apart, one by one."""
        vector = ir.Constant(self.vector, ir.Undefined)
        for lane in range(self.lanes):
            value = self.ir.load(self.at(pointer, self.ir.mul(step, i64(lane))))
            vector = self.ir.insert_element(vector, value, i32(lane))
        return vector

    def broadcast(self, scalar: Any) -> Any:
        undefined = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        return self.shuffle(
            self.ir.insert_element(undefined, scalar, i32(0)), undefined, [0] * self.lanes
        )

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a*b + c."""
        if not self.has_fma:
            return self.ir.fadd(self.ir.fmul(a, b), c)
        name = f"llvm.fma.v{self.lanes}f{self.bits}"
        return self.ir.call(self.intrinsic(name, self.vector, [self.vector] * 3), [a, b, c])

    def constant(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * self.lanes)

    def scale(self, a: Any, factor: float) -> Any:
        """factor·a for a factor known now."""
        if factor == 1:
            return a
        return self.ir.fneg(a) if factor == -1 else self.ir.fmul(a, self.constant(factor))

    def add_scaled(self, total: Any, factor: float, a: Any) -> Any:
        """total + factor·a for a factor known now."""
        if factor == 1:
            return self.ir.fadd(total, a)
        if factor == -1:
            return self.ir.fsub(total, a)
        return self.fma(a, self.constant(factor), total)

    def totals(self, vectors: Sequence[Any]) -> Any:
        """A vector of the sums over the lanes of up to VL vectors.

        Each round adds the upper half of every vector's run of lanes to the lower half and
        packs two vectors into one; the tree is the same for each of them.
        """
        current = [*vectors, *[self.zero()] * (self.lanes - len(vectors))]
        half = self.lanes // 2
        while half:
            lower = [
                source + first + lane
                for source in (0, self.lanes)
                for first in range(0, self.lanes, 2 * half)
                for lane in range(half)
            ]
            upper = [lane + half for lane in lower]
            current = [
                self.ir.fadd(self.shuffle(a, b, lower), self.shuffle(a, b, upper))
                for a, b in zip(current[0::2], current[1::2], strict=True)
            ]
            half //= 2
        return current[0]

    def first_lanes(self, count: Any) -> Mask:
        """The mask of the first `count` lanes."""
        numbers = ir.Constant(ir.VectorType(i32, self.lanes), list(range(self.lanes)))
        limit = self.broadcast(self.ir.trunc(count, i32))
        return Mask(count, self.ir.icmp_signed("<", numbers, limit))

    # --- control
    def loop(
        self,
        start: Any,
        stop: Any,
        step: int,
        carried: Sequence[Any],
        body: Callable[[Any, list[Any]], Sequence[Any]],
    ) -> list[Any]:
        """Emit `for i in range(start, stop, step)` and return the carried values after it."""
        b = self.ir
        before = b.block
        head, inside, after = (b.append_basic_block(n) for n in ("head", "body", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(i64)
        index.add_incoming(start, before)
        values = [b.phi(value.type) for value in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", index, stop), inside, after)
        b.position_at_end(inside)
        updated = body(index, values)
        index.add_incoming(b.add(index, i64(step)), b.block)
        for phi, value in zip(values, updated, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(after)
        return values

    def unrolled_loop(
        self,
        count: Any,
        unroll: int,
        carried: Sequence[Any],
        turn: Callable[[Any, list[Any], int], Sequence[Any]],
    ) -> list[Any]:
        """Emit `count` steps, `unroll` (a power of two) of them a turn, then one by one.

        `turn(i, carried, steps)` emits so many steps from step `i` on.
        """
        whole = self.ir.and_(count, i64(-unroll))
        values = self.loop(i64(0), whole, unroll, carried, lambda i, c: turn(i, c, unroll))
        if unroll == 1:
            return values
        return self.loop(whole, count, 1, values, lambda i, c: turn(i, c, 1))

    def switch(self, number: Any, cases: Sequence[Callable[[], list[Any]]]) -> list[Any]:
        """Emit `cases[number]()`, each a list of values; `number` is one of them."""
        b = self.ir
        blocks = [b.append_basic_block(f"case{i}") for i in range(len(cases))]
        after = b.append_basic_block("join")
        choice = b.switch(number, blocks[0])
        ends = []
        for i, (block, emit) in enumerate(zip(blocks, cases, strict=True)):
            if i:
                choice.add_case(i64(i), block)
            b.position_at_end(block)
            ends.append((emit(), b.block))
            b.branch(after)
        b.position_at_end(after)
        joined = []
        for values in zip(*(values for values, _ in ends), strict=True):
            phi = b.phi(values[0].type)
            for value, (_, block) in zip(values, ends, strict=True):
                phi.add_incoming(value, block)
            joined.append(phi)
        return joined

    def choose(
        self, condition: Any, then: Callable[[], list[Any]], otherwise: Callable[[], list[Any]]
    ) -> list[Any]:
        """Emit `then() if condition else otherwise()`, both lists of values."""
        return self.switch(self.ir.zext(condition, i64), [otherwise, then])

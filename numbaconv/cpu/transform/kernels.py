"""Transform kernels: from a `Transform` to code that turns one tile of one group.

    forward   rows of x      → planes       y[p*y_row + c] = Σ_i F[p, i] x[i*x_row + c]
    filter    rows of taps   → planes       the same, of a filter
    inverse   planes         → rows of y    y[j*y_row + c] = bias[c] + Σ_p I[j, p] x[p*x_row + c]

Vectors lie over the channels c; a kernel loops over `vectors` of them, of which the last one has
`last_lanes` channels of its own. It is partial on the side of the rows if the kernel is `masked`,
and the only one without AVX-512; else it begins earlier, and computes what the one before it did
once more, with the same bits. Planes are padded. A forward transform prefetches `outputs` rows
behind its own. The inverse writes `outputs` rows, and sets bits of `flag` (an address of an int64)
if a value before the bias is NaN or infinite.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from ... import _jit
from ...interop import address_of
from ..families import module_of
from ..vector import VectorBuilder, i64
from . import fourier, toom_cook
from .fourier import Access, Complex
from .scheme import RealFFT, Scheme, Winograd

POINTERS = ("x", "y", "bias")
INTEGERS = ("x_row", "y_row", "vectors", "last_lanes", "outputs", "flag")


@dataclass(frozen=True)
class Transform:
    """The compile-time description of one transform kernel.

    Attributes
    ----------
    scheme : Scheme
    direction : {"forward", "filter", "inverse"}
    bits, lanes : int
        Element width, and elements of a vector (VL).
    masked : bool
        Whether the last vector of channels may be partial.
    fma : bool
        Whether the processor fuses multiply-adds.
    streams : bool
        Whether an inverse writes past the caches; y then lies on multiples of the vector's size.
    """

    scheme: Scheme
    direction: str
    bits: int
    lanes: int
    masked: bool
    fma: bool
    streams: bool = False

    @property
    def name(self) -> str:
        suffix = "_masked" * self.masked + "_nofma" * (not self.fma)
        suffix += "_streams" * self.streams
        return f"{self.scheme.name}_{self.direction}_f{self.bits}v{self.lanes}{suffix}"


class TransformEmitter:
    """Emits the kernel that a `Transform` describes."""

    x: Any
    y: Any
    bias: Any
    x_row: Any
    y_row: Any
    vectors: Any
    last_lanes: Any
    outputs: Any
    flag: Any

    def __init__(
        self, builder: ir.IRBuilder, transform: Transform, arguments: Sequence[Any]
    ) -> None:
        self.transform = transform
        self.v = VectorBuilder(builder, transform.bits, transform.lanes, transform.fma)
        for name, value in zip(POINTERS + INTEGERS, arguments, strict=True):
            setattr(self, name, value)
        if transform.direction == "inverse":
            with builder.goto_entry_block():
                self.check = builder.alloca(self.v.vector)
                self.spill = builder.alloca(self.v.vector)

    def emit(self) -> None:
        v, b = self.v, self.v.ir
        is_inverse = self.transform.direction == "inverse"
        if is_inverse:
            b.store(v.zero(), self.check)

        def channels(i: Any, carried: list[Any]) -> list[Any]:
            self.begin_column(i)
            if is_inverse:
                if not self.transform.streams:
                    self.prefetch_outputs()
            elif self.transform.direction == "forward":
                self.prefetch_inputs()
            self.emit_column()
            return carried

        v.loop(i64(0), i64(1) if self.is_alone else self.vectors, 1, [], channels)
        if is_inverse:
            self.emit_flag()

    @property
    def is_alone(self) -> bool:
        """Whether a partial vector is the only one."""
        return self.transform.masked and not self.v.is_avx512

    def begin_column(self, i: Any) -> None:
        """Go to vector `i` of the channels."""
        v, b = self.v, self.v.ir
        first, lanes, self.mask = b.mul(i, i64(v.lanes)), self.last_lanes, None
        if not self.is_alone:
            is_last = b.icmp_signed("==", b.add(i, i64(1)), self.vectors)
            lanes = b.select(is_last, lanes, i64(v.lanes))
        if self.transform.masked:
            self.mask = v.first_lanes(lanes)
        elif not v.is_avx512:  # whose kernels of partial vectors are masked
            first = b.sub(first, b.sub(i64(v.lanes), lanes))
        self.column_x, self.column_y = v.at(self.x, first), v.at(self.y, first)
        if self.transform.direction == "inverse":
            self.column_bias = v.load(v.at(self.bias, first))

    def emit_flag(self) -> None:
        v, b = self.v, self.v.ir
        check = b.load(self.check)
        bits = b.bitcast(b.fcmp_unordered("uno", check, check), ir.IntType(v.lanes))
        place = b.inttoptr(self.flag, i64.as_pointer())
        b.store(b.or_(b.load(place), b.zext(bits, i64)), place)

    def prefetch_outputs(self) -> None:
        """Ask for the lines of y behind this vector: its rows are too many for the hardware.

        80 → 384 K3 is 1.15 times faster by it, 64 → 64 K11 d5 1.13.
        """
        self.prefetch_rows(self.v.at(self.column_y, self.v.lanes), self.y_row, writes=True)

    def prefetch_inputs(self) -> None:
        """Ask for the rows that the next tile reads anew, where x is far: see `transform_table`."""
        v, b = self.v, self.v.ir
        points = i64(self.transform.scheme.points)
        self.prefetch_rows(v.at(self.column_x, b.mul(self.x_row, points)), self.x_row)

    def prefetch_rows(self, base: Any, step: Any, *, writes: bool = False) -> None:
        """Ask for a line of each of `outputs` rows."""
        v, b = self.v, self.v.ir

        def ask(row: Any, carried: list[Any], count: int) -> list[Any]:
            for k in range(count):
                v.prefetch(v.at(base, b.mul(step, b.add(row, i64(k)))), writes=writes)
            return carried

        v.unrolled_loop(self.outputs, 4, [], ask)

    # --- rows and planes of this vector of channels
    def index(self, i: Any) -> Any:
        return i64(i) if isinstance(i, int) else i

    def load_row(self, i: Any) -> Any:
        place = self.v.at(self.column_x, self.v.ir.mul(self.x_row, self.index(i)))
        return self.v.load(place) if self.mask is None else self.v.masked_load(place, self.mask)

    def load_plane(self, i: Any) -> Any:
        return self.v.load(self.v.at(self.column_x, self.v.ir.mul(self.x_row, self.index(i))))

    def store_plane(self, i: Any, value: Any) -> None:
        place = self.v.at(self.column_y, self.v.ir.mul(self.y_row, self.index(i)))
        if self.mask is None or not self.v.is_avx512:
            # Lanes beyond are those of the next phase, not yet written, or fill the row of planes.
            self.v.store(value, place)
        else:
            self.v.masked_store([(value, place)], self.mask)

    def store_row(self, i: Any, value: Any) -> None:
        """Row i of y, if there are so many: others go to a place that nobody reads."""
        v, b = self.v, self.v.ir
        i = self.index(i)
        is_output = b.icmp_signed("<", i, self.outputs)
        target = v.at(self.column_y, b.mul(self.y_row, i))
        spill = b.bitcast(self.spill, target.type)
        self.finish(value, b.select(is_output, target, spill))

    def finish(self, value: Any, place: Any) -> None:
        v, b = self.v, self.v.ir
        b.store(v.fma(value, v.zero(), b.load(self.check)), self.check)
        value = b.fadd(value, self.column_bias)
        if self.is_alone:  # or LLVM computes single lanes anew where they are stored
            (value,) = v.pinned([value])
        if self.mask is None:
            v.store(value, place, self.transform.streams)
        else:
            v.masked_store([(value, place)], self.mask)

    # --- families
    def emit_column(self) -> None:
        scheme = self.transform.scheme
        if isinstance(scheme, Winograd):
            self.emit_toom_cook(scheme)
        elif isinstance(scheme, RealFFT):
            access = self.fourier_access(scheme)
            if self.transform.direction == "inverse":
                fourier.emit_inverse(self.v, scheme.points, access)
            else:
                fourier.emit_forward(self.v, scheme.points, access)

    def emit_toom_cook(self, scheme: Winograd) -> None:
        shape = (scheme.tile_outputs, scheme.taps)
        if self.transform.direction == "inverse":
            products = [self.load_plane(p) for p in range(scheme.points)]
            for i, value in enumerate(toom_cook.emit_inverse(self.v, *shape, products)):
                place = self.v.at(self.column_y, self.v.ir.mul(self.y_row, i64(i)))
                self.finish(value, place)
            return
        is_filter = self.transform.direction == "filter"
        rows = [self.load_row(i) for i in range(scheme.taps if is_filter else scheme.points)]
        emit = toom_cook.emit_filter if is_filter else toom_cook.emit_forward
        for p, value in enumerate(emit(self.v, *shape, rows)):
            self.store_plane(p, value)

    def fourier_access(self, scheme: RealFFT) -> Access:
        b = self.v.ir

        def plane(slot: Any, parts: int, part: int) -> Any:
            return b.add(b.mul(self.index(slot), i64(parts)), i64(2 + part))

        def store_slot(slot: Any, value: Complex) -> None:
            if scheme.gauss:
                parts = [value.re, value.im, b.fadd(value.re, value.im)]
            else:
                parts = [b.fneg(value.im), value.re, value.im]
            for i, part in enumerate(parts):
                self.store_plane(plane(slot, scheme.input_parts, i), part)

        def load_slot(slot: Any) -> Complex:
            count = scheme.output_parts
            first, second, *rest = (self.load_plane(plane(slot, count, i)) for i in range(count))
            if not rest:
                return Complex(first, second)
            return Complex(b.fsub(rest[0], second), b.fadd(rest[0], first))

        return Access(
            self.load_row, self.store_row, self.load_plane, self.store_plane, load_slot, store_slot
        )


def standalone_transform(transform: Transform, triple: str) -> ir.Module:
    """The transform kernel alone in a module, to read its assembly for any processor."""

    def emit(builder: ir.IRBuilder, arguments: Sequence[Any]) -> None:
        TransformEmitter(builder, transform, arguments).emit()

    return module_of(transform.name, transform.bits, (POINTERS, INTEGERS), emit, triple)


class TransformType(types.Type):
    """A Numba type without a value that carries a `Transform`; see `panel.TileType`."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform
        super().__init__(name=f"Transform({transform.name})")


register_model(TransformType)(models.OpaqueModel)


@intrinsic
def transform_kernel(
    typingctx, transform, x, y, bias, x_row, y_row, vectors, last_lanes, outputs, flag
):
    """The kernel of `transform`, inlined."""
    arguments = (x, y, bias, x_row, y_row, vectors, last_lanes, outputs, flag)

    def codegen(context, builder, signature, values):
        TransformEmitter(builder, transform.transform, values[1:]).emit()
        return context.get_dummy_value()

    return types.void(transform, *arguments), codegen


def transform_entry(transform, x, y, bias, x_row, y_row, vectors, last_lanes, outputs, flag):
    transform_kernel(transform, x, y, bias, x_row, y_row, vectors, last_lanes, outputs, flag)


@functools.cache
def transform_address(transform: Transform) -> int:
    """Compile the kernel of `transform`, once a process, and return its address.

    Its C signature: the transform (no value), then `POINTERS`, then `INTEGERS`.
    """
    element = types.float32 if transform.bits == 32 else types.float64
    pointers = [types.CPointer(element)] * len(POINTERS)
    signature = types.void(TransformType(transform), *pointers, *[types.int64] * len(INTEGERS))
    return _jit.c_address(transform_entry, signature)


# As `transform_address` says.
TransformFunction = ctypes.CFUNCTYPE(
    None, *[ctypes.c_void_p] * (1 + len(POINTERS)), *[ctypes.c_int64] * len(INTEGERS)
)


def transform_rows(transform: Transform, rows: np.ndarray, planes: np.ndarray) -> None:
    """Transform the rows of one array into the rows of another, both of whole vectors."""
    x, y = address_of(rows), address_of(planes)
    columns, lanes = rows.shape[1], transform.lanes
    call = TransformFunction(transform_address(transform))
    call(None, x, y, x, columns, columns, columns // lanes, lanes, 0, 0)

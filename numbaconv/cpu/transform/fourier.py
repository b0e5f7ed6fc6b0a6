"""Real Fourier transforms along the positions, a vector of channels at a time.

Up to `STRAIGHT` points one recursion of radix 2 (Sorensen et al. 1987, "Real-valued fast
Fourier transform algorithms") writes straight-line code, in which each butterfly is a few
multiply-adds. Longer ones are two passes through scratch (Cooley and Tukey 1965): with
n = n1*n2, n2 real transforms of n1 points, then n1/2+1 complex ones of n2 points, both in
loops, so that the code stays short.

Frequencies come in the order of *slots*: 0 and n/2, which are real, then n/2 - 1 complex
ones in an order of which only this module knows. Filter and input share it.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from ..vector import VectorBuilder, i64

# Straight-line code of 128 points compiles in more than 2 s, and spills as much as two passes
# store.
STRAIGHT = 64


@dataclass(frozen=True)
class Complex:
    """Two vectors of IR, or one where the value is known to be real."""

    re: Any
    im: Any = None


def halves(points: int) -> tuple[int, int]:
    """(n1, n2) of a transform in two passes."""
    second = 4 if points <= 128 else 8
    return points // second, second


class Fourier:
    """Emits transforms with a `VectorBuilder`."""

    def __init__(self, v: VectorBuilder) -> None:
        self.v = v
        self.add, self.sub, self.neg = v.ir.fadd, v.ir.fsub, v.ir.fneg

    # --- complex values
    def plus(self, a: Complex, b: Complex) -> Complex:
        if b.im is None:
            return Complex(self.add(a.re, b.re), a.im)
        return Complex(self.add(a.re, b.re), b.im if a.im is None else self.add(a.im, b.im))

    def minus(self, a: Complex, b: Complex) -> Complex:
        if b.im is None:
            return Complex(self.sub(a.re, b.re), a.im)
        im = self.neg(b.im) if a.im is None else self.sub(a.im, b.im)
        return Complex(self.sub(a.re, b.re), im)

    def conjugate(self, a: Complex) -> Complex:
        return a if a.im is None else Complex(a.re, self.neg(a.im))

    def times(self, a: Complex, w: complex) -> Complex:
        """a·w for a factor known now; quarter turns cost no product."""
        v = self.v
        c, s = round_unit(w.real), round_unit(w.imag)
        if s == 0:
            return Complex(v.scale(a.re, c), None if a.im is None else v.scale(a.im, c))
        if a.im is None:
            return Complex(v.zero() if c == 0 else v.scale(a.re, c), v.scale(a.re, s))
        if c == 0:
            return Complex(v.scale(a.im, -s), v.scale(a.re, s))
        re = v.add_scaled(v.scale(a.re, c), -s, a.im)
        return Complex(re, v.add_scaled(v.scale(a.im, c), s, a.re))

    def times_vector(self, a: Complex, c: Any, s: Any) -> Complex:
        """a·(c + i s) for factors in registers."""
        v, b = self.v, self.v.ir
        re = v.fma(b.fneg(a.im), s, b.fmul(a.re, c))
        return Complex(re, v.fma(a.re, s, b.fmul(a.im, c)))

    def dft(self, values: Sequence[Complex], sign: int) -> list[Complex]:
        """Σ_a values[a]·exp(sign·2πi·a·c/n) for c = 0 … n-1."""
        n = len(values)
        if n == 1:
            return list(values)
        even, odd = self.dft(values[0::2], sign), self.dft(values[1::2], sign)
        turned = [
            self.times(value, cmath.exp(sign * 2j * math.pi * c / n)) for c, value in enumerate(odd)
        ]
        return [self.plus(e, o) for e, o in zip(even, turned, strict=True)] + [
            self.minus(e, o) for e, o in zip(even, turned, strict=True)
        ]

    # --- straight-line transforms of real values
    def forward(self, load: Callable[[int], Any], n: int, first: int = 0, step: int = 1) -> Any:
        """Frequencies 0 … n/2 of load(first + i*step), i < n."""
        if n == 1:
            return [Complex(load(first))]
        even = self.forward(load, n // 2, first, 2 * step)
        odd = self.forward(load, n // 2, first + step, 2 * step)
        half = n // 2
        result: list[Any] = [None] * (half + 1)
        result[0], result[half] = self.plus(even[0], odd[0]), self.minus(even[0], odd[0])
        for k in range(1, n // 4 + 1):
            if 4 * k == n:  # the factor is -i, and both halves are real
                result[k] = Complex(even[k].re, self.neg(odd[k].re))
                continue
            low, high = self.butterfly(even[k], odd[k], 2 * math.pi * k / n)
            result[k], result[half - k] = low, high
        return result

    def butterfly(self, e: Complex, o: Complex, angle: float) -> tuple[Complex, Complex]:
        """(e + w·o, conj(e - w·o)) for w = exp(-i·angle), six multiply-adds.

        The larger of cos and sin is taken out of w (Linzer and Feig 1993), so that no
        product stands alone.
        """
        v = self.v
        c, s = math.cos(angle), -math.sin(angle)
        if abs(c) >= abs(s):
            factor, ratio = c, s / c
            re = v.add_scaled(o.re, -ratio, o.im)
            im = v.add_scaled(o.im, ratio, o.re)
        else:
            factor, ratio = s, c / s
            re = v.fma(o.re, v.constant(ratio), self.neg(o.im))
            im = v.add_scaled(o.re, ratio, o.im)
        low = Complex(v.add_scaled(e.re, factor, re), v.add_scaled(e.im, factor, im))
        high = Complex(
            v.add_scaled(e.re, -factor, re), v.fma(im, v.constant(factor), self.neg(e.im))
        )
        return low, high

    def inverse(self, spectrum: Sequence[Complex], n: int) -> list[Any]:
        """Σ over all n frequencies of the real signal, without the factor 1/n."""
        v = self.v
        if n == 1:
            return [spectrum[0].re]
        if n == 2:
            a, b = spectrum[0].re, spectrum[1].re
            return [self.add(a, b), self.sub(a, b)]
        half, quarter = n // 2, n // 4
        even = [Complex(self.add(spectrum[0].re, spectrum[half].re))]
        odd = [Complex(self.sub(spectrum[0].re, spectrum[half].re))]
        for k in range(1, quarter + 1):
            a, b = spectrum[k], spectrum[half - k]
            if k == quarter:
                even.append(Complex(self.add(a.re, a.re)))
                odd.append(Complex(v.scale(a.im, -2.0)))
                continue
            even.append(Complex(self.add(a.re, b.re), self.sub(a.im, b.im)))
            difference = Complex(self.sub(a.re, b.re), self.add(a.im, b.im))
            odd.append(self.times(difference, cmath.exp(2j * math.pi * k / n)))
        result: list[Any] = [None] * n
        result[0::2] = self.inverse(even, half)
        result[1::2] = self.inverse(odd, half)
        return result


def round_unit(value: float) -> float:
    """Cosines and sines of quarter turns, exactly."""
    nearest = round(value)
    return float(nearest) if abs(value - nearest) < 1e-15 else value


@dataclass(frozen=True)
class Access:
    """Where a transform of n points reads and writes, with indices of Python or of IR.

    Attributes
    ----------
    load, store
        Position i of the signal.
    load_slot, store_slot
        A complex frequency; `load_real`, `store_real` are those of 0 and n/2.
    """

    load: Callable[[Any], Any]
    store: Callable[[Any, Any], None]
    load_real: Callable[[int], Any]
    store_real: Callable[[int, Any], None]
    load_slot: Callable[[Any], Complex]
    store_slot: Callable[[Any, Complex], None]


def emit_forward(v: VectorBuilder, points: int, access: Access) -> None:
    """One transform of `points` positions into slots."""
    if points > STRAIGHT:
        TwoPasses(v, points, access).forward()
        return
    spectrum = Fourier(v).forward(access.load, points)
    access.store_real(0, spectrum[0].re)
    access.store_real(1, spectrum[-1].re)
    for slot, value in enumerate(spectrum[1:-1]):
        access.store_slot(slot, value)


def emit_inverse(v: VectorBuilder, points: int, access: Access) -> None:
    """Slots back to positions, times `points`."""
    if points > STRAIGHT:
        TwoPasses(v, points, access).inverse()
        return
    slots = [access.load_slot(slot) for slot in range(points // 2 - 1)]
    ends = [Complex(access.load_real(i)) for i in range(2)]
    for i, value in enumerate(Fourier(v).inverse([ends[0], *slots, ends[1]], points)):
        access.store(i, value)


class TwoPasses:
    """A transform of n1*n2 points: position a + n2*b, frequency k + n1*c.

    Scratch holds (k, a), k = 0 … n1/2. Slots: (k, c) for 0 < k < n1/2, then c = 1 … n2/2-1
    of k = 0, then c = 0 … n2/2-1 of k = n1/2; all other frequencies are conjugates.
    """

    def __init__(self, v: VectorBuilder, points: int, access: Access) -> None:
        self.v, self.access, self.fourier = v, access, Fourier(v)
        self.n1, self.n2 = halves(points)
        self.points = points
        self.inner_slots = (self.n1 // 2 - 1) * self.n2
        with v.ir.goto_entry_block():
            size = (self.n1 // 2 + 1) * self.n2 * 2
            self.scratch = v.ir.alloca(ir.ArrayType(v.vector, size))
            self.scratch.align = v.lanes * v.bits // 8
        self.twiddles = self.twiddle_table()

    def twiddle_table(self) -> Any:
        """exp(-2πi·a·k/n) as pairs at (k, a), a constant of the module."""
        v = self.v
        name = f"twiddles_f{v.bits}_{self.points}"
        module = v.ir.module
        if name in module.globals:
            return module.globals[name]
        values = []
        for k in range(self.n1 // 2):
            for a in range(self.n2):
                w = cmath.exp(-2j * math.pi * a * k / self.points)
                values += [w.real, w.imag]
        kind = ir.ArrayType(v.element, len(values))
        table = ir.GlobalVariable(module, kind, name)
        table.linkage, table.global_constant = "internal", True
        table.initializer = ir.Constant(kind, values)
        return table

    # --- scratch, at k in IR or Python
    def place(self, k: Any, a: Any, part: int) -> Any:
        b = self.v.ir
        k, a = (i64(i) if isinstance(i, int) else i for i in (k, a))
        index = b.add(b.mul(b.add(b.mul(k, i64(self.n2)), a), i64(2)), i64(part))
        return b.bitcast(b.gep(self.scratch, [i64(0), index]), self.v.element.as_pointer())

    def put(self, k: Any, a: Any, value: Complex) -> None:
        for part, component in enumerate((value.re, value.im)):
            if component is not None:
                self.v.store_aligned(component, self.place(k, a, part))

    def get(self, k: Any, a: Any, real: bool = False) -> Complex:
        parts = [self.v.load_aligned(self.place(k, a, part)) for part in range(1 if real else 2)]
        return Complex(*parts)

    def twiddle(self, k: Any, a: int) -> tuple[Any, Any]:
        b = self.v.ir
        index = b.mul(b.add(b.mul(k, i64(self.n2)), i64(a)), i64(2))
        return tuple(
            self.v.broadcast(b.load(b.gep(self.twiddles, [i64(0), b.add(index, i64(part))])))
            for part in range(2)
        )

    def loop(self, start: int, stop: int, body: Callable[[Any], None]) -> None:
        def step(index: Any, carried: list[Any]) -> list[Any]:
            body(index)
            return carried

        self.v.loop(i64(start), i64(stop), 1, [], step)

    def slot(self, k: Any, c: int) -> Any:
        b = self.v.ir
        return b.add(b.mul(b.sub(k, i64(1)), i64(self.n2)), i64(c))

    # --- position to frequency
    def forward(self) -> None:
        b, n2 = self.v.ir, self.n2

        def positions(a: Any) -> None:
            def load(i: int) -> Any:
                return self.access.load(b.add(a, i64(n2 * i)))

            for k, value in enumerate(self.fourier.forward(load, self.n1)):
                self.put(k, a, value)

        def frequencies(k: Any) -> None:
            values = [self.get(k, a) for a in range(n2)]
            turned = [values[0]]
            for a in range(1, n2):
                turned.append(self.fourier.times_vector(values[a], *self.twiddle(k, a)))
            for c, value in enumerate(self.fourier.dft(turned, -1)):
                self.access.store_slot(self.slot(k, c), value)

        self.loop(0, n2, positions)
        self.loop(1, self.n1 // 2, frequencies)
        self.forward_ends()

    def forward_ends(self) -> None:
        n2, last = self.n2, self.n1 // 2
        lowest = self.fourier.dft([self.get(0, a, real=True) for a in range(n2)], -1)
        self.access.store_real(0, lowest[0].re)
        self.access.store_real(1, lowest[n2 // 2].re)
        turned = [
            self.fourier.times(self.get(last, a, real=True), cmath.exp(-1j * math.pi * a / n2))
            for a in range(n2)
        ]
        highest = self.fourier.dft(turned, -1)
        for i, value in enumerate(lowest[1 : n2 // 2] + highest[: n2 // 2]):
            self.access.store_slot(self.inner_slots + i, value)

    # --- frequency to position
    def inverse(self) -> None:
        b, v, n2 = self.v.ir, self.v, self.n2

        def frequencies(k: Any) -> None:
            values = [self.access.load_slot(self.slot(k, c)) for c in range(n2)]
            for a, value in enumerate(self.fourier.dft(values, 1)):
                if a:
                    c, s = self.twiddle(k, a)
                    value = self.fourier.times_vector(value, c, v.ir.fneg(s))
                self.put(k, a, value)

        def positions(a: Any) -> None:
            ends = [self.get(0, a, real=True), self.get(self.n1 // 2, a, real=True)]
            inner = [self.get(k, a) for k in range(1, self.n1 // 2)]
            signal = self.fourier.inverse([ends[0], *inner, ends[1]], self.n1)
            for i, value in enumerate(signal):
                self.access.store(b.add(a, i64(n2 * i)), value)

        self.inverse_ends()
        self.loop(1, self.n1 // 2, frequencies)
        self.loop(0, n2, positions)

    def inverse_ends(self) -> None:
        n2, last = self.n2, self.n1 // 2
        slots = [self.access.load_slot(self.inner_slots + i) for i in range(n2 - 1)]
        ends = [Complex(self.access.load_real(i)) for i in range(2)]
        lowest = self.fourier.inverse([ends[0], *slots[: n2 // 2 - 1], ends[1]], n2)
        half = slots[n2 // 2 - 1 :]
        highest = self.fourier.dft([*half, *map(self.fourier.conjugate, reversed(half))], 1)
        for a in range(n2):
            self.put(0, a, Complex(lowest[a]))
            turned = self.fourier.times(highest[a], cmath.exp(1j * math.pi * a / n2))
            self.put(last, a, Complex(turned.re))

"""The assembly of every transform kernel, for every instruction set, read without running it."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import pytest

from numbaconv.cpu.target import ISAS
from numbaconv.cpu.transform.fourier import STRAIGHT, halves
from numbaconv.cpu.transform.kernels import Transform, standalone_transform
from numbaconv.cpu.transform.methods import FFT_POINTS, WINOGRAD_OUTPUTS
from numbaconv.cpu.transform.scheme import RealFFT, Scheme, Winograd
from numbaconv.cpu.transform.toom_cook import matrices, pairs
from tests.codegen.reader import (
    PROCESSORS,
    SCALAR_ARITHMETIC,
    arithmetic,
    bytes_stored,
    calls,
    compiled,
    count,
    most_on_a_path,
    outermost_loops,
    sign_flips,
    stack_accesses,
    touches_vectors,
)

# --- every transform

SCHEMES: tuple[Scheme, ...] = (
    *(Winograd(outputs, taps) for taps, many in WINOGRAD_OUTPUTS.items() for outputs in many),
    *(RealFFT(points, gauss) for points in FFT_POINTS for gauss in (True, False)),
)
REPRESENTATIVES = (Winograd(4, 3), RealFFT(32, True), RealFFT(32, False))


def transforms(isa: str) -> Iterator[Transform]:
    target = ISAS[isa]
    for scheme in SCHEMES:
        for direction in ("forward", "filter", "inverse"):
            if direction == "filter" and isinstance(scheme, RealFFT):
                continue  # its filter goes forward
            for bits in (32, 64):
                for masked in (False, True):
                    lanes = 8 * target.vector_bytes // bits
                    yield Transform(scheme, direction, bits, lanes, masked, target.fma)


def is_representative(transform: Transform) -> bool:
    is_plain = transform.bits == 32 and not transform.masked
    return is_plain and transform.scheme in REPRESENTATIVES


KERNELS = [
    pytest.param(
        isa, transform, id=f"{isa}-{transform.name}",
        marks=[] if is_representative(transform) else pytest.mark.slow,
    )
    for isa in ISAS
    for transform in transforms(isa)
]  # fmt: skip


def kernels(*isas: str, masked: bool = True) -> list[Any]:
    return [k for k in KERNELS if k.values[0] in isas and masked | (not k.values[1].masked)]


def is_straight(transform: Transform) -> bool:
    return isinstance(transform.scheme, Winograd) or transform.scheme.points <= STRAIGHT


STRAIGHT_LINE = [k for k in KERNELS if is_straight(k.values[1])]
FUSING = kernels(*(isa for isa, target in ISAS.items() if target.fma))
WINOGRAD = [
    k for k in kernels("avx512", "avx2", masked=False) if isinstance(k.values[1].scheme, Winograd)
]


@functools.cache
def assembly(isa: str, transform: Transform) -> str:
    return compiled(isa, standalone_transform(transform, PROCESSORS[isa][0]))


# --- operations of the algorithms, a multiply-add counted once, sign flips not at all


def operations(transform: Transform) -> int:
    """Vector operations for one vector of channels.

    Of a transform in two passes: of one turn of each of its loops, which bounds its code.
    """
    scheme, is_inverse = transform.scheme, transform.direction == "inverse"
    if isinstance(scheme, Winograd):
        return toom_cook_operations(scheme, transform.direction)
    if scheme.points > STRAIGHT:
        return two_pass_inverse(scheme) if is_inverse else two_pass_forward(scheme)
    if is_inverse:
        return real_inverse(scheme.points) + 2 * scheme.points + 2 * scheme.gauss * scheme.slots
    return real_forward(scheme.points) + scheme.gauss * scheme.slots


def combination(row: Sequence[Fraction]) -> int:
    """Of Σ row[i]·x[i]: one for each term, none for the first if its factor is ±1."""
    factors = [abs(c) for c in row if c]
    return len(factors) - (1 in factors)


def toom_cook_operations(scheme: Winograd, direction: str) -> int:
    """Nonzeros of the matrices; a pair ±p shares its even and odd part, and adds them twice.

    Each output of the inverse is checked for NaN and has its bias added.
    """
    a, g, b = matrices(scheme.tile_outputs, scheme.taps)
    groups = pairs(scheme.points)
    twice = 2 * sum(len(group) == 2 for group in groups)
    if direction == "inverse":
        columns = [group[0] for group in groups]
        return twice + sum(combination([row[p] for p in columns]) + 2 for row in a)
    matrix = g if direction == "filter" else b
    halved = [
        [(p + sign * q) / 2 for p, q in zip(matrix[group[0]], matrix[group[-1]], strict=True)]
        for group in groups
        for sign in (1, -1)
    ]  # of a single row: itself and zeros
    return twice + sum(map(combination, halved))


def real_forward(n: int) -> int:
    """F(2) = 2 and F(n) = 2 F(n/2) + 2 + 6 (n/4 - 1): butterflies of six multiply-adds."""
    return round(1.5 * n * math.log2(n) - 2.5 * n + 4)


def real_inverse(n: int) -> int:
    """I(2) = 2 and I(n) = 2 I(n/2) + 4 + 8 (n/4 - 1): four additions, then a rotation by four."""
    return round(2 * n * math.log2(n) - 3 * n + 4)


def complex_dft(n: int) -> int:
    """n/2 butterflies of four additions a level, and rotations by all but quarter turns."""
    if n == 1:
        return 0
    return 2 * complex_dft(n // 2) + 2 * n + 4 * sum(4 * c % n != 0 for c in range(n // 2))


def two_pass_forward(scheme: RealFFT) -> int:
    """Real transforms, twiddled complex ones, then frequencies 0 and n1/2 of real values.

    A complex one bounds each of the last two, where rotations of real values take two.
    """
    n1, n2 = halves(scheme.points)
    rotations = 4 * (n2 - 1) + 2 * (n2 - 1)
    sums = n2 + (n2 - 1)  # a frequency of the second loop, and of the ends
    return real_forward(n1) + rotations + 3 * complex_dft(n2) + scheme.gauss * sums


def two_pass_inverse(scheme: RealFFT) -> int:
    """The way back; frequencies of the ends become real ones, of which rotations keep a part."""
    n1, n2 = halves(scheme.points)
    rotations = 4 * (n2 - 1) + 2 * n2
    sums = 2 * (n2 + (n2 - 1))
    outputs = 2 * n1  # checked for NaN, and a bias added
    ends = real_inverse(n2) + complex_dft(n2)
    return real_inverse(n1) + outputs + rotations + complex_dft(n2) + ends + scheme.gauss * sums


def executed(isa: str, transform: Transform, pattern: str) -> int:
    """Instructions like `pattern` on the way through that has the most of them."""
    return most_on_a_path(assembly(isa, transform), lambda line: count(pattern, [line]))


def copies(isa: str, transform: Transform) -> Fraction:
    """How often the code transforms a vector of channels.

    LLVM unrolls short loops and peels the last, partial vector off: told from the stores. Without
    masks in registers of their own a row of fewer lanes is stored by parts: the way that stores a
    vector, half of one, … and a lane has almost two vectors.
    """
    if not is_straight(transform):
        return Fraction(1)  # too long for either, and half of its stores go to scratch
    scheme, is_inverse = transform.scheme, transform.direction == "inverse"
    rows = scheme.outputs(1) if is_inverse else scheme.input_planes
    stored = most_on_a_path(assembly(isa, transform), lambda line: bytes_stored(isa, line))
    is_in_parts = is_inverse and transform.masked and isa != "avx512"
    vectors = 2 - Fraction(1, transform.lanes) if is_in_parts else 1
    return Fraction(stored, ISAS[isa].vector_bytes) / (rows * vectors)


# --- what the kernels promise


@pytest.mark.parametrize("isa, transform", KERNELS)
def test_kernel_calls_nothing(isa, transform):
    assert calls(assembly(isa, transform)) == []


@pytest.mark.parametrize("isa, transform", KERNELS)
def test_no_arithmetic_is_scalar(isa, transform):
    """Known: on NEON an inverse in two passes flips signs of twiddles before they fill a vector."""
    lines = map(str.strip, assembly(isa, transform).splitlines())
    assert [line for line in lines if re.match(SCALAR_ARITHMETIC, line)] == []


@pytest.mark.parametrize("isa, transform", KERNELS)
def test_arithmetic_is_that_of_the_algorithm(isa, transform):
    """No more than counted, where a multiply-add is two operations without FMA.

    And hardly less, which LLVM may share: were a plane stored twice, there would be half as much
    for each copy.
    """
    found = executed(isa, transform, arithmetic(isa, transform.bits))
    most = operations(transform) * copies(isa, transform)
    assert 0.8 * most < found <= (most if transform.fma else 2 * most)


@pytest.mark.parametrize("isa, transform", FUSING)
def test_few_signs_are_flipped(isa, transform):
    """At most one, or one for five operations: NEON has no a·b - c, which butterflies ask for.

    A product of four has a plane of imaginary parts with their signs flipped; in two passes those
    are few.
    """
    flips = executed(isa, transform, sign_flips(isa, transform.bits))
    scheme = transform.scheme
    is_straight = isinstance(scheme, RealFFT) and scheme.points <= STRAIGHT
    if is_straight and not scheme.gauss and transform.direction == "forward":
        flips -= scheme.slots * copies(isa, transform)
    assert flips <= max(1, operations(transform) / 5) * copies(isa, transform)


@pytest.mark.parametrize("isa, transform", STRAIGHT_LINE)
def test_every_plane_or_row_is_stored_once(isa, transform):
    """Whole copies of all of them; the arithmetic tells that each copy is one transform."""
    found = copies(isa, transform)
    assert found >= 1
    assert found.denominator == 1


@pytest.mark.parametrize("isa, transform", WINOGRAD)
def test_channel_loop_of_winograd_spills_nothing(isa, transform):
    """Known: the factors of six and eight points exceed AVX2's registers.

    They are read from the stack.
    """
    text = assembly(isa, transform)
    pattern = arithmetic(isa, transform.bits)
    loops = [loop for loop in outermost_loops(text) if count(pattern, loop)]
    assert loops
    found = [
        line for loop in loops for line in stack_accesses(isa, text, loop) if touches_vectors(line)
    ]
    if isa == "avx2" and transform.scheme.points >= 6:
        found = [line for line in found if line.endswith(")")]  # written, of which there is none
    assert found == []


@pytest.mark.parametrize("scheme", REPRESENTATIVES, ids=lambda scheme: scheme.name)
def test_a_streaming_inverse_stores_its_rows_past_the_caches(scheme):
    transform = Transform(scheme, "inverse", 32, 16, masked=False, fma=True, streams=True)
    rows = scheme.tile_outputs if isinstance(scheme, Winograd) else scheme.points
    text = assembly("avx512", transform)
    assert len(re.findall(r"vmovntps\s+%zmm", text)) == rows

"""Toom-Cook convolution F(m, r): its matrices, derived exactly, and straight-line code for them.

m outputs of a filter of r taps are obtained from n = m + r - 1 products, by evaluating two
polynomials at n - 1 points and at infinity (Winograd 1980, "Arithmetic complexity of
computations"; Lavin and Gray 2016 for the transposed form used here):

    y = A (G w ⊙ B d)        A (m, n), G (n, r), B (n, n)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ..vector import VectorBuilder

Matrix = list[list[Fraction]]

# The finite points by n. Zero, then pairs ±p: rows of a pair share their even and odd parts.
# Of all pairs of eighths those with the smallest errors on random data (the method of Barabasz
# et al. 2020), whose powers are exact in binary: 5/8 and 3/2 err 0.6 times as much as 1 and 3/2.
POINTS = {
    n: tuple(Fraction(p) for p in points.split())
    for n, points in {
        4: "0 1 -1",
        6: "0 5/8 -5/8 3/2 -3/2",
        8: "0 1 -1 2 -2 1/2 -1/2",
    }.items()
}


def product(a: Sequence[Fraction], b: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of a product of polynomials, lowest first."""
    result = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return result


def master(points: Sequence[Fraction]) -> list[Fraction]:
    """The polynomial whose roots are `points`."""
    coefficients = [Fraction(1)]
    for point in points:
        coefficients = product(coefficients, [-point, Fraction(1)])
    return coefficients


@functools.cache
def matrices(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return (A, G, B) of F(outputs, taps), with the last point at infinity.

    Row i < n-1 of B is the Lagrange numerator Π_{j≠i} (x - p_j), with leading coefficient
    one; its denominator is in G.

    >>> A, G, B = matrices(2, 3)
    >>> [[str(value) for value in row] for row in A]
    [['1', '1', '1', '0'], ['0', '1', '-1', '1']]
    """
    n = outputs + taps - 1
    points = POINTS[n]
    zero, one = Fraction(0), Fraction(1)
    a = [[p**i for p in points] + [one if i == outputs - 1 else zero] for i in range(outputs)]
    g, b = [], []
    for i, p in enumerate(points):
        others = points[:i] + points[i + 1 :]
        denominator = one
        for other in others:
            denominator *= p - other
        g.append([p**k / denominator for k in range(taps)])
        b.append([*master(others), zero])
    g.append([zero] * (taps - 1) + [one])
    b.append(master(points))
    return a, g, b


def pairs(points: int) -> list[tuple[int, ...]]:
    """Rows of B grouped by the absolute value of their point: (i,) or (i, j) with p_j = -p_i."""
    used = POINTS[points]
    groups: list[tuple[int, ...]] = []
    for i, p in enumerate(used):
        if p <= 0:
            if p == 0 or -p not in used:
                groups.append((i,))
        else:
            groups.append((i, used.index(-p)) if -p in used else (i,))
    return [*groups, (points - 1,)]


def combine(v: VectorBuilder, row: Sequence[Fraction], values: Sequence[Any]) -> Any:
    """Σ row[i]·values[i], the terms with factor ±1 first, since they need no product."""
    terms = [(c, value) for c, value in zip(row, values, strict=True) if c]
    terms.sort(key=lambda term: (term[0] != 1, abs(term[0]) != 1))
    total = None
    for c, value in terms:
        total = v.scale(value, float(c)) if total is None else v.add_scaled(total, float(c), value)
    return v.zero() if total is None else total


def emit_rows(v: VectorBuilder, matrix: Matrix, data: Sequence[Any]) -> list[Any]:
    """A matrix with a row for each point times data, the pair ±p by its even and odd part."""
    result: list[Any] = [None] * len(matrix)
    for group in pairs(len(matrix)):
        if len(group) == 1:
            result[group[0]] = combine(v, matrix[group[0]], data)
            continue
        i, j = group
        even = [(p + q) / 2 for p, q in zip(matrix[i], matrix[j], strict=True)]
        odd = [(p - q) / 2 for p, q in zip(matrix[i], matrix[j], strict=True)]
        s, t = combine(v, even, data), combine(v, odd, data)
        result[i], result[j] = v.ir.fadd(s, t), v.ir.fsub(s, t)
    return result


def emit_forward(v: VectorBuilder, outputs: int, taps: int, data: Sequence[Any]) -> list[Any]:
    """B d."""
    _, _, b = matrices(outputs, taps)
    return emit_rows(v, b, data)


def emit_filter(v: VectorBuilder, outputs: int, taps: int, filter: Sequence[Any]) -> list[Any]:
    """G w."""
    _, g, _ = matrices(outputs, taps)
    return emit_rows(v, g, filter)


def emit_inverse(v: VectorBuilder, outputs: int, taps: int, products: Sequence[Any]) -> list[Any]:
    """A M; even rows of A see the sum of a pair, odd rows its difference."""
    a, _, _ = matrices(outputs, taps)
    groups = pairs(len(products))
    sums, differences = [], []
    for group in groups:
        first = products[group[0]]
        if len(group) == 1:
            sums.append(first)
            differences.append(first)
        else:
            sums.append(v.ir.fadd(first, products[group[1]]))
            differences.append(v.ir.fsub(first, products[group[1]]))
    return [
        combine(v, [row[group[0]] for group in groups], differences if i % 2 else sums)
        for i, row in enumerate(a)
    ]

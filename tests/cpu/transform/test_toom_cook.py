"""The matrices of F(m, r), in exact arithmetic."""

from fractions import Fraction

import pytest

from numbaconv.cpu.transform.methods import WINOGRAD_OUTPUTS
from numbaconv.cpu.transform.toom_cook import master, matrices, pairs, product

SHAPES = [(outputs, taps) for taps, many in WINOGRAD_OUTPUTS.items() for outputs in many]
shapes = pytest.mark.parametrize(("outputs", "taps"), SHAPES)


def apply(matrix, vector):
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


@shapes
def test_they_compute_the_correlation_exactly(outputs, taps):
    a, g, b = matrices(outputs, taps)
    data = [Fraction(3 * i * i - 7 * i + 1, i + 2) for i in range(outputs + taps - 1)]
    filter = [Fraction(2 - 5 * k, 3 + k) for k in range(taps)]
    multiplied = [p * q for p, q in zip(apply(g, filter), apply(b, data), strict=True)]
    expected = [
        sum((filter[k] * data[i + k] for k in range(taps)), Fraction(0)) for i in range(outputs)
    ]
    assert apply(a, multiplied) == expected


@shapes
def test_shapes(outputs, taps):
    points = outputs + taps - 1
    a, g, b = matrices(outputs, taps)
    assert (len(a), {len(row) for row in a}) == (outputs, {points})
    assert (len(g), {len(row) for row in g}) == (points, {taps})
    assert (len(b), {len(row) for row in b}) == (points, {points})


@shapes
def test_every_point_is_in_one_group(outputs, taps):
    points = outputs + taps - 1
    assert sorted(i for group in pairs(points) for i in group) == list(range(points))


def test_polynomials():
    assert product([1, 1], [1, -1]) == [1, 0, -1]
    assert master([Fraction(1), Fraction(-1)]) == [-1, 0, 1]
    assert master([]) == [1]

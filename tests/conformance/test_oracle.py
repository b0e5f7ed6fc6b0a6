"""The oracle against other people's code, and against loops over single numbers."""

import numpy as np
import pytest
from hypothesis import given, settings

from tests import oracle
from tests.strategies import Case, cases


def test_one_channel_is_a_correlation():
    x, filter, _ = Case(5, 1, 1, 40).arrays()
    expected = np.correlate(x.ravel(), filter.ravel(), "valid")
    np.testing.assert_array_equal(oracle.convolve(x, filter).ravel(), expected)


@pytest.mark.parametrize(
    ("mode", "numpy_mode"),
    [("zeros", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")],
)
@pytest.mark.parametrize("widths", [(0, 0), (3, 0), (0, 3), (6, 5), (-2, 4), (4, -2), (-1, -1)])
def test_padding_is_that_of_numpy(mode, numpy_mode, widths):
    x = np.arange(1, 10)
    left, right = widths
    cropped = x[max(0, -left) : len(x) - max(0, -right)]
    expected = np.pad(cropped, [(max(0, left), max(0, right))], mode=numpy_mode)
    source = oracle.source_positions(len(x), widths, mode)
    np.testing.assert_array_equal(np.where(source < 0, 0, x[source]), expected)


def test_padding_words():
    assert oracle.padding_widths(10, 4, 1, 1, "same") == (1, 2)
    assert oracle.padding_widths(10, 3, 2, 2, "same") == (1, 2)
    assert oracle.padding_widths(10, 4, 1, 3, "causal") == (9, 0)
    assert oracle.padding_widths(10, 4, 1, 3, "valid") == (0, 0)
    assert oracle.padding_widths(10, 4, 1, 3, -2) == (-2, -2)


@settings(max_examples=15)
@given(cases())
def test_any_problem_number_by_number(case):
    case = case.but(
        in_channels=2 * case.num_groups, out_channels=3 * case.num_groups, permute=False
    )
    x, filter, bias = case.arrays()
    y = oracle.convolve(x, filter, bias, **case.parameters)
    widths = oracle.padding_widths(
        case.length, case.kernel_size, case.stride, case.dilation, case.padding
    )
    source = oracle.source_positions(case.length, widths, case.padding_mode)
    rng = np.random.default_rng(case.seed)
    for _ in range(50 if y.size else 0):
        n, l, co = (rng.integers(0, size) for size in y.shape)
        first_channel = co // 3 * 2  # of the group of three outputs and two inputs
        total = 0 if bias is None else bias[co]
        for k in range(case.kernel_size):
            position = source[l * case.stride + k * case.dilation]
            for ci in range(2):
                seen = x[n, position, first_channel + ci] if position >= 0 else 0
                total += seen * filter[k, ci, co]
        assert y[n, l, co] == total

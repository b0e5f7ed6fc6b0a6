"""Floating-point data: the elementwise bound of direct summation, and the spread of NaN and Inf."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracle
from tests.conformance.comparison import (
    assert_exact,
    assert_within_bound,
    expected_of,
    l2_of,
    results,
)
from tests.strategies import Case, cases

DTYPES = ("float32", "float64")


# --- numbers
def normal(rng, shape):
    return rng.standard_normal(shape)


def uniform(rng, shape):
    return rng.uniform(0, 1, shape)


def huge_range(rng, shape):
    """Thirty orders of magnitude: products stay within float32, sums lose most of their terms."""
    return rng.standard_normal(shape) * 10.0 ** rng.uniform(-15, 15, shape)


def cancelling(rng, shape):
    """Alternating signs along the positions: sums are far smaller than their terms."""
    numbers = 1 + rng.uniform(0, 1e-3, shape)
    return numbers * (1 - 2 * (np.arange(numbers.size).reshape(shape) % 2))


def scaled(numbers, scale):
    return lambda rng, shape: numbers(rng, shape) * scale


# What x and bias are drawn from, and what the filter is.
NUMBERS = {
    "normal": (normal, normal),
    "uniform": (uniform, uniform),
    "huge range": (huge_range, huge_range),
    "cancelling": (cancelling, uniform),
    "denormals": (scaled(normal, np.finfo(np.float32).tiny / 8), normal),
    "denormal products": (scaled(normal, 1e-20), scaled(normal, 1e-20)),
}
kinds = pytest.mark.parametrize("kind", NUMBERS)


# --- rounding
@kinds
@settings(max_examples=50)
@given(case=cases())
def test_drawn_problems(kind, case):
    assert_within_bound(case, *NUMBERS[kind])


@pytest.mark.slow
@kinds
@settings(max_examples=500)
@given(case=cases())
def test_many_drawn_problems(kind, case):
    assert_within_bound(case, *NUMBERS[kind])


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_reductions(kind, dtype):
    case = Case(15, 200, 33, 100, padding="same", has_bias=True, dtype=dtype)
    assert_within_bound(case, *NUMBERS[kind])
    with l2_of(8 << 10):
        assert_within_bound(case, *NUMBERS[kind])


@kinds
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_depthwise_reductions(kind, dtype):
    case = Case(300, 33, 33, 500, padding="causal", num_groups=33, dtype=dtype)
    assert_within_bound(case, *NUMBERS[kind])


@given(case=cases())
@settings(max_examples=50)
def test_auto_is_as_accurate_as_its_largest_numbers(case):
    arrays = x, filter, _ = case.arrays(normal)
    expected = expected_of(case, *arrays, np.longdouble)
    depth = filter.shape[1] * filter.shape[2 if case.permute else 0]
    axes = (1, 2) if case.permute else (0, 1)
    largest = np.abs(x).max(initial=1) * np.abs(filter).sum(axes).max()
    allowed = max(16, depth + 1) * np.finfo(case.dtype).eps * (largest + 4)
    for _, y in results(case, arrays, expected.shape, algorithm="auto"):
        assert np.abs(y - expected).max(initial=0) <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 20])
def test_denormals_are_not_flushed(dtype, groups):
    smallest = np.finfo(dtype).smallest_subnormal
    case = Case(3, 20, 20, 50, padding="same", num_groups=groups, dtype=dtype)
    x, filter, _ = case.arrays()
    arrays = (x * smallest, filter, None)
    expected = expected_of(case, x, filter)
    for _, y in results(case, arrays, expected.shape):
        np.testing.assert_array_equal(y / smallest, expected)


# --- what is not finite
def sprinkle(array, values, rng):
    """A writable copy in which one element in 40 (at least one) is one of `values`."""
    array = np.array(array, order="K")
    if array.size:
        at = rng.integers(0, array.size, max(1, array.size // 40))
        array.flat[at] = rng.choice(values, at.size)
    return array


NOT_FINITE = {
    "NaN": [np.nan],
    "Inf": [np.inf],
    "both infinities": [np.inf, -np.inf],
    "all": [np.nan, np.inf, -np.inf, 0.0],
}


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("values", NOT_FINITE)
@given(case=cases(), where=st.sampled_from(["x", "filter", "bias", "everywhere"]))
@settings(max_examples=40)
def test_what_is_not_finite_spreads_as_in_the_definition(values, algorithm, case, where):
    rng = np.random.default_rng(case.seed)
    arrays = tuple(
        sprinkle(array, NOT_FINITE[values], rng)
        if array is not None and where in (name, "everywhere")
        else array
        for name, array in zip(("x", "filter", "bias"), case.arrays(), strict=True)
    )
    expected = expected_of(case, *arrays)
    for way, y in results(case, arrays, expected.shape, algorithm):
        if algorithm == "direct":
            np.testing.assert_array_equal(y, expected, err_msg=f"{way} {case}")
        else:
            np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))
            lost = ~np.isfinite(expected)
            np.testing.assert_array_equal(y[lost], expected[lost], err_msg=f"{way} {case}")


@pytest.mark.parametrize("out_channels", [1, 15, 16, 17, 33, 70])
@pytest.mark.parametrize("groups", [1, "depthwise"])
def test_one_nan_reaches_its_receptive_field_only(out_channels, groups):
    channels = out_channels if groups == "depthwise" else 5
    groups = channels if groups == "depthwise" else 1
    case = Case(
        3, channels, out_channels, 60, dilation=2, padding="same", num_groups=groups, has_bias=True
    )
    x, filter, bias = case.arrays()
    for position in (0, 1, 29, 58, 59):
        x[...] = 1
        x[:, position, 0] = np.nan
        assert_exact(case, arrays=(x, filter, bias))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_infinite_weight_times_zero_padding_is_nan(dtype):
    case = Case(3, 2, 20, 30, padding=1, dtype=dtype)
    x, filter, _ = case.arrays(lambda rng, shape: np.ones(shape))
    filter[0, 0, 7] = np.inf
    arrays = (x, filter, None)
    assert_exact(case, arrays=arrays)
    for _, y in results(case, arrays, (1, 30, 20)):
        assert np.isnan(y[0, 0, 7])
        assert (y[0, 1:, 7] == np.inf).all()
        assert np.isfinite(np.delete(y, 7, axis=2)).all()


def test_overflow_gives_infinity():
    case = Case(1, 2, 20, 30)
    x, filter, _ = case.arrays(lambda rng, shape: np.full(shape, 3e38))
    for _, y in results(case, (x, filter, None), (1, 30, 20)):
        assert (y == np.inf).all()


def test_the_bound_is_a_few_units_in_the_last_place():
    """A bound that nothing can violate would make this suite pass on everything."""
    case = Case(3, 4, 5, 20)
    arrays = case.arrays(uniform)
    bound = oracle.error_bound(*arrays, **case.parameters)
    expected = expected_of(case, *arrays)
    assert (bound < 20 * np.finfo(np.float32).eps * expected).all()

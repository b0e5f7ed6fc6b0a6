"""The suites of direct summation again, with each transform asked for by name.

Layers that a transform does not serve are summed directly, so every case has an answer.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numbaconv import Conv1D, conv1d, explain
from tests.conformance.comparison import (
    always_parallel,
    assert_exact,
    expected_of,
    l2_of,
    results,
)
from tests.conformance.test_bounds import NOT_FINITE, NUMBERS, sprinkle
from tests.strategies import Case, cases

algorithms = pytest.mark.parametrize("algorithm", ["winograd", "fft"])


def assert_within_normwise_bound(case, algorithm, numbers, filter_numbers=None):
    arrays = x, filter, bias = case.arrays(numbers, filter_numbers)
    expected = expected_of(case, *arrays, np.longdouble)
    axes = (1, 2) if case.permute else (0, 1)
    largest = np.abs(x).max(initial=0) * np.abs(filter.astype(np.longdouble)).sum(axes).max()
    if bias is not None:
        largest += np.abs(bias).max()
    limits = np.finfo(case.dtype)
    # Data without structure comes nowhere near the worst case.
    allowed = 100 * limits.eps * largest + 1000 * np.longdouble(limits.tiny)
    for way, y in results(case, arrays, expected.shape, algorithm):
        error = np.abs(y - expected).max(initial=0)
        assert error <= allowed, f"{way} is off by {error}, allowed {allowed}, in {case}"


@algorithms
@pytest.mark.parametrize("kind", ["normal", "uniform", "cancelling", "denormals"])
@settings(max_examples=40)
@given(case=cases())
def test_drawn_problems(algorithm, kind, case):
    assert_within_normwise_bound(case, algorithm, *NUMBERS[kind])


@pytest.mark.slow
@algorithms
@settings(max_examples=300)
@given(case=cases())
def test_many_drawn_problems(algorithm, case):
    assert_within_normwise_bound(case, algorithm, *NUMBERS["normal"])


@algorithms
@settings(max_examples=30)
@given(case=cases())
def test_in_parallel_with_small_caches(algorithm, case):
    with always_parallel(), l2_of(8 << 10):
        assert_within_normwise_bound(case, algorithm, *NUMBERS["normal"])


@algorithms
@pytest.mark.parametrize("values", NOT_FINITE)
@settings(max_examples=30)
@given(case=cases(), where=st.sampled_from(["x", "filter", "bias", "everywhere"]))
def test_what_is_not_finite_spreads_as_in_the_definition(algorithm, values, case, where):
    rng = np.random.default_rng(case.seed)
    arrays = tuple(
        sprinkle(array, NOT_FINITE[values], rng)
        if array is not None and where in (name, "everywhere")
        else array
        for name, array in zip(("x", "filter", "bias"), case.arrays(), strict=True)
    )
    expected = expected_of(case, *arrays)
    lost = ~np.isfinite(expected)
    for way, y in results(case, arrays, expected.shape, algorithm):
        np.testing.assert_array_equal(y[lost], expected[lost], err_msg=f"{way} {case}")
        np.testing.assert_allclose(y[~lost], expected[~lost], rtol=0, atol=0.05)


def test_forced_algorithms_run_where_they_can():
    x = np.zeros((1, 100, 16), np.float32)
    assert explain(Conv1D(3, 16, 16, algorithm="winograd"), x).kernel == "winograd"
    assert explain(Conv1D(7, 16, 16, algorithm="fft"), x).kernel == "fft"
    shown = explain(Conv1D(7, 16, 16, algorithm="winograd"), x)
    assert shown.kernel == explain(Conv1D(7, 16, 16, algorithm="direct"), x).kernel
    assert shown.declined[0] == ("winograd", "7 taps of each phase, where 2 to 5 are served")


def test_explain_shows_memory_and_bound():
    shown = str(explain(Conv1D(7, 16, 16, algorithm="fft"), np.zeros((1, 100, 16), np.float32)))
    assert "filter spectrum: " in shown
    assert "c*eps*max|x|*max_co(sum|w|), c = " in shown


@algorithms
def test_an_empty_batch_is_not_transformed(algorithm):
    assert_exact(Case(3, 8, 8, 20, batch=0), algorithm=algorithm)


def test_a_kernel_as_long_as_the_signal():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 20000, 1)).astype("float32")
    filter = rng.standard_normal((20000, 1, 1)).astype("float32")
    y = conv1d(x, filter, padding="causal", algorithm="fft")
    spectrum = np.fft.rfft(x.astype(float).ravel(), 1 << 16)
    spectrum *= np.fft.rfft(filter.astype(float).ravel()[::-1], 1 << 16)
    expected = np.fft.irfft(spectrum, 1 << 16)[:20000]
    assert np.abs(y.ravel() - expected).max() < 1e-6 * np.abs(filter).sum()

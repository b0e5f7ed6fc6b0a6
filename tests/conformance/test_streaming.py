"""Outputs beyond the caches are written past them: the same bits, wherever y lies."""

import numpy as np
import pytest

from numbaconv.cpu import panel_plan
from numbaconv.interop import aligned_empty
from tests import guard
from tests.conformance.comparison import always_parallel, expected_of, make_layer
from tests.strategies import Case

CASES = {
    "dense": Case(3, 5, 64, 77, padding=1, has_bias=True),
    "two panels": Case(1, 20, 96, 40, batch=2),
    "masked": Case(3, 5, 70, 41),
    "float64": Case(5, 8, 48, 50, padding=4, dtype="float64"),
    "depthwise": Case(4, 48, 48, 61, num_groups=48, padding=(3, 0), has_bias=True),
    "depthwise, packed": Case(31, 96, 96, 90, num_groups=96, padding="same"),
    "small groups": Case(5, 32, 64, 50, num_groups=8),
    "small groups, dilated": Case(9, 24, 24, 70, num_groups=6, dilation=3),
    "sliding": Case(7, 20, 13, 90, padding="same"),
    "sliding, strided": Case(17, 20, 48, 90, num_groups=4, stride=4, dilation=2),
    "sliding, dilated": Case(11, 9, 16, 150, dilation=8, padding="causal"),
    "grouped": Case(3, 64, 64, 50, num_groups=2, padding=1),
    "one position": Case(3, 4, 32, 3),
    "channel-first": Case(3, 5, 64, 64, permute=True),
    "prefetched": Case(3, 700, 64, 40, padding=1),
}


@pytest.fixture
def streaming(monkeypatch):
    monkeypatch.setattr(panel_plan, "STREAMED_FROM", -(1 << 62))


def placed(shape, dtype, off):
    """NaNs that begin `off` elements after a cache line."""
    size = int(np.prod(shape))
    memory = aligned_empty(size + off, np.dtype(dtype))[off:]
    memory.fill(np.nan)
    return memory.reshape(shape)


@pytest.mark.parametrize("off", [0, 1, 8])
@pytest.mark.parametrize("name", CASES)
def test_exact_wherever_y_lies(name, off, streaming):
    case = CASES[name]
    arrays = case.arrays()
    expected = expected_of(case, *arrays)
    y = placed(expected.shape, case.dtype, off)
    make_layer(case, *arrays[1:])(arrays[0], out=y)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("name", CASES)
def test_exact_in_two_threads(name, streaming):
    case = CASES[name]
    arrays = case.arrays()
    expected = expected_of(case, *arrays)
    y = placed(expected.shape, case.dtype, 0)
    with always_parallel():
        make_layer(case, *arrays[1:])(arrays[0], out=y)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.skipif(not guard.IS_AVAILABLE, reason="needs mmap and mprotect")
@pytest.mark.parametrize("side", guard.SIDES)
@pytest.mark.parametrize("name", CASES)
def test_nothing_beyond_y_is_written(name, side, streaming):
    case = CASES[name]
    arrays = case.arrays()
    expected = expected_of(case, *arrays)
    y = guard.guarded(np.full(expected.shape, np.nan, case.dtype), side)
    make_layer(case, *arrays[1:])(arrays[0], out=y)
    np.testing.assert_array_equal(y, expected)


def test_rows_of_a_wider_array_stream_too(streaming):
    case = CASES["dense"]
    arrays = case.arrays()
    expected = expected_of(case, *arrays)
    wide = placed((*expected.shape[:2], 96), case.dtype, 0)
    make_layer(case, *arrays[1:])(arrays[0], out=wide[:, :, 16:80])
    np.testing.assert_array_equal(wide[:, :, 16:80], expected)
    assert np.isnan(wide[:, :, :16]).all() and np.isnan(wide[:, :, 80:]).all()

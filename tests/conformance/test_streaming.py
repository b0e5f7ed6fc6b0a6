"""Outputs beyond the caches are written past them: the same bits, wherever y lies."""

import numpy as np
import pytest

from numbaconv.cpu import streaming as streaming_rules
from numbaconv.cpu.target import host
from numbaconv.cpu.transform import plan as transform_plan
from numbaconv.interop import aligned_empty
from tests import guard
from tests.conformance.comparison import always_parallel, expected_of, make_layer
from tests.strategies import Case

CASES = {
    "dense": Case(3, 5, 64, 77, padding=1, has_bias=True),
    "two panels": Case(1, 20, 96, 40, batch=2),
    "masked": Case(3, 5, 70, 41),
    "written out": Case(9, 1, 100, 60),
    "depthwise, partial": Case(4, 44, 44, 61, num_groups=44, padding=(3, 0)),
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
    "signals": Case(4, 44, 44, 320, batch=2, num_groups=44, padding=(3, 0), permute=True),
    "signals, both borders": Case(9, 40, 40, 336, num_groups=40, padding="same", permute=True),
    "signals, partial": Case(5, 40, 40, 301, num_groups=40, padding=9, permute=True, has_bias=True),
    "one signal": Case(31, 1, 1, 1600, padding="same", has_bias=True),
    "prefetched": Case(3, 700, 64, 40, padding=1),
}


@pytest.fixture
def streaming(monkeypatch):
    """Small calls do not ask whether to; those that may take threads do."""
    monkeypatch.setattr(streaming_rules, "STREAMED_FROM", -(1 << 62))
    with always_parallel():
        yield


def placed(shape, dtype, off):
    """NaNs that begin `off` elements after a cache line."""
    size = int(np.prod(shape))
    memory = aligned_empty(size + off, np.dtype(dtype))[off:]
    memory.fill(np.nan)
    return memory.reshape(shape)


@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("off", [0, 1, 8])
@pytest.mark.parametrize("name", CASES)
def test_exact_wherever_y_lies(name, off, threads, streaming):
    case = CASES[name]
    arrays = case.arrays()
    expected = expected_of(case, *arrays)
    y = placed(expected.shape, case.dtype, off)
    make_layer(case, *arrays[1:])(arrays[0], out=y, threads=threads)
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


@pytest.mark.parametrize("name", CASES)
def test_exact_in_wider_rows_that_begin_on_lines(name, streaming):
    """Whole vectors of the row may be streamed, whatever its partial one does."""
    case = CASES[name]
    arrays = case.arrays()
    expected = expected_of(case, *arrays)
    *outer, row = expected.shape
    wide = placed((*outer, -(-row // 16) * 16 + 32), case.dtype, 0)
    make_layer(case, *arrays[1:])(arrays[0], out=wide[..., 16 : 16 + row])
    np.testing.assert_array_equal(wide[..., 16 : 16 + row], expected)
    assert np.isnan(wide[..., :16]).all() and np.isnan(wide[..., 16 + row :]).all()


TRANSFORMED = {
    "winograd": ("winograd", Case(3, 20, 48, 400, padding=1, has_bias=True)),
    "winograd, groups": ("winograd", Case(5, 32, 64, 300, batch=2, num_groups=2)),
    "winograd, strided": ("winograd", Case(5, 16, 32, 500, stride=2, padding=3)),
    "fft": ("fft", Case(9, 20, 48, 500, padding="same", has_bias=True)),
    "fft, dilated": ("fft", Case(11, 16, 32, 900, dilation=5, padding="causal")),
    "fft, two passes": ("fft", Case(100, 16, 16, 1500, padding=40)),
    "fft, short tiles": ("fft", Case(7, 16, 32, 37, batch=3, dilation=2, padding=6)),
    "fft, float64": ("fft", Case(9, 16, 24, 300, dtype="float64")),
}


@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_transforms_give_the_bits_of_the_usual_stores(name, threads, streaming):
    algorithm, case = TRANSFORMED[name]
    arrays = case.arrays(lambda rng, shape: rng.standard_normal(shape))
    layer = make_layer(case, *arrays[1:], algorithm)
    assert layer.explain(arrays[0]).kernel == algorithm
    shape = expected_of(case, *arrays).shape
    usual, streamed = (placed(shape, case.dtype, off) for off in (1, 0))
    layer(arrays[0], out=usual, threads=threads)
    layer(arrays[0], out=streamed, threads=threads)
    assert not np.isnan(usual).any()
    np.testing.assert_array_equal(streamed, usual)


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transforms_stream_where_vectors_are_lines(name, streaming, monkeypatch):
    taken = []

    class Watched(streaming_rules.CallTables):
        def address_for(self, y):
            address = super().address_for(y)
            taken.append(address != self.usual)
            return address

    monkeypatch.setattr(transform_plan, "CallTables", Watched)
    algorithm, case = TRANSFORMED[name]
    arrays = case.arrays()
    layer = make_layer(case, *arrays[1:], algorithm)
    for off in (0, 1):
        layer(arrays[0], out=placed(expected_of(case, *arrays).shape, case.dtype, off))
    assert taken == [host().vector_bytes == 64, False]


def test_values_that_are_not_finite_are_replaced_in_streamed_lines(streaming):
    algorithm, case = TRANSFORMED["fft"]
    x, *weights = case.arrays()
    x[0, 200, 3] = np.inf
    direct, layer = make_layer(case, *weights), make_layer(case, *weights, algorithm)
    y = placed(expected_of(case, x, *weights).shape, case.dtype, 0)
    layer(x, out=y)
    expected = direct(x)
    is_finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(y), is_finite)
    np.testing.assert_array_equal(y[~is_finite], expected[~is_finite])


@pytest.mark.skipif(not guard.IS_AVAILABLE, reason="needs mmap and mprotect")
@pytest.mark.parametrize("side", guard.SIDES)
@pytest.mark.parametrize("name", TRANSFORMED)
def test_transforms_write_nothing_beyond_y(name, side, streaming):
    algorithm, case = TRANSFORMED[name]
    arrays = case.arrays()
    layer = make_layer(case, *arrays[1:], algorithm)
    y = guard.guarded(np.full(expected_of(case, *arrays).shape, np.nan, case.dtype), side)
    layer(arrays[0], out=y)
    np.testing.assert_array_equal(y, layer(arrays[0]))

"""With algorithm="direct" the bits of an output depend on its receptive field alone.

Batching and streaming rely on it: not on threads, neighbours in the batch, length,
position, alignment or layout.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.comparison import always_parallel, make_layer
from tests.conformance.digest import CASES, normal
from tests.strategies import OUT_LAYOUTS, X_LAYOUTS, Case, cases, laid_out

DTYPES = ("float32", "float64")
# Every family, dilated and strided; dense also with the reduction in blocks.
SHAPES = (
    Case(3, 5, 33, 300, has_bias=True),
    Case(5, 3000, 17, 40),
    Case(3, 50, 33, 300, has_bias=True),
    Case(7, 25, 25, 300, dilation=2),
    Case(3, 96, 40, 300, num_groups=2),
    Case(4, 12, 40, 300, dilation=3, num_groups=4, has_bias=True),
    Case(7, 37, 37, 300, num_groups=37, dilation=2),
    Case(3, 20, 64, 300, stride=2),
    Case(1, 1, 1, 300),
    Case(37, 1, 1, 700, has_bias=True),
    Case(5, 1, 1, 700, dilation=3),
    Case(5, 40, 3, 300, has_bias=True),
    Case(3, 33, 1, 300, dilation=2),
    Case(5, 40, 2, 700, dilation=4, has_bias=True),
    Case(5, 192, 6, 300, num_groups=3, has_bias=True),
    Case(9, 256, 8, 300, num_groups=4, dilation=4),
    # Dot products, which channel-first arrays form by vectors of positions where they are long.
    Case(1, 64, 5, 700, has_bias=True),
    Case(2, 18, 3, 900, stride=2),
    Case(3, 100, 2, 900, dilation=3, has_bias=True),
    # Few channels, which go by vectors of positions where there are as many.
    Case(31, 2, 1, 300, has_bias=True),
    Case(50, 3, 3, 300, num_groups=3),
    Case(21, 2, 2, 300, num_groups=2, has_bias=True),
    Case(9, 8, 8, 300, num_groups=8, dilation=2),
    Case(20, 4, 4, 400, num_groups=4, dilation=12),
    Case(16, 64, 8, 300, dilation=2, num_groups=4),
    # With a stride, whose phases are sorted: of any length, or where there are many positions.
    Case(40, 1, 1, 700, stride=3),
    Case(70, 1, 1, 900, stride=2, dilation=3),
    Case(9, 2, 2, 700, stride=4, num_groups=2),
    Case(9, 6, 6, 600, stride=2, dilation=3, num_groups=6),
    Case(31, 2, 1, 900, stride=3, has_bias=True),
    Case(7, 3, 8, 600, stride=3),
    Case(5, 2, 4, 600, stride=2, num_groups=2),
    # Where the padding is a multiple of the common step, the positions in between are left out.
    Case(37, 1, 1, 700, stride=2, dilation=2),
    Case(4, 20, 24, 300, stride=2, dilation=4),
    Case(31, 2, 1, 300, stride=2, dilation=2),
    Case(4, 3, 8, 300, stride=2, dilation=2),
    Case(1, 20, 40, 300, stride=3),
    Case(1, 128, 6, 700, stride=2, num_groups=2),
    Case(7, 128, 10, 700, stride=2, dilation=2, num_groups=2, has_bias=True),
)
shapes = pytest.mark.parametrize("case", SHAPES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def assert_same_bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert a.tobytes() == b.tobytes(), f"differ by up to {np.abs(a - b).max()}"


# --- threads
def test_processes_with_more_threads(run_module):
    hashes = {
        run_module("tests.conformance.digest", NUMBA_NUM_THREADS=str(threads))
        for threads in (1, 2, 3)
    }
    assert len(hashes) == 1
    assert len(set(hashes.pop().split())) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_threads_of_a_call(case):
    x, filter, bias = case.arrays(normal)
    layer = make_layer(case, filter, bias)
    alone = layer(x, threads=1)
    for _ in range(20):
        assert_same_bits(layer(x, out=np.full_like(alone, np.nan)), alone)


@pytest.mark.parametrize("permute", [False, True])
@shapes
def test_threads_in_a_small_problem(case, permute):
    case = case.but(permute=permute, batch=3)
    x, filter, bias = case.arrays(normal)
    alone = make_layer(case, filter, bias)(x)
    with always_parallel():
        layer = make_layer(case, filter, bias)
        for _ in range(20):
            assert_same_bits(layer(x, out=np.full_like(alone, np.nan)), alone)


# --- neighbours
@shapes
@dtypes
def test_a_batch_and_its_rows(case, dtype):
    case = case.but(batch=5, padding="same", dtype=dtype)
    x, filter, bias = case.arrays(normal)
    layer = make_layer(case, filter, bias)
    y = layer(x)
    for n in range(case.batch):
        assert_same_bits(layer(x[n : n + 1]), y[n : n + 1])
    assert_same_bits(layer(x[1:4]), y[1:4])


@shapes
@dtypes
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_a_stream_in_pieces(case, dtype, piece):
    """Pieces of so many outputs, each from its own field of a signal that began with zeros."""
    case = case.but(padding="causal", dtype=dtype)
    x, filter, bias = case.arrays(normal)
    whole = make_layer(case, filter, bias)(x)
    history = case.dilation * (case.kernel_size - 1)
    signal = np.concatenate([np.zeros_like(x[:, :history]), x], axis=1)
    layer = make_layer(case.but(padding=0), filter, bias)
    for first in range(0, whole.shape[1], piece):
        expected = whole[:, first : first + piece]
        start = first * case.stride
        stop = start + (expected.shape[1] - 1) * case.stride + history + 1
        assert_same_bits(layer(signal[:, start:stop]), expected.copy())


@shapes
@dtypes
@pytest.mark.parametrize("left", [5, 6])
def test_padding_and_the_same_numbers_in_x(case, dtype, left):
    case = case.but(padding=(left, 9), dtype=dtype)
    x, filter, bias = case.arrays(normal)
    padded = np.pad(x, ((0, 0), (left, 9), (0, 0)))
    assert_same_bits(
        make_layer(case, filter, bias)(x), make_layer(case.but(padding=0), filter, bias)(padded)
    )


# --- memory
@shapes
@dtypes
def test_every_alignment_of_x_and_out(case, dtype):
    case = case.but(padding="same", dtype=dtype)
    x, filter, bias = case.arrays(normal)
    layer = make_layer(case, filter, bias)
    y = layer(x)
    for offset in range(64 // x.itemsize):
        assert_same_bits(layer(at_offset(x, offset), out=at_offset(y, 3 * offset)), y)


def at_offset(array, elements):
    """A copy that begins so many elements after a cache line."""
    room = np.full(array.size + 256, np.nan, array.dtype)
    first = -(room.ctypes.data // array.itemsize) % (64 // array.itemsize) + elements
    copy = room[first : first + array.size].reshape(array.shape)
    copy[...] = array
    return copy


@shapes
@dtypes
@pytest.mark.parametrize("permute", [False, True])
def test_every_layout_of_x_and_out(case, dtype, permute):
    case = case.but(padding="same", dtype=dtype, permute=permute, batch=1)
    x, filter, bias = case.arrays(normal)
    layer = make_layer(case, filter, bias)
    y = layer(x)
    for x_layout in X_LAYOUTS:
        assert_same_bits(layer(laid_out(x, x_layout)), y)
    for out_layout in OUT_LAYOUTS[1:]:
        out = layer(x, out=laid_out(np.full_like(y, np.nan), out_layout))
        assert_same_bits(out.astype(y.dtype), y)


@shapes
@dtypes
def test_order_of_axes(case, dtype):
    case = case.but(padding="same", dtype=dtype)
    x, filter, bias = case.arrays(normal)
    y = make_layer(case, filter, bias)(x)
    assert_same_bits(permuted(case, x, filter, bias), y)


@pytest.mark.parametrize(
    "channels, groups", [((16, 16), 1), ((8, 24), 1), ((3, 5), 1), ((64, 2), 1), ((32, 32), 4)]
)
def test_order_of_axes_and_signs_of_zeros(channels, groups):
    case = Case(3, *channels, 700, num_groups=groups, padding=1, has_bias=True)
    x, filter, bias = case.arrays()
    x, filter, bias = 0 * x, 0 * filter - 1, 0 * bias - 0.0
    y = make_layer(case, filter, bias)(x)
    assert_same_bits(permuted(case, x, filter, bias), y)


def permuted(case, x, filter, bias):
    """The same of channel-first arrays."""
    layer = make_layer(case.but(permute=True), filter.transpose(2, 1, 0), bias)
    return layer(x.transpose(0, 2, 1)).transpose(0, 2, 1)


# --- drawn problems
@settings(max_examples=200)
@given(cases())
def test_drawn_problems_by_order_of_axes(case):
    case = case.but(permute=False)
    x, filter, bias = case.arrays(normal)
    assert_same_bits(permuted(case, x, filter, bias), make_layer(case, filter, bias)(x))


@settings(max_examples=200)
@given(cases(), st.integers(0, 9), st.integers(0, 9))
def test_zeros_around_drawn_problems(case, left, right):
    case = case.but(permute=False, padding=(left, right), padding_mode="zeros")
    case = case.but(length=case.length + case.dilation * case.kernel_size)
    x, filter, bias = case.arrays(normal)
    padded = np.pad(x, ((0, 0), (left, right), (0, 0)))
    assert_same_bits(
        make_layer(case.but(padding=0), filter, bias)(padded), make_layer(case, filter, bias)(x)
    )


@settings(max_examples=200)
@given(cases(), st.integers(0, 60), st.integers(1, 40))
def test_a_piece_of_drawn_problems(case, first, count):
    case = case.but(permute=False, padding=0, length=case.length + 100)
    x, filter, bias = case.arrays(normal)
    layer = make_layer(case, filter, bias)
    whole = layer(x)
    first = min(first, whole.shape[1] - 1)
    expected = whole[:, first : first + count]
    stop = (first + expected.shape[1] - 1) * case.stride
    stop += case.dilation * (case.kernel_size - 1) + 1
    assert_same_bits(layer(x[:, first * case.stride : stop]), expected.copy())

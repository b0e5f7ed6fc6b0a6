"""Nothing outside x, filter, bias and y is touched: a read too far ends the process.

Survival is the assertion; the numbers are compared as everywhere.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings

from numbaconv.cpu import packing
from tests import guard
from tests.conformance.comparison import expected_of, l2_of, ways_to_run
from tests.conftest import ROOT
from tests.guard import guarded
from tests.strategies import LAYOUTS, Case, cases

pytestmark = pytest.mark.skipif(not guard.IS_AVAILABLE, reason="needs mmap and mprotect")
sides = pytest.mark.parametrize("side", guard.SIDES)

DTYPES = ("float32", "float64")
# Layouts that kernels read or write where they are, without a copy.
IN_PLACE = [name for name in LAYOUTS if name not in ("byte-swapped", "unaligned")]


def assert_stays_inside(case, side):
    """Run a case with all its arrays flush against a forbidden page."""
    arrays = tuple(None if a is None else guarded(a, side) for a in case.arrays())
    expected = expected_of(case, *arrays)
    layout = "contiguous" if case.out_layout == "none" else case.out_layout
    template = LAYOUTS[layout](np.full(expected.shape, np.nan, case.dtype))
    for run in ways_to_run(case, *arrays).values():
        out = guarded(template, side)
        run(out)
        np.testing.assert_array_equal(out, expected, err_msg=str(case))


@pytest.mark.parametrize("position", [-1, 8])
def test_the_guard_kills(position):
    """Without this the other tests would pass on a platform where mprotect does nothing."""
    code = f"""if True:
        import ctypes, numpy as np
        from tests.guard import guarded
        array = guarded(np.zeros(2, np.float32), {"left" if position < 0 else "right"!r})
        print("inside", array.sum(), flush=True)
        ctypes.string_at(array.ctypes.data + {position}, 1)
        print("outside", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "inside 0.0\n" and done.returncode < 0, done


# --- every tail of a vector
@sides
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", range(1, 71))
def test_every_number_of_channels(channels, dtype, side):
    dense = Case(3, 5, channels, 29, padding=1, has_bias=True, dtype=dtype)
    assert_stays_inside(dense, side)
    assert_stays_inside(dense.but(in_channels=channels, out_channels=11, padding=0), side)
    assert_stays_inside(dense.but(in_channels=channels, num_groups=channels, padding=0), side)
    assert_stays_inside(dense.but(in_channels=6, out_channels=2 * channels, num_groups=2), side)
    # What fills no vector, by halves or dot products; groups that are transposed.
    assert_stays_inside(dense.but(in_channels=45), side)
    if channels < 9:
        assert_stays_inside(
            dense.but(kernel_size=20, in_channels=2 * channels, num_groups=channels), side
        )


@sides
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", range(1, 71, 3))
def test_every_number_of_channels_first(channels, dtype, side):
    dense = Case(3, 5, channels, 29, padding=1, permute=True, dtype=dtype)
    assert_stays_inside(dense, side)
    assert_stays_inside(dense.but(in_channels=channels, num_groups=channels, padding=0), side)
    assert_stays_inside(dense.but(length=64, in_channels=32, padding="same"), side)


@sides
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("length_out", [*range(15, 36), 63, 64, 65, 97, 191, 192, 210, 400])
def test_channels_first_along_the_positions(length_out, stride, dtype, side):
    length = (length_out - 1) * stride + 3
    planar = Case(3, 4, 7, length, stride=stride, permute=True, has_bias=True, dtype=dtype)
    assert_stays_inside(planar, side)
    assert_stays_inside(planar.but(padding=2, batch=2), side)
    assert_stays_inside(planar.but(kernel_size=1, length=length - 2, out_channels=2), side)
    assert_stays_inside(planar.but(in_channels=6, out_channels=6, num_groups=6), side)


@sides
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", range(2, 9))
def test_interleaved_channels(channels, dtype, side):
    """All positions are in place, and the last ones fill a vector in part."""
    for taps, dilation in ((1, 1), (3, 1), (19, 1), (9, 2), (3, 16)):
        few = Case(taps, channels, channels, 1, num_groups=channels, dilation=dilation, dtype=dtype)
        for length_out in (1, 2, 63, 256, *range(200, 209)):
            assert_stays_inside(few.but(length=length_out + (taps - 1) * dilation), side)


@sides
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel_size", range(2, 19))
def test_signals_with_filters_of_their_own(kernel_size, dtype, side):
    """All positions are in place, and the last vectors end where x does."""
    for length_out in (64, 129, 143, 200, 256):
        signals = Case(
            kernel_size, 3, 3, length_out + kernel_size - 1, num_groups=3, permute=True, dtype=dtype
        )
        assert_stays_inside(signals, side)
        assert_stays_inside(signals.but(in_channels=1, out_channels=1, num_groups=1), side)


@sides
@pytest.mark.parametrize("length_out", range(1, 41))
def test_every_number_of_positions(length_out, side):
    for channels in (1, 8, 20, 40, 64):
        dense = Case(3, 4, channels, length_out + 2)
        assert_stays_inside(dense, side)
        assert_stays_inside(dense.but(in_channels=channels, num_groups=channels), side)
        assert_stays_inside(dense.but(permute=True, length=length_out, padding="same"), side)


@sides
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", range(1, 71, 3))
def test_few_output_channels(channels, dtype, side):
    for out_channels in (1, 3, 8):
        case = Case(5, channels, out_channels, 41, has_bias=True, dtype=dtype)
        assert_stays_inside(case, side)
        assert_stays_inside(case.but(dilation=2, padding="same"), side)
        # Tiles whose outputs lie apart are full from so many positions on.
        assert_stays_inside(case.but(dilation=2, length=60), side)
        groups = case.but(in_channels=3 * channels, out_channels=3 * out_channels, num_groups=3)
        assert_stays_inside(groups.but(dilation=2, length=60), side)


@sides
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel_size", [*range(1, 20), 33, 65])
def test_one_channel_in_and_out(kernel_size, dtype, side):
    for length in (kernel_size, kernel_size + 7, kernel_size + 300):
        case = Case(kernel_size, 1, 1, length, batch=2, dtype=dtype)
        assert_stays_inside(case, side)
        assert_stays_inside(case.but(padding=2, permute=True), side)
        assert_stays_inside(case.but(padding=(0, 3), stride=3, length=length + 300), side)


@sides
@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("length", [*range(400, 418), 2000])
def test_phases_of_channel_last_arrays(length, stride, side):
    for channels in ((2, 2, 2), (3, 3, 3), (2, 4, 1), (3, 2, 1)):
        inputs, outputs, groups = channels
        case = Case(9, inputs, outputs, length, stride=stride, num_groups=groups)
        assert_stays_inside(case, side)
        assert_stays_inside(case.but(padding=(3, 2), batch=2), side)


# --- borders
@sides
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 2, (0, 5), (5, 0), (-3, 4), (4, -3), -2])
def test_borders(padding, padding_mode, side):
    for length, stride in ((9, 1), (40, 1), (41, 3), (50, 7)):
        case = Case(
            3, 7, 20, length, batch=2, stride=stride, padding=padding, padding_mode=padding_mode
        )
        assert_stays_inside(case, side)
        assert_stays_inside(case.but(permute=True, num_groups=1), side)
        assert_stays_inside(case.but(in_channels=20, num_groups=20), side)


@sides
@pytest.mark.parametrize(("stride", "dilation"), [(1, 5), (2, 3), (5, 1), (50, 2), (1, 500)])
def test_strides_and_dilations(stride, dilation, side):
    case = Case(3, 7, 20, 1200, stride=stride, dilation=dilation)
    for padding in (0, "same", (600, 3)):
        assert_stays_inside(case.but(padding=padding), side)
        assert_stays_inside(case.but(padding=padding, permute=True), side)
        assert_stays_inside(case.but(padding=padding, in_channels=20, num_groups=20), side)


@sides
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [2, 3])
def test_positions_left_out(stride, dtype, side):
    """Steps along x by vectors, which must not touch what lies behind its last position."""
    for length in range(1, 70):
        case = Case(1, 9, 12, length, stride=stride, permute=True, dtype=dtype)
        assert_stays_inside(case, side)
        assert_stays_inside(case.but(in_channels=70, out_channels=130), side)
    for length in range(80, 96):
        case = Case(20, 1, 1, length, stride=stride, dilation=stride, dtype=dtype)
        assert_stays_inside(case, side)
        assert_stays_inside(case.but(in_channels=4, out_channels=4, permute=True), side)


@sides
def test_no_positions_at_all(side):
    assert_stays_inside(Case(3, 7, 20, 0, padding=4, has_bias=True), side)
    assert_stays_inside(Case(3, 7, 20, 10, batch=0), side)


# --- layouts, caches, threads
@sides
@pytest.mark.parametrize("x_layout", IN_PLACE)
@pytest.mark.parametrize("out_layout", [name for name in IN_PLACE if name != "read-only"])
def test_layouts(x_layout, out_layout, side):
    case = Case(3, 19, 19, 30, batch=2, padding=1, x_layout=x_layout, out_layout=out_layout)
    assert_stays_inside(case, side)
    assert_stays_inside(case.but(num_groups=19), side)
    assert_stays_inside(case.but(permute=True, padding=0), side)


@sides
@pytest.mark.parametrize("size", [1 << 10, 8 << 10])
def test_small_caches(size, side):
    case = Case(5, 19, 37, 60, batch=2, padding=3, has_bias=True)
    with l2_of(size):
        assert_stays_inside(case, side)
        assert_stays_inside(case.but(permute=True), side)
        assert_stays_inside(case.but(in_channels=37, num_groups=37), side)


@sides
def test_several_threads(side):
    assert_stays_inside(Case(3, 63, 70, 501, batch=3, padding=1), side)
    assert_stays_inside(Case(3, 399, 799, 9, padding=1), side)


@sides
@given(case=cases())
@settings(max_examples=60)
def test_drawn_problems(side, case):
    assert_stays_inside(case, side)


@pytest.mark.slow
@sides
@given(case=cases())
@settings(max_examples=1000)
def test_many_drawn_problems(side, case):
    assert_stays_inside(case, side)


@sides
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_weights(side, dtype, monkeypatch):
    """The kernels' own copy of filter and bias has ends, too."""

    def empty(size, dtype):
        lines = -(-size * dtype.itemsize // 64)  # it begins on one, for loads that want it
        return guarded(np.empty(lines * 64 // dtype.itemsize, dtype), side)[:size]

    for name in ("aligned_empty", "large_page_empty"):
        monkeypatch.setattr(packing, name, empty)
    for channels in (1, 7, 16, 33, 40, 64, 70):
        case = Case(3, 5, channels, 40, padding=1, has_bias=True, dtype=dtype)
        assert_stays_inside(case, side)
        assert_stays_inside(case.but(in_channels=45), side)
        assert_stays_inside(case.but(in_channels=channels, num_groups=channels), side)
        assert_stays_inside(case.but(in_channels=10, num_groups=5, out_channels=5 * channels), side)

"""Windows hold the padded signal, row by row, where the panel kernels look for it."""

from __future__ import annotations

import ctypes

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from numbaconv.cpu.tables import CALL
from numbaconv.cpu.transposition import copier_address
from numbaconv.cpu.window import (
    MODE_CODES,
    filler_address,
    padded_source,
    phase_shape,
    window_shape,
)
from numbaconv.interop import address_of
from numbaconv.problem import Geometry

NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
MODES = list(MODE_CODES)


def fits(mode, length, left, right):
    """Whether a signal is long enough for its own padding."""
    widest = max(left, right)
    limits = {"reflect": length - 1, "circular": length, "replicate": widest if length else 0}
    return widest <= limits.get(mode, widest)


def padded_index(length, left, right, mode):
    """The position of x that stands at each position of the padded signal; -1 for a zero."""
    index = np.arange(length)
    if mode == "zeros":
        return np.pad(index, (left, right), constant_values=-1)
    if length == 0:
        return index
    return np.pad(index, (left, right), mode=NUMPY_MODES[mode])


# --- the padding rule


@given(st.sampled_from(MODES), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_padded_source_is_the_rule_of_numpy(mode, length, left, right):
    assume(fits(mode, length, left, right))
    expected = padded_index(length, left, right, mode)
    code = MODE_CODES[mode]
    found = [padded_source.py_func(i, length, code) for i in range(-left, length + right)]
    assert found == expected.tolist()


@numba.njit
def compiled_source(index, length, mode):
    return padded_source(index, length, mode)


def test_padded_source_is_the_same_when_compiled():
    for mode, code in MODE_CODES.items():
        for index in range(-6, 13):
            expected = padded_source.py_func(index, 7, code)
            assert compiled_source(index, 7, code) == expected, (mode, index)


# --- the shape


def rows_of_strips(shape, outputs):
    """(row of the window, position relative to the first) of all that is filled."""
    strips = shape.strips or outputs
    rows = shape.first_rows + (outputs - 1) * shape.more_rows
    return [
        (strip * shape.pitch + r, strip * shape.step + r * shape.every)
        for strip in range(strips)
        for r in range(rows - shape.phase_dilation * (strip >= shape.long_strips))
    ]


def row_of(shape, output, tap):
    """Where a kernel looks for the x of an output and a tap."""
    if shape.phase_dilation and shape.strips > 1:
        turn, strip = divmod(tap, shape.strips)
        return output + strip * shape.dilation + turn * shape.phase_dilation
    return output * shape.stride + tap * shape.dilation


def shapes_of(positions, kernel_size, stride, dilation):
    """As rows follow each other in x, and phase by phase."""
    geometry = Geometry(kernel_size, 1, 1, stride=stride, dilation=dilation)
    yield window_shape(positions, kernel_size, stride, dilation)
    yield phase_shape(positions, geometry)


shapes = st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 30), st.integers(1, 60))


@given(shapes, st.data())
def test_each_output_and_tap_finds_its_position(parameters, data_):
    positions, kernel_size, stride, dilation = parameters
    outputs = data_.draw(st.integers(1, positions))  # the last run may be shorter
    for shape in shapes_of(*parameters):
        held = dict(rows_of_strips(shape, outputs))
        for l in range(outputs):
            for t in range(kernel_size):
                assert held[row_of(shape, l, t)] == l * stride + t * dilation


@given(shapes)
def test_strips_do_not_overlap_and_fit_the_window(parameters):
    for shape in shapes_of(*parameters):
        rows = [row for row, _ in rows_of_strips(shape, parameters[0])]
        assert len(rows) == len(set(rows))
        assert max(rows) < shape.rows(parameters[0])


@given(shapes)
def test_nothing_beyond_the_receptive_field_is_read(parameters):
    positions, kernel_size, stride, dilation = parameters
    for shape in shapes_of(*parameters):
        for outputs in {1, positions}:
            last = (outputs - 1) * stride + (kernel_size - 1) * dilation
            reads = [position for _, position in rows_of_strips(shape, outputs)]
            assert min(reads) == 0
            assert max(reads) <= last


@given(shapes)
def test_gaps_are_left_out(parameters):
    """The window is no larger than one strip, a strip a tap, or a strip an output.

    Gaps between taps as wide as the stride stay, for kernels in which taps slide.
    """
    positions, kernel_size, stride, dilation = parameters
    reach, span = (positions - 1) * stride + 1, (kernel_size - 1) * dilation + 1
    whole = (positions - 1) * stride + span
    rows = window_shape(positions, kernel_size, stride, dilation).rows(positions)
    assert rows <= min(whole, max(kernel_size * reach, positions * span))
    if dilation > max(reach, stride):
        assert rows == kernel_size * reach
    elif stride > span:
        assert rows == positions * span


@pytest.mark.parametrize(
    "parameters, rows",
    [
        ((4, 3, 1, 1), 6),  # one strip
        ((4, 3, 1, 1000), 12),  # three taps of four positions
        ((4, 3, 1000, 1), 12),  # four outputs of three taps
        ((1, 5, 7, 100), 5),  # one output: only its taps
    ],
)
def test_rows_of_windows(parameters, rows):
    assert window_shape(*parameters).rows(parameters[0]) == rows


# --- filling


def call_record(shape, x, length, mode, band, strides):
    """The fields of a call that `fill_window` reads."""
    call = np.zeros(1, CALL)
    steps = [stride // x.itemsize for stride in x.strides]
    values = dict(
        length=length, mode=MODE_CODES[mode],
        x_row=steps[0], x_channel=steps[1],
        window_strips=shape.strips, window_pitch=shape.pitch, window_step=shape.step,
        window_first_rows=shape.first_rows, window_more_rows=shape.more_rows,
        window_every=shape.every, window_phase_dilation=shape.phase_dilation,
        window_long_strips=shape.long_strips,
        band_channels=band, window_row=strides[0], window_channel=strides[1],
        copier=copier_address(x.dtype), filler=filler_address(x.dtype),
    )  # fmt: skip
    for name, value in values.items():
        call[name] = value
    return call


GUARD = 40  # elements around the window that must stay as they are


def filled_window(
    x, start, length, shape, positions, outputs, origin, mode, channel, band, planar=False
):
    """Fill a window from rows `start` … of x, and check that nothing around it was touched.

    It holds `band` channels from `channel` on, side by side or each in a plane. Returns what it
    holds, and a function of (output, tap, channel) that tells where.
    """
    size, plane = shape.rows(positions) * band, shape.strip_rows(positions)
    if planar:
        shape = shape.in_planes(band)
    row, column = (1, plane) if planar else (band, 1)
    call = call_record(shape, x, length, mode, band, (row, column))
    room = np.full(size + 2 * GUARD, np.nan, x.dtype)
    fill = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(filler_address(x.dtype))
    first = address_of(x) + start * x.strides[0]
    window = address_of(room) + GUARD * x.itemsize
    fill(window, address_of(call), first, origin, outputs, channel)
    assert np.isnan(room[:GUARD]).all()
    assert np.isnan(room[-GUARD:]).all()

    def place(output, tap, c):
        return row_of(shape, output, tap) * row + c * column

    return room[GUARD:-GUARD], place


def layouts(values):
    """The same numbers in memory of several kinds; each is a view of a flat array."""
    length, channels = values.shape
    for name in ("channel-last", "channel-first", "reversed", "gaps"):
        if name == "channel-last":
            view = np.empty(values.size, values.dtype).reshape(length, channels)
        elif name == "channel-first":
            view = np.empty(values.size, values.dtype).reshape(channels, length).T
        elif name == "reversed":
            view = np.empty(values.size, values.dtype).reshape(length, channels)[::-1, ::-1]
        else:
            flat = np.full(4 * length * channels, np.nan, values.dtype)
            view = flat.reshape(length, 2, channels, 2)[:, 0, :, 1]
        view[...] = values
        yield name, view


@settings(max_examples=80)
@given(st.data())
def test_windows_hold_the_padded_signal(data_):
    draw = data_.draw
    mode = draw(st.sampled_from(MODES))
    kernel_size, stride, dilation = (draw(st.integers(1, 5)) for _ in range(3))
    positions = draw(st.integers(1, 12))
    outputs = draw(st.integers(1, positions))
    length, channels = draw(st.integers(1, 30)), draw(st.integers(1, 40))
    last = (outputs - 1) * stride + (kernel_size - 1) * dilation
    origin = draw(st.integers(-length - last, length + 5))
    left, right = max(0, -origin), max(0, origin + last + 1 - length)
    assume(fits(mode, length, left, right))
    channel = draw(st.integers(0, channels - 1))
    band, planar = draw(st.integers(1, channels - channel)), draw(st.booleans())
    dtype = draw(st.sampled_from([np.float32, np.float64]))

    values = np.random.default_rng(0).standard_normal((length, channels)).astype(dtype)
    source = padded_index(length, left, right, mode)[left + origin :]
    rows = np.vstack([values, np.zeros((1, channels), dtype)])[source]
    shape = window_shape(positions, kernel_size, stride, dilation)
    if planar:
        geometry = Geometry(kernel_size, 1, 1, stride=stride, dilation=dilation)
        shape = phase_shape(positions, geometry)
    for name, x in layouts(values):
        window, place = filled_window(
            x, 0, length, shape, positions, outputs, origin, mode, channel, band, planar
        )
        for l in range(outputs):
            for t in range(kernel_size):
                held = [window[place(l, t, c)] for c in range(band)]
                expected = rows[l * stride + t * dilation, channel : channel + band]
                np.testing.assert_array_equal(held, expected, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_windows_of_a_cropped_signal_see_its_borders(mode):
    """Rows 2 … 8 of x are the signal: what lies around them must not show."""
    x = np.arange(36, dtype=np.float32).reshape(12, 3)
    shape = window_shape(9, 3, 1, 1)
    window, _ = filled_window(x, 2, 7, shape, 9, 9, -2, mode, 0, 3)
    signal, widths = x[2:9], ((2, 2), (0, 0))
    expected = np.pad(signal, widths, mode=NUMPY_MODES.get(mode, "constant"))
    np.testing.assert_array_equal(window, expected.ravel())

"""Typed pointers in jitted code, and copies between any two layouts."""

from __future__ import annotations

import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core import types

from numbaconv.cpu.memory import (
    allocate,
    call_address,
    copy_block,
    lanes_of,
    load,
    move,
    offset,
    pointer,
    record,
    release,
    store,
)
from numbaconv.cpu.tables import BLOCK, TABLES
from numbaconv.cpu.target import host
from numbaconv.cpu.transposition import copier_address
from numbaconv.interop import address_of
from tests.conftest import ROOT
from tests.cpu.pointers import data

DTYPES = [np.float32, np.float64]


# --- pointers


@pytest.mark.parametrize("dtype", DTYPES)
def test_load_and_store_by_address(dtype):
    element = numba.from_dtype(np.dtype(dtype))

    @numba.njit
    def double(address, count):
        base = pointer(address, element)
        for i in range(count):
            store(base, i, 2 * load(base, i))

    x = np.arange(5, dtype=dtype)
    double(address_of(x), 4)
    np.testing.assert_array_equal(x, [0, 2, 4, 6, 4])


@pytest.mark.parametrize("dtype", DTYPES)
def test_offset_counts_elements_both_ways(dtype):
    @numba.njit
    def at(x, there, back):
        return load(offset(offset(data(x), there), back), 0)

    x = np.arange(10, dtype=dtype)
    assert at(x, 7, -3) == 4
    assert at(x[5:], -2, 0) == 3  # data is that of the view


@pytest.mark.parametrize("dtype", DTYPES)
def test_move_copies_exactly_so_many_elements(dtype):
    @numba.njit
    def run(target, source, count):
        move(data(target), data(source), count)

    for count in (0, 1, 3, 8):
        target, source = np.full(9, -1, dtype), np.arange(9, dtype=dtype)
        run(target, source, count)
        np.testing.assert_array_equal(target[:count], source[:count])
        assert (target[count:] == -1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_are_those_of_the_host(dtype):
    @numba.njit
    def run(x):
        return lanes_of(data(x))

    assert run(np.zeros(1, dtype)) == host().lanes(np.dtype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scratch_begins_a_line_and_is_nobody_elses(dtype):
    element = numba.from_dtype(np.dtype(dtype))

    @numba.njit
    def run(count):
        one, other = allocate(count, element), allocate(count, element)
        for i in range(count):
            store(pointer(one, element), i, 1)
            store(pointer(other, element), i, 2)
        total = 0.0
        for i in range(count):
            total += load(pointer(one, element), i)
        release(other)
        release(one)
        return total, one % 64, other % 64

    for count in [0, 1, 3, 100, 1_000_000] * 3:
        assert run(count) == (count, 0, 0)


def test_a_process_without_memory_ends():
    """A C function cannot raise, and outputs must not stay as they were."""
    code = """if True:
        import numba
        from numbaconv.cpu.memory import allocate

        @numba.njit
        def run(count):
            return allocate(count, numba.float64)

        print(run(4) % 64, flush=True)
        print(run(1 << 55), flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode < 0) == ("0\n", True)


# --- tables


def test_records_are_rows_of_a_table():
    @numba.njit
    def run(address, index):
        row = record(address, index, "block")
        return row.first_tap, row.taps, row.first_channel, row.depth, row.full_depth

    table = np.array([(1, 2, 3, 4, 5), (6, 7, 8, 9, 10)], BLOCK)
    assert run(address_of(table), 0) == (1, 2, 3, 4, 5)
    assert run(address_of(table), 1) == (6, 7, 8, 9, 10)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_packed_rows_of_64_bits(name):
    dtype = TABLES[name]
    assert dtype.itemsize == 8 * len(dtype.names)
    assert all(dtype[field] == np.int64 for field in dtype.names)


# --- calls by address


def test_call_address_passes_integers_and_pointers():
    @numba.cfunc(types.void(types.CPointer(types.float64), types.int64, types.int64))
    def add(target, index, value):
        target[index] += value

    @numba.njit
    def run(address, x):
        call_address(address, (data(x), 2, 40))

    x = np.zeros(4)
    run(add.address, x)
    run(add.address, x)
    np.testing.assert_array_equal(x, [0, 0, 80, 0])


# --- copies between layouts


def run_copy(target, *arguments):
    """`copy_block` on arrays, with all the ways it knows."""
    run_with(copier_address(target.dtype), target, *arguments)


@numba.njit
def run_with(copier, target, t0, t_row, t_col, source, s0, s_row, s_col, rows, columns):
    copy_block(
        copier, offset(data(target), t0), t_row, t_col, offset(data(source), s0), s_row, s_col,
        rows, columns,
    )  # fmt: skip


def block_in_memory(rows, columns, order, gap_row, gap_column, dtype):
    """A view of rows × columns in NaN-filled memory, and that memory, flat."""
    inner, outer = (columns, rows) if order == "C" else (rows, columns)
    step = 1 + gap_column
    pitch = inner * step + gap_row
    memory = np.full(outer * pitch + 64, np.nan, dtype)
    view = memory[: outer * pitch].reshape(outer, pitch)[:, : inner * step : step]
    return memory, (view if order == "C" else view.T)


def steps(view):
    return [stride // view.itemsize for stride in view.strides]


def copy(target_memory, target, source_memory, source, rows, columns):
    places = [
        (address_of(view) - address_of(memory)) // view.itemsize
        for memory, view in ((target_memory, target), (source_memory, source))
    ]
    run_copy(
        target_memory, places[0], *steps(target), source_memory, places[1], *steps(source),
        rows, columns,
    )  # fmt: skip


LANES = [host().lanes(np.dtype(dtype)) for dtype in DTYPES]
SIZES = st.one_of(
    st.integers(0, 5),
    st.sampled_from([m * lanes + d for lanes in LANES for m in (1, 2, 3) for d in (-1, 0, 1)]),
)


@given(
    SIZES, SIZES, st.sampled_from("CF"), st.sampled_from("CF"),
    st.tuples(*[st.integers(0, 3)] * 2), st.tuples(*[st.integers(0, 2)] * 2),
    st.sampled_from(DTYPES),
)  # fmt: skip
def test_any_block_between_any_layouts(
    rows, columns, target_order, source_order, target_gaps, source_gaps, dtype
):
    target_memory, target = block_in_memory(rows, columns, target_order, *target_gaps, dtype)
    source_memory, source = block_in_memory(rows, columns, source_order, *source_gaps, dtype)
    source[...] = np.arange(rows * columns, dtype=dtype).reshape(rows, columns)
    source_before, expected = source_memory.copy(), target_memory.copy()
    place = np.arange(target_memory.size).reshape(-1)
    where = np.lib.stride_tricks.as_strided(
        place, target.shape, [s // target.itemsize * place.itemsize for s in target.strides]
    )
    expected[where] = source
    copy(target_memory, target, source_memory, source, rows, columns)
    np.testing.assert_array_equal(target_memory, expected)
    np.testing.assert_array_equal(source_memory, source_before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 35])
@pytest.mark.parametrize("columns", [1, 2, 4, 7, 8, 9, 33])
def test_transposes_with_remainders(rows, columns, dtype):
    source = np.arange(rows * columns, dtype=dtype).reshape(columns, rows).T
    target = np.full((rows, columns), np.nan, dtype)
    run_copy(target.ravel(), 0, *steps(target), source.T.ravel(), 0, *steps(source), rows, columns)
    np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["row", "column", "both"])
def test_negative_strides(order, dtype):
    source = np.arange(37 * 19, dtype=dtype).reshape(37, 19)
    flip = (
        slice(None, None, -1 if order != "column" else 1),
        slice(None, None, -1 if order != "row" else 1),
    )
    view, target = source[flip], np.full((37, 19), np.nan, dtype)
    first = (address_of(view) - address_of(source)) // source.itemsize
    run_copy(target.ravel(), 0, 19, 1, source.ravel(), first, *steps(view), 37, 19)
    np.testing.assert_array_equal(target, view)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s_row, s_col", [(0, 1), (1, 0), (0, 0)])
def test_a_source_that_repeats_itself(s_row, s_col, dtype):
    source, target = np.arange(40, dtype=dtype), np.full((34, 20), np.nan, dtype)
    run_copy(target.ravel(), 0, 20, 1, source, 3, s_row, s_col, 34, 20)
    r, c = np.indices(target.shape)
    np.testing.assert_array_equal(target, source[3 + r * s_row + c * s_col])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, columns", [(0, 5), (5, 0), (0, 0)])
def test_an_empty_block_touches_nothing(rows, columns, dtype):
    target = np.full(100, 7, dtype)
    for t_row, t_col, s_row, s_col in [(5, 1, 5, 1), (1, 5, 5, 1), (5, 1, 1, 5), (2, 9, 3, 4)]:
        run_copy(target, 0, t_row, t_col, np.zeros(100, dtype), 0, s_row, s_col, rows, columns)
    assert (target == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_nan_and_zero_survive(dtype):
    bits = np.uint32 if dtype is np.float32 else np.uint64
    source = np.random.default_rng(0).integers(0, 2**32, 32 * 32).astype(bits)
    source[:4] = [0, 1 << (8 * source.itemsize - 1), *np.array([np.nan, np.inf], dtype).view(bits)]
    target = np.zeros(32 * 32, dtype)
    run_copy(target, 0, 32, 1, source.view(dtype), 0, 1, 32, 32, 32)
    expected = source.reshape(32, 32).T
    np.testing.assert_array_equal(target.view(bits).reshape(32, 32), expected)

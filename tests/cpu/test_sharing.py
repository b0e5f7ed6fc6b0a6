"""Pieces of shares: all of the work once, and none of it waits for a worker that does not come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numbaconv import Conv1D, _jit
from numbaconv.cpu.memory import call_address, stack_zeros
from numbaconv.cpu.panel_plan import PanelCall
from numbaconv.cpu.sharing import first_item, next_unit, pieces_of
from numbaconv.cpu.transform.plan import TransformCall
from numbaconv.interop import address_of


@_jit.jit
def starts_of(total, workers, least, multiple):
    pieces = pieces_of(total // workers, least)
    units = workers * pieces
    starts = np.empty(units + 1, np.int64)
    for unit in range(units + 1):
        starts[unit] = first_item(total, unit, workers, pieces, multiple)
    return starts


@_jit.jit
def order_of_units(asking, workers, units):
    """Which unit each worker of `asking` gets, one after the other."""
    queue = stack_zeros(workers)
    answers = np.empty(asking.size, np.int64)
    for i in range(asking.size):
        answers[i] = next_unit(queue, asking[i], workers, units)
    return answers


@_jit.jit
def work_alone(kernel, call, x, y, worker, workers, last):
    call_address(kernel, (0, call, x, y, worker, workers, stack_zeros(workers), last))


@given(
    total=st.integers(0, 3000), workers=st.integers(1, 9),
    least=st.integers(1, 200), multiple=st.integers(1, 12),
)  # fmt: skip
def test_units_follow_each_other_from_tile_to_tile(total, workers, least, multiple):
    starts = starts_of(total, workers, least, multiple)
    assert starts[0] == 0
    assert starts[-1] == total
    assert (np.diff(starts) >= 0).all()
    assert not (starts[:-1] % multiple).any()


def test_pieces_are_halves_of_what_is_left():
    assert starts_of(1600, 2, 100, 1).tolist() == [0, 400, 600, 700, 800, 1200, 1400, 1500, 1600]


@given(
    workers=st.integers(1, 5), units=st.integers(0, 40),
    asking=st.lists(st.integers(0, 4), min_size=60, max_size=60),
)  # fmt: skip
def test_every_unit_is_taken_once(workers, units, asking):
    asking = np.array([worker % workers for worker in asking])
    answers = order_of_units(asking, workers, units)
    assert sorted(answers[answers >= 0]) == list(range(units))
    assert (answers[units:] == -1).all()


def test_a_worker_begins_with_its_own_share_and_helps_the_next():
    assert order_of_units(np.array([1, 1, 1, 0, 1, 0]), 3, 6).tolist() == [2, 3, 4, 0, 5, 1]


def bound_call(layer, x, y):
    layer(x, out=y)
    (plan,) = layer._weights.plans.values()
    return plan.bind(x.strides, y.strides)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("divide_panels", [0, 1])
def test_one_worker_does_what_the_others_do_not_come_for(workers, divide_panels):
    layer = Conv1D(3, 8, 150, padding=1, algorithm="direct", rng=0)
    x = np.random.default_rng(0).standard_normal((3, 500, 8)).astype(np.float32)
    expected, y = layer(x), np.full((3, 500, 150), np.nan, np.float32)
    call = bound_call(layer, x, y.copy())
    assert isinstance(call, PanelCall)
    work_alone(
        call.kernel, call.address, address_of(x), address_of(y),
        workers - 1, workers, divide_panels,
    )  # fmt: skip
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_one_worker_transforms_all_blocks(workers):
    layer = Conv1D(7, 32, 32, algorithm="fft", rng=0)
    x = np.random.default_rng(0).standard_normal((2, 3000, 32)).astype(np.float32)
    expected = layer(x)
    y = np.full(expected.shape, np.nan, np.float32)
    call = bound_call(layer, x, y.copy())
    assert isinstance(call, TransformCall)
    redo = np.zeros(call.total_tiles + 1, np.uint8)
    work_alone(
        call.kernel, call.tables.usual, address_of(x), address_of(y),
        workers - 1, workers, address_of(redo),
    )  # fmt: skip
    np.testing.assert_array_equal(y, expected)
    assert not redo.any()

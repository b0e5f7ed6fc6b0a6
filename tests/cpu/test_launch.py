"""Entries: builtin functions in machine code that check x and y, or leave it to Python."""

from __future__ import annotations

import ctypes
import gc
import pickle
import sys
import threading

import numpy as np
import pytest

from numbaconv import Conv1D
from numbaconv.cpu.launch import definition_of_run
from numbaconv.cpu.tables import DESCR, NDARRAY
from numbaconv.weights import Weights

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
SHAPE = (2, 9, 4)


class Subclass(np.ndarray):
    """An array whose view as x a kernel may not take for granted."""


def normal(*shape, seed=1, dtype=F32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def layer_with_entry(dtype=F32, **changes):
    """A layer that has met a small input, and remembers its entry, with that input and output."""
    layer = Conv1D(3, 4, 6, dtype, padding=1, rng=0, algorithm="direct", **changes)
    shape = (SHAPE[0], SHAPE[2], SHAPE[1]) if layer.permute else SHAPE
    x = normal(*shape, dtype=dtype)
    y = layer(x)
    assert layer._weights.latest is not None
    return layer, x, y


def enter(layer, *arguments):
    return layer._weights.latest[0](*arguments)


# --- what NumPy has in memory
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[:, ::2], lambda a: a.T])
def test_an_array_object_is_read_as_numpy_says(dtype, view):
    array = view(normal(*SHAPE, dtype=dtype))
    memory = (ctypes.c_char * NDARRAY.itemsize).from_address(id(array))
    (found,) = np.frombuffer(memory, NDARRAY)
    assert found["type"] == id(np.ndarray)
    assert found["data"] == array.ctypes.data
    assert found["dimensions"] == 3
    assert tuple((ctypes.c_ssize_t * 3).from_address(int(found["shape"]))) == array.shape
    assert found["descr"] == id(array.dtype)
    assert found["flags"] == array.flags.num


def kind_of(dtype):
    return np.frombuffer((ctypes.c_char * DESCR.itemsize).from_address(id(dtype)), DESCR)["kind"]


def test_equal_dtypes_are_of_one_kind_and_others_are_not():
    for dtype in (F32, F64):
        same = pickle.loads(pickle.dumps(np.zeros(1, dtype))).dtype.newbyteorder("=")
        assert same == dtype
        assert kind_of(same) == kind_of(dtype)
    others = [F32, F64, F32.newbyteorder(), np.dtype("f2"), np.dtype("c8"), np.dtype("i4")]
    assert len({int(kind_of(dtype)[0]) for dtype in others}) == len(others)


# --- what an entry takes
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("permute", [False, True])
def test_an_entry_computes_what_the_first_call_did(dtype, permute):
    layer, x, y = layer_with_entry(dtype, permute=permute)
    for same in (x, x.copy(), pickle.loads(pickle.dumps(x))):
        out = np.full_like(y, np.nan)
        assert enter(layer, same, out) is True
        np.testing.assert_array_equal(out, y)
    out = np.full_like(y, np.nan)
    x.flags.writeable = False
    assert enter(layer, x, out)
    np.testing.assert_array_equal(out, y)


def misaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    memory[...] = array
    return memory


REFUSED = {
    "nothing": (),
    "None": (None, None),
    "a number": (3, 4.5),
    "a word": ("x", "y"),
    "the class": (np.ndarray, np.ndarray),
    "a dtype": (F32, F32),
}
OTHER_X = {
    "another length": lambda x: normal(2, 10, 4),
    "another batch": lambda x: normal(1, 9, 4),
    "other channels": lambda x: normal(2, 9, 5),
    "two dimensions": lambda x: x[0],
    "four dimensions": lambda x: x[None],
    "float64": lambda x: x.astype(F64),
    "int32": lambda x: x.astype(np.int32),
    "swapped bytes": lambda x: x.astype(F32.newbyteorder()),
    "reversed": lambda x: x[:, ::-1],
    "in Fortran's order": np.asfortranarray,
    "misaligned": misaligned,
    "a subclass": lambda x: x.view(Subclass),
    "a masked array": np.ma.masked_array,
    "a list": lambda x: x.tolist(),
    "a memoryview": memoryview,
}
OTHER_Y = {**OTHER_X, "None": lambda y: None}
del OTHER_Y["another length"], OTHER_Y["another batch"], OTHER_Y["other channels"]


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=list(REFUSED))
def test_an_entry_refuses_what_is_no_array(arguments):
    layer, x, y = layer_with_entry()
    assert enter(layer, *arguments) is False
    assert enter(layer, x) is False
    assert enter(layer, x, y, x) is False


@pytest.mark.parametrize("change", OTHER_X.values(), ids=list(OTHER_X))
def test_an_entry_refuses_another_x(change):
    layer, x, y = layer_with_entry()
    out = np.full_like(y, np.nan)
    assert enter(layer, change(x), out) is False
    assert np.isnan(out).all()


@pytest.mark.parametrize("change", OTHER_Y.values(), ids=list(OTHER_Y))
def test_an_entry_refuses_another_y(change):
    layer, x, y = layer_with_entry()
    before = y.copy()
    assert enter(layer, x, change(y)) is False
    np.testing.assert_array_equal(y, before)


def test_an_entry_refuses_to_write_what_is_read_only_and_what_overlaps_x():
    layer = Conv1D(3, 4, 4, padding=1, rng=0)
    memory = normal(2 * 72)
    x, y = memory[:72].reshape(SHAPE), memory[72:].reshape(SHAPE)
    expected = layer(x)
    for overlapping in (x, memory[36:108].reshape(SHAPE)):
        before = memory.copy()
        assert enter(layer, x, overlapping) is False
        np.testing.assert_array_equal(memory, before)
    y.flags.writeable = False
    assert enter(layer, x, y) is False
    y.flags.writeable = True
    assert enter(layer, x, y)
    np.testing.assert_array_equal(y, expected)


# --- a layer that has one
@pytest.mark.parametrize("change", OTHER_X.values(), ids=list(OTHER_X))
def test_a_layer_treats_another_x_as_one_without_an_entry_does(change):
    layer, x, _ = layer_with_entry()
    fresh, other = Conv1D(3, 4, 6, F32, padding=1, rng=0, algorithm="direct"), change(x)
    try:
        expected = fresh(other)
    except (TypeError, ValueError) as error:
        with pytest.raises(type(error)) as raised:
            layer(other)
        assert str(raised.value) == str(error)
    else:
        np.testing.assert_array_equal(layer(other), expected)


def test_a_layer_whose_lengths_alternate():
    layer, x, y = layer_with_entry()
    other = normal(1, 5, 4)
    expected = layer(other)
    for _ in range(3):
        np.testing.assert_array_equal(layer(x), y)
        np.testing.assert_array_equal(layer(other), expected)
        np.testing.assert_array_equal(layer(other), expected)


def test_new_weights_are_never_met_by_an_old_entry():
    layer, x, _ = layer_with_entry()
    old = layer._weights.latest[0]
    layer.filter = 2 * layer.filter
    y = layer(x)
    np.testing.assert_array_equal(layer(x), y)
    assert layer._weights.latest[0] is not old


def test_large_calls_have_no_entry():
    layer = Conv1D(3, 64, 64, rng=0)
    layer(normal(1, 4000, 64))
    assert layer._weights.latest is None


def test_only_brief_calls_keep_the_gil():
    brief, _, _ = layer_with_entry()
    longer = Conv1D(3, 32, 32, algorithm="direct", rng=0)  # 1.2 MFLOP
    x = normal(1, 200, 32)
    y = longer(x)
    np.testing.assert_array_equal(longer(x), y)
    kept = [layer._weights.latest[0].__self__["is_brief"] for layer in (brief, longer)]
    assert kept == [1, 0]


# --- as objects of Python
def test_an_entry_keeps_what_it_reads():
    layer, x, y = layer_with_entry()
    entry = layer._weights.latest[0]
    del layer
    definition_of_run.cache_clear()
    gc.collect()
    rubbish = [np.full(1000, np.nan, F32) for _ in range(100)]
    out = np.empty_like(y)
    assert entry(x, out)
    np.testing.assert_array_equal(out, y)
    del rubbish


def test_references_are_neither_lost_nor_kept():
    layer, x, y = layer_with_entry()
    entry = layer._weights.latest[0]
    watched = (x, y, True, False, entry.__self__, x.dtype)
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(10_000):
        entry(x, y)
        entry(x, x)
    after = [sys.getrefcount(thing) for thing in watched]
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) < 100


def test_an_entry_that_another_thread_forgets_after_it_was_looked_for(monkeypatch):
    layer, x, y = layer_with_entry()
    reads = iter([layer._weights.latest])
    forgetful = property(lambda weights: next(reads, None), lambda weights, latest: None)
    monkeypatch.setattr(Weights, "latest", forgetful, raising=False)
    np.testing.assert_array_equal(layer(x), y)


def test_threads_enter_one_layer_with_two_lengths():
    layer, x, y = layer_with_entry()
    other = normal(1, 5, 4)
    cases, wrong = [(x, y), (other, layer(other))], []

    def work(first):
        for i in range(2000):
            given, expected = cases[(first + i) % 2]
            if not np.array_equal(layer(given), expected):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

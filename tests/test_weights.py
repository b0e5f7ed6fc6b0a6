"""Filter and bias: copies, packed forms, initial values."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv.problem import Geometry
from numbaconv.weights import Weights, checked, frozen_copy, initial_weights

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def weights():
    geometry = Geometry(3, 4, 6)
    return Weights(geometry, np.ones(geometry.filter_shape, F32), np.zeros(6, F32))


# --- copies


@pytest.mark.parametrize(
    "view",
    [lambda a: a, lambda a: a.T, lambda a: a[::-1, ::2], lambda a: a.astype(">f4")],
)
def test_frozen_copy_owns_contiguous_native_memory(view):
    source = view(np.arange(24, dtype=F32).reshape(2, 3, 4))
    expected = source.tolist()
    copy = frozen_copy(source, F32)
    source[...] = -1
    assert copy.tolist() == expected
    assert copy.flags.c_contiguous
    assert copy.dtype.isnative
    assert not copy.flags.writeable
    assert type(copy) is np.ndarray


def test_frozen_copy_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        frozen_copy(np.zeros(3, F32), F32)[0] = 1


# --- checks


def test_checked_names_argument_expected_and_given_shape():
    with pytest.raises(ValueError, match=r"bias must have shape \(6,\), got \(6, 1\)"):
        checked(np.zeros((6, 1), F32), "bias", (6,), F32)


def test_checked_names_both_dtypes():
    with pytest.raises(TypeError, match=r"bias has dtype float64 but float32 is expected"):
        checked(np.zeros(6), "bias", (6,), F32)


def test_checked_returns_the_same_memory():
    given = np.zeros(6, F32)
    assert checked(given, "bias", (6,), F32) is given


# --- packed forms


def test_a_form_is_packed_once_and_shared():
    w, packed = weights(), []

    def pack(of):
        packed.append(of)
        return object()

    assert w.packed("dense", pack) is w.packed("dense", pack)
    assert packed == [w]


def test_each_form_is_packed_for_itself():
    w = weights()
    assert w.packed("dense", lambda _: "a") == "a"
    assert w.packed("depthwise", lambda _: "b") == "b"
    assert w.packed("dense", lambda _: "c") == "a"


def test_a_failed_packing_leaves_nothing_behind():
    w = weights()

    def fail(_):
        raise MemoryError

    with pytest.raises(MemoryError):
        w.packed("dense", fail)
    assert w.packed("dense", lambda _: "a") == "a"


# --- initial values


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_initial_weights_fill_their_interval(groups, dtype):
    geometry = Geometry(25, 16, 64, num_groups=groups)
    weight, bias = initial_weights(geometry, dtype, True, 0)
    bound = 1 / np.sqrt(25 * 16 / groups)
    assert weight.dtype == bias.dtype == dtype
    assert weight.shape == (25, 16 // groups, 64)
    assert bias.shape == (64,)
    assert np.abs(weight).max() <= bound
    assert np.abs(bias).max() <= bound
    assert np.abs(weight).max() > 0.99 * bound
    assert abs(weight.mean()) < 0.05 * bound
    np.testing.assert_allclose(weight.std(), bound / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize("make", [lambda: 7, lambda: np.random.default_rng(7)])
def test_initial_weights_are_reproducible(make):
    geometry = Geometry(3, 4, 6)
    first, second = (initial_weights(geometry, F32, True, make()) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_initial_weights_differ_by_seed_and_without_one():
    geometry = Geometry(3, 4, 6)
    drawn = [initial_weights(geometry, F64, False, rng)[0] for rng in (1, 2, None, None)]
    assert len({w.tobytes() for w in drawn}) == 4


def test_filter_does_not_depend_on_whether_there_is_a_bias():
    geometry = Geometry(3, 4, 6)
    with_bias, without = (initial_weights(geometry, F32, has, 3) for has in (True, False))
    np.testing.assert_array_equal(with_bias[0], without[0])
    assert without[1] is None


def test_a_generator_moves_on():
    rng, geometry = np.random.default_rng(0), Geometry(3, 4, 6)
    first = initial_weights(geometry, F32, False, rng)[0]
    second = initial_weights(geometry, F32, False, rng)[0]
    assert not np.array_equal(first, second)

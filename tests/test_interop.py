"""What counts as an array, and whose memory it shares."""

from __future__ import annotations

import array
import re

import numpy as np
import pytest

from numbaconv.interop import address_of, aligned_empty, as_numpy, is_native, require_dtype

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


class OnlyDLPack:
    """An array of another library: nothing but the two methods of the protocol."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **arguments):
        return self._array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class OldDLPack(OnlyDLPack):
    """The protocol before 2023: no keywords but `stream`."""

    def __dlpack__(self, stream=None):
        return self._array.__dlpack__(stream=stream)


class OnlyInterface:
    def __init__(self, array):
        self._array = array
        self.__array_interface__ = array.__array_interface__


class OnCuda:
    """An array of another library that lies on a device."""

    @property
    def __cuda_array_interface__(self):
        return {"shape": (1,), "typestr": "<f4", "data": (0, False), "version": 3}

    def __dlpack__(self, **arguments):
        raise AssertionError("not to be asked")

    def __dlpack_device__(self):
        return (2, 0)


class UnreachableDLPack(OnlyDLPack):
    """DLPack on a CUDA device, without a CUDA array interface."""

    def __dlpack__(self, **arguments):
        raise BufferError("cannot export to the host")

    def __dlpack_device__(self):
        return (2, 0)


class Subclass(np.ndarray):
    pass


def numbers(*shape, dtype=F32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


# --- what is accepted


def test_an_ndarray_is_returned_itself():
    x = numbers(2, 3)
    assert as_numpy(x, "x") is x


@pytest.mark.parametrize("wrap", [OnlyDLPack, OldDLPack, OnlyInterface])
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a[::2, ::-1],
        lambda a: a.transpose(2, 0, 1),
        lambda a: a[:, 1:2],
    ],
)
def test_other_libraries_share_their_memory(wrap, view):
    if wrap is not OnlyInterface and view(numbers(4, 3, 5)).strides[0] < 0:
        pytest.skip("DLPack has no negative strides")
    owner = numbers(4, 3, 5)
    seen = as_numpy(wrap(view(owner)), "x")
    np.testing.assert_array_equal(seen, view(owner))
    owner += 1
    np.testing.assert_array_equal(seen, view(owner))


@pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="this NumPy exports writeable arrays only"
)
def test_a_read_only_dlpack_export_is_accepted():
    owner = numbers(2, 3)
    owner.flags.writeable = False
    np.testing.assert_array_equal(as_numpy(OnlyDLPack(owner), "x"), owner)


def test_subclasses_are_seen_as_plain_arrays():
    owner = numbers(2, 3)
    seen = as_numpy(owner.view(Subclass), "x")
    assert type(seen) is np.ndarray
    assert np.shares_memory(seen, owner)


def test_numpy_scalars_are_arrays_of_rank_zero():
    assert as_numpy(np.float32(2), "x").shape == ()


# --- what is refused, and how


@pytest.mark.parametrize(
    "value", [[1.0], (1.0,), 1.0, None, "abc", {1: 2}, array.array("f", [1.0]), memoryview(b"ab")]
)
def test_what_is_not_an_array_is_refused(value):
    wanted = rf"weights must be a NumPy array, got {type(value).__name__}"
    with pytest.raises(TypeError, match=wanted):
        as_numpy(value, "weights")


def test_masked_arrays_are_refused_with_a_way_out():
    with pytest.raises(TypeError, match=r"x is a masked array.*x\.filled"):
        as_numpy(np.ma.masked_array(numbers(2), [True, False]), "x")


@pytest.mark.parametrize(
    "value", [np.array([None, 1.0]), np.zeros(2, [("a", object), ("b", np.float32)])]
)
def test_object_arrays_are_refused(value):
    wanted = "x must hold floating-point numbers, got dtype.*" + re.escape(str(value.dtype))
    with pytest.raises(TypeError, match=wanted):
        as_numpy(value, "x")


def test_cuda_arrays_are_refused_with_a_way_out():
    with pytest.raises(TypeError, match=r"x lies on a CUDA device.*copy it to the host"):
        as_numpy(OnCuda(), "x")


def test_dlpack_that_numpy_cannot_read_is_told_with_its_reason():
    with pytest.raises(TypeError, match=r"x of type UnreachableDLPack.*not to NumPy") as error:
        as_numpy(UnreachableDLPack(numbers(2)), "x")
    assert error.value.__cause__ is not None


# --- memory


def unaligned():
    return np.frombuffer(b"\0" * 41, np.uint8)[1:].view(F64)


@pytest.mark.parametrize(
    "x, native",
    [
        (numbers(4, 6), True),
        (numbers(4, 6)[::-1, ::2], True),
        (numbers(4, 6).astype(">f4"), False),
        (unaligned(), False),
        (np.zeros(4, [("a", "f4"), ("b", "f8")])["a"], True),
        (np.zeros(4, [("a", "f4"), ("b", "f8")])["b"], False),
        (np.zeros(4, [("a", "i1"), ("b", "f4")])["b"], False),
        (np.zeros((0, 3), F32), True),
    ],
)
def test_is_native_tells_what_kernels_read_in_place(x, native):
    assert is_native(x) == native


@pytest.mark.parametrize("came", [np.float16, np.int32, np.complex64, np.float64, bool])
def test_dtypes_are_never_cast(came):
    wanted = rf"filter has dtype {np.dtype(came)} but float32 is expected"
    with pytest.raises(TypeError, match=wanted):
        require_dtype(np.zeros(3, came), "filter", F32)


def test_byte_order_is_not_another_dtype():
    require_dtype(np.zeros(3, ">f4"), "filter", F32)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("size", [1, 15, 16, 1000])
def test_aligned_memory_begins_on_a_cache_line(dtype, size):
    for _ in range(20):
        made = aligned_empty(size, dtype)
        assert made.shape == (size,)
        assert made.dtype == dtype
        assert address_of(made) % 64 == 0
        made[...] = 1  # all of it is its own


def test_address_follows_views():
    x = numbers(4, 6)
    assert address_of(x[1:, 2:]) - address_of(x) == x.strides[0] + 2 * x.strides[1]
    assert address_of(x[::-1]) - address_of(x) == 3 * x.strides[0]

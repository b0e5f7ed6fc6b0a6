"""`conv1d`: the same validation and the same bits as the layer, without its memory."""

from __future__ import annotations

import re

import numpy as np
import pytest

from numbaconv import Conv1D, conv1d
from numbaconv.functional import channel_last, filter_to_kio

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def normal(*shape, seed=1, dtype=F32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_same_bits(one, other):
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


# --- the layer's bits

PROBLEMS = [
    {},
    {"stride": 2, "padding": "same"},
    {"dilation": 3, "padding": "causal"},
    {"padding": (4, -1), "padding_mode": "reflect"},
    {"padding": (3, 5), "padding_mode": "circular"},
    {"padding": 7, "padding_mode": "replicate", "stride": 3},
    {"num_groups": 2, "padding": 1},
    {"num_groups": 4, "algorithm": "direct"},
]


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("parameters", PROBLEMS)
def test_same_bits_as_the_layer(parameters, has_bias, permute):
    layer = Conv1D(3, 4, 8, has_bias=has_bias, permute=permute, rng=0, **parameters)
    x = normal(2, 4, 50) if permute else normal(2, 50, 4)
    y = conv1d(x, layer.filter, layer.bias, permute=permute, **parameters)
    assert y.flags.c_contiguous
    assert_same_bits(y, layer(x))


@pytest.mark.parametrize("channels, groups", [(1, 1), (64, 1), (64, 64), (16, 4)])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_same_bits_as_the_layer_whatever_the_kernel(channels, groups, dtype):
    parameters = dict(num_groups=groups, padding="same", algorithm="direct")
    layer = Conv1D(5, channels, channels, dtype, rng=0, **parameters)
    x = normal(1, 300, channels, dtype=dtype)
    assert_same_bits(conv1d(x, layer.filter, **parameters), layer(x))


def test_channel_last_is_the_default():
    x, taps = normal(2, 50, 4), normal(3, 4, 8)
    expected = sum(x[:, k : 48 + k] @ taps[k] for k in range(3))
    np.testing.assert_allclose(conv1d(x, taps), expected, rtol=1e-5, atol=1e-5)


def test_permute_takes_and_gives_the_order_of_pytorch():
    x, taps, bias = normal(2, 50, 4), normal(3, 4, 8), normal(8)
    y = conv1d(x.transpose(0, 2, 1), taps.transpose(2, 1, 0), bias, permute=True)
    assert y.shape == (2, 8, 48)
    np.testing.assert_array_equal(y.transpose(0, 2, 1), conv1d(x, taps, bias))


def test_permute_is_true_or_false():
    with pytest.raises(TypeError, match=r"^permute must be True or False, got 'no'$"):
        conv1d(normal(2, 50, 4), normal(3, 4, 8), permute="no")


def test_the_kernel_is_not_flipped():
    x = np.arange(6.0).reshape(1, 6, 1)
    taps = np.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    assert conv1d(x, taps).ravel().tolist() == [210.0, 321.0, 432.0, 543.0]


def test_nothing_is_remembered_by_identity():
    x, taps, bias = normal(2, 50, 4), normal(3, 4, 8), normal(8)
    conv1d(x, taps, bias)
    taps *= 2
    bias *= 2
    assert_same_bits(conv1d(x, taps, bias), conv1d(x, taps.copy(), bias.copy()))
    assert_same_bits(conv1d(x, taps, bias), conv1d(2 * x, taps / 2, bias))


def test_arguments_are_never_written():
    arrays = [normal(2, 50, 4), normal(3, 4, 8), normal(8)]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    conv1d(*arrays)
    for array, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::-1, ::-1, ::-1][::-1, ::-1, ::-1],
        lambda a: a.copy("F"),
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
    ],
    ids=["twice reversed", "Fortran", "byte-swapped", "gaps"],
)
def test_any_layout_of_x_and_filter_gives_the_same_bits(view):
    x, taps = normal(2, 50, 4), normal(3, 4, 8)
    assert_same_bits(conv1d(view(x), view(taps)), conv1d(x, taps))


# --- out


@pytest.mark.parametrize("permute", [False, True])
def test_out_is_filled_and_returned(permute):
    x, taps = normal(2, 50, 4), normal(3, 4, 8)
    if permute:
        x, taps = x.transpose(0, 2, 1), taps.transpose(2, 1, 0)
    expected = conv1d(x, taps, permute=permute)
    room = np.full((*expected.shape[:2], 2 * expected.shape[2]), np.nan, F32)
    for out in (np.full_like(expected, np.nan), room[:, :, ::2], np.full_like(expected, 0, ">f4")):
        assert conv1d(x, taps, permute=permute, out=out) is out
        np.testing.assert_array_equal(out, expected)
    assert np.isnan(room[:, :, 1::2]).all()


def test_out_may_be_x():
    x, taps = normal(2, 300, 8), normal(3, 8, 8)
    expected = conv1d(x, taps, padding="same")
    assert conv1d(x, taps, padding="same", out=x) is x
    assert_same_bits(x, expected)


@pytest.mark.parametrize("which", ["filter", "bias"])
def test_out_may_overlap_the_weights(which):
    """x is not the only array that out can share memory with."""
    x, taps, bias = normal(1, 3, 8), normal(3, 8, 8), normal(8)
    expected = conv1d(x, taps, bias, padding="same")
    out = taps[:1] if which == "filter" else bias[None, None]
    if which == "filter":
        out = taps.reshape(1, 24, 8)[:, 5:8]
        assert_same_bits(conv1d(x, taps, bias, padding="same", out=out).copy(), expected)
    else:
        x = normal(1, 1, 8)
        expected = conv1d(x, taps, bias, padding="same")
        assert_same_bits(conv1d(x, taps, bias, padding="same", out=out), expected)


def test_an_empty_batch():
    assert conv1d(np.zeros((0, 50, 4), F32), normal(3, 4, 8)).shape == (0, 48, 8)


# --- what is refused

GOOD = {"x": normal(2, 50, 4), "filter": normal(3, 4, 8), "bias": normal(8)}

BAD = {
    "x list": ({"x": [1.0]}, TypeError, "x must be a NumPy array, got list"),
    "x masked": ({"x": np.ma.zeros((2, 50, 4), F32)}, TypeError, "x is a masked array"),
    "x object": ({"x": np.zeros((2, 50, 4), object)}, TypeError, "x must hold floating-point"),
    "x rank": (
        {"x": normal(50, 4)},
        ValueError,
        "x must have 3 dimensions (N, L, C_in), got 2 with shape (50, 4)",
    ),
    "x rank permuted": (
        {"x": normal(50, 4), "filter": normal(8, 4, 3), "permute": True},
        ValueError,
        "x must have 3 dimensions (N, C_in, L), got 2 with shape (50, 4)",
    ),
    "x channels": (
        {"x": normal(2, 50, 5)},
        ValueError,
        "x must have 4 channels in (N, L, C_in), got 5 with shape (2, 50, 5)",
    ),
    "x channels of groups": (
        {"num_groups": 2},
        ValueError,
        "x must have 8 channels in (N, L, C_in), got 4 with shape (2, 50, 4)",
    ),
    "x short": ({"x": normal(2, 2, 4)}, ValueError, "x is too short: length 2"),
    "filter list": ({"filter": [[[1.0]]]}, TypeError, "filter must be a NumPy array, got list"),
    "filter rank": (
        {"filter": normal(3, 4)},
        ValueError,
        "filter must have 3 dimensions (K, C_in/G, C_out), got 2 with shape (3, 4)",
    ),
    "filter rank permuted": (
        {"filter": normal(3, 4), "permute": True},
        ValueError,
        "filter must have 3 dimensions (C_out, C_in/G, K), got 2 with shape (3, 4)",
    ),
    "filter empty": (
        {"filter": normal(0, 4, 8)},
        ValueError,
        "filter (K, C_in/G, C_out) must not be empty, got shape (0, 4, 8)",
    ),
    "filter dtype": (
        {"filter": normal(3, 4, 8, dtype=F64)},
        TypeError,
        "filter has dtype float64",
    ),
    "groups and outputs": (
        {"x": normal(2, 50, 12), "num_groups": 3},
        ValueError,
        "out_channels must be divisible by num_groups, got out_channels=8 and num_groups=3",
    ),
    "groups float": ({"num_groups": 2.0}, TypeError, "num_groups must be an integer >= 1, got 2.0"),
    "groups zero": ({"num_groups": 0}, ValueError, "num_groups must be an integer >= 1, got 0"),
    "stride": ({"stride": 0}, ValueError, "stride must be an integer >= 1, got 0"),
    "dilation": ({"dilation": True}, TypeError, "dilation must be an integer >= 1, got True"),
    "padding": ({"padding": "full"}, ValueError, "a pair (left, right) or one of 'same'"),
    "padding mode": ({"padding_mode": "wrap"}, ValueError, "padding_mode must be one of 'zeros'"),
    "algorithm": ({"algorithm": "gemm"}, ValueError, "algorithm must be one of 'auto', 'direct'"),
    "bias list": ({"bias": [0.0]}, TypeError, "bias must be a NumPy array, got list"),
    "bias shape": ({"bias": normal(4)}, ValueError, "bias must have shape (8,), got (4,)"),
    "bias rank": ({"bias": normal(1, 8)}, ValueError, "bias must have shape (8,), got (1, 8)"),
    "bias dtype": ({"bias": normal(8, dtype=F64)}, TypeError, "bias has dtype float64"),
    "out shape": (
        {"out": np.zeros((2, 50, 8), F32)},
        ValueError,
        "out must have shape (2, 48, 8), got (2, 50, 8)",
    ),
    "out dtype": ({"out": np.zeros((2, 48, 8), F64)}, TypeError, "out has dtype float64"),
    "out list": ({"out": [[[0.0]]]}, TypeError, "out must be a NumPy array, got list"),
    "threads": ({"threads": 0}, ValueError, "threads must be an integer >= 1, got 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_told(case):
    changes, error, message = BAD[case]
    with pytest.raises(error, match=re.escape(message)):
        conv1d(**{**GOOD, **changes})


@pytest.mark.parametrize("case", [case for case in BAD if not case.startswith("out")])
def test_out_is_left_as_it_was_by_bad_arguments(case):
    changes, error, _ = BAD[case]
    out = np.full((2, 48, 8), 7, F32)
    with pytest.raises(error):
        conv1d(**{**GOOD, **changes, "out": out})
    assert (out == 7).all()


def test_a_read_only_out_is_told():
    out = np.zeros((2, 48, 8), F32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        conv1d(**GOOD, out=out)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex64, bool])
def test_the_dtype_of_x_is_refused_by_the_name_of_x(dtype):
    arrays = {name: array.astype(dtype) for name, array in GOOD.items()}
    with pytest.raises(TypeError, match=rf"\bx\b.*{np.dtype(dtype)}"):
        conv1d(**arrays)


def test_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        conv1d(GOOD["x"], GOOD["filter"], GOOD["bias"], 1)


# --- views


@pytest.mark.parametrize("permute", [False, True])
def test_axes_are_turned_and_turned_back(permute):
    x, taps = normal(2, 3, 4), normal(5, 6, 7)
    assert channel_last(x, permute).shape == ((2, 4, 3) if permute else (2, 3, 4))
    assert filter_to_kio(taps, permute).shape == ((7, 6, 5) if permute else (5, 6, 7))
    for turn, array in ((channel_last, x), (filter_to_kio, taps)):
        back = turn(turn(array, permute), permute)
        assert np.shares_memory(back, array)
        np.testing.assert_array_equal(back, array)

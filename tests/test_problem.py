"""Validation and arithmetic of a convolution: sentences, lengths, borders."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from numbaconv.problem import DTYPES, ConvProblem, Geometry, as_dtype

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def geometry(**changes):
    return Geometry(**{"kernel_size": 3, "in_channels": 4, "out_channels": 6, **changes})


def problem(length, batch=1, dtype=F32, **changes):
    return ConvProblem(geometry(**changes), batch, length, dtype)


def sentence(*parts):
    """A pattern that finds all parts in this order."""
    return re.compile(".*".join(re.escape(part) for part in parts), re.DOTALL)


# --- arguments of the geometry

INTEGERS = ("kernel_size", "in_channels", "out_channels", "stride", "dilation", "num_groups")


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, -(2**40), np.int64(0)])
def test_integers_must_be_positive(name, value):
    with pytest.raises(ValueError, match=sentence(name, "integer >= 1", f"got {value!r}")):
        geometry(**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value", [1.0, 2.5, True, False, np.True_, "3", None, (3,), np.float32(1), np.array([1])]
)
def test_what_is_not_an_integer_is_refused(name, value):
    with pytest.raises(TypeError, match=sentence(name, "integer >= 1", f"got {value!r}")):
        geometry(**{name: value})


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.uint64])
def test_numpy_integers_become_python_integers(kind):
    made = Geometry(*map(kind, (3, 4, 6)), kind(2), kind(1), kind(5), kind(2))
    assert made == geometry(stride=2, padding=1, dilation=5, num_groups=2)
    for name in INTEGERS:
        assert type(getattr(made, name)) is int
    assert [type(side) for side in made.padding] == [int, int]


def test_an_array_of_one_integer_is_not_an_integer():
    with pytest.raises(TypeError, match=sentence("stride", "integer >= 1", "array(2)")):
        geometry(stride=np.array(2))


@pytest.mark.parametrize("name", ["kernel_size", "stride", "dilation", "padding"])
def test_integers_that_no_kernel_could_count_with_are_refused(name):
    assert getattr(geometry(**{name: 2**31 - 1}), name) in (2**31 - 1, (2**31 - 1,) * 2)
    for value in (2**31, 2**64):
        with pytest.raises(ValueError, match=sentence(name, "2147483647", f"got {value}")):
            geometry(**{name: value})


@pytest.mark.parametrize("name, channels", [("in_channels", 4), ("out_channels", 6)])
def test_channels_must_be_divisible_by_groups(name, channels):
    groups = 3 if name == "in_channels" else 4
    wanted = sentence(name, "divisible by num_groups", f"{name}={channels}", f"num_groups={groups}")
    with pytest.raises(ValueError, match=wanted):
        geometry(num_groups=groups)


@pytest.mark.parametrize("value", ["zero", "Zeros", "constant", "", None, 0, ["zeros"]])
def test_padding_mode_lists_its_words(value):
    wanted = sentence(
        "padding_mode", "'zeros', 'reflect', 'replicate', 'circular'", f"got {value!r}"
    )
    with pytest.raises(ValueError, match=wanted):
        geometry(padding_mode=value)


@pytest.mark.parametrize("value", ["full", "SAME", ""])
def test_padding_lists_its_words(value):
    with pytest.raises(
        ValueError, match=sentence("padding", "'same', 'valid', 'causal'", f"got {value!r}")
    ):
        geometry(padding=value)


@pytest.mark.parametrize("value", [(), (1,), (1, 2, 3), [1, 2, 3]])
def test_padding_is_a_pair(value):
    with pytest.raises(
        ValueError, match=sentence("padding", "a pair (left, right)", f"got {value!r}")
    ):
        geometry(padding=value)


@pytest.mark.parametrize("value", [1.0, None, True, np.True_, {1, 2}, np.array([1, 2])])
def test_padding_of_another_type_is_refused(value):
    with pytest.raises(
        TypeError, match=sentence("padding", "an int, a pair (left, right)", f"got {value!r}")
    ):
        geometry(padding=value)


@pytest.mark.parametrize("value, name", [((1.0, 2), "padding[0]"), ((1, True), "padding[1]")])
def test_each_side_of_the_padding_is_an_integer(value, name):
    bad = value[int(name[-2])]
    with pytest.raises(TypeError, match=sentence(name, "an integer", f"got {bad!r}")):
        geometry(padding=value)


@pytest.mark.parametrize(
    "padding, pair",
    [
        (2, (2, 2)),
        (-1, (-1, -1)),
        ((3, 1), (3, 1)),
        ([3, -1], (3, -1)),
        (np.int32(2), (2, 2)),
        ((np.int8(1), np.uint16(2)), (1, 2)),
        ("valid", (0, 0)),
        ("causal", (10, 0)),
    ],
)
def test_padding_is_normalised_to_a_pair(padding, pair):
    assert geometry(padding=padding, dilation=5).padding == pair


# --- dtypes


@pytest.mark.parametrize("value", ["float32", np.float32, F32, ">f4", "<f4", "f", np.single])
def test_dtype_is_returned_in_native_order(value):
    assert as_dtype(value) == F32
    assert as_dtype(value).isnative


@pytest.mark.parametrize(
    "value", [None, "float16", np.int32, complex, bool, object, "bfloat16", 3, "nonsense", [1]]
)
def test_other_dtypes_are_refused(value):
    with pytest.raises(TypeError, match=sentence("dtype", "float32 or float64", f"got {value!r}")):
        as_dtype(value)


@pytest.mark.parametrize("value", [{"names": ["a"], "formats": ["f4"]}, {"a": 1}, "f4,,f4"])
def test_malformed_dtypes_are_refused_by_the_same_sentence(value):
    with pytest.raises(TypeError, match=sentence("dtype", "float32 or float64", f"got {value!r}")):
        as_dtype(value)


def test_a_problem_names_four_dtypes():
    for dtype in DTYPES:
        p = problem(10, dtype=dtype)
        assert p.dtype == p.filter_dtype == p.accumulator_dtype == p.out_dtype == dtype


# --- derived sizes


def test_derived_sizes_of_a_geometry():
    g = geometry(in_channels=12, out_channels=8, dilation=5, num_groups=4)
    assert g.group_in_channels == 3
    assert g.group_out_channels == 2
    assert g.span == 11
    assert g.reduction == 9
    assert g.filter_shape == (3, 3, 8)


def test_flops_count_each_product_twice():
    p = problem(10, batch=2, num_groups=2)
    products = 0
    for _ in range(2 * p.length_out * 6):
        products += 3 * 2
    assert p.flops == 2 * products


def placements(length, left, right, span, stride):
    """Count by moving the kernel along the padded signal until it falls off."""
    first, count = -left, 0
    while first + span <= length + right:
        count += 1
        first += stride
    return count


sizes = st.integers(1, 9)


@given(st.integers(0, 40), sizes, sizes, sizes, st.integers(-9, 30), st.integers(-9, 30))
def test_output_length_counts_the_placements_of_the_kernel(
    length, kernel_size, stride, dilation, left, right
):
    g = geometry(kernel_size=kernel_size, stride=stride, dilation=dilation, padding=(left, right))
    expected = placements(length, left, right, g.span, stride)
    cropped = length + min(0, left) + min(0, right)
    if expected == 0 or cropped < 0:
        with pytest.raises(ValueError, match=r"is too short|crops more"):
            ConvProblem(g, 1, length, F32)
    else:
        p = ConvProblem(g, 2, length, F32)
        assert p.length_out == expected
        assert p.out_shape == (2, expected, 6)
        assert p.cropped_length == cropped


@given(st.integers(1, 40), sizes, sizes, sizes)
def test_same_gives_one_output_for_each_stride(length, kernel_size, stride, dilation):
    p = problem(length, kernel_size=kernel_size, stride=stride, dilation=dilation, padding="same")
    left, right = p.padding
    assert p.length_out == -(-length // stride)
    assert left >= 0
    assert right - left in (0, 1)
    # One position less would give one output less, unless there is nothing to take away.
    if left + right:
        fewer = placements(length, left, right - 1, p.geometry.span, stride)
        assert fewer == p.length_out - 1


@pytest.mark.parametrize(
    "kernel_size, stride, length, pair",
    [
        (2, 1, 5, (0, 1)),  # even kernels look one further to the right
        (4, 1, 5, (1, 2)),
        (8, 1, 3, (3, 4)),
        (3, 2, 5, (1, 1)),
        (3, 2, 6, (0, 1)),
        (2, 2, 5, (0, 1)),
        (2, 2, 6, (0, 0)),
        (1, 3, 5, (0, 0)),  # stride beyond the kernel needs no padding
        (2, 5, 6, (0, 1)),
    ],
)
def test_width_of_same_padding(kernel_size, stride, length, pair):
    assert problem(length, kernel_size=kernel_size, stride=stride, padding="same").padding == pair


@given(st.integers(1, 40), sizes, sizes)
def test_causal_outputs_end_where_their_inputs_end(length, kernel_size, dilation):
    p = problem(length, kernel_size=kernel_size, dilation=dilation, padding="causal")
    assert p.length_out == length
    assert p.padding == (p.geometry.span - 1, 0)


def test_an_empty_input_is_valid_where_padding_suffices():
    assert problem(0, padding=(2, 1)).length_out == 1
    with pytest.raises(ValueError, match=sentence("length 0", "(1, 1)", "= 2", "= 3")):
        problem(0, padding=1)


def test_an_empty_batch_is_valid():
    assert problem(10, batch=0).out_shape == (0, 8, 6)
    assert problem(10, batch=0).flops == 0


# --- sentences about lengths and borders


def test_too_short_an_input_is_told_with_all_its_terms():
    wanted = sentence("x is too short", "length 5", "(1, 2)", "= 8", "dilated kernel", "= 11")
    with pytest.raises(ValueError, match=wanted):
        problem(5, dilation=5, padding=(1, 2))


def test_cropping_more_than_there_is_is_told():
    wanted = sentence("padding (-6, 9)", "crops more", "length 5")
    with pytest.raises(ValueError, match=wanted):
        problem(5, kernel_size=1, padding=(-6, 9))


def test_cropping_everything_and_padding_again_is_valid():
    assert problem(5, padding=(-5, 3)).length_out == 1


def allowed(mode, cropped, widest):
    if widest <= 0 or mode == "zeros":
        return True
    return {
        "reflect": widest < cropped,
        "circular": widest <= cropped,
        "replicate": cropped >= 1,
    }[mode]


@given(
    st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    st.integers(0, 8),
    st.integers(-4, 9),
    st.integers(-4, 9),
)
def test_widest_padding_of_each_mode(mode, length, left, right):
    cropped = length + min(0, left) + min(0, right)
    assume(cropped >= 0 and length + left + right >= 1)
    changes = dict(kernel_size=1, padding=(left, right), padding_mode=mode)
    if allowed(mode, cropped, max(left, right)):
        assert problem(length, **changes).padding == (left, right)
        return
    wanted = sentence("padding", f"padding_mode={mode!r}", f" {cropped} ", f"({left}, {right})")
    if mode == "replicate":
        wanted = sentence("padding", f"padding_mode={mode!r}", f"got ({left}, {right})")
    with pytest.raises(ValueError, match=wanted):
        problem(length, **changes)


def test_reflect_limit_in_words():
    problem(4, padding=3, padding_mode="reflect")
    wanted = sentence("padding_mode='reflect'", "less than", " 4 ", "got (4, 4)")
    with pytest.raises(ValueError, match=wanted):
        problem(4, padding=4, padding_mode="reflect")


def test_circular_limit_in_words():
    problem(4, padding=4, padding_mode="circular")
    wanted = sentence("padding_mode='circular'", "at most", " 4 ", "got (4, 5)")
    with pytest.raises(ValueError, match=wanted):
        problem(4, padding=(4, 5), padding_mode="circular")


def test_border_limits_apply_to_same_padding_too():
    problem(4, kernel_size=7, padding="same", padding_mode="reflect")
    with pytest.raises(ValueError, match=sentence("'reflect'", "less than", " 3 ", "(3, 3)")):
        problem(3, kernel_size=7, padding="same", padding_mode="reflect")


def test_algorithm_lists_its_words():
    with pytest.raises(ValueError, match=sentence("algorithm", "'auto', 'direct'", "got 'gemm'")):
        ConvProblem(geometry(), 1, 10, F32, algorithm="gemm")


# --- values


def test_geometry_and_problem_are_frozen():
    p = problem(10)
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.length = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.geometry.stride = 2


def test_equal_problems_hash_alike():
    one, other = problem(10, padding=1), problem(np.int64(10), padding=(1, 1))
    assert one.padding == other.padding  # fills the cached property
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, problem(11, padding=1)}) == 2


def test_any_parameter_makes_another_problem():
    changes = [
        {},
        {"stride": 2},
        {"dilation": 2},
        {"padding": 1},
        {"padding": "same"},
        {"num_groups": 2},
        {"padding_mode": "reflect"},
        {"kernel_size": 2},
        {"dtype": F64},
        {"batch": 2},
    ]
    assert len({problem(10, **change) for change in changes}) == len(changes)


# --- problems that read x in steps


def positions_read(p):
    """Which position of the caller's x each output and tap reads; None is padding."""
    g, left = p.geometry, p.padding[0]
    inside = range(max(0, -left), max(0, -left) + p.cropped_length)
    places = [
        l * g.stride + k * g.dilation - left
        for l in range(p.length_out)
        for k in range(g.kernel_size)
    ]
    return [p.step * place if place in inside else None for place in places]


@given(
    st.integers(0, 60), st.integers(1, 4), sizes, sizes, st.integers(-9, 30), st.integers(-9, 30)
)
def test_a_thinned_problem_reads_the_same_positions(
    length, kernel_size, stride, dilation, left, right
):
    try:
        p = problem(
            length, kernel_size=kernel_size, stride=stride, dilation=dilation, padding=(left, right)
        )
    except ValueError:
        assume(False)
    thin = p.thinned
    assert thin.out_shape == p.out_shape
    assert thin.length == -(-p.length // thin.step)
    assert positions_read(thin) == positions_read(p)


@pytest.mark.parametrize(
    "parameters, step, stride, dilation",
    [
        ({"kernel_size": 1, "stride": 3, "dilation": 5}, 3, 1, 1),
        ({"kernel_size": 1, "stride": 2, "padding": (4, 1)}, 2, 1, 1),
        ({"kernel_size": 1, "stride": 2, "padding": (3, 0)}, 1, 2, 1),
        ({"kernel_size": 3, "stride": 4, "dilation": 6, "padding": (2, 3)}, 2, 2, 3),
        ({"kernel_size": 3, "stride": 2, "dilation": 2, "padding_mode": "reflect"}, 2, 1, 1),
        ({"kernel_size": 3, "stride": 2}, 1, 2, 1),
    ],
)
def test_outputs_and_taps_a_step_apart_leave_the_other_positions_out(
    parameters, step, stride, dilation
):
    p = problem(40, **parameters)
    thin = p.thinned
    assert (thin.step, thin.geometry.stride) == (step, stride)
    assert p.geometry.kernel_size == 1 or thin.geometry.dilation == dilation
    assert (thin is p) == (step == 1)


def test_nothing_to_replicate_is_said():
    wanted = sentence("padding", "'replicate'", "a position to repeat", "got (1, 1)")
    with pytest.raises(ValueError, match=wanted):
        problem(0, kernel_size=1, padding=1, padding_mode="replicate")


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_a_border_that_repeats_x_keeps_all_positions(mode):
    p = problem(40, kernel_size=1, stride=2, padding=(2, 0), padding_mode=mode)
    assert p.thinned is p

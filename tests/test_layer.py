"""The layer: its constructor, its weights, its state, and what a call refuses."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import numpy as np
import pytest

import numbaconv.layer as layer_module
from numbaconv import Conv1D, explain, reference
from numbaconv._threads import max_threads
from numbaconv.cpu import panel_plan
from numbaconv.cpu.panel_plan import call_table
from numbaconv.cuda.driver import missing
from numbaconv.layer import PLANS_KEPT
from numbaconv.problem import ConvProblem

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


class OnlyDLPack:
    """An array of another library: nothing but the two methods of the protocol."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **arguments):
        return self._array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def make(**changes):
    """A layer with everything on: K=3, 4 channels to 6, padding, bias."""
    parameters = {"kernel_size": 3, "in_channels": 4, "out_channels": 6, "padding": 1}
    return Conv1D(**{**parameters, "has_bias": True, "rng": 0, **changes})


def normal(*shape, seed=1, dtype=F32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def definition(layer, x):
    """What the layer should return, from the definition in float64."""
    swap = (0, 2, 1) if layer.permute else (0, 1, 2)
    taps = layer.filter.transpose(2, 1, 0) if layer.permute else layer.filter
    x = x.transpose(swap)
    problem = ConvProblem(layer._geometry, x.shape[0], x.shape[1], layer.dtype)
    return reference.convolve(problem, x, taps, layer.bias).transpose(swap)


def assert_is_definition(layer, x, y):
    tolerance = 2e-5 if layer.dtype == F32 else 1e-13
    np.testing.assert_allclose(y, definition(layer, x), rtol=tolerance, atol=tolerance)


def assert_same_bits(one, other):
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


def snapshot(layer, x):
    """Everything that a failed call or load must leave as it was."""
    bias = None if layer.bias is None else layer.bias.tobytes()
    return layer.filter.tobytes(), bias, layer(x).tobytes()


# --- constructor

REFERENCE_PARAMETERS = [
    ("kernel_size", inspect.Parameter.empty),
    ("in_channels", inspect.Parameter.empty),
    ("out_channels", inspect.Parameter.empty),
    ("dtype", np.float32),
    ("stride", 1),
    ("padding", 0),
    ("dilation", 1),
    ("num_groups", 1),
    ("device", None),
    ("has_bias", False),
    ("permute", False),
    ("name", None),
]


def test_positional_parameters_are_those_of_the_reference():
    parameters = list(inspect.signature(Conv1D).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in positional] == REFERENCE_PARAMETERS


def test_what_the_reference_lacks_is_keyword_only():
    parameters = inspect.signature(Conv1D).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert names[:3] == ["padding_mode", "algorithm", "rng"]


def test_all_positional_arguments_land_where_they_belong():
    layer = Conv1D(3, 4, 6, np.float64, 2, (1, 3), 5, 2, "cpu", True, True, "conv")
    assert (layer.kernel_size, layer.in_channels, layer.out_channels) == (3, 4, 6)
    assert layer.dtype == F64
    assert (layer.stride, layer.padding, layer.dilation, layer.num_groups) == (2, (1, 3), 5, 2)
    assert (layer.device, layer.has_bias, layer.permute, layer.name) == ("cpu", True, True, "conv")
    assert (layer.padding_mode, layer.algorithm) == ("zeros", "auto")


def test_parameters_are_fixed():
    layer = make()
    for name in ("stride", "padding", "dilation", "num_groups", "permute", "dtype", "device"):
        with pytest.raises(AttributeError):
            setattr(layer, name, getattr(layer, name))


@pytest.mark.parametrize("name", ["kernel_size", "in_channels", "stride", "num_groups"])
def test_constructor_names_a_bad_integer(name):
    with pytest.raises(ValueError, match=rf"{name} must be an integer >= 1, got 0"):
        make(**{name: 0})


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16", np.int32, None, "nonsense", complex])
def test_constructor_refuses_other_dtypes(dtype):
    wanted = rf"dtype must be float32 or float64, got {re.escape(repr(dtype))}"
    with pytest.raises(TypeError, match=wanted):
        make(dtype=dtype)


def test_constructor_refuses_another_algorithm():
    with pytest.raises(ValueError, match=r"algorithm must be one of 'auto', .*'fft', got 'gemm'"):
        make(algorithm="gemm")


@pytest.mark.parametrize("attribute", ["weight", "kernel", "strides"])
def test_unknown_attributes_are_refused(attribute):
    """They would be kept beside the real ones, and change nothing."""
    with pytest.raises(AttributeError, match=attribute):
        setattr(make(), attribute, 1)


@pytest.mark.parametrize("permute", [False, True])
def test_a_filter_in_the_other_order_is_told_what_to_do(permute):
    layer = make(permute=permute)
    with pytest.raises(ValueError, match=r"must have shape .* pass filter\.transpose\(2, 1, 0\)$"):
        layer.filter = layer.filter.transpose(2, 1, 0)
    with pytest.raises(TypeError, match=r"^filter must be a NumPy array, got list"):
        layer.filter = [[1], [1, 2]]


@pytest.mark.parametrize("name", ["has_bias", "permute"])
def test_flags_are_true_or_false(name):
    for value in ("no", 2, None, np.zeros(3)):
        with pytest.raises(TypeError, match=f"^{name} must be True or False, got "):
            make(**{name: value})
    assert getattr(make(**{name: np.True_}), name) is getattr(make(**{name: 1}), name) is True


@pytest.mark.parametrize("rng", ["a", -1, 1.5])
def test_seeds_are_told_apart_from_nonsense(rng):
    with pytest.raises(TypeError, match=f"^rng must be .*, got {rng!r}$"):
        make(rng=rng)


def test_a_list_of_paddings_is_copied():
    padding = [1, 2]
    layer = make(padding=padding)
    padding[0] = 9
    assert layer.padding == (1, 2)


def test_name_is_a_string():
    with pytest.raises(TypeError, match="name must be a string or None, got 3"):
        make(name=3)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_cpu_devices(device):
    layer = make(device=device)
    assert layer.device == device
    assert_is_definition(layer, normal(1, 9, 4), layer(normal(1, 9, 4)))


@pytest.mark.skipif(missing() is None, reason="CUDA can be used here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_a_runtime_error_with_a_way_out(device):
    with pytest.raises(RuntimeError, match=rf"device='{device}'.*use device='cpu'"):
        make(device=device)


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "", 0, "CPU"])
def test_unknown_devices_are_listed(device):
    wanted = rf"device must be None, 'cpu', 'cuda' or 'cuda:0' and so on, got {device!r}"
    with pytest.raises(ValueError, match=wanted):
        make(device=device)


# --- initial weights


def test_initial_weights_lie_within_their_bound():
    layer = Conv1D(5, 8, 64, num_groups=2, has_bias=True, rng=0)
    bound = 1 / np.sqrt(8 / 2 * 5)
    for drawn in (layer.filter, layer.bias):
        assert np.abs(drawn).max() <= bound
        assert np.abs(drawn).max() > 0.9 * bound
        assert drawn.dtype == F32


@pytest.mark.parametrize("rng", [3, np.random.SeedSequence(3)])
def test_initial_weights_are_reproducible(rng):
    one, other = make(rng=rng), make(rng=rng)
    assert_same_bits(one.filter, other.filter)
    assert_same_bits(one.bias, other.bias)


def test_permute_draws_the_same_filter_in_another_order():
    one, other = make(), make(permute=True)
    assert one.filter.shape == (3, 4, 6)
    assert other.filter.shape == (6, 4, 3)
    np.testing.assert_array_equal(other.filter, one.filter.transpose(2, 1, 0))


# --- filter and bias


def test_weights_are_read_only():
    layer = make()
    for view in (layer.filter, layer.bias, make(permute=True).filter):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True


def test_bias_is_none_without_bias():
    assert make(has_bias=False).bias is None


def test_assignment_copies():
    layer, x = make(), normal(2, 9, 4)
    taps, bias = normal(3, 4, 6), normal(6)
    layer.filter, layer.bias = taps, bias
    before = snapshot(layer, x)
    taps[...], bias[...] = np.nan, np.nan
    assert snapshot(layer, x) == before


def test_assigned_views_are_read_by_their_strides():
    layer = make()
    taps = normal(6, 3, 8)
    layer.filter = taps.transpose(1, 2, 0)[:, ::-2]
    np.testing.assert_array_equal(layer.filter, taps.transpose(1, 2, 0)[:, ::-2])


def test_byte_swapped_weights_are_accepted():
    layer, taps = make(), normal(3, 4, 6)
    layer.filter = taps.astype(">f4")
    assert_same_bits(layer.filter, taps)


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 300, 4)])
def test_results_follow_each_assignment(shape):
    layer, x = make(), normal(*shape)
    for seed in range(3):
        layer.filter = normal(3, 4, 6, seed=seed)
        assert_is_definition(layer, x, layer(x))
        layer.bias = normal(6, seed=seed)
        assert_is_definition(layer, x, layer(x))
        layer.load_state_dict({"weight": normal(3, 4, 6, seed=9), "bias": normal(6, seed=9)})
        assert_is_definition(layer, x, layer(x))


def test_an_earlier_view_keeps_the_earlier_filter():
    layer = make()
    earlier, values = layer.filter, layer.filter.copy()
    layer.filter = normal(3, 4, 6)
    np.testing.assert_array_equal(earlier, values)


def test_a_filter_assigned_during_a_call_is_used_by_the_next(monkeypatch):
    """As by another thread: the plan of the running call belongs to the old filter."""
    layer, x, run = make(), normal(2, 9, 4), layer_module.execute

    def run_while_the_filter_changes(*arguments):
        y = run(*arguments)
        layer.filter = normal(3, 4, 6, seed=5)
        return y

    monkeypatch.setattr(layer_module, "execute", run_while_the_filter_changes)
    layer(x)
    monkeypatch.undo()
    assert_is_definition(layer, x, layer(x))


def test_a_filter_assigned_during_planning_is_used_by_the_next_call(monkeypatch):
    layer, x, plan = make(), normal(2, 9, 4), layer_module.make_plan

    def plan_while_the_filter_changes(*arguments):
        made = plan(*arguments)
        layer.filter = normal(3, 4, 6, seed=5)
        return made

    monkeypatch.setattr(layer_module, "make_plan", plan_while_the_filter_changes)
    layer(x)
    monkeypatch.undo()
    assert_is_definition(layer, x, layer(x))


@pytest.mark.parametrize("permute, shape", [(False, (3, 4, 6)), (True, (6, 4, 3))])
def test_filter_shape_is_told(permute, shape):
    layer = make(permute=permute)
    with pytest.raises(ValueError, match=re.escape(f"filter must have shape {shape}, got (3, 4)")):
        layer.filter = normal(3, 4)


def test_filter_dtype_is_told():
    with pytest.raises(TypeError, match=r"filter has dtype float64 .* float32"):
        make().filter = normal(3, 4, 6, dtype=F64)


def test_bias_shape_and_dtype_are_told():
    layer = make()
    with pytest.raises(ValueError, match=r"bias must have shape \(6,\), got \(1, 6\)"):
        layer.bias = normal(1, 6)
    with pytest.raises(TypeError, match=r"bias has dtype float64 .* float32"):
        layer.bias = normal(6, dtype=F64)


def test_a_layer_without_bias_takes_none():
    with pytest.raises(ValueError, match=r"bias cannot be set.*has_bias=False"):
        make(has_bias=False).bias = normal(6)


def test_a_bias_cannot_be_removed_by_none():
    layer = make()
    with pytest.raises(TypeError, match="bias must be a NumPy array, got NoneType"):
        layer.bias = None
    assert layer.has_bias


@pytest.mark.parametrize("value", [[[[1.0]]], None, "weights"])
def test_weights_that_are_not_arrays_are_refused(value):
    with pytest.raises(
        TypeError, match=f"filter must be a NumPy array, got {type(value).__name__}"
    ):
        make().filter = value


def test_a_refused_assignment_changes_nothing():
    layer, x = make(), normal(2, 9, 4)
    before = snapshot(layer, x)
    for name, value in (("filter", normal(3, 4)), ("bias", normal(6, dtype=F64)), ("bias", None)):
        with pytest.raises((TypeError, ValueError)):
            setattr(layer, name, value)
        assert snapshot(layer, x) == before


# --- state dict


@pytest.mark.parametrize(
    "name, has_bias, keys",
    [
        (None, True, ["weight", "bias"]),
        (None, False, ["weight"]),
        ("conv", True, ["conv.weight", "conv.bias"]),
        ("a.b", False, ["a.b.weight"]),
        ("", True, ["weight", "bias"]),
    ],
)
def test_keys_of_the_state(name, has_bias, keys):
    assert list(make(name=name, has_bias=has_bias).state_dict()) == keys


@pytest.mark.parametrize("permute, shape", [(False, (3, 4, 6)), (True, (6, 4, 3))])
def test_state_has_the_orientation_of_the_layer(permute, shape):
    layer = make(permute=permute)
    assert layer.state_dict()["weight"].shape == shape
    np.testing.assert_array_equal(layer.state_dict()["weight"], layer.filter)


def test_state_is_a_copy():
    layer, x = make(), normal(2, 9, 4)
    before = snapshot(layer, x)
    for value in layer.state_dict().values():
        value[...] = np.nan
    assert snapshot(layer, x) == before


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("wrap", [lambda a: a, OnlyDLPack], ids=["numpy", "dlpack"])
def test_state_moves_to_another_layer_bit_by_bit(permute, wrap):
    one, other = (make(permute=permute, rng=seed) for seed in (1, 2))
    x = normal(2, 4, 9) if permute else normal(2, 9, 4)
    assert not np.array_equal(one(x), other(x))
    other.load_state_dict({key: wrap(value) for key, value in one.state_dict().items()})
    assert_same_bits(one(x), other(x))
    assert_same_bits(one.filter, other.filter)


def test_loaded_arrays_are_copied():
    layer, x = make(), normal(2, 9, 4)
    state = make(rng=5).state_dict()
    layer.load_state_dict(state)
    before = snapshot(layer, x)
    state["weight"][...] = np.nan
    assert snapshot(layer, x) == before


def good_state(**changes):
    state = {"weight": normal(3, 4, 6, seed=8), "bias": normal(6, seed=8), **changes}
    return {key: value for key, value in state.items() if value is not None}


BAD_STATES = {
    "missing": (KeyError, good_state(bias=None), "missing ['bias'], unexpected []"),
    "unexpected": (KeyError, good_state(scale=normal(1)), "missing [], unexpected ['scale']"),
    "both": (
        KeyError,
        good_state(weight=None, kernel=normal(1)),
        "missing ['weight'], unexpected ['kernel']",
    ),
    "other name": (KeyError, {"conv.weight": normal(3, 4, 6)}, "missing ['weight', 'bias']"),
    "shape of weight": (
        ValueError,
        good_state(weight=normal(6, 4, 3)),
        "weight must have shape (3, 4, 6), got (6, 4, 3)",
    ),
    "shape of bias": (
        ValueError,
        good_state(bias=normal(1, 6)),
        "bias must have shape (6,), got (1, 6)",
    ),
    "dtype of weight": (
        TypeError,
        good_state(weight=normal(3, 4, 6, dtype=F64)),
        "weight has dtype float64 but float32 is expected",
    ),
    "dtype of bias": (
        TypeError,
        good_state(bias=normal(6).astype(np.float16)),
        "bias has dtype float16 but float32 is expected",
    ),
    "no array": (TypeError, good_state(bias=[0.0] * 6), "bias must be a NumPy array, got list"),
    "none": (TypeError, {"weight": None, "bias": None}, "weight must be a NumPy array"),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_a_bad_state_is_told_and_leaves_everything_as_it_was(case):
    error, state, message = BAD_STATES[case]
    layer, x = make(), normal(2, 9, 4)
    before = snapshot(layer, x)
    with pytest.raises(error) as raised:
        layer.load_state_dict(state)
    assert message in str(raised.value)
    assert snapshot(layer, x) == before


def test_key_error_lists_expected_keys():
    with pytest.raises(KeyError) as raised:
        make(name="c").load_state_dict({})
    assert "exactly the keys ['c.weight', 'c.bias']" in str(raised.value)


def test_errors_name_the_full_key():
    layer = make(name="encoder.conv")
    state = {"encoder.conv.weight": normal(3, 4), "encoder.conv.bias": normal(6)}
    wanted = re.escape("encoder.conv.weight must have shape (3, 4, 6), got (3, 4)")
    with pytest.raises(ValueError, match=wanted):
        layer.load_state_dict(state)


@pytest.mark.parametrize("state", [None, [("weight", 1)], "weight"])
def test_state_must_be_a_mapping(state):
    with pytest.raises(TypeError, match=rf"state must be a mapping.* got {type(state).__name__}"):
        make().load_state_dict(state)


def test_not_strict_takes_what_it_knows():
    layer = make()
    bias, state = layer.bias.copy(), good_state(bias=None, scale=normal(1))
    layer.load_state_dict(state, strict=False)
    assert_same_bits(layer.filter, state["weight"])
    assert_same_bits(layer.bias, bias)


def test_not_strict_ignores_a_bias_that_the_layer_lacks():
    layer = make(has_bias=False)
    layer.load_state_dict(good_state(), strict=False)
    assert layer.bias is None
    assert_same_bits(layer.filter, good_state()["weight"])


@pytest.mark.parametrize("case", ["shape of weight", "dtype of bias", "no array"])
def test_not_strict_still_checks_what_it_takes(case):
    error, state, message = BAD_STATES[case]
    layer, x = make(), normal(2, 9, 4)
    before = snapshot(layer, x)
    with pytest.raises(error) as raised:
        layer.load_state_dict(state, strict=False)
    assert message in str(raised.value)
    assert snapshot(layer, x) == before


# --- copies

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda layer, protocol=protocol: pickle.loads(
            pickle.dumps(layer, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("called", [False, True], ids=["fresh", "called"])
def test_copies_give_the_same_bits(how, called):
    layer, x = make(stride=2, padding="same", padding_mode="reflect", name="c"), normal(2, 50, 4)
    if called:
        layer(x)
    twin = COPIES[how](layer)
    assert repr(twin) == repr(layer)
    assert_same_bits(twin(x), layer(x))
    assert list(twin.state_dict()) == ["c.weight", "c.bias"]


@pytest.mark.parametrize("how", COPIES)
def test_copies_have_weights_of_their_own(how):
    layer, x = make(permute=True), normal(2, 4, 9)
    before = snapshot(layer, x)
    twin = COPIES[how](layer)
    twin.filter, twin.bias = normal(6, 4, 3, seed=7), normal(6, seed=7)
    assert snapshot(layer, x) == before
    assert snapshot(twin, x) != before
    with pytest.raises(ValueError, match="read-only"):
        twin.filter[0] = 1


def test_a_layer_may_come_from_a_process_with_more_threads():
    layer = make(threads=1)
    layer._threads = max_threads() + 1
    assert copy.copy(layer).threads == max_threads()


def test_subclasses_keep_what_they_add():
    layer = Named(3, 4, 6)
    layer.role = "stem"
    for other in (copy.copy(layer), pickle.loads(pickle.dumps(layer))):
        assert (other.role, repr(other)) == ("stem", repr(layer))


class Named(Conv1D):
    """Has a dictionary of its own."""


def test_a_pickle_holds_weights_but_no_plans():
    layer = make(out_channels=64)
    size = len(pickle.dumps(layer))
    for length in range(5, 25):
        layer(normal(1, length, 4))
    assert len(pickle.dumps(layer)) == size
    assert size < layer.filter.nbytes + layer.bias.nbytes + 2000


# --- repr


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"dtype": np.float64, "stride": 2, "dilation": 3, "num_groups": 2},
        {"padding": (1, -1), "padding_mode": "circular"},
        {"padding": "causal", "has_bias": True, "permute": True, "name": "a'b"},
        {"device": "cpu", "algorithm": "direct"},
    ],
)
def test_repr_makes_the_same_layer(parameters):
    layer = Conv1D(3, 4, 6, **parameters)
    names = {"Conv1D": Conv1D, "float32": np.float32, "float64": np.float64}
    twin = eval(repr(layer), names)
    assert repr(twin) == repr(layer)
    assert twin._geometry == layer._geometry
    for name in ("dtype", "padding", "device", "has_bias", "permute", "name", "algorithm"):
        assert getattr(twin, name) == getattr(layer, name)


def test_repr_leaves_out_defaults():
    shown = "Conv1D(kernel_size=3, in_channels=4, out_channels=6, dtype=float32)"
    assert repr(Conv1D(3, 4, 6)) == shown


# --- what a call accepts


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("permute", [False, True])
def test_a_call_is_the_definition(dtype, permute):
    layer = make(dtype=dtype, permute=permute, stride=2, dilation=2)
    x = normal(3, 4, 40, dtype=dtype) if permute else normal(3, 40, 4, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert type(y) is np.ndarray
    assert y.flags.c_contiguous
    assert_is_definition(layer, x, y)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::-1, ::2, ::-1],
        lambda x: x.astype(">f4"),
        lambda x: x.copy("F"),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: x.view(type("Subclass", (np.ndarray,), {})),
    ],
    ids=["strided", "byte-swapped", "Fortran", "broadcast", "subclass"],
)
def test_any_memory_layout_gives_the_same_bits(view):
    layer, x = make(), view(normal(2, 60, 4))
    before = x.tobytes()
    assert_same_bits(layer(x), layer(np.array(x, F32, order="C", subok=False)))
    assert x.tobytes() == before


def test_dlpack_is_accepted():
    layer, x = make(), normal(2, 9, 4)
    assert_same_bits(layer(OnlyDLPack(x)), layer(x))


def test_x_is_never_written():
    layer, x = make(), normal(2, 9, 4)
    x.flags.writeable = False
    assert_is_definition(layer, x, layer(x))


@pytest.mark.parametrize("permute", [False, True])
def test_an_empty_batch_gives_an_empty_batch(permute):
    layer = make(permute=permute)
    x = np.zeros((0, 4, 9) if permute else (0, 9, 4), F32)
    for _ in range(2):
        assert layer(x).shape == ((0, 6, 9) if permute else (0, 9, 6))
        out = np.zeros(layer(x).shape, F32)
        assert layer(x, out=out) is out


def test_a_channel_count_of_an_empty_batch_is_checked_too():
    with pytest.raises(ValueError, match="4 channels"):
        make()(np.zeros((0, 9, 5), F32))


def test_repeated_calls_give_the_same_bits_in_new_memory():
    layer, x = make(), normal(2, 60, 4)
    first = layer(x)
    kept = first.copy()
    second = layer(x)
    assert_same_bits(second, kept)
    assert not np.shares_memory(first, second)
    second[...] = 0
    assert_same_bits(layer(x), kept)
    assert_same_bits(first, kept)


def test_a_remembered_layout_still_checks_the_dtype():
    layer, x = make(), normal(2, 9, 4)
    layer(x)
    impostor = x.view(np.int32)
    assert (impostor.shape, impostor.strides) == (x.shape, x.strides)
    with pytest.raises(TypeError, match="x has dtype int32"):
        layer(impostor)
    swapped = x.astype(">f4")
    assert_same_bits(layer(swapped), layer(x))


# --- what a call refuses

NOT_ARRAYS = [[[[1.0]]], None, 1.0, "x", {"x": 1}]


@pytest.mark.parametrize("x", NOT_ARRAYS)
def test_what_is_not_an_array_is_refused(x):
    with pytest.raises(TypeError, match=f"x must be a NumPy array, got {type(x).__name__}"):
        make()(x)


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match=r"x is a masked array.*x\.filled"):
        make()(np.ma.masked_array(normal(2, 9, 4)))


def test_object_arrays_are_refused():
    with pytest.raises(TypeError, match="x must hold floating-point numbers, got dtype object"):
        make()(np.zeros((2, 9, 4), object))


def test_numbers_that_are_not_real_are_not_advised_to_be_cast():
    sentence = "x has dtype complex64 but float32 is expected; nothing is cast silently, pass real "
    with pytest.raises(TypeError, match=sentence):
        make()(np.zeros((2, 9, 4), np.complex64))
    with pytest.raises(TypeError, match=r"out has dtype float64 .* pass one of dtype 'float32'"):
        make()(np.zeros((2, 9, 4), np.float32), out=np.zeros((2, 9, 6)))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int64, bool])
def test_x_of_another_dtype_is_refused_with_both_named(dtype):
    wanted = rf"x has dtype {np.dtype(dtype)} but float32 is expected.*x\.astype"
    with pytest.raises(TypeError, match=wanted):
        make()(np.zeros((2, 9, 4), dtype))


@pytest.mark.parametrize("permute, layout", [(False, "(N, L, C_in)"), (True, "(N, C_in, L)")])
@pytest.mark.parametrize("shape", [(), (4,), (9, 4), (1, 2, 9, 4)])
def test_another_rank_is_told_with_the_layout(permute, layout, shape):
    wanted = f"x must have 3 dimensions {layout}, got {len(shape)} with shape {shape}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        make(permute=permute)(np.zeros(shape, F32))


@pytest.mark.parametrize(
    "permute, shape, layout, came",
    [(False, (2, 4, 9), "(N, L, C_in)", 9), (True, (2, 9, 4), "(N, C_in, L)", 9)],
)
def test_another_channel_count_is_told_with_the_layout(permute, shape, layout, came):
    wanted = f"x must have 4 channels in {layout}, got {came} with shape {shape}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        make(permute=permute)(np.zeros(shape, F32))


def test_too_short_an_input_is_told():
    with pytest.raises(ValueError, match=r"x is too short: length 2 .* = 4 is less .* = 9"):
        make(dilation=4)(np.zeros((1, 2, 4), F32))


# --- out


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize(
    "prepare",
    [
        lambda out: out,
        lambda out: np.zeros((2 * out.shape[0], out.shape[1], 3 * out.shape[2]), F32)[::-2, :, ::3],
        lambda out: out.astype(">f4"),
        lambda out: out.copy("F"),
    ],
    ids=["plain", "strided", "byte-swapped", "Fortran"],
)
def test_out_receives_the_result(permute, prepare):
    layer = make(permute=permute)
    x = normal(2, 4, 60) if permute else normal(2, 60, 4)
    expected = layer(x)
    for _ in range(3):  # checked, then remembered
        out = prepare(np.full(expected.shape, np.nan, F32))
        assert layer(x, out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_memory_around_out_is_left_alone():
    layer, x = make(), normal(2, 60, 4)
    room = np.full((4, 70, 13), 7, F32)
    inner = room[1:3, 5:65, 3:9]
    layer(x, out=inner)
    np.testing.assert_array_equal(inner, layer(x))
    inner[...] = 7
    assert (room == 7).all()


@pytest.mark.parametrize(
    "out, error, message",
    [
        (np.zeros((2, 9, 5), F32), ValueError, "out must have shape (2, 9, 6), got (2, 9, 5)"),
        (np.zeros((9, 6), F32), ValueError, "out must have shape (2, 9, 6), got (9, 6)"),
        (np.zeros((2, 9, 6), F64), TypeError, "out has dtype float64"),
        (np.zeros((2, 9, 6), np.int32), TypeError, "out has dtype int32"),
        ([[[0.0]]], TypeError, "out must be a NumPy array, got list"),
        (np.ma.zeros((2, 9, 6), F32), TypeError, "out must be a NumPy array, got MaskedArray"),
        (OnlyDLPack(np.zeros((2, 9, 6), F32)), TypeError, "out must be a NumPy array, got Only"),
    ],
)
@pytest.mark.parametrize("called", [False, True], ids=["first call", "remembered"])
def test_a_bad_out_is_told_and_left_as_it_was(out, error, message, called):
    layer, x = make(), normal(2, 9, 4)
    if called:
        layer(x)
    before = copy.deepcopy(out) if not isinstance(out, OnlyDLPack) else None
    with pytest.raises(error) as raised:
        layer(x, out=out)
    assert message in str(raised.value)
    if before is not None:
        np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize("called", [False, True], ids=["first call", "remembered"])
def test_a_read_only_out_is_told_and_left_as_it_was(called):
    layer, x = make(), normal(2, 9, 4)
    if called:
        layer(x)
    out = np.full((2, 9, 6), 7, F32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only; pass a writeable array"):
        layer(x, out=out)
    assert (out == 7).all()


def test_shape_of_out_with_permute_is_told_in_its_order():
    with pytest.raises(ValueError, match=re.escape("shape (2, 6, 9), got (2, 9, 6)")):
        make(permute=True)(normal(2, 4, 9), out=np.zeros((2, 9, 6), F32))


@pytest.mark.parametrize(
    "x",
    [normal(2, 9, 5), normal(2, 9, 4, dtype=F64), normal(9, 4), [1.0]],
    ids=["channels", "dtype", "rank", "list"],
)
def test_a_bad_x_leaves_out_as_it_was(x):
    out = np.full((2, 9, 6), 7, F32)
    with pytest.raises((TypeError, ValueError)):
        make()(x, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, 10**6])
def test_a_bad_number_of_threads_leaves_out_as_it_was(threads):
    out = np.full((2, 9, 6), 7, F32)
    with pytest.raises((TypeError, ValueError), match="threads must be"):
        make()(normal(2, 9, 4), out=out, threads=threads)
    assert (out == 7).all()


# --- threads

SHARED = {
    "dense": dict(in_channels=64, out_channels=64, padding="same"),
    "two panels": dict(in_channels=80, out_channels=80, padding="causal", kernel_size=5),
    "float64": dict(in_channels=48, out_channels=48, dtype=np.float64),
    "depthwise": dict(in_channels=600, out_channels=600, num_groups=600, padding=1),
    "long depthwise": dict(
        kernel_size=31, in_channels=200, out_channels=200, num_groups=200, padding="same"
    ),
    "small groups": dict(in_channels=256, out_channels=512, num_groups=128, padding="same"),
    "grouped": dict(in_channels=96, out_channels=96, num_groups=3, padding="same"),
    "sliding": dict(in_channels=96, out_channels=14, num_groups=2, padding="same", dilation=5),
    "narrow": dict(in_channels=512, out_channels=2, padding="same"),
    "fir": dict(kernel_size=600, in_channels=1, out_channels=1, padding="same"),
    "permuted": dict(in_channels=64, out_channels=64, padding="same", permute=True),
    "many panels": dict(kernel_size=1, in_channels=1024, out_channels=2048, padding=0),
}


@pytest.mark.skipif(max_threads() < 2, reason="one core")
@pytest.mark.parametrize("case", SHARED)
def test_threads_do_not_change_the_bits(case):
    layer = make(**SHARED[case])
    length = 4 if case == "many panels" else 1200
    channels = layer.in_channels
    shape = (2, channels, length) if layer.permute else (2, length, channels)
    x = normal(*shape, dtype=layer.dtype)
    alone = layer(x, threads=1)
    assert_is_definition(layer, x, alone)
    for _ in range(4):
        out = np.full(alone.shape, np.nan, layer.dtype)
        assert_same_bits(layer(x, out=out, threads=2), alone)


# --- out that overlaps x

IN_PLACE = {
    "dense": dict(in_channels=8, out_channels=8, padding="same"),
    "wide": dict(in_channels=80, out_channels=80, padding="causal", kernel_size=5),
    "depthwise": dict(in_channels=40, out_channels=40, num_groups=40, padding=1),
    "grouped": dict(in_channels=12, out_channels=12, num_groups=3, padding="same"),
    "permuted": dict(in_channels=8, out_channels=8, padding="same", permute=True),
}


@pytest.mark.parametrize("case", IN_PLACE)
@pytest.mark.parametrize("length", [3, 40, 700])
def test_a_convolution_in_place(case, length):
    layer = make(**IN_PLACE[case])
    channels = layer.in_channels
    x = normal(2, channels, length) if layer.permute else normal(2, length, channels)
    expected = layer(x)
    for _ in range(2):
        buffer = x.copy()
        assert layer(buffer, out=buffer) is buffer
        assert_same_bits(buffer, expected)


@pytest.mark.parametrize("shift", [-7, -1, 1, 7])
def test_out_shifted_against_x_in_one_buffer(shift):
    layer = make(in_channels=8, out_channels=8, padding="same")
    values, start = normal(1, 500, 8), max(0, -shift)
    expected = layer(values)
    for _ in range(2):
        buffer = np.zeros((1, 520, 8), F32)
        x, out = buffer[:, start : start + 500], buffer[:, start + shift : start + shift + 500]
        x[...] = values
        layer(x, out=out)
        assert_same_bits(np.ascontiguousarray(out), expected)


def test_out_reversed_in_the_memory_of_x():
    layer = make(in_channels=8, out_channels=8, padding="same")
    x = normal(2, 300, 8)
    expected = layer(x)
    for _ in range(2):
        buffer = x.copy()
        layer(buffer, out=buffer[::-1, ::-1])
        assert_same_bits(np.ascontiguousarray(buffer[::-1, ::-1]), expected)


def test_out_in_the_gaps_of_x():
    layer = make(in_channels=8, out_channels=8, padding="same")
    values = normal(1, 300, 8)
    expected = layer(values)
    room = np.zeros((1, 300, 16), F32)
    room[..., ::2] = values
    layer(room[..., ::2], out=room[..., 1::2])
    np.testing.assert_array_equal(room[..., 1::2], expected)
    np.testing.assert_array_equal(room[..., ::2], values)


def test_out_of_one_layer_as_x_of_the_next():
    first = make(in_channels=8, out_channels=8, padding="same")
    second = make(in_channels=8, out_channels=8, padding="same", rng=9)
    x, buffer = normal(2, 300, 8), np.empty((2, 300, 8), F32)
    assert_same_bits(second(first(x, out=buffer), out=buffer), second(first(x)))


# --- plans


def test_plans_are_bounded_and_results_stay_right():
    layer = make()
    for length in range(3, 3 + 3 * PLANS_KEPT):
        x = normal(1, length, 4)
        assert_is_definition(layer, x, layer(x))
    assert len(layer._weights.plans) == PLANS_KEPT
    assert len(layer._weights.calls) == PLANS_KEPT
    assert_is_definition(layer, normal(1, 3, 4), layer(normal(1, 3, 4)))


def test_layouts_of_one_shape_are_bounded_too():
    layer = make()
    for gap in range(2 * PLANS_KEPT):
        x = normal(1, 9, 4 + gap)[..., :4]
        assert_is_definition(layer, x, layer(x))
    assert len(layer._weights.calls) <= PLANS_KEPT


def test_plans_share_packed_weights():
    layer = make(in_channels=64, out_channels=64, algorithm="direct")
    for length in (9, 10, 11):
        layer(normal(1, length, 64))
    assert len({id(plan.packed) for plan in layer._weights.plans.values()}) == 1


# --- explain


def test_explain_names_kernel_declines_and_facts():
    layer = make(in_channels=64, out_channels=140, num_groups=2, algorithm="direct")
    explanation = explain(layer, normal(2, 500, 64))
    assert explanation.kernel == "grouped"
    declined = [name for name, _ in explanation.declined]
    channels = ["fir", "narrow", "interleaved", "planar", "depthwise", "sliding", "dense"]
    assert declined == ["winograd", "fft", *channels, "small groups"]
    text = str(explanation)
    for pattern in (
        r"^kernel: grouped$",
        r"^  declined fft: algorithm='direct'",
        r"^  declined fir: 64 → 140 channels",
        r"^  declined depthwise: C_in/G=32 with 2 group\(s\)",
        r"^  declined dense: num_groups=2",
        r"^  declined small groups: groups of 32 → 70 channels",
        r"^tile: dense_f32_\d+x\d+v\d+.* \(\d+ panels\)$",
        r"^blocking: runs of \d+ positions, reduction in 1 block\(s\)",
        r"^threads: \d+, dividing (positions|panels)$",
        r"^packed weights: \d+\.\d KiB$",
        r"^error bound: \|error\| <= gamma\(97\)\*.* 96\*tiny.* u = 5\.96e-08$",
    ):
        assert re.search(pattern, text, re.MULTILINE), (pattern, text)


@pytest.mark.parametrize(
    "taps, stride, dilation, as_read",
    [
        (1, 3, 1, "one in 3 positions, with stride 1, dilation 1"),
        (3, 2, 4, "one in 2 positions, with stride 1, dilation 2"),
        (3, 2, 3, None),
    ],
)
def test_explain_says_which_positions_are_left_out(taps, stride, dilation, as_read):
    layer = Conv1D(taps, 4, 8, stride=stride, dilation=dilation)
    assert explain(layer, np.zeros((1, 40, 4), np.float32)).details.get("x is read") == as_read


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize(
    "parameters",
    [
        dict(in_channels=64, out_channels=64),
        dict(in_channels=64, out_channels=8, num_groups=4, kernel_size=64),
        dict(in_channels=8, out_channels=8, num_groups=8),
        dict(in_channels=1, out_channels=1, num_groups=1),
        dict(in_channels=1, out_channels=1, kernel_size=1, stride=2),
    ],
    ids=str,
)
def test_explain_says_what_is_read_in_place(parameters, permute):
    """As the table that the macrokernel gets does."""
    layer = make(**{**parameters, "padding": 0, "algorithm": "direct", "permute": permute})
    channels = layer.in_channels
    x = np.zeros((1, channels, 500) if permute else (1, 500, channels), np.float32)
    y = layer(x)
    (plan,) = layer._weights.plans.values()
    read = x.transpose(0, 2, 1) if permute else x
    written = y.transpose(0, 2, 1) if permute else y
    call = call_table(plan.blocking, read[:, :: plan.problem.step].strides, written.strides)[0][0]
    places = f"{call['inside_first']}:{call['inside_last']}" if call["inside_last"] else "none"
    assert f"in place {places} of {written.shape[1]}" in explain(layer, x).details["blocking"]


def test_explain_sees_the_strides_of_x_and_how_y_is_written(monkeypatch):
    layer, x = Conv1D(3, 64, 128, algorithm="direct"), np.zeros((1, 64, 800), F32)
    plain, transposed = layer.explain(x.swapaxes(1, 2).copy()), layer.explain(x.swapaxes(1, 2))
    assert "read in place 0:798 of 798" in plain.details["blocking"]
    assert "read in place none of 798" in transposed.details["blocking"]
    monkeypatch.setattr(panel_plan, "streams", lambda *_: True)
    assert "_streams" not in plain.details["tile"]
    assert "_streams" in layer.explain(x.swapaxes(1, 2)).details["tile"]


def test_explain_speaks_of_the_threads_of_the_layer():
    for threads in (1, min(2, max_threads())):
        layer = make(in_channels=64, out_channels=64, algorithm="direct", threads=threads)
        assert explain(layer, normal(1, 5000, 64)).details["threads"].startswith(f"{threads}, ")


def test_explain_states_the_unit_roundoff_of_float64():
    explanation = explain(make(dtype=F64, algorithm="direct"), normal(1, 9, 4, dtype=F64))
    assert "gamma(13)" in explanation.error_bound
    assert "u = 1.11e-16" in explanation.error_bound


def test_explain_runs_nothing(monkeypatch):
    layer, x = make(algorithm="direct", dilation=2), np.full((1, 9, 4), np.nan, F32)
    monkeypatch.setattr(layer_module, "execute", lambda *_: pytest.fail("explain computed"))
    assert explain(layer, x).kernel == "sliding"
    assert layer.explain(x).kernel == "sliding"


def test_explain_checks_as_a_call_does():
    with pytest.raises(ValueError, match="x must have 4 channels"):
        explain(make(), normal(1, 9, 5))
    with pytest.raises(TypeError, match="layer must be a Conv1D, got str"):
        explain("layer", normal(1, 9, 4))

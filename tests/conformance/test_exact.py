"""Small integers, for which every order of summation gives the same float: compared with ==."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings

from numbaconv import Conv1D, ConvProblem, Geometry, conv1d
from numbaconv.cpu import blocking
from numbaconv.cpu.target import host
from numbaconv.dispatch import make_plan
from numbaconv.weights import Weights
from tests import oracle
from tests.conformance.comparison import assert_exact, expected_of, l2_of, make_layer
from tests.strategies import LAYOUTS, OUT_LAYOUTS, X_LAYOUTS, Case, cases

DTYPES = ("float32", "float64")
CHANNELS = range(1, 71)
# Panels of one to four vectors of every instruction set, whole and partial.
WIDTHS = (1, 8, 20, 33, 64)


# --- everything at once
@settings(max_examples=300)
@given(cases())
def test_drawn_problems(case):
    assert_exact(case)


@pytest.mark.slow
@settings(max_examples=3000)
@given(cases())
def test_many_drawn_problems(case):
    assert_exact(case)


# --- every remainder of the register tile
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_channels", CHANNELS)
def test_every_number_of_output_channels(out_channels, dtype):
    dense = Case(3, 5, out_channels, 29, batch=2, padding=1, has_bias=True, dtype=dtype)
    assert_exact(dense)
    assert_exact(dense.but(permute=True, out_layout="contiguous"))
    assert_exact(dense.but(in_channels=6, out_channels=2 * out_channels, num_groups=2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_channels", CHANNELS)
def test_output_channels_that_fill_no_vector(out_channels, dtype):
    """With so many products that they go by halves of a vector, or by dot products."""
    dense = Case(3, 45, out_channels, 45, batch=2, padding=1, has_bias=True, dtype=dtype)
    assert_exact(dense)
    assert_exact(dense.but(in_channels=14))
    assert_exact(dense.but(dilation=3, permute=True))
    assert_exact(dense.but(in_channels=64, stride=2, padding=(3, 0)))
    assert_exact(dense.but(in_channels=90, out_channels=2 * out_channels, num_groups=2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_channels", CHANNELS)
def test_every_number_of_input_channels(in_channels, dtype):
    case = Case(3, in_channels, 20, 29, padding=1, dtype=dtype)
    assert_exact(case)
    # Chains of one tap, of which the last turn is taken by a few rows at a time if there is one.
    assert_exact(case.but(out_channels=64, dilation=4, has_bias=True))
    assert_exact(case.but(kernel_size=1, out_channels=40, padding=0))
    assert_exact(case.but(kernel_size=1, out_channels=64, padding=0, stride=2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_number_of_depthwise_channels(channels, dtype):
    depthwise = Case(
        4, channels, channels, 29, padding=2, num_groups=channels, has_bias=True, dtype=dtype
    )
    assert_exact(depthwise)
    assert_exact(depthwise.but(permute=True, out_layout="contiguous"))
    assert_exact(depthwise.but(out_channels=2 * channels))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("channels", range(2, 10))
def test_interleaved_channels(channels, permute, dtype):
    """Positions share vectors: taps slide or not, by residue or by positions that lie apart."""
    few = Case(1, channels, channels, 150, num_groups=channels, permute=permute, dtype=dtype)
    for taps in (1, 2, 7, 18, 35):
        for dilation in (1, 2, 3, 4, 8, 24):
            case = few.but(kernel_size=taps, dilation=dilation, padding="same", has_bias=True)
            assert_exact(case)
            assert_exact(case.but(length=3, batch=2, padding_mode="replicate"))
            assert_exact(case.but(padding=((taps - 1) * dilation, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_channels", CHANNELS)
def test_few_output_channels(in_channels, dtype):
    for out_channels in (1, 2, 3, 4, 5, 8):
        case = Case(5, in_channels, out_channels, 29, padding="same", has_bias=True, dtype=dtype)
        assert_exact(case)
        assert_exact(case.but(dilation=2, permute=True))
        assert_exact(case.but(stride=2, padding=0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel_size", range(1, 41))
def test_one_channel_in_and_out(kernel_size, dtype):
    for length, padding in ((1, "same"), (67, "causal"), (700, "same"), (700, 0)):
        if padding or length >= kernel_size:
            case = Case(kernel_size, 1, 1, length, batch=2, padding=padding, dtype=dtype)
            assert_exact(case)
            assert_exact(case.but(has_bias=True, permute=True, out_layout="every third position"))
    assert_exact(case.but(dilation=3, x_layout="every third position"))


@pytest.mark.parametrize("length_out", range(1, 41))
def test_every_number_of_positions(length_out):
    for out_channels, dtype in itertools.product(WIDTHS, DTYPES):
        in_place = Case(3, 4, out_channels, length_out + 2, dtype=dtype)
        assert_exact(in_place)
        assert_exact(in_place.but(length=length_out, padding="same", has_bias=True))
        assert_exact(in_place.but(in_channels=out_channels, num_groups=out_channels))


@pytest.mark.parametrize("length", range(1, 41))
def test_interiors_and_borders_of_every_length(length):
    for left, right in ((0, 7), (7, 0), (1, 30), (30, 1)):
        assert_exact(Case(5, 3, 40, length, padding=(left, right), batch=2, stride=2))


def test_runs_longer_than_one():
    assert_exact(Case(3, 2, 5, 3 * blocking.MAX_RUN + 7, padding="same", batch=2))
    assert_exact(Case(3, 6, 6, 3 * blocking.MAX_RUN + 7, padding="causal", num_groups=6))


# --- borders
@pytest.mark.parametrize(
    "case",
    [
        Case(51, 15, 15, 60, dilation=8, padding=200),
        Case(11, 64, 64, 60, dilation=5, padding=25),
        Case(39, 32, 32, 60, padding=19),
        Case(7, 25, 25, 60, dilation=8, padding=(48, 0)),
    ],
)
def test_wide_padding_where_max_reads_out_of_bounds(case):
    assert_exact(case)
    assert_exact(case.but(permute=True))


@pytest.mark.parametrize("length", [0, 1, 2, 3])
@pytest.mark.parametrize("kernel_size", [4, 7, 12])
def test_kernel_longer_than_the_input(kernel_size, length):
    for dilation, padding in itertools.product((1, 3), (36, (40, 0), (0, 40))):
        assert_exact(
            Case(kernel_size, 3, 7, length, dilation=dilation, padding=padding, has_bias=True)
        )


@pytest.mark.parametrize("kernel_size", [2, 5, 40])
def test_one_position(kernel_size):
    for padding in ("same", "causal", kernel_size):
        assert_exact(Case(kernel_size, 9, 33, 1, batch=3, padding=padding, has_bias=True))
        assert_exact(Case(kernel_size, 9, 9, 1, batch=3, padding=padding, num_groups=9))


@pytest.mark.parametrize("padding", [20, (20, 0), (0, 20), (21, 33)])
@pytest.mark.parametrize("stride", [1, 2, 7])
def test_padding_wider_than_the_kernel(padding, stride):
    for kernel_size, length in itertools.product((1, 2, 3), (0, 1, 10, 60)):
        assert_exact(Case(kernel_size, 5, 9, length, padding=padding, stride=stride, batch=2))


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("length", [2, 5, 31])
def test_the_widest_padding_of_each_mode(padding_mode, length):
    widest = {"reflect": length - 1, "replicate": 50, "circular": length}[padding_mode]
    for padding in (widest, (widest, 0), (0, widest)):
        case = Case(3, 4, 6, length, padding=padding, padding_mode=padding_mode, batch=2)
        if oracle.is_valid(length, 3, 1, 1, padding, padding_mode):
            assert_exact(case)
            assert_exact(case.but(num_groups=2, permute=True))


@pytest.mark.parametrize("padding", [-1, (-3, 0), (0, -3), (-4, 6), (6, -4), (-10, -10)])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_negative_padding_crops_before_it_pads(padding, padding_mode):
    for length in (22, 23, 50):
        assert_exact(Case(2, 3, 5, length, padding=padding, padding_mode=padding_mode))


def test_cropping_everything_leaves_the_padding():
    assert_exact(Case(2, 3, 5, 4, padding=(-4, 6), has_bias=True))
    assert_exact(Case(2, 3, 5, 4, padding=(6, -4), has_bias=True))


@pytest.mark.parametrize("kernel_size", range(1, 13))
def test_same_gives_one_output_for_each_stride(kernel_size):
    for stride, dilation, length in itertools.product((1, 2, 3, 5), (1, 2), (1, 2, 17, 24)):
        case = Case(kernel_size, 2, 5, length, stride=stride, dilation=dilation, padding="same")
        assert expected_of(case, *case.arrays()).shape[1] == -(-length // stride)
        assert_exact(case)


def test_empty_batch():
    assert_exact(Case(3, 4, 5, 10, batch=0))
    assert_exact(Case(3, 4, 5, 0, batch=0, padding=5, out_layout="contiguous"))


# --- taps and outputs far apart
@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("dilation", [100, 479, 480, 481, 700])
def test_taps_far_apart(dilation, permute):
    case = Case(4, 3, 5, 2500, dilation=dilation, padding=(900, 30), permute=permute)
    assert_exact(case)
    assert_exact(case.but(length=3 * dilation + 2, padding=1))
    assert_exact(case.but(in_channels=5, num_groups=5))
    assert_exact(case.but(padding_mode="reflect"))


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("stride", [4, 5, 50, 3000])
def test_outputs_far_apart(stride, permute):
    for dilation, padding in itertools.product((1, 3), (0, 100, "same")):
        case = Case(
            4, 3, 5, 2500, stride=stride, dilation=dilation, padding=padding, permute=permute
        )
        assert_exact(case)
        assert_exact(case.but(in_channels=5, num_groups=5, batch=2))


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [(7, 1), (7, 5), (33, 8), (9, 40), (1, 1)])
def test_outputs_and_taps_advance_by_the_same_step(channels, step):
    """Kernels may then keep rows of x from tap to tap, but not in a window without gaps."""
    for kernel_size, (length, padding) in itertools.product(
        (1, 4, 7), ((1, "same"), (2, "same"), (41, (0, step)), (42, (1, 0)), (60, "causal"))
    ):
        case = Case(kernel_size, *channels, length, stride=step, dilation=step, padding=padding)
        assert_exact(case)
        assert_exact(case.but(in_channels=20, out_channels=20, num_groups=20))


# --- few outputs: dot products, in groups and of taps that slide over outputs that lie apart
@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("dilation", [1, 2, 3, 16, 17])
@pytest.mark.parametrize(
    "channels", [(40, 1, 1), (64, 3, 1), (120, 9, 3), (68, 34, 2), (1024, 8, 4)]
)
def test_few_outputs(channels, dilation, permute):
    inputs, outputs, groups = channels
    for kernel_size, (length, padding) in itertools.product(
        (1, 2, 9), ((1, "same"), (25, "causal"), (190, (3, 40)), (1100, "same"))
    ):
        case = Case(
            kernel_size, inputs, outputs, length, dilation=dilation, num_groups=groups,
            padding=padding, has_bias=True, permute=permute,
        )  # fmt: skip
        assert_exact(case)
        assert_exact(case.but(stride=2, padding_mode="replicate"))
        assert_exact(case.but(batch=2, out_layout="every third position"))


# --- phases of a stride, for vectors that lie along positions
@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("channels", [(1, 1, 1), (3, 3, 3), (3, 5, 1), (18, 3, 1), (4, 8, 4)])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"),
    [(2, 3, 1), (3, 2, 1), (9, 2, 1), (33, 3, 1), (5, 4, 3), (40, 3, 2), (7, 5, 2)],
)
def test_phases_of_a_stride(kernel_size, stride, dilation, channels, permute):
    """Some have no tap, or one less than others; windows end within a phase, or are many."""
    inputs, outputs, groups = channels
    span = (kernel_size - 1) * dilation + 1
    for (length, padding), mode in zip(
        ((span, 0), (span + 40, (2, 3)), (400, "same"), (401, (0, 5)), (6000, (1, 0))),
        ("zeros", "reflect", "circular", "replicate", "zeros"),
        strict=True,
    ):
        case = Case(
            kernel_size, inputs, outputs, length, stride=stride, dilation=dilation,
            num_groups=groups, padding=padding, padding_mode=mode, batch=2, permute=permute,
            x_layout="every third position" if length == 401 else "contiguous",
        )  # fmt: skip
        assert_exact(case)


# --- small caches force what large problems do: many blocks, short runs, tiny windows
CACHE_SIZES = (1, 1 << 10, 4 << 10, 16 << 10)


@pytest.mark.parametrize("length", (5, 45, 200, 700))
def test_runs_that_share_a_filter_from_beyond_the_second_cache(length):
    case = Case(3, 50, 40, length, padding="same", batch=2, has_bias=True)
    with l2_of(16 << 10):
        assert_exact(case)
        assert_exact(case.but(out_layout="every third position"))
        assert_exact(case.but(permute=True))
        assert_exact(case.but(stride=2, padding_mode="circular"))
        assert_exact(case.but(in_channels=100, out_channels=80, num_groups=2))


@pytest.mark.parametrize("size", CACHE_SIZES)
@given(case=cases())
@settings(max_examples=40)
def test_drawn_problems_with_a_small_cache(size, case):
    with l2_of(size):
        assert_exact(case)


def blocks_of(case):
    """The blocks of the reduction that the plan of a case makes."""
    geometry = Geometry(case.kernel_size, case.in_channels, case.out_channels, padding=case.padding)
    problem = ConvProblem(
        geometry, case.batch, case.length, np.dtype(case.dtype), algorithm="direct"
    )
    _, filter, _ = case.but(permute=False).arrays()
    return make_plan(problem, Weights(geometry, filter, None)).blocking.reduction


def l2_of_few_steps():
    """A second cache that takes eight steps of the widest panel in its quarter."""
    return l2_of(32 * len(host().tile_rows) * host().vector_bytes)


def assert_exact_with_groups_and_dilation(case):
    """As it is, in three groups, and with taps that do not touch."""
    for dilation, groups in itertools.product((1, 4), (1, 3)):
        wider = case.but(
            in_channels=case.in_channels * groups, out_channels=case.out_channels * groups
        )
        assert_exact(wider.but(dilation=dilation, num_groups=groups))


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reduction_cut_between_taps(dtype, permute):
    case = Case(9, 3, 33, 50, batch=2, padding=(5, 3), has_bias=True, dtype=dtype, permute=permute)
    with l2_of_few_steps():
        blocks = blocks_of(case)
        assert len(blocks) > 1 and all(block.depth == 3 for block in blocks)
        assert_exact_with_groups_and_dilation(case)


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reduction_cut_between_channels(dtype, permute):
    case = Case(3, 50, 33, 50, batch=2, padding=(5, 3), has_bias=True, dtype=dtype, permute=permute)
    with l2_of_few_steps():
        blocks = blocks_of(case)
        assert len(blocks) > case.kernel_size and all(block.taps == 1 for block in blocks)
        assert_exact_with_groups_and_dilation(case)


def test_depthwise_reduction_cut_between_taps():
    with l2_of(1 << 10):
        assert_exact(Case(40, 37, 37, 120, padding="same", num_groups=37, has_bias=True))
        assert_exact(Case(40, 37, 37, 120, dilation=2, num_groups=37, permute=True))


def test_a_reduction_that_outgrows_the_real_cache():
    case = Case(5, 3000, 65, 30, padding="same", has_bias=True)
    assert len(blocks_of(case)) > 1
    assert_exact(case)
    assert_exact(case.but(permute=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", [2, 5, 9])
@pytest.mark.parametrize("groups", [1, 2])
def test_channels_that_fill_no_vector_when_the_reduction_may_be_cut(vectors, groups, dtype):
    """Products that a panel of some width sums in one block, and a wider one does not."""
    lanes, itemsize = host().lanes(np.dtype(dtype)), np.dtype(dtype).itemsize
    for width in range(1, len(host().tile_rows) + 1):
        depth = host().l2 // 4 // (width * lanes * itemsize)
        for rest in (1, lanes // 2 + 1, lanes - 1):
            outputs = groups * (vectors * lanes + rest)
            for inputs in (groups * depth, groups * (depth + 9)):
                assert_exact(Case(1, inputs, outputs, 20, num_groups=groups, dtype=dtype))


# --- enough work for several threads
MANY_POSITIONS = (
    Case(3, 64, 70, 301, batch=3, padding="same"),
    Case(3, 64, 70, 301, batch=3, padding="same", permute=True),
    Case(9, 70, 70, 2000, padding="causal", num_groups=70),
    Case(3, 60, 120, 301, batch=2, stride=2, padding=30, num_groups=4),
)
MANY_PANELS = (
    Case(3, 400, 800, 9, padding="same"),
    Case(3, 400, 800, 9, padding="same", permute=True, batch=2),
    Case(3, 200, 1000, 9, padding="same", num_groups=4, has_bias=True, dtype="float64"),
)


@pytest.mark.parametrize(
    ("case", "divided"),
    [
        *[(case, "positions") for case in MANY_POSITIONS],
        *[(case, "panels") for case in MANY_PANELS],
    ],
)
def test_several_threads(case, divided):
    arrays = case.arrays()
    threads = make_layer(case, *arrays[1:]).explain(arrays[0]).details["threads"]
    assert divided in threads or threads.startswith("1")
    assert_exact(case, arrays=arrays)


# --- memory layouts
@pytest.mark.parametrize("x_layout", X_LAYOUTS)
@pytest.mark.parametrize("permute", [False, True])
def test_every_pair_of_layouts(x_layout, permute):
    for out_layout, (in_channels, out_channels, groups) in itertools.product(
        OUT_LAYOUTS, ((7, 20, 1), (20, 20, 20), (1, 1, 1), (6, 20, 2))
    ):
        case = Case(3, in_channels, out_channels, 40, batch=2, padding="same", num_groups=groups)
        assert_exact(case.but(permute=permute, x_layout=x_layout, out_layout=out_layout))


@pytest.mark.parametrize("filter_layout", LAYOUTS)
@pytest.mark.parametrize("permute", [False, True])
def test_every_layout_of_the_weights(filter_layout, permute):
    case = Case(3, 6, 20, 40, num_groups=2, has_bias=True, permute=permute)
    assert_exact(case.but(filter_layout=filter_layout))


def test_one_layer_meets_all_layouts_in_turn():
    case = Case(3, 20, 20, 40, batch=2, padding="same", num_groups=20)
    _, filter, _ = case.arrays()
    layer = make_layer(case, filter, None)
    for seed in range(2):
        for x_layout in X_LAYOUTS:
            x, *_ = case.but(x_layout=x_layout, seed=seed).arrays()
            expected = expected_of(case, x, filter)
            np.testing.assert_array_equal(layer(x), expected)
            np.testing.assert_array_equal(layer(x, out=np.full_like(x, np.nan)), expected)


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("groups", [1, 8])
def test_out_may_be_x(permute, groups):
    case = Case(3, 8, 8, 8, batch=2, padding="same", num_groups=groups, permute=permute)
    x, filter, _ = case.arrays()
    expected = expected_of(case, x, filter)
    layer = make_layer(case, filter, None)
    for _ in range(2):  # the second call of a kind takes a shorter way
        for run in (layer, lambda x, out: conv1d(x, filter, out=out, **case.parameters)):
            signal = x.copy()
            assert run(signal, out=signal) is signal
            np.testing.assert_array_equal(signal, expected)


@pytest.mark.parametrize("shift", [-9, -1, 0, 1, 9])
def test_out_may_overlap_x(shift):
    case = Case(3, 8, 8, 50, padding="same")
    x, filter, _ = case.arrays()
    expected = expected_of(case, x, filter)
    layer = make_layer(case, filter, None)
    for _ in range(2):
        room = np.zeros((1, 70, 8), np.float32)
        signal, out = room[:, 10:60], room[:, 10 + shift : 60 + shift]
        signal[...] = x
        layer(signal, out=out)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("permute", [False, True])
def test_a_layer_asked_again_for_an_x_it_has_to_copy(permute):
    """NumPy ignores the strides of axes of one where it says aligned; records have odd ones."""
    x = np.arange(8, dtype=np.float32)
    records = np.zeros(8, np.dtype([("value", "f4", (2,)), ("tag", "u1")]))
    records["value"][:, 0] = x
    layer = Conv1D(1, 1, 1, permute=permute)
    layer.filter = np.ones((1, 1, 1), np.float32)
    shape = (1, 1, 8) if permute else (1, 8, 1)
    odd = np.lib.stride_tricks.as_strided(x, shape, (3, 3, 4) if permute else (3, 4, 3))
    for signal in (odd, x.reshape(shape), records["value"][:, 0].reshape(shape)):
        for _ in range(3):
            np.testing.assert_array_equal(layer(signal).ravel(), x)


def test_records_of_two_positions_in_steps():
    records = np.zeros(1, np.dtype([("value", "f4", (64, 8)), ("tag", "u1")]))
    records["value"] = np.arange(512).reshape(64, 8)
    x = records["value"][:, ::2]
    layer = Conv1D(1, 8, 8)
    layer.filter = np.eye(8, dtype=np.float32)[None]
    for _ in range(3):
        np.testing.assert_array_equal(layer(x), x)


def test_new_weights_replace_the_old():
    case = Case(3, 8, 8, 50, padding="same", has_bias=True)
    x, filter, bias = case.arrays()
    layer = make_layer(case, filter, bias)
    layer(x)
    layer.filter, layer.bias = -filter, bias + 1
    np.testing.assert_array_equal(layer(x), expected_of(case, x, -filter, bias + 1))
    np.testing.assert_array_equal(
        Conv1D(3, 8, 8, padding="same", rng=0)(np.zeros_like(x)), np.zeros_like(x)
    )

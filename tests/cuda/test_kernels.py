"""Compiled kernels, interpreted: exact on small integers, at borders and interiors alike."""

import re
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings

from numbaconv.cuda import compiler, dense, driver, execute
from numbaconv.cuda.compiler import Image
from numbaconv.cuda.families import FAMILIES
from tests.cuda.comparison import (
    arrays_of,
    assert_exact,
    expected_of,
    kernel_of,
    layer_of,
)
from tests.cuda.conftest import ptx_of
from tests.cuda.fake_driver import FakeDriver
from tests.cuda.ptx.program import InterpreterError
from tests.strategies import Case, cases, small_integers

NAMES = ("float32", "float16", "bfloat16")


def tiny_integers(rng, shape):
    """Sums of hundreds of products of these are exact in every dtype, up to one rounding."""
    return rng.integers(-2, 3, shape)


# --- everything that a call may be


def on_the_device(case):
    """A case that a GPU can have: NumPy makes native, aligned arrays of its own."""
    plain = ("byte-swapped", "unaligned", "read-only")
    if case.x_layout in plain:
        case = case.but(x_layout="contiguous")
    return case.but(filter_layout="contiguous")


def check_drawn(gpu, case):
    assert_exact(gpu, on_the_device(case), small_integers, case.dtype, ways=("device", "conv1d"))


@settings(max_examples=30)
@given(case=cases())
def test_drawn_problems(gpu, case):
    check_drawn(gpu, case)


@pytest.mark.slow
@settings(max_examples=250)
@given(case=cases())
def test_many_drawn_problems(gpu, case):
    check_drawn(gpu, case)


# --- dense kernels: ragged, strided, dilated, grouped, asymmetric

DENSE = [
    Case(3, 64, 136, 130, padding=1, has_bias=True),
    Case(1, 16, 16, 1),
    Case(3, 36, 72, 90, batch=2, stride=2, padding=(3, 0), has_bias=True),
    Case(7, 32, 64, 70, dilation=5, padding=(15, 7), padding_mode="reflect"),
    Case(4, 96, 96, 60, dilation=2, padding=(6, 0), num_groups=2, has_bias=True),
    Case(2, 16, 64, 40, stride=3, padding=(-3, 5), padding_mode="replicate"),
    Case(11, 32, 32, 60, dilation=5, padding=25, padding_mode="circular", batch=2),
]
RAGGED = [
    Case(3, 22, 34, 130, padding=1, has_bias=True),
    Case(5, 18, 90, 40, stride=4, padding=(9, 2), dilation=3, padding_mode="reflect"),
    Case(3, 66, 132, 33, num_groups=3, padding="same", has_bias=True),
]
PRODUCTS = [
    ("float32", "exact"), ("float32", "tf32"), ("float32", "3xtf32"), ("float16", "exact"),
    ("bfloat16", "exact"),
]  # fmt: skip


@contextmanager
def only(*names):
    """Dispatch among these families alone."""
    with pytest.MonkeyPatch.context() as patch:
        kept = tuple(family for family in FAMILIES if family.name in names)
        patch.setattr("numbaconv.dispatch.cuda_kernels", lambda: kept)
        execute.plan_for.cache_clear()
        yield
    execute.plan_for.cache_clear()


# The two that share no code but the pipeline are met by all cases at once, others more slowly.
FAST = [("float32", "exact"), ("bfloat16", "exact")]


@pytest.mark.parametrize(
    ("case", "name", "precision"),
    [
        pytest.param(
            case, *product, id=f"{case} {product}",
            marks=[] if (i % 2 == 0 and product in FAST) or i == 2 else pytest.mark.slow,
        )
        for i, case in enumerate([*DENSE, *RAGGED])
        for product in PRODUCTS
    ],
)  # fmt: skip
def test_dense(gpu, case, name, precision):
    exact = (name, precision) == ("float32", "exact")
    with only("ffma" if exact else "mma"):
        assert_exact(gpu, case, tiny_integers, name, ways=("host",), precision=precision)


def test_who_takes_dense_problems(gpu):
    """The order of preference, for channels that are many, few, and too few."""
    cases = [Case(3, 128, 96, 50), Case(3, 32, 24, 50), Case(3, 4, 4, 50)]
    assert [kernel_of(case) for case in cases] == ["ffma", "ffma", "scalar"]
    for more in ({"name": "bfloat16"}, {"precision": "tf32"}):
        assert [kernel_of(case, **more) for case in cases] == ["mma", "resident", "resident"]
    assert [kernel_of(case, precision="3xtf32") for case in cases] == ["mma", "mma", "scalar"]


# --- dense kernels on Hopper

HOPPER = [
    Case(3, 64, 136, 130, padding=1, has_bias=True),
    Case(3, 72, 64, 90, batch=2, stride=2, padding=(3, 0), has_bias=True),
    Case(7, 128, 64, 70, dilation=5, padding=(15, 7), padding_mode="reflect"),
    Case(1, 80, 16, 1),
    Case(4, 192, 96, 60, dilation=2, padding=(6, 0), num_groups=2, has_bias=True),
    Case(5, 90, 34, 140, stride=3, dilation=2, padding=(-3, 5), padding_mode="replicate"),
    Case(2, 66, 132, 33, num_groups=3, padding="same", padding_mode="circular", batch=2),
]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(
            case, name, id=f"{case} {name}",
            marks=[] if i < 2 and name == "bfloat16" else pytest.mark.slow,
        )
        for i, case in enumerate(HOPPER)
        for name in NAMES[1:]
    ],
)  # fmt: skip
def test_dense_on_hopper(hopper, case, name):
    with only("wgmma"):
        assert_exact(hopper, case, tiny_integers, name, ways=("host",))


BOXES = [
    Case(3, 64, 136, 130, padding=1, has_bias=True),
    Case(3, 72, 64, 90, batch=2, stride=2, padding=(3, 0), has_bias=True),
    Case(7, 128, 64, 70, dilation=5, padding=(15, 40)),
    Case(1, 80, 16, 1, padding=(0, 3)),
    Case(1, 64, 64, 300, stride=2),
    Case(4, 256, 96, 60, dilation=2, padding=(6, 0), num_groups=2, has_bias=True),
    Case(5, 88, 40, 140, stride=3, dilation=2, padding=(-3, 5)),
    Case(2, 192, 120, 33, num_groups=3, padding="same", batch=2, padding_mode="zeros"),
    Case(3, 64, 64, 700, stride=8, padding=(-2, -7), padding_mode="reflect"),
    Case(11, 64, 64, 200, dilation=7, stride=5, padding="causal"),
    Case(3, 64, 64, 200, dilation=2, stride=2),
    Case(4, 64, 64, 200, dilation=6, stride=4),
]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(
            case, name, id=f"{case} {name}",
            marks=[] if i < 3 and name == "float16" else pytest.mark.slow,
        )
        for i, case in enumerate(BOXES)
        for name in NAMES[1:]
    ],
)  # fmt: skip
def test_boxes_on_hopper(hopper, case, name):
    with only("tma"):
        assert_exact(hopper, case, tiny_integers, name, ways=("host", "device"))


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
def test_the_large_tile_of_hopper(hopper, monkeypatch, stride):
    monkeypatch.setitem(dense.SHARE, (256, 128), 1e3)
    whole = Case(
        5, 136, 200, 300 * stride, stride=stride, dilation=2, padding=(2, 1), has_bias=True
    )
    for case in (whole, whole.but(in_channels=70, out_channels=134)):
        x, *weights = arrays_of(case, tiny_integers, "bfloat16")
        for family in ("tma", "wgmma") if case.in_channels == 136 else ("wgmma",):
            with only(family):
                assert "256x128" in layer_of(case, *weights).explain(x).details["tile"]
                assert_exact(hopper, case, tiny_integers, "bfloat16", ways=("device",))


def test_who_takes_problems_on_hopper(hopper):
    cases = [Case(3, 128, 96, 50), Case(3, 32, 24, 50), Case(3, 4, 4, 50)]
    assert [kernel_of(case, "bfloat16") for case in cases] == ["tma", "resident", "resident"]
    for case in (
        cases[0].but(padding=1, padding_mode="circular"), cases[0].but(in_channels=132),
        cases[0].but(num_groups=2, in_channels=192),
    ):  # fmt: skip
        assert kernel_of(case, "bfloat16") == "wgmma"
    assert [kernel_of(case) for case in cases] == ["ffma", "ffma", "scalar"]
    assert kernel_of(cases[0], precision="3xtf32") == "mma"


WAIT = "wgmma.wait_group.sync.aligned "


@pytest.mark.parametrize(
    ("family", "old", "new", "fault"),
    [
        ("wgmma", "fence.proxy.async", "//", "not visible to the asynchronous proxy"),
        ("wgmma", "bar.sync", "//", "race"),
        ("wgmma", f"{WAIT}1", f"{WAIT}3", "a factor of a product changed"),
        ("wgmma", "cp.async.wait_group 1", "cp.async.wait_group 2", "nobody has written"),
        ("tma", f"{WAIT}1", f"{WAIT}3", "a factor of a product changed"),
        (
            "tma",
            r"mbarrier.try_wait\S* p, \S+ (\S+);",
            r"setp.eq.u32 p,\1,\1;",
            "nobody has written",
        ),
        ("tma", r"mbarrier\.init", "//", "nobody has made"),
        ("tma", "cp.async.bulk.tensor", "//", "nothing is on its way"),
    ],
)
def test_faults_planted_on_hopper_are_found(hopper, monkeypatch, family, old, new, fault):
    def mutated(tile, architecture):
        entry, text = ptx_of(tile)
        text, count = re.subn(old, new, text)
        assert count
        return Image(entry, text.encode())

    monkeypatch.setattr(compiler, "image", mutated)
    monkeypatch.setattr(driver, "_driver", FakeDriver((9, 0), 227 << 10))
    execute.plan_for.cache_clear()
    case = Case(3, 256, 64, 60)
    x, *weights = arrays_of(case, tiny_integers, "bfloat16")
    with only(family), pytest.raises(InterpreterError, match=fault):
        layer_of(case, *weights)(x)


# --- few channels: the filter stays

RESIDENT = [
    Case(5, 15, 15, 300, batch=3, dilation=4, padding=(9, 5), has_bias=True),
    Case(3, 32, 28, 300, batch=2, padding=(9, 5), padding_mode="reflect"),
    Case(3, 48, 64, 150, dilation=3, padding=9, padding_mode="circular", has_bias=True),
    Case(1, 2, 14, 1, padding=(2, 0), padding_mode="replicate"),
    Case(3, 16, 16, 5000, padding=(-3, 2), batch=2, has_bias=True),  # more tiles than blocks
]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(
            case, name, id=f"{case} {name}",
            marks=[] if name == "float32" or case == RESIDENT[1] else pytest.mark.slow,
        )
        for case in RESIDENT
        for name in NAMES
    ],
)  # fmt: skip
def test_few_channels(gpu, case, name):
    if name != "float32":  # whole words
        case = case.but(in_channels=-(-case.in_channels // 2) * 2)
        case = case.but(out_channels=-(-case.out_channels // 2) * 2)
    assert kernel_of(case, name, precision="tf32") == "resident"
    assert_exact(gpu, case, tiny_integers, name, ways=("host",), precision="tf32")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", range(2, 65, 12))
def test_every_number_of_few_channels(gpu, channels, name):
    for out_channels in (66 - channels, channels):
        case = Case(3, channels, out_channels, 70, padding=(2, 1), batch=2, has_bias=True)
        assert_exact(gpu, case, tiny_integers, name, ways=("host",), precision="tf32")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), PRODUCTS)
def test_the_large_tile(gpu, monkeypatch, name, precision):
    """Problems with very many blocks get tiles of 128x128; here the preference is theirs."""
    monkeypatch.setitem(dense.SHARE, (128, 128), 1e3)
    execute.plan_for.cache_clear()
    whole = Case(3, 80, 136, 257, padding=(2, 1), has_bias=True)
    for case in (whole, whole.but(in_channels=22, out_channels=134, stride=2, dilation=3)):
        x, *weights = arrays_of(case, tiny_integers, name)
        explanation = layer_of(case, *weights, precision=precision).explain(x)
        assert "128x128" in explanation.details["tile"]
        assert_exact(gpu, case, tiny_integers, name, ways=("device",), precision=precision)
    execute.plan_for.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), PRODUCTS)
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_every_stride_and_tap_count(gpu, stride, name, precision):
    for kernel_size, dilation in ((1, 1), (2, 3), (5, 1), (8, 2)):
        case = Case(
            kernel_size, 32, 64, 100, stride=stride, dilation=dilation, padding="same",
            has_bias=True,
        )  # fmt: skip
        assert_exact(gpu, case, tiny_integers, name, ways=("host",), precision=precision)


# --- depthwise

DEPTHWISE = [
    Case(4, 64, 64, 70, padding="causal", num_groups=64, has_bias=True),
    Case(4, 1064, 1064, 20, padding=(1, 2), num_groups=1064, batch=2),
    Case(3, 10, 10, 50, padding=(3, 1), padding_mode="reflect", num_groups=10),
    Case(3, 10, 10, 50, padding=(3, 1), stride=2, dilation=3, num_groups=10, has_bias=True),
    Case(11, 24, 24, 70, padding=-2, num_groups=24, padding_mode="circular"),
    Case(1, 24, 24, 5, num_groups=24, has_bias=True),
    Case(7, 8, 8, 3, padding=9, padding_mode="replicate", num_groups=8),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise(gpu, case, name):
    assert kernel_of(case, name) == "depthwise"
    assert_exact(gpu, case, tiny_integers, name, ways=("device",))


# --- what the fast kernels leave to the scalar one


@pytest.mark.parametrize(
    ("case", "name", "reason"),
    [
        (Case(3, 16, 16, 9, dtype="float64"), "float64", "multiplies float32, not float64"),
        (Case(3, 17, 17, 9), "float16", "not whole words"),
        (Case(3, 4, 16, 9), "float32", "fewer than 12 channels"),
        (Case(3, 16, 16, 9000, dilation=4000), "float32", "KiB of shared memory"),
    ],
    ids=str,
)
def test_scalar_takes_what_others_decline(gpu, case, name, reason):
    arrays = arrays_of(case, tiny_integers, name)
    explanation = layer_of(case, *arrays[1:]).explain(arrays[0])
    assert explanation.kernel == "scalar"
    assert reason in str(explanation)
    assert_exact(gpu, case, tiny_integers, name)


@pytest.mark.parametrize("name", [*NAMES, "float64"])
def test_strides_of_every_kind(gpu, name):
    for x_layout in ("fortran", "reversed", "every second channel", "inner", "broadcast"):
        case = Case(3, 8, 16, 9, batch=2, padding=1, x_layout=x_layout, has_bias=True)
        assert_exact(gpu, case, tiny_integers, name, ways=("device",))
        assert_exact(gpu, case.but(permute=True), tiny_integers, name, ways=("conv1d",))


# --- floats


def normal(rng, shape):
    return rng.standard_normal(shape)


@pytest.mark.parametrize(
    ("name", "precision", "relative"),
    [
        ("float32", "exact", 3e-7), ("float32", "tf32", 5e-4), ("float32", "3xtf32", 1e-6),
        ("float16", "exact", 4e-4),
        ("bfloat16", "exact", 3e-3),
    ],
)  # fmt: skip
def test_accuracy_against_float64(gpu, name, precision, relative):
    gpu.reset()
    case = Case(3, 64, 64, 60, padding=1, has_bias=True)
    arrays = arrays_of(case, normal, name)
    expected = expected_of(case, arrays)
    y = layer_of(case, *arrays[1:], precision=precision)(arrays[0]).astype(np.float64)
    error = np.linalg.norm(y - expected) / np.linalg.norm(expected)
    assert 0 < error < relative


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [(32, 32, 1), (32, 32, 32), (3, 5, 1)])
def test_what_is_not_finite_spreads_as_in_the_definition(gpu, name, channels):
    gpu.reset()
    case = Case(3, *channels[:2], 30, padding=1, num_groups=channels[2])
    x, filter, _ = arrays_of(case, tiny_integers, name)
    x[0, 7, 1], x[0, 20, 2], filter[0, 0, 1] = np.inf, np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = expected_of(case, (x, filter, None))
    for precision in ("exact", "3xtf32") if name == "float32" else ("exact",):
        y = layer_of(case, filter, None, precision=precision)(x)
        np.testing.assert_array_equal(y.astype(np.float64), expected, precision)

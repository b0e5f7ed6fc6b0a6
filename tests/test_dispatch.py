"""Which kernel runs: the order, the reasons, and an answer for every valid problem."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from numbaconv import dispatch, reference
from numbaconv.cpu import sliced
from numbaconv.cpu.dense import DENSE
from numbaconv.cpu.depthwise import DEPTHWISE
from numbaconv.cpu.family import blocking_for
from numbaconv.cpu.sliced import window_run
from numbaconv.cpu.sliding import SLIDING
from numbaconv.cpu.target import ISAS, Target, host
from numbaconv.dispatch import Explanation, choose, cpu_kernels, cpu_target
from numbaconv.interop import empty_output
from numbaconv.problem import ConvProblem, Geometry
from numbaconv.weights import Weights

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
TRANSFORMS = ["winograd", "fft"]
ORDER = [
    *TRANSFORMS,
    "fir", "narrow", "interleaved", "planar", "depthwise", "sliding", "dense", "small groups",
    "grouped", "reference",
]  # fmt: skip


def problem(
    kernel_size, inputs, outputs, length=100, batch=2, dtype=F32, layout="NLC", **parameters
):
    geometry = Geometry(kernel_size, inputs, outputs, **parameters)
    return ConvProblem(
        geometry, batch, length, dtype, has_bias=True, algorithm="direct", layout=layout
    )


def integers(rng, shape, dtype):
    """Small integers: every order of summation gives the same float."""
    return rng.integers(-3, 4, shape).astype(dtype)


def run(kernel, p, target):
    """What `kernel` makes of `p`, and the definition."""
    rng, g = np.random.default_rng(0), p.geometry
    filter_ = integers(rng, g.filter_shape, p.dtype)
    bias = integers(rng, g.out_channels, p.dtype)
    x = integers(rng, (p.batch, p.length, g.in_channels), p.dtype)
    y = np.full(p.out_shape, np.nan, p.dtype)
    kernel.plan(p, Weights(g, filter_, bias), target).execute(x, y)
    return y, reference.convolve(p, x, filter_, bias)


def assert_right(kernel, p, target=None):
    y, expected = run(kernel, p, target or cpu_target())
    np.testing.assert_array_equal(y, expected)


# --- the list


def test_order_of_the_kernels():
    assert [kernel.name for kernel in cpu_kernels()] == ORDER


def test_the_docstring_is_the_list():
    assert re.findall(r"^\d+\. `([\w ]+)`", dispatch.__doc__, re.MULTILINE) == ORDER


def test_reference_is_the_last_and_declines_nothing():
    assert cpu_kernels()[-1] is reference
    assert reference.declines(problem(3, 4, 4), None) is None


# What is narrow, or fills a vector, depends on the processor: the ladder is that of this one.
WIDE = ISAS["avx512"]
ONE_UNIT = dataclasses.replace(WIDE, core="znver4")

# One problem for each kernel, and what each kernel before it says.
LADDER = {
    "fir": (problem(9, 1, 1), {}),
    "narrow": (problem(3, 64, 1), {"fir": "64 → 1 channels"}),
    "interleaved": (
        problem(9, 3, 3, num_groups=3),
        {"fir": "positions of 3 channels are not side by side", "narrow": "num_groups=3"},
    ),
    "planar": (
        problem(3, 8, 64, layout="NCL"),
        {"fir": "8 → 64", "narrow": "C_out=64 fills", "interleaved": "8 → 64"},
    ),
    "depthwise": (
        problem(3, 32, 32, num_groups=32),
        {
            "fir": "positions of 32 channels are not side by side",
            "narrow": "num_groups=32",
            "interleaved": "no two positions of 32 channels fit in 16 lanes",
            "planar": "do not pay for the transposition",
        },
    ),
    "sliding": (
        problem(3, 3, 8, dilation=2),
        {
            "fir": "3 → 8",
            "narrow": "C_in=3 fills 16 lanes less well",
            "interleaved": "3 → 8",
            "planar": "do not pay for the transposition of 3 → 8 channels",
            "depthwise": "C_in/G=3",
        },
    ),
    "dense": (
        problem(3, 24, 64),
        {
            "fir": "24 → 64",
            "narrow": "C_out=64 fills",
            "interleaved": "24 → 64",
            "planar": "do not pay for the transposition of 24 → 64 channels",
            "depthwise": "C_in/G=24",
            "sliding": "C_out/G=64: wider tiles",
        },
    ),
    "small groups": (
        problem(3, 16, 16, num_groups=8),
        {
            "fir": "16 → 16",
            "narrow": "num_groups=8",
            "interleaved": "16 → 16",
            "planar": "do not pay for the transposition",
            "depthwise": "C_in/G=2 with 8 group",
            "sliding": "groups of 2 channels: several fit",
            "dense": "num_groups=8",
        },
    ),
    "grouped": (
        problem(3, 64, 128, num_groups=2),
        {
            "fir": "64 → 128",
            "narrow": "num_groups=2",
            "interleaved": "64 → 128",
            "planar": "do not pay for the transposition",
            "depthwise": "C_in/G=32 with 2 group",
            "sliding": "C_out/G=64: wider tiles",
            "dense": "num_groups=2",
            "small groups": "groups of 32 → 64 channels",
        },
    ),
}


@pytest.mark.parametrize("name", LADDER)
def test_each_kernel_takes_its_own_and_the_others_say_why_not(name):
    p, reasons = LADDER[name]
    choice = choose(p, target=WIDE)
    assert choice.kernel.name == name
    assert [declined for declined, _ in choice.declined] == [*TRANSFORMS, *reasons]
    for (_, said), wanted in zip(choice.declined[2:], reasons.values(), strict=True):
        assert wanted in said


def test_more_reasons():
    uneven = problem(9, 3, 3, num_groups=3, stride=2, dilation=3, layout="NCL", length=1000)
    assert "one after another" in dict(choose(uneven, target=ONE_UNIT).declined)["fir"]
    multiplied = problem(3, 4, 8, num_groups=4)
    assert "channel multiplier 2" in dict(choose(multiplied).declined)["depthwise"]
    thin = problem(3, 1, 4)
    if cpu_target().lanes(F32) >= 8:
        assert "C_in=1 fills" in dict(choose(thin).declined)["narrow"]


def test_dense_tiles_stand_in_for_sliding_ones_where_loads_keep_up():
    for p in (problem(3, 3, 8), problem(5, 12, 16, dilation=4)):
        choice = choose(p, target=ONE_UNIT)
        assert choice.kernel.name == "dense"
        assert "one multiply-add a cycle" in dict(choice.declined)["sliding"]
        assert choose(p, target=WIDE).kernel.name == "sliding"
    wide_groups = problem(3, 32, 32, num_groups=2, dilation=2)
    assert choose(wide_groups, target=ONE_UNIT).kernel.name == "grouped"
    assert choose(wide_groups, target=WIDE).kernel.name == "sliding"
    for p in (problem(3, 3, 8, dilation=2), problem(3, 8, 24, num_groups=2)):
        assert choose(p, target=ONE_UNIT).kernel.name == "sliding"


@pytest.mark.parametrize(
    "shape, groups, expected",
    [
        ((31, 2, 1), 1, "planar"),  # a stereo signal to one channel
        ((2, 2, 2), 1, "planar"),
        ((7, 1, 2), 1, "planar"),
        ((2, 3, 8), 1, "dense"),
        ((7, 16, 1), 1, "narrow"),
        ((64, 24, 3), 1, "planar"),
        ((21, 48, 1), 1, "narrow"),
        ((101, 2, 2), 2, "interleaved"),  # one filter for each of two channels
        ((7, 8, 8), 8, "interleaved"),
        ((7, 9, 9), 9, "depthwise"),
        ((31, 16, 16), 16, "depthwise"),
        ((4, 2, 2), 2, "interleaved"),
        ((51, 4, 2), 2, "planar"),
        ((3, 16, 16), 4, "small groups"),
        ((64, 64, 8), 4, "narrow"),
        ((3, 512, 64), 8, "narrow"),
        ((3, 40, 8), 4, "planar"),  # sums of each lane would be too many for so few products
        ((5, 64, 16), 4, "planar"),
        ((3, 24, 3), 3, "planar"),  # 8 of 16 lanes would be in use
        ((3, 64, 64), 4, "grouped"),
        ((9, 40, 10), 1, "planar"),
        ((7, 24, 24), 1, "dense"),
        ((7, 40, 41), 1, "dense"),
    ],
)
def test_vectors_lie_along_positions_where_channels_leave_lanes_idle(shape, groups, expected):
    p = problem(*shape, length=1000, num_groups=groups)
    assert choose(p, target=ONE_UNIT).kernel.name == expected


@pytest.mark.parametrize(
    "taps, channels, parameters, expected",
    [
        (7, 64, {}, "fir"),
        (11, 64, {"dilation": 2}, "fir"),
        (31, 64, {}, "depthwise"),
        (31, 8, {}, "interleaved"),
        (15, 8, {}, "fir"),
        (31, 3, {}, "fir"),  # three channels are transposed more slowly
        (15, 64, {}, "fir"),  # every other tap is read by permutations
        (17, 64, {"dilation": 2}, "depthwise"),
        (3, 64, {"stride": 2}, "fir"),
        (15, 64, {"stride": 2}, "depthwise"),
        (31, 8, {"stride": 2}, "fir"),
        (7, 8, {"stride": 4}, "fir"),
        (7, 8, {"stride": 2, "dilation": 3}, "planar"),  # taps one after another
    ],
)
def test_channel_first_signals_with_filters_of_their_own(taps, channels, parameters, expected):
    p = problem(taps, channels, channels, num_groups=channels, length=1000, layout="NCL")
    p = dataclasses.replace(p, geometry=dataclasses.replace(p.geometry, **parameters))
    assert choose(p, target=ONE_UNIT).kernel.name == expected
    two_units = "planar" if len(parameters) > 1 else "fir"
    assert choose(p, target=WIDE).kernel.name == two_units


@pytest.mark.parametrize(
    "taps, channels, stride, expected",
    [
        (3, 1, 2, "fir"),
        (1023, 1, 7, "fir"),
        (7, 2, 2, "fir"),  # stereo
        (31, 4, 4, "fir"),
        (2, 4, 4, "depthwise"),
        (7, 8, 2, "depthwise"),
        (127, 16, 2, "depthwise"),
    ],
)
def test_channel_last_signals_with_a_stride(taps, channels, stride, expected):
    p = problem(taps, channels, channels, num_groups=channels, stride=stride, length=16000)
    assert choose(p, target=ONE_UNIT).kernel.name == expected


@pytest.mark.parametrize("length", [40, 1000])
@pytest.mark.parametrize("layout", ["NLC", "NCL"])
def test_one_channel_is_summed_by_one_kernel_whatever_its_stride(layout, length):
    """Its order of taps is no other kernel's, so it may not depend on the length."""
    for taps in (1, 2, 9, 31):
        for stride in (1, 2, 3, 8):
            p = problem(taps, 1, 1, stride=stride, length=length, layout=layout)
            for target in (ONE_UNIT, WIDE):
                assert choose(p, target=target).kernel.name == "fir"


@pytest.mark.parametrize(
    "shape, length, layout, expected",
    [
        ((1, 64, 5), 1000, "NCL", "planar"),
        ((1, 64, 5), 1000, "NLC", "narrow"),
        ((1, 64, 5), 8, "NCL", "narrow"),
        ((2, 256, 2), 1000, "NCL", "planar"),
        ((4, 256, 2), 300, "NCL", "planar"),
        ((31, 64, 1), 100, "NCL", "narrow"),
        ((15, 48, 1), 4000, "NCL", "narrow"),
    ],
)
def test_dot_products_by_vectors_of_positions(shape, length, layout, expected):
    """In the order of sums that is theirs in every layout and length."""
    p = problem(*shape, length=length, layout=layout)
    kernel = choose(p, target=ONE_UNIT).kernel
    assert kernel.name == expected
    if expected == "planar":
        assert {panel.tile.variant.order for panel in kernel.panels(p, ONE_UNIT)} == {"lanes"}
    assert choose(p, target=WIDE).kernel.name == "narrow"


def test_orders_of_sums_do_not_mix():
    """What goes by dot products in one layout or length does so in all of them."""
    for layout, length in (("NLC", 100), ("NCL", 100), ("NCL", 8)):
        for shape, name in (((3, 64, 17), "dense"), ((31, 64, 1), "narrow")):
            p = problem(*shape, length=length, layout=layout, padding="same")
            assert choose(p, target=ONE_UNIT).kernel.name == name


@st.composite
def problems(draw, most=40):
    groups = draw(st.sampled_from([1, 1, 2, 3, 8]))
    inputs, outputs = (groups * draw(st.integers(1, most // groups)) for _ in range(2))
    if draw(st.booleans()):
        outputs = inputs
        groups = draw(st.sampled_from([groups, inputs]))
    try:
        return problem(
            draw(st.integers(1, 12)), inputs, outputs,
            length=draw(st.integers(1, 60)), batch=draw(st.integers(1, 3)),
            dtype=draw(st.sampled_from([F32, F64])), num_groups=groups,
            stride=draw(st.integers(1, 3)), dilation=draw(st.integers(1, 3)),
            padding=(draw(st.integers(-2, 9)), draw(st.integers(-2, 9))),
            padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
            layout=draw(st.sampled_from(["NLC", "NCL"])),
        )  # fmt: skip
    except ValueError:
        assume(False)


made_up_targets = st.builds(
    Target,
    isa=st.just("made up"),
    vector_bytes=st.sampled_from([16, 32, 64, 128, 256]),
    registers=st.sampled_from([8, 16, 32, 64]),
    fma=st.booleans(),
    l1=st.sampled_from([1 << 10, 64 << 10]),
    l2=st.sampled_from([2 << 10, 4 << 20]),
    last_cache=st.just(8 << 20),
)


@given(problems(), st.one_of(st.sampled_from(list(ISAS.values())), made_up_targets))
def test_there_is_a_compiled_kernel_for_every_problem_on_every_target(p, target):
    choice = choose(p, target=target)
    assert choice.kernel is not reference
    assert [name for name, _ in choice.declined] == ORDER[: len(choice.declined)]
    for _, reason in choice.declined:
        assert isinstance(reason, str)
        assert len(reason) > 10


@given(problems(), st.integers(60, 4000), st.sampled_from([*ISAS.values(), ONE_UNIT]))
def test_auto_estimates_every_layer(p, length, target):
    """Whatever kernel sums directly: what it takes is weighed against transforms."""
    choice = choose(dataclasses.replace(p, length=length, algorithm="auto"), target=target)
    assert choice.kernel is not reference


@given(problems(), made_up_targets)
def test_a_decline_is_none_or_a_reason(p, target):
    for kernel in cpu_kernels():
        reason = kernel.declines(p, target)
        assert reason is None or (isinstance(reason, str) and reason)


# --- answers


@settings(max_examples=60)
@given(problems(), st.sampled_from(ORDER))
def test_each_kernel_forced_gives_the_definition_or_declines(p, name):
    forced = next(kernel for kernel in cpu_kernels() if kernel.name == name)
    choice = choose(p, kernels=[forced, reference])
    assert (choice.kernel is forced) == (forced.declines(p, cpu_target()) is None)
    assert_right(choice.kernel, p)


@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_each_kernel_is_right_on_its_own_ground(name, dtype):
    p, _ = LADDER[name]
    own = ConvProblem(p.geometry, 2, 700, dtype, has_bias=True, algorithm="direct", layout=p.layout)
    kernel = choose(own, target=WIDE).kernel
    assert kernel.name == name
    if kernel.declines(own, host()) is not None:
        pytest.skip("declined")
    assert_right(kernel, own)


@pytest.mark.parametrize(
    "p",
    [
        problem(9, 2100, 2100, length=12, batch=1, num_groups=2100, padding="same"),
        problem(3, 2100, 2100, length=40, batch=1, num_groups=2100),
        problem(9, 4111, 4111, length=40, batch=1, num_groups=4111, dilation=2),
        problem(9, 3002, 4503, length=40, batch=1, num_groups=1501),
        problem(3, 800, 3200, length=40, batch=1, num_groups=800, padding="same"),
        problem(700, 1, 1, length=1500, padding="same"),
        problem(5, 2000, 1, length=30),
        problem(3, 3000, 20, length=30),
        problem(2, 6, 300, length=2000),
        problem(3, 5, 333, length=200, num_groups=1, dilation=2, padding="same"),
        problem(4, 8, 1200, length=70, num_groups=2, padding="same"),
    ],
    ids=lambda p: f"{p.geometry.kernel_size}x{p.geometry.in_channels}",
)
def test_large_problems_are_cut_and_right(p):
    assert_right(choose(p).kernel, p)


@pytest.mark.parametrize("isa", ["sse", "avx", "avx2", "neon"])
@pytest.mark.parametrize("name", LADDER)
def test_kernels_of_narrower_vectors_run_here_too(name, isa):
    """LLVM generates any vector width for any processor; the results are the same."""
    target = ISAS[isa]
    if target.fma and not host().fma:
        pytest.skip("llvm.fma would call a library")
    p, _ = LADDER[name]
    kernel = next(kernel for kernel in cpu_kernels() if kernel.name == name)
    if kernel.declines(p, target) is not None:
        pytest.skip("declined")
    assert_right(kernel, p, target)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "avx"])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("channels", [96, 104, 101, 8])
def test_depthwise_past_the_caches(isa, dtype, channels):
    """Slices stored two at a time where a line is wider than a vector, and one that is left."""
    if ISAS[isa].fma and not host().fma:
        pytest.skip("llvm.fma would call a library")
    target = dataclasses.replace(ISAS[isa], last_cache=64 << 10)
    length = (2 << 20) // (channels * dtype.itemsize) + 50  # "far" by two taps
    p = problem(2, channels, channels, length, 1, dtype, num_groups=channels, padding="causal")
    rng, g = np.random.default_rng(0), p.geometry
    filter_ = integers(rng, g.filter_shape, dtype)
    bias, x = integers(rng, channels, dtype), integers(rng, (1, length, channels), dtype)
    y = empty_output(p.out_shape, dtype)
    y.fill(np.nan)
    DEPTHWISE.plan(p, Weights(g, filter_, bias), target).execute(x, y)
    np.testing.assert_array_equal(y, reference.convolve(p, x, filter_, bias))


@pytest.mark.parametrize("isa", ["avx2", "avx"])
@pytest.mark.parametrize(
    "p, prefetches",
    [
        (problem(16, 64, 128, length=45, num_groups=16, padding="same"), "far"),
        (problem(7, 96, 96, length=45, num_groups=24, padding=(4, 0)), "far"),
        (problem(5, 48, 48, length=45, num_groups=48, stride=2), "far"),
        (problem(31, 512, 512, length=70, num_groups=512, padding="same"), "far_y"),
    ],
    ids=lambda value: f"{value.geometry.in_channels}" if isinstance(value, ConvProblem) else value,
)
def test_slices_that_ask_for_far_lines(p, prefetches, isa, monkeypatch):
    if ISAS[isa].fma and not host().fma:
        pytest.skip("llvm.fma would call a library")
    monkeypatch.setattr(sliced, "FAR_BYTES", 0)
    target = dataclasses.replace(ISAS[isa], last_cache=8 << 20 | 1)  # blocking is remembered
    kernel = choose(p, target=target).kernel
    assert blocking_for(p, target, kernel).tile.variant.prefetches == prefetches
    assert_right(kernel, p, target)


@pytest.mark.skipif(not host().fma, reason="llvm.fma would call a library")
@pytest.mark.parametrize("taps", range(1, sliced.MOST_WRITTEN_TAPS + 2))
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("channels, groups", [(24, 24), (20, 20), (8, 1), (12, 3), (24, 12)])
def test_taps_that_are_written_out(taps, dtype, channels, groups):
    p = problem(taps, channels, channels, dtype=dtype, num_groups=groups, padding="same")
    assert_right(choose(p, target=ISAS["avx2"]).kernel, p, ISAS["avx2"])


def test_rows_that_collide_are_copied_but_for_few_taps_and_a_large_output():
    """And what is copied is not stored past the caches: positions and channels at AVX2."""
    for taps, channels, length, is_copied in (
        (7, 512, 500, True), (7, 512, 16000, False), (11, 512, 16000, False),
        (15, 512, 16000, True), (7, 1024, 8000, True), (7, 480, 2000, False),
    ):  # fmt: skip
        p = problem(taps, channels, channels, length=length, num_groups=channels)
        assert (sliced.window_run(p, ISAS["avx2"]) > 0) == is_copied
        assert DEPTHWISE.stores_lines(p, ISAS["avx2"]) == (not is_copied)


def test_slices_are_stored_together_where_products_are_few():
    few, many = (problem(taps, 64, 128, num_groups=16) for taps in (8, 9))
    assert SLIDING.stores_lines(few, ISAS["avx2"])
    assert not SLIDING.stores_lines(many, ISAS["avx2"])
    assert SLIDING.stores_lines(many, ISAS["avx512"])  # a vector is a line


@pytest.mark.skipif(not host().fma, reason="llvm.fma would call a library")
@pytest.mark.parametrize("layout", ["NLC", "NCL"])
@pytest.mark.parametrize(
    "p",
    [
        problem(7, 512, 512, length=150, num_groups=512, padding="same"),
        problem(31, 1024, 1024, length=70, num_groups=1024, padding="causal"),
        problem(
            4, 512, 512, length=100, num_groups=512, dilation=4, padding=7, padding_mode="reflect"
        ),
        problem(5, 1024, 1024, length=99, num_groups=256, padding="same"),
        problem(6, 512, 1024, length=64, num_groups=512, padding=(-2, 9), dtype=F64),
    ],
    ids=lambda p: f"{p.geometry.kernel_size}x{p.geometry.in_channels}",
)
def test_rows_that_collide_are_read_through_windows(layout, p):
    target = ISAS["avx2"]
    p = dataclasses.replace(p, layout=layout)
    kernel = choose(p, [k for k in cpu_kernels() if k.name not in ("fir", "planar")], target).kernel
    band = blocking_for(p, target, kernel).band
    assert (band.is_copied, band.gap) == (True, 64 // p.dtype.itemsize)
    assert_right(kernel, p, target)


@pytest.mark.parametrize(
    "p, run",
    [
        (problem(31, 512, 512, num_groups=512), 60),
        (problem(41, 1024, 1024, num_groups=1024), 30),
        (problem(31, 2048, 2048, num_groups=2048), 0),  # no window in the second cache
        (problem(31, 520, 520, num_groups=520), 0),  # rows that fall on many sets
        (problem(4, 512, 512, num_groups=512), 0),  # few taps
        (problem(4, 512, 512, num_groups=512, dilation=8), 60),
        (problem(31, 512, 512, num_groups=512, stride=2), 0),
    ],
)
def test_which_rows_collide(p, run):
    assert window_run(p, ISAS["avx2"]) == run
    assert window_run(p, ISAS["avx512"]) == 0


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    "parameters",
    [
        dict(kernel_size=16, stride=8, padding=(8, 0)),
        dict(kernel_size=3, stride=4, padding=1, padding_mode="circular"),
        dict(kernel_size=5, stride=3, dilation=2, padding=(0, 5)),
    ],
)
def test_blocks_that_go_over_all_panels_are_right(parameters, dtype):
    """Where few positions read a large x; also where y has to be staged panel by panel."""
    p = problem(inputs=192, outputs=110, length=290, batch=1, dtype=dtype, **parameters)
    target = dataclasses.replace(host(), l2=32 << 10)
    blocking = blocking_for(p, target, DENSE)
    assert blocking.is_block_by_block and len(blocking.reduction) > 1
    assert_right(DENSE, p, target)
    rng, g = np.random.default_rng(0), p.geometry
    filter_, bias = integers(rng, g.filter_shape, dtype), integers(rng, g.out_channels, dtype)
    x, y = integers(rng, (1, p.length, 192), dtype), np.full((1, p.length_out, 220), np.nan, dtype)
    DENSE.plan(p, Weights(g, filter_, bias), target).execute(x, y[:, :, ::2])
    np.testing.assert_array_equal(y[:, :, ::2], reference.convolve(p, x, filter_, bias))
    assert np.isnan(y[:, :, 1::2]).all()


def test_a_tiny_cache_cuts_everything_small_and_right():
    target = Target("tiny", 16, 16, fma=False, l1=256, l2=1024, last_cache=1024)
    for p in (problem(5, 40, 24), problem(9, 24, 24, num_groups=24), problem(9, 1, 1)):
        assert_right(choose(p, target=target).kernel, p, target)


# --- failures are not declines


class Kernel:
    """A kernel that fails where it is told to."""

    name = "failing"

    def __init__(self, declines=None, plan=None):
        self._declines, self._plan = declines, plan

    def declines(self, problem, target):
        if isinstance(self._declines, Exception):
            raise self._declines
        return self._declines

    def plan(self, problem, weights, target):
        raise self._plan


@pytest.mark.parametrize("error", [RuntimeError("x"), ValueError("x"), NotImplementedError("x")])
def test_an_exception_while_declining_propagates(error):
    with pytest.raises(type(error)):
        choose(problem(3, 4, 4), kernels=[Kernel(declines=error), reference])


@pytest.mark.parametrize("error", [RuntimeError("x"), ValueError("x"), NotImplementedError("x")])
def test_an_exception_while_planning_propagates(error, monkeypatch):
    monkeypatch.setattr(dispatch, "cpu_kernels", lambda: (Kernel(plan=error), reference))
    p = problem(3, 4, 4, length=12345)
    weights = Weights(p.geometry, np.zeros(p.geometry.filter_shape, F32), None)
    for plan in (dispatch.make_plan, dispatch.explain_problem):
        dispatch.chosen.cache_clear()
        with pytest.raises(type(error)):
            plan(p, weights)
    dispatch.chosen.cache_clear()


def test_a_list_in_which_all_decline_is_an_error_that_names_the_problem():
    with pytest.raises(LookupError, match="no kernel accepts ConvProblem"):
        choose(problem(3, 4, 4), kernels=[Kernel(declines="never")])


def test_a_decline_is_passed_on_word_by_word():
    choice = choose(problem(3, 4, 4), kernels=[Kernel(declines="not today"), reference])
    assert choice.kernel is reference
    assert choice.declined == (("failing", "not today"),)


# --- explanations


def test_str_of_an_explanation():
    shown = str(Explanation("b", (("a", "too wide"),), {"tile": "1x2", "threads": "3"}, "small"))
    assert shown == ("kernel: b\n  declined a: too wide\ntile: 1x2\nthreads: 3\nerror bound: small")


@pytest.mark.parametrize("name", LADDER)
def test_explanations_hold_the_facts(name):
    p, _ = LADDER[name]
    weights = Weights(p.geometry, np.zeros(p.geometry.filter_shape, F32), None)
    explanation = dispatch.explain_problem(p, weights)
    assert explanation.kernel == name
    assert explanation.declined == choose(p).declined
    assert set(explanation.details) >= {"tile", "blocking", "threads", "packed weights"}
    family = choose(p).kernel.emitter.family
    assert explanation.details["tile"].startswith(f"{family}_f32_")
    assert f"gamma({p.geometry.reduction + 1})" in explanation.error_bound


# --- without a compiler

WITHOUT_JIT = """
import numpy as np, numbaconv
from numbaconv import reference
layer = numbaconv.Conv1D(3, 4, 8, stride=2, padding="same", has_bias=True, rng=0)
x = np.random.default_rng(0).standard_normal((2, 50, 4)).astype(np.float32)
y = layer(x)
problem = layer._problem(2, 50)
expected = reference.convolve(problem, x, layer.filter, layer.bias)
np.testing.assert_array_equal(y, expected.astype(np.float32))
np.testing.assert_array_equal(layer(x), y)
np.testing.assert_array_equal(
    numbaconv.conv1d(x, layer.filter, layer.bias, stride=2, padding="same"), y
)
inplace = np.ascontiguousarray(np.repeat(x, 2, axis=2))
same = numbaconv.Conv1D(3, 8, 8, padding="same", rng=0)
expected = same(inplace)
np.testing.assert_array_equal(same(inplace, out=inplace), expected)
numbaconv.warmup(layer)
print(numbaconv.explain(layer, x))
"""


def test_without_jit_the_reference_runs_and_explain_says_so():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_JIT],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "kernel: reference"
    assert lines[1] == "  declined compiled kernels: NUMBA_DISABLE_JIT is set"
    assert "accumulator: float64" in lines

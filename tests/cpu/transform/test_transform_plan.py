"""Every scheme through the whole skeleton: numbers, borders, layouts, what is not finite."""

import dataclasses
import math
from collections import Counter

import numba
import numpy as np
import pytest

from numbaconv import Conv1D
from numbaconv.cpu.transform import blocking as transform_blocking
from numbaconv.cpu.transform.accuracy import error_constant
from numbaconv.cpu.transform.folding import fold, fold_polyphase
from numbaconv.cpu.transform.methods import WINOGRAD_OUTPUTS
from numbaconv.cpu.transform.plan import TransformPlan, marked_ranges
from numbaconv.cpu.transform.scheme import RealFFT, Winograd
from numbaconv.cpu.transform.skeleton import first_tile_of, locate
from numbaconv.dispatch import cpu_target
from tests import oracle
from tests.strategies import LAYOUTS

WINOGRAD = [Winograd(m, taps) for taps, many in WINOGRAD_OUTPUTS.items() for m in many]
FFT = [RealFFT(n, gauss) for n in (16, 32, 64, 128, 256, 512) for gauss in (True, False)]
SCHEMES = pytest.mark.parametrize("scheme", [*WINOGRAD, *FFT], ids=lambda scheme: scheme.name)
# One of each kind of code: pairs of points, straight-line and two passes.
FEW = pytest.mark.parametrize(
    "scheme", [Winograd(6, 3), RealFFT(32, True), RealFFT(128, False)], ids=lambda s: s.name
)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def taps_for(scheme):
    return scheme.taps if isinstance(scheme, Winograd) else scheme.points // 3


def make_layer(scheme, inputs, outputs, dtype="float32", **parameters):
    parameters = {"kernel_size": taps_for(scheme), **parameters}
    return Conv1D(
        in_channels=inputs, out_channels=outputs, dtype=dtype, algorithm="direct",
        has_bias=True, rng=0, **parameters,
    )  # fmt: skip


def plan_of(layer, scheme, x, folding=None):
    problem = layer._problem(*x.shape[:2])
    folding = folding or fold(problem.geometry)
    return TransformPlan(problem, layer._weights, cpu_target(), scheme, folding)


def expected_of(layer, x):
    return oracle.convolve(
        x, layer.filter, layer.bias, stride=layer.stride, padding=layer.padding,
        dilation=layer.dilation, num_groups=layer.num_groups, padding_mode=layer.padding_mode,
        accumulator=np.longdouble,
    )  # fmt: skip


def run(plan, x, threads=1):
    y = np.full(plan.problem.out_shape, np.nan, plan.problem.dtype)
    plan.execute(x, y, threads)
    return y


def assert_close(plan, layer, x, y=None):
    """The stated bound, and the few units in the last place that are seen in practice."""
    y = run(plan, x) if y is None else y
    expected = expected_of(layer, x)
    error = np.abs(y - expected).max(initial=0)
    eps = np.finfo(y.dtype).eps
    sums = np.abs(layer.filter.astype(float)).sum((0, 1)).max()
    largest = np.abs(x).max() * sums + np.abs(layer.bias).max()
    assert error <= error_constant(plan.blocking.scheme, plan.blocking.folding) * eps * largest
    assert error <= 60 * eps * max(np.abs(expected).max(initial=0), 0.1 * largest)


def normal(*shape, dtype="float32"):
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


@DTYPES
@SCHEMES
def test_numbers(scheme, dtype):
    layer = make_layer(scheme, 20, 33, dtype, padding="same")
    x = normal(2, 3 * scheme.points + 5, 20, dtype=dtype)
    assert_close(plan_of(layer, scheme, x), layer, x)


def test_f23_is_exact_on_small_integers():
    rng = np.random.default_rng(0)
    layer = make_layer(Winograd(2, 3), 19, 37, padding=2)
    layer.filter = rng.integers(-4, 5, layer.filter.shape).astype("float32")
    layer.bias = rng.integers(-4, 5, 37).astype("float32")
    for length in range(1, 12):
        x = rng.integers(-4, 5, (2, length, 19)).astype("float32")
        y = run(plan_of(layer, Winograd(2, 3), x), x)
        np.testing.assert_array_equal(y, expected_of(layer, x))


BORDERS = [
    dict(padding=(5, 2)),
    dict(padding=(-2, 3)),
    dict(padding=(3, -1), padding_mode="replicate"),
    dict(padding=(7, 8), padding_mode="reflect"),
    dict(padding=(9, 4), padding_mode="circular"),
    dict(padding="causal", dilation=3),
    dict(padding="same", dilation=2, stride=2),
    dict(padding="same", stride=3),
    dict(padding=(4, 4), stride=2, dilation=3, padding_mode="reflect"),
    dict(padding="same", stride=4, dilation=6),
]


@FEW
@pytest.mark.parametrize("parameters", BORDERS, ids=str)
def test_borders_strides_and_dilations(scheme, parameters):
    stride = parameters.get("stride", 1)
    kernel_size = taps_for(scheme)
    phases = stride // math.gcd(stride, parameters.get("dilation", 1))
    if isinstance(scheme, Winograd):
        kernel_size = kernel_size * phases - (phases > 1)
    layer = make_layer(scheme, 6, 10, kernel_size=kernel_size, num_groups=2, **parameters)
    span = layer._geometry.span
    lengths = (1, span, span + 1, span + 30, 4 * scheme.points * stride)
    geometry = (kernel_size, stride, layer.dilation, layer.padding, layer.padding_mode)
    for length in filter(lambda length: oracle.is_valid(length, *geometry), lengths):
        x = normal(2, length, 6)
        plan = plan_of(layer, scheme, x)
        assert_close(plan, layer, x)


@FEW
@pytest.mark.parametrize("most", [1, 100, 512])
@pytest.mark.parametrize("parameters", [
    dict(padding="same"), dict(padding=(-3, 40)), dict(padding="causal", dilation=3),
    dict(padding="same", stride=2), dict(padding=(9, 4), padding_mode="circular", num_groups=2),
], ids=str)  # fmt: skip
def test_channel_first_arrays_in_runs_of_tiles(scheme, most, parameters, monkeypatch):
    """Strips and stages of one tile, of several, and of all."""
    monkeypatch.setattr(transform_blocking, "MOST_RUN_POSITIONS", most)
    phases = parameters.get("stride", 1)
    kernel_size = taps_for(scheme) * phases
    layer = make_layer(scheme, 34, 22, kernel_size=kernel_size, **parameters)
    positions = scheme.outputs(taps_for(scheme)) * phases
    for length in (
        layer._geometry.span + 9,
        7 * positions + 1,
        12 * positions * layer.dilation + 2,
    ):
        x = normal(2, length, 34).transpose(0, 2, 1).copy().transpose(0, 2, 1)
        transform_blocking.transform_blocking.cache_clear()
        plan = plan_of(layer, scheme, x)
        y = np.full(plan.problem.out_shape, np.nan, "float32").transpose(0, 2, 1).copy()
        y = y.transpose(0, 2, 1)
        plan.execute(x, y, 2)
        assert_close(plan, layer, x, y)
        # Not a bit depends on the layout.
        np.testing.assert_array_equal(y, run(plan_of(layer, scheme, x), x.copy()))
    transform_blocking.transform_blocking.cache_clear()


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("scheme", WINOGRAD, ids=lambda scheme: scheme.name)
def test_phases_without_the_last_tap(scheme, missing):
    """At infinity a filter is its last tap: the product there sums fewer channels."""
    layer = make_layer(scheme, 10, 18, kernel_size=3 * scheme.taps - missing, stride=3,
                       num_groups=2, padding="same")  # fmt: skip
    x = normal(2, 100, 10)
    plan = plan_of(layer, scheme, x)
    depths = [scheme.depth_of(p, plan.blocking.folding) for p in range(scheme.points)]
    assert depths == [3 * 5] * (scheme.points - 1) + [(3 - missing) * 5]
    assert_close(plan, layer, x)


@FEW
@pytest.mark.parametrize("layout", [n for n in LAYOUTS if n not in ("byte-swapped", "unaligned")])
def test_layouts(scheme, layout):
    layer = make_layer(scheme, 17, 9, padding="same")
    x = LAYOUTS[layout](normal(2, 2 * scheme.points + 3, 17))
    plan = plan_of(layer, scheme, x)
    out_layout = "contiguous" if layout == "read-only" else layout
    y = LAYOUTS[out_layout](np.full(plan.problem.out_shape, np.nan, "float32"))
    plan.execute(x, y, 1)
    assert_close(plan, layer, x, y)


@pytest.mark.parametrize("scheme", [RealFFT(16, True), RealFFT(64, False)], ids=lambda s: s.name)
@pytest.mark.parametrize("length", [1, 70, 500, 3000])
@pytest.mark.parametrize("layout", ["contiguous", "every third position"])
def test_polyphase(scheme, length, layout):
    layer = make_layer(scheme, 1, 1, kernel_size=120, padding="causal")
    x = LAYOUTS[layout](normal(2, length, 1))
    plan = plan_of(layer, scheme, x, fold_polyphase(layer._geometry, 32))
    assert_close(plan, layer, x)


@FEW
def test_threads_change_no_bit(scheme):
    layer = make_layer(scheme, 24, 40, padding="same", num_groups=2)
    x = normal(3, 20 * scheme.points, 24)
    plan = plan_of(layer, scheme, x)
    np.testing.assert_array_equal(run(plan, x, threads=1), run(plan, x, threads=2))


@FEW
@pytest.mark.parametrize("parameters", [{}, dict(dilation=3), dict(num_groups=2)], ids=str)
def test_blocks_of_unequal_size_on_a_small_cache(scheme, parameters, monkeypatch):
    """Values, and the bits of one thread: the last tiles of a class overlap those before them."""
    monkeypatch.setattr(transform_blocking, "PARALLEL_FLOPS", 0)
    layer = make_layer(scheme, 8, 20, padding="same", **parameters)
    x = normal(3, 3 * layer.dilation * scheme.points + 7, 8)
    problem = layer._problem(*x.shape[:2])
    small = dataclasses.replace(cpu_target(), l2=16 * scheme.points * 64)
    plan = TransformPlan(problem, layer._weights, small, scheme, fold(problem.geometry))
    y = run(plan, x)
    assert_close(plan, layer, x, y)
    for _ in range(10):
        np.testing.assert_array_equal(run(plan, x, threads=2), y)


@numba.njit
def located(call, tile):
    return locate(call, tile)


@pytest.mark.parametrize("dilation", [1, 3, 8])
@pytest.mark.parametrize("length", [5, 47, 48, 49, 200])
def test_tiles_lie_where_the_tiling_says(dilation, length):
    scheme = Winograd(6, 3)
    layer = make_layer(scheme, 4, 4, padding="same", dilation=dilation)
    x = normal(2, length, 4)
    plan = plan_of(layer, scheme, x)
    call, tiling = plan.bind(x.strides, x.strides), plan.blocking.tiling
    for tile in range(plan.blocking.total_tiles):
        n, first, outputs = located(call.tables.usual, tile)
        assert n == tile // tiling.tiles
        expected = tiling.outputs_of(tile % tiling.tiles)
        assert (first, outputs) == (expected.start, len(expected))


@numba.njit
def begun(call, block):
    return first_tile_of(call, block)


@pytest.mark.parametrize("length", [47, 5000, 40_000])
@pytest.mark.parametrize("channels", [8, 96])
def test_blocks_begin_where_their_sizes_say(channels, length):
    layer = make_layer(Winograd(6, 3), channels, channels, padding="same")
    x = normal(1, length, channels)
    plan = plan_of(layer, Winograd(6, 3), x)
    call, blocking = plan.bind(x.strides, x.strides), plan.blocking
    first = [begun(call.tables.usual, block) for block in range(blocking.blocks + 1)]
    sizes = Counter()
    for tiles, number in blocking.block_sizes:
        sizes[tiles] += number
    assert Counter(np.diff(first).tolist()) == sizes


def test_spectra_are_shared_by_the_plans_of_a_layer():
    layer, scheme = make_layer(RealFFT(16, True), 8, 8), RealFFT(16, True)
    plans = [plan_of(layer, scheme, normal(1, length, 8)) for length in (50, 60)]
    assert plans[0].spectrum is plans[1].spectrum
    assert "KiB" in plans[0].details(None, (4, 4, 4))["filter spectrum"]


def test_an_output_that_overlaps_its_input():
    scheme = Winograd(4, 3)
    layer = make_layer(scheme, 8, 8, padding="same")
    x = normal(1, 100, 8)
    plan = plan_of(layer, scheme, x)
    expected = run(plan, x)
    plan.execute(x, x)
    np.testing.assert_array_equal(x, expected)


# --- what is not finite
@FEW
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("parameters", [{}, dict(dilation=3), dict(stride=2)], ids=str)
def test_it_spreads_as_in_the_definition(scheme, value, parameters):
    kernel_size = taps_for(scheme) * parameters.get("stride", 1)
    layer = make_layer(scheme, 6, 18, kernel_size=kernel_size, padding="same", **parameters)
    x = normal(2, 300, 6)
    x[0, 0, 1] = x[1, 150, 3] = x[1, 299, 5] = value
    expected = expected_of(layer, x)
    y = run(plan_of(layer, scheme, x), x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(expected))
    lost = ~np.isfinite(expected)
    np.testing.assert_array_equal(y[lost], expected[lost])
    np.testing.assert_allclose(y[~lost], expected[~lost], rtol=0, atol=1e-4)


@FEW
def test_what_overflows_inside_is_summed_directly(scheme):
    layer = make_layer(scheme, 4, 5, padding="same")
    layer.filter = np.full(layer.filter.shape, 0.5 / taps_for(scheme), "float32")
    x = normal(1, 300, 4) * np.float32(3e37)
    expected = expected_of(layer, x)
    y = run(plan_of(layer, scheme, x), x)
    np.testing.assert_array_equal(np.isfinite(y), np.abs(expected) < np.finfo("float32").max)
    finite = np.isfinite(y)
    np.testing.assert_allclose(y[finite], expected[finite], rtol=0, atol=1e33)


@FEW
def test_spikes_and_denormals_keep_the_bound(scheme):
    layer = make_layer(scheme, 4, 5, padding="same")
    layer.bias = np.zeros(5, "float32")
    x = normal(1, 300, 4)
    x[0, 100] *= 1e6
    assert_close(plan_of(layer, scheme, x), layer, x)
    tiny = np.finfo("float32").tiny
    small = np.abs(run(plan_of(layer, scheme, x), normal(1, 300, 4) * (tiny / 8)))
    assert small.max() < 40 * tiny


def test_ranges_of_marked_tiles():
    layer, scheme = make_layer(Winograd(2, 3), 4, 4, dilation=2), Winograd(2, 3)
    x = normal(2, 14, 4)
    blocking = plan_of(layer, scheme, x).blocking
    assert blocking.problem.length_out == 10
    assert [list(blocking.tiling.outputs_of(t)) for t in range(5)] == [
        [0, 2], [1, 3], [4], [5], [6, 8],
    ]  # fmt: skip
    redo = np.zeros(blocking.total_tiles, np.uint8)
    redo[[2, blocking.tiling.tiles]] = 1
    assert marked_ranges(blocking, redo).tolist() == [[4, 5], [10, 11], [12, 13]]

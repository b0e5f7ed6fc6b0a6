"""Errors beside those of direct summation, and the constant of the bound."""

import numpy as np
import pytest

from numbaconv import Conv1D
from numbaconv.cpu.transform.accuracy import error_constant
from numbaconv.cpu.transform.folding import fold
from numbaconv.cpu.transform.methods import LEAST_REDUCTION
from numbaconv.cpu.transform.plan import TransformPlan
from numbaconv.cpu.transform.scheme import RealFFT, Winograd
from numbaconv.dispatch import cpu_target

# Each scheme with the fewest channels for which `auto` may take it.
THINNEST = [
    (Winograd(*shape), shape[1], -(-least // shape[1]) or 1)
    for shape, least in LEAST_REDUCTION.items()
]
THINNEST += [(RealFFT(n, gauss), n // 4, 1) for n in (16, 32, 64, 128) for gauss in (True, False)]


def errors(layer, x, scheme):
    """(of the transform, of direct summation), largest, against float64."""
    judge = Conv1D(
        layer.kernel_size, layer.in_channels, layer.out_channels, np.float64, algorithm="direct"
    )
    judge.filter = layer.filter.astype(np.float64)
    expected = judge(x.astype(np.float64))
    problem = layer._problem(*x.shape[:2])
    plan = TransformPlan(
        problem, layer._weights, cpu_target(), scheme, fold(problem.geometry)
    )  # fmt: skip
    y = np.empty(problem.out_shape, np.float32)
    plan.execute(x, y)
    return [np.abs(value - expected).max() for value in (y, layer(x))], plan, expected


@pytest.mark.parametrize("draw", ["normal", "uniform"])
@pytest.mark.parametrize(
    ("scheme", "taps", "channels"), THINNEST, ids=lambda value: getattr(value, "name", value)
)
def test_what_auto_may_take_errs_less_than_four_times_as_much(scheme, taps, channels, draw):
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        layer = Conv1D(taps, channels, 64, rng=rng, algorithm="direct")
        shape = (1, 1000, channels)
        x = rng.standard_normal(shape) if draw == "normal" else rng.uniform(0, 1, shape)
        largest, _, expected = errors(layer, x.astype(np.float32), scheme)
        found.append(np.array(largest) / np.abs(expected).max())
    transform, direct = np.transpose(found)
    assert np.median(transform / direct) < 4
    assert transform.max() < 4 * direct.max()


@pytest.mark.parametrize(
    ("scheme", "taps", "channels"), THINNEST, ids=lambda value: getattr(value, "name", value)
)
def test_the_constant_holds_for_signs_that_add_up(scheme, taps, channels):
    """All of x at its largest, with the signs of the filter: nothing cancels in one output."""
    rng = np.random.default_rng(0)
    layer = Conv1D(taps, channels, 20, rng=rng, algorithm="direct")
    x = np.ones((1, 40 * taps, channels), np.float32)
    x[0, : taps * 20] = np.tile(np.sign(layer.filter[:, :, 3]), (20, 1))
    (transform, _), plan, _ = errors(layer, x, scheme)
    sums = np.abs(layer.filter.astype(float)).sum((0, 1)).max()
    constant = error_constant(scheme, plan.blocking.folding)
    assert transform <= constant * np.finfo(np.float32).eps * sums
    assert constant < 4000

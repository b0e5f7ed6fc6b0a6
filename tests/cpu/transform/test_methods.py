"""Which transform is taken, and why not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numbaconv.cpu.transform import cost
from numbaconv.cpu.transform.methods import METHODS, is_accurate
from numbaconv.cpu.transform.scheme import RealFFT, Winograd
from numbaconv.dispatch import cpu_target
from numbaconv.problem import ConvProblem, Geometry

WINOGRAD, FFT = METHODS
F32 = np.dtype(np.float32)


def problem(taps, inputs, outputs, length=2000, algorithm="auto", dtype=F32, **parameters):
    new = parameters.pop("filter_is_new", False)
    geometry = Geometry(taps, inputs, outputs, **parameters)
    return ConvProblem(geometry, 1, length, dtype, algorithm=algorithm, filter_is_new=new)


def test_another_algorithm_is_not_served():
    p = problem(3, 64, 64, algorithm="direct")
    assert [method.declines(p, cpu_target()) for method in METHODS] == ["algorithm='direct'"] * 2
    assert WINOGRAD.declines(problem(3, 64, 64, algorithm="fft"), cpu_target())


def test_what_is_asked_for_is_taken_however_small():
    tiny = dict(length=5, padding="same")
    assert WINOGRAD.declines(problem(3, 1, 1, algorithm="winograd", **tiny), cpu_target()) is None
    assert FFT.declines(problem(3, 1, 1, algorithm="fft", **tiny), cpu_target()) is None


@pytest.mark.parametrize(
    ("taps", "parameters", "served"),
    [
        (1, {}, False), (2, {}, True), (5, {}, True), (6, {}, False),
        (9, {"stride": 2}, True), (11, {"stride": 2}, False), (2, {"stride": 2}, False),
        (6, {"stride": 2, "dilation": 2}, False), (5, {"stride": 2, "dilation": 4}, True),
    ],
)  # fmt: skip
def test_winograd_serves_two_to_five_taps_of_a_phase(taps, parameters, served):
    p = problem(taps, 16, 16, algorithm="winograd", **parameters)
    reason = WINOGRAD.declines(p, cpu_target())
    assert (reason is None) == served
    assert served or "taps of each phase" in reason


def test_long_kernels_of_one_channel_are_served():
    for taps in (3, 1000, 95_000):
        p = problem(taps, 1, 1, length=100_000, algorithm="fft")
        assert FFT.declines(p, cpu_target()) is None
    assert "98305" in FFT.declines(problem(99_000, 1, 1, 100_000, algorithm="fft"), cpu_target())
    many = problem(2000, 2, 2, length=4000, algorithm="fft")
    assert "2000 taps" in FFT.declines(many, cpu_target())


@given(
    st.integers(1, 60), st.integers(1, 80), st.integers(1, 80),
    st.integers(1, 5000), st.integers(1, 4), st.integers(1, 4),
)  # fmt: skip
def test_auto_answers_for_every_problem(taps, inputs, outputs, length, stride, dilation):
    p = problem(taps, inputs, outputs, length, stride=stride, dilation=dilation, padding="same")
    for method in METHODS:
        reason = method.declines(p, cpu_target())
        assert reason is None or reason
        for scheme, folding in method.candidates(p):
            assert is_accurate(scheme, p.geometry)
            estimate = cost.estimate(p, cpu_target(), scheme, folding)
            assert math.isfinite(estimate) and estimate > 0


def test_auto_asks_for_enough_products():
    assert not is_accurate(Winograd(6, 3), Geometry(3, 32, 64))
    assert is_accurate(Winograd(6, 3), Geometry(3, 80, 64))
    assert not is_accurate(Winograd(4, 3), Geometry(3, 3, 64))
    assert is_accurate(RealFFT(16, True), Geometry(3, 1, 64))


def test_a_filter_that_is_used_once_must_pay_for_its_spectrum():
    layer, once = problem(3, 384, 384, 3000), problem(3, 384, 384, 3000, filter_is_new=True)
    choice = cost.best(layer, cpu_target(), WINOGRAD.candidates(layer))
    estimates = [cost.estimate(p, cpu_target(), *choice) for p in (layer, once)]
    assert estimates[1] > estimates[0] * 1.2


def test_auto_transforms_where_much_is_saved():
    assert WINOGRAD.declines(problem(3, 384, 384, 3000), cpu_target()) is None
    assert FFT.declines(problem(39, 64, 64, 8000), cpu_target()) is None
    reason = FFT.declines(problem(39, 64, 64, 30, padding="same"), cpu_target())
    assert reason is None or "is estimated at" in reason
    for method in METHODS:
        assert method.declines(problem(3, 16, 16, 12), cpu_target())
        depthwise = problem(4, 512, 512, num_groups=512)
        assert method.declines(depthwise, cpu_target())

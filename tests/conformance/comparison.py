"""How every suite here runs a case and compares what comes out."""

import dataclasses
import os
from contextlib import contextmanager

import numpy as np
import pytest

from numbaconv import Conv1D, conv1d
from numbaconv.cpu import blocking, target
from numbaconv.cpu.transform import blocking as transform_blocking
from tests import oracle
from tests.strategies import laid_out, small_integers, whole_memory

# `make gpu` runs these suites on a GPU: NumPy arrays are copied in and out.
DEVICE = os.environ.get("NUMBACONV_TEST_DEVICE")


def make_layer(case, filter, bias, algorithm="direct"):
    """The layer of a case, holding these weights."""
    layer = Conv1D(
        case.kernel_size, case.in_channels, case.out_channels, case.dtype,
        has_bias=bias is not None, algorithm=algorithm, device=DEVICE, **case.parameters,
    )  # fmt: skip
    layer.filter = filter
    if bias is not None:
        layer.bias = bias
    return layer


def ways_to_run(case, x, filter, bias, algorithm="direct"):
    """The layer and the function as callables of `out`."""
    layer = make_layer(case, filter, bias, algorithm)
    if DEVICE is not None:  # the function computes where x lies
        return {"Conv1D": lambda out: layer(x, out=out)}
    return {
        "Conv1D": lambda out: layer(x, out=out),
        "conv1d": lambda out: conv1d(
            x, filter, bias, out=out, algorithm=algorithm, **case.parameters
        ),
    }


def run_into(run, shape, dtype, layout):
    """Run into a fresh array, or into NaN of a layout around which nothing may be written."""
    if layout == "none":
        y = run(None)
        assert y.dtype == dtype and y.dtype.isnative
        assert y.flags.writeable
        return y
    out = laid_out(np.full(shape, np.nan, dtype), layout)
    assert run(out) is out
    y = out.copy()
    out[...] = np.nan
    assert np.isnan(whole_memory(out)).all(), "elements around out were written"
    return y


def expected_of(case, x, filter, bias=None, accumulator=np.float64):
    return oracle.convolve(x, filter, bias, accumulator=accumulator, **case.parameters)


def snapshot(arrays):
    return [None if array is None else array.tobytes() for array in arrays]


def results(case, arrays, shape, algorithm="direct"):
    """(way, y) for each way to run a case, which must leave its inputs as they were.

    A fresh array may lie where the same result lay before; one full of NaN cannot hide
    elements that nobody wrote.
    """
    layouts = ("none", "contiguous" if case.out_layout == "none" else case.out_layout)
    before = snapshot(arrays)
    for way, run in ways_to_run(case, *arrays, algorithm).items():
        for layout in layouts:
            y = run_into(run, shape, case.dtype, layout)
            assert y.shape == shape
            assert snapshot(arrays) == before, f"{way} wrote to its inputs"
            yield way, y


def assert_exact(case, numbers=small_integers, algorithm="direct", arrays=None):
    """The layer and the function give the oracle's numbers, also where these are not finite."""
    arrays = arrays or case.arrays(numbers)
    expected = expected_of(case, *arrays)
    for way, y in results(case, arrays, expected.shape, algorithm):
        np.testing.assert_array_equal(y, expected, err_msg=f"{way} {case}")


def accumulator_for(dtype):
    """A precision beyond that of `dtype` to judge it by."""
    return np.float64 if np.dtype(dtype).itemsize == 4 else np.longdouble


def assert_within_bound(case, numbers, filter_numbers=None):
    """The layer and the function hold the bound of direct summation at every element."""
    arrays = case.arrays(numbers, filter_numbers)
    accumulator = accumulator_for(case.dtype)
    expected = expected_of(case, *arrays, accumulator)
    bound = oracle.error_bound(*arrays, accumulator=accumulator, **case.parameters)
    for way, y in results(case, arrays, expected.shape):
        excess = np.abs(y - expected) - bound
        assert (excess <= 0).all(), f"{way} is {excess.max()} beyond the bound in {case}"


@contextmanager
def l2_of(size):
    """Plan for a processor whose second-level cache has so many bytes."""
    small = dataclasses.replace(target.host(), l2=size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("numbaconv.dispatch.cpu_target", lambda: small)
        yield


@contextmanager
def always_parallel():
    """Enter the parallel path however little there is to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocking, "PARALLEL_FLOPS", 0)
        patch.setattr(transform_blocking, "PARALLEL_FLOPS", 0)
        yield

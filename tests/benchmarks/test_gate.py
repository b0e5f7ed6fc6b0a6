"""Nothing wrong passes the gate, and the float64 y is the definition's."""

import numpy as np
import pytest

from benchmarks.peers.gate import TOLERANCE, Truth, reference
from benchmarks.problems import Problem
from numbaconv.problem import ConvProblem, Geometry
from numbaconv.reference import convolve

SMALL = [
    Problem("dense", "", 2, 40, 5, 7, 4, stride=2, dilation=3, padding=(3, 1)),
    Problem("pointwise", "", 1, 9, 8, 3, 1),
    Problem("grouped", "", 2, 30, 6, 9, 3, groups=3, padding=(2, 0)),
    Problem("depthwise", "", 2, 30, 4, 4, 5, groups=4, padding=(2, 2)),
    Problem("multiplier", "", 1, 30, 4, 8, 5, stride=3, groups=4),
    Problem("fir", "", 2, 300, 1, 1, 101, padding=(50, 50)),
    Problem("short fir", "", 1, 30, 1, 1, 7, padding=(9, 8)),
    Problem("long", "", 1, 40_000, 1, 2, 3, padding=(1, 1)),
]


@pytest.mark.parametrize("problem", SMALL, ids=lambda p: p.name)
def test_the_reference_is_the_definition(problem):
    p = problem
    x, w = p.arrays(seed=1)
    geometry = Geometry(
        p.kernel_size, p.in_channels, p.out_channels, p.stride, p.padding, p.dilation, p.groups
    )
    definition = convolve(
        ConvProblem(geometry, p.batch, p.length, np.dtype(np.float32), has_bias=False), x, w, None
    )
    y = reference(p, x, w)
    assert y.dtype == np.float64
    assert y.shape == p.y_shape
    np.testing.assert_allclose(y, definition, rtol=0, atol=1e-12)


@pytest.fixture
def truth():
    return Truth(np.random.default_rng(0).standard_normal((2, 40_000, 3)))


def test_a_right_result_passes(truth):
    y = truth.y.astype(np.float32)
    assert truth.complaint(y, contiguous=True) is None
    assert truth.error(y) < 1e-7


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 17_000, 1), (1, 39_999, 2)])
@pytest.mark.parametrize("size", [2 * TOLERANCE, 1e30, np.inf, np.nan])
def test_one_wrong_element_anywhere_fails(truth, place, size):
    y = truth.y.astype(np.float32)
    y[place] += size * truth.scale
    assert truth.complaint(y, contiguous=True).startswith("error ")


def test_an_error_below_the_tolerance_passes(truth):
    y = truth.y.astype(np.float32)
    y[1, 39_999, 2] += TOLERANCE / 2 * truth.scale
    assert truth.complaint(y, contiguous=True) is None


def test_other_shapes_types_and_orders_are_refused(truth):
    y = truth.y.astype(np.float32)
    assert "shape" in truth.complaint(y[:, :-1], contiguous=False)
    assert "float64" in truth.complaint(truth.y, contiguous=True)
    assert "list" in truth.complaint(y.tolist(), contiguous=True)
    swapped = np.ascontiguousarray(y.transpose(0, 2, 1)).transpose(0, 2, 1)
    assert truth.complaint(swapped, contiguous=False) is None
    assert truth.complaint(swapped, contiguous=True) == "not contiguous in N-L-C order"


def test_nothing_unwritten_passes(truth):
    from benchmarks.roofline import aligned

    y = aligned(truth.y.shape)
    assert y.ctypes.data % 64 == 0
    assert truth.complaint(y, contiguous=True) == "error inf of max|y|"

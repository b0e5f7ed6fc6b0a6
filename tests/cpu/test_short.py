"""Written-out tiles: every remainder of their rows and of their channels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numbaconv import reference
from numbaconv.cpu.dense import DENSE, GROUPED
from numbaconv.cpu.family import blocking_for
from numbaconv.cpu.short import MOST_WRITTEN_OUT
from numbaconv.cpu.target import ISAS, host
from numbaconv.problem import ConvProblem, Geometry
from numbaconv.weights import Weights

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
# Sums are pinned to registers, which have to be as wide as they are.
RUNNING_HERE = [
    isa for isa in ("avx512", "avx2", "avx", "sse")
    if ISAS[isa].vector_bytes <= host().vector_bytes and (host().fma or not ISAS[isa].fma)
]  # fmt: skip
FEW_TILES = [(1, 1), (9, 1), (3, 2), (1, 16), (12, 3)]


def panels_of(outputs, isa, dtype=F32, layout="NLC", taps=9, depth=1, groups=1):
    geometry = Geometry(taps, depth * groups, outputs * groups, num_groups=groups)
    problem = ConvProblem(geometry, 1, 100, dtype, algorithm="direct", layout=layout)
    return blocking_for(problem, ISAS[isa], GROUPED if groups > 1 else DENSE).panels


def test_alike_panels_are_slices_of_one():
    (panel,) = panels_of(512, "avx2")
    assert (panel.tile.family, panel.slices, panel.tile.width) == ("short", 32, 16)


@pytest.mark.parametrize(
    "outputs, slices, width", [(100, 7, 16), (20, 3, 8), (12, 2, 8), (9, 2, 8), (31, 2, 16)]
)
def test_without_masks_the_last_slice_is_shifted_back(outputs, slices, width):
    (panel,) = panels_of(outputs, "avx2")
    assert (panel.tile.family, panel.slices, panel.tile.width) == ("short", slices, width)
    assert not panel.tile.masked
    assert panel.channels_of(slices - 1) == slice(outputs - width, outputs)


def test_fewer_channels_than_lanes_are_left_to_dense():
    (panel,) = panels_of(7, "avx2")
    assert panel.tile.family == "dense" and panel.tile.masked


def test_each_group_shifts_back_within_itself():
    first, second = panels_of(20, "avx2", groups=2)
    assert [first.channels_of(2), second.channels_of(2)] == [slice(12, 20), slice(32, 40)]


def test_longer_reductions_are_loops():
    assert MOST_WRITTEN_OUT == 36
    assert {panel.tile.family for panel in panels_of(64, "avx2", taps=37)} == {"dense"}
    assert {panel.tile.family for panel in panels_of(64, "avx2", taps=36)} == {"short"}


@settings(max_examples=60)
@given(
    st.sampled_from(RUNNING_HERE),
    st.sampled_from([F32, F64]),
    st.sampled_from(FEW_TILES),
    st.integers(1, 70),
    st.integers(1, 22),
    st.sampled_from(["NLC", "NCL"]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
)
def test_every_remainder_is_right(
    isa, dtype, reduction, outputs, positions, layout, stride, dilation, groups
):
    taps, depth = reduction
    geometry = Geometry(
        taps, depth * groups, outputs * groups, stride=stride, dilation=dilation, num_groups=groups
    )
    length = (positions - 1) * stride + (taps - 1) * dilation + 1
    problem = ConvProblem(
        geometry, 2, length, dtype, has_bias=True, algorithm="direct", layout=layout
    )
    rng = np.random.default_rng(positions)
    filter_ = rng.integers(-3, 4, geometry.filter_shape).astype(dtype)
    bias = rng.integers(-3, 4, geometry.out_channels).astype(dtype)
    x = rng.integers(-3, 4, (2, length, geometry.in_channels)).astype(dtype)
    y = np.full(problem.out_shape, np.nan, dtype)
    if layout == "NCL":
        x, y = (np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2) for a in (x, y))
    family = GROUPED if groups > 1 else DENSE
    family.plan(problem, Weights(geometry, filter_, bias), ISAS[isa]).execute(x, y)
    np.testing.assert_array_equal(y, reference.convolve(problem, x, filter_, bias))

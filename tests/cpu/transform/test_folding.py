"""Stride, dilation and polyphase as one shape of tile, against the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numbaconv.cpu.transform.folding import Tiling, fold, fold_polyphase, folded_filter
from numbaconv.problem import Geometry
from tests import oracle


def through_folding(x, filter, geometry, folding):
    """What the skeleton computes, with x (L, C) long enough, for one group."""
    taps = folded_filter(filter, folding)
    length_out = (len(x) - geometry.span) // geometry.stride + 1
    room = np.zeros((len(x) + (folding.taps + 1) * folding.phases * folding.unit, x.shape[1]))
    room[: len(x)] = x
    y = np.zeros((length_out, geometry.out_channels))
    step = folding.residues * folding.row_positions
    for l in range(0, length_out, folding.row_positions):
        for t in range(folding.taps):
            for p in range(folding.phases):
                at = l * geometry.stride + folding.unit * (folding.phases * t + p)
                row = room[at : at + folding.row_positions].reshape(-1)
                width = len(row)
                part = row @ taps[t, p * width : (p + 1) * width]
                part = part.reshape(folding.row_positions, -1)[: length_out - l]
                y[l : l + len(part)] += part
    assert step >= 1
    return y


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 6))
def test_stride_and_dilation(kernel_size, stride, dilation):
    geometry = Geometry(kernel_size, 2, 3, stride=stride, dilation=dilation)
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (geometry.span + 3 * stride + 1, 2)).astype(float)
    filter = rng.integers(-4, 5, geometry.filter_shape).astype(float)
    folding = fold(geometry)
    assert folding.taps * folding.phases >= kernel_size > (folding.taps - 1) * folding.phases
    last = folded_filter(np.ones(geometry.filter_shape), folding)[-1]
    assert last[: folding.last_depth].all() and not last[folding.last_depth :].any()
    expected = oracle.convolve(x[None], filter, stride=stride, dilation=dilation)[0]
    np.testing.assert_array_equal(through_folding(x, filter, geometry, folding), expected)
    # Neighbours of a residue class read rows one phase cycle further.
    assert stride * folding.residues == folding.unit * folding.phases


@pytest.mark.parametrize("kernel_size", [1, 2, 7, 8, 9, 31])
@pytest.mark.parametrize("block", [2, 4, 8])
def test_polyphase(kernel_size, block):
    geometry = Geometry(kernel_size, 1, 1)
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (kernel_size + 37, 1)).astype(float)
    filter = rng.integers(-4, 5, geometry.filter_shape).astype(float)
    y = through_folding(x, filter, geometry, fold_polyphase(geometry, block))
    np.testing.assert_array_equal(y, oracle.convolve(x[None], filter)[0])


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 20))
def test_tiles_cover_every_output(length_out, residues, positions):
    tiling = Tiling(length_out, residues, positions)
    covered: list[int] = []
    for tile in range(tiling.tiles):
        outputs = tiling.outputs_of(tile)
        assert 0 < len(outputs) <= positions
        assert outputs.step == residues
        covered += outputs
    assert sorted(covered) == list(range(length_out))  # each has one owner

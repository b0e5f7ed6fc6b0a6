"""Sizes of blocks: every tile once, planes within their bounds, equal shares."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from numbaconv.cpu.target import ISAS
from numbaconv.cpu.transform import blocking
from numbaconv.cpu.transform.folding import fold
from numbaconv.cpu.transform.scheme import RealFFT, Winograd
from numbaconv.dispatch import cpu_target
from numbaconv.problem import ConvProblem, Geometry

FLOAT = np.dtype(np.float32)
SCHEMES = [Winograd(6, 3), Winograd(2, 3), RealFFT(16, True), RealFFT(128, False)]


@st.composite
def blockings(draw):
    """A problem of any size, a scheme and a number of threads."""
    groups = draw(st.sampled_from([1, 2, 3, 16]))
    inputs, outputs = (groups * draw(st.integers(1, 600)) for _ in range(2))
    geometry = Geometry(
        3, inputs, outputs, draw(st.sampled_from([1, 2])), "same",
        draw(st.sampled_from([1, 5])), groups,
    )  # fmt: skip
    problem = ConvProblem(geometry, draw(st.integers(1, 9)), draw(st.integers(1, 60_000)), FLOAT)
    threads, scheme = draw(st.integers(1, 9)), draw(st.sampled_from(SCHEMES))
    folding, target = fold(geometry), draw(st.sampled_from([cpu_target(), *ISAS.values()]))
    return blocking.transform_blocking(problem, target, scheme, folding, threads), threads


@given(blockings())
def test_blocks_hold_every_tile_once(given_blocking):
    sizes, _ = given_blocking
    steps = -(-sizes.total_tiles // sizes.step)
    bounds = [
        min(sizes.total_tiles, steps * block // sizes.blocks * sizes.step)  # `first_tile_of`
        for block in range(sizes.blocks + 1)
    ]
    tiles = np.diff(bounds)
    assert bounds[0] == 0 and bounds[-1] == sizes.total_tiles
    assert tiles.min() > 0 and tiles.max() <= sizes.block_tiles
    assert sum(number for _, number in sizes.block_sizes) == sizes.blocks
    assert sum(size * number for size, number in sizes.block_sizes) == sizes.total_tiles


@given(blockings())
def test_planes_have_room(given_blocking):
    sizes, _ = given_blocking
    room = sizes.block_tiles * sizes.problem.dtype.itemsize
    assert sizes.v_plane * sizes.problem.dtype.itemsize >= sizes.v_row * room
    assert sizes.m_plane * sizes.problem.dtype.itemsize >= sizes.m_row * room
    width = sizes.folding.depth // sizes.folding.phases
    stored = width if sizes.target.isa == "avx512" else max(width, sizes.target.lanes(FLOAT))
    assert sizes.v_row >= sizes.folding.depth - width + stored  # by the last phase
    one_tile = sizes.plane_bytes / sizes.block_tiles
    assert sizes.plane_bytes <= (32 << 20) + one_tile * sizes.step


@given(blockings())
def test_threads_have_equally_many_blocks_unless_tiles_are_few(given_blocking):
    sizes, threads = given_blocking
    units = sizes.blocks * sizes.folding.groups
    assert units % threads == 0 or sizes.block_tiles == 1 or sizes.block_tiles == sizes.step

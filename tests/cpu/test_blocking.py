"""Every number that blocking derives, as properties of all problems on all processors."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from numbaconv.cpu.blocking import (
    FAR_TILES,
    MAX_RUN,
    PARALLEL_BYTES,
    PARALLEL_FLOPS,
    deserves_threads,
    inside_of,
    is_far_filter,
    reduction_blocks,
    run_length,
    split_evenly,
)
from numbaconv.cpu.dense import remainder_of
from numbaconv.cpu.families import FAMILIES
from numbaconv.cpu.family import blocking_for
from numbaconv.cpu.sharing import share
from numbaconv.cpu.target import ISAS
from numbaconv.problem import ConvProblem, Geometry

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)

# Of cores that start two multiply-adds, and one of whole vectors.
TARGETS = {**ISAS, "one unit": dataclasses.replace(ISAS["avx512"], core="znver4")}

targets = st.builds(
    dataclasses.replace,
    st.sampled_from(list(TARGETS.values())),
    l2=st.sampled_from([4 << 10, 256 << 10, 2 << 20]),
)


@st.composite
def geometries(draw, groups=None):
    num_groups = draw(st.integers(1, 12)) if groups is None else groups
    return Geometry(
        kernel_size=draw(st.integers(1, 20)),
        in_channels=num_groups * draw(st.one_of(st.integers(1, 8), st.integers(1, 80))),
        out_channels=num_groups * draw(st.one_of(st.integers(1, 8), st.integers(1, 150))),
        stride=draw(st.integers(1, 5)),
        padding=(draw(st.integers(-3, 40)), draw(st.integers(-3, 40))),
        dilation=draw(st.integers(1, 5)),
        num_groups=num_groups,
    )


@st.composite
def depthwise_geometries(draw):
    channels = draw(st.one_of(st.integers(1, 200), st.integers(2040, 4200)))
    return Geometry(
        draw(st.integers(1, 20)), channels, channels,
        stride=draw(st.integers(1, 3)), dilation=draw(st.integers(1, 3)), num_groups=channels,
    )  # fmt: skip


ANY_GEOMETRY = st.one_of(geometries(), depthwise_geometries(), geometries(1))


@st.composite
def problems(draw, geometry=None):
    g = draw(ANY_GEOMETRY if geometry is None else geometry)
    length = draw(st.one_of(st.integers(0, 60), st.integers(61, 5000)))
    dtype = draw(st.sampled_from([F32, F64]))
    try:
        return ConvProblem(g, draw(st.integers(0, 4)), length, dtype)
    except ValueError:
        assume(False)


@st.composite
def blockings(draw):
    """What any family that accepts a problem makes of it."""
    problem, target = draw(problems()), draw(targets)
    accepting = [f for f in FAMILIES if f.declines(problem, target) is None]
    return blocking_for(problem, target, draw(st.sampled_from(accepting)))


# --- splitting


@given(st.integers(1, 3000), st.integers(1, 100))
def test_split_evenly_is_complete_minimal_and_even(total, most):
    parts = split_evenly(total, most)
    assert sum(parts) == total
    assert len(parts) == -(-total // most)
    assert max(parts) <= most
    assert max(parts) - min(parts) <= 1


# --- panels


@given(blockings())
def test_panels_cover_each_output_channel_once(b):
    g = b.problem.geometry
    covered = [c for p in b.panels for c in range(p.first, p.first + p.channels)]
    assert covered == list(range(g.out_channels))


@given(blockings())
def test_panels_read_the_channels_of_their_groups(b):
    g = b.problem.geometry
    for p in b.panels:
        first_group = p.first // g.group_out_channels
        last_group = (p.first + p.channels - 1) // g.group_out_channels
        assert p.x_offset == first_group * g.group_in_channels
        if b.family.sums_channels:  # of one group only
            assert first_group == last_group
        elif g.num_groups > 1:  # of whole groups only
            assert p.first % g.group_out_channels == p.channels % g.group_out_channels == 0


@given(blockings())
def test_packed_panels_follow_each_other(b):
    column, lanes = 0, b.target.lanes(b.problem.dtype)
    for p in b.panels:
        assert column <= p.column < column + lanes
        assert p.column * b.problem.geometry.reduction % p.tile.lanes == 0
        assert p.columns >= p.channels
        column = p.last_column
    widths = [p.tile.width for p in b.panels if not p.sums_lanes]
    assert b.tile.width == max(widths or [b.panels[0].tile.width])


@given(blockings())
def test_last_lanes_count_what_a_masked_vector_holds(b):
    lanes = b.target.lanes(b.problem.dtype)
    for p in b.panels:
        is_half = p.tile.family == "dense" and 2 * p.tile.lanes == lanes
        assert p.tile.lanes == lanes or is_half
        assert p.tile.bits == 8 * b.problem.dtype.itemsize
        assert p.tile.fma == b.target.fma
        is_whole = p.tile.family == "short" and not p.tile.masked
        if p.tile.family == "planar" or is_whole:  # channels of the last slice, one by one
            assert 1 <= p.last_lanes <= p.width
            assert p.channels == (p.slices - 1) * p.width + p.last_lanes
            assert p.channels >= p.width
            continue
        assert 1 <= p.last_lanes <= lanes
        if p.tile.masked:
            assert p.last_lanes < lanes
        if is_half:
            assert (p.channels, p.tile.vectors, p.tile.masked) == (3 * lanes // 2, 3, False)
        elif p.tile.family == "dense":
            assert p.channels == (p.tile.vectors - 1) * lanes + p.last_lanes
            assert p.tile.masked == (p.last_lanes < lanes)
        if p.tile.family == "interleaved":
            assert 2 <= p.tile.variant.positions <= lanes // p.channels
            assert p.tile.variant.groups == p.tile.variant.positions * p.channels
        if p.tile.family in ("depthwise", "groups", "sliding"):
            slice_out = p.tile.variant.outputs * p.tile.variant.groups
            assert p.channels == (p.slices - 1) * slice_out + p.last_lanes
            is_alone = p.channels < slice_out  # or shifted back without masks in registers
            is_masked = p.last_lanes < slice_out and (is_alone or b.target.isa == "avx512")
            assert p.tile.masked == is_masked


@given(problems(geometries(1)), targets)
def test_panels_of_one_layer_differ_by_one_vector_at_most(problem, target):
    dense = next(f for f in FAMILIES if f.name == "dense")
    lanes = target.lanes(problem.dtype)
    panels = [p for p in dense.panels(problem, target) if not p.sums_lanes]
    vectors = {p.tile.vectors for p in panels if p.tile.lanes == lanes}
    assert not vectors or max(vectors) - min(vectors) <= 1


def parts(inputs, outputs, target, **parameters):
    """Channels in whole vectors, masked or not, in halves and by dot products."""
    problem = ConvProblem(Geometry(3, inputs, outputs, **parameters), 1, 100, F32)
    name = "dense" if problem.geometry.num_groups == 1 else "grouped"
    dense = next(f for f in FAMILIES if f.name == name)
    halves, dots = remainder_of(problem, target)
    panels = dense.panels(problem, target)
    groups = problem.geometry.num_groups
    assert groups * dots == sum(p.channels for p in panels if p.sums_lanes)
    assert (halves > 0) == (target.lanes(F32) // 2 in {p.tile.lanes for p in panels})
    return outputs // groups - halves - dots, halves, dots


@pytest.mark.parametrize(
    "shape, isa, expected",
    [
        ((64, 17), "avx512", (16, 0, 1)),
        ((64, 17), "one unit", (16, 0, 1)),
        ((64, 24), "avx512", (24, 0, 0)),  # a vector alone is slow
        ((64, 40), "avx512", (32, 0, 8)),
        ((64, 24), "one unit", (0, 24, 0)),
        ((64, 25), "avx512", (25, 0, 0)),
        ((64, 25), "one unit", (0, 24, 1)),
        ((64, 41), "one unit", (16, 24, 1)),
        ((64, 31), "one unit", (31, 0, 0)),
        ((64, 33), "avx2", (32, 0, 1)),
        ((64, 11), "avx2", (11, 0, 0)),
        ((64, 64), "one unit", (64, 0, 0)),
        ((64, 15), "one unit", (15, 0, 0)),
        ((49, 36), "avx512", (32, 0, 4)),
        ((49, 40), "avx512", (32, 0, 8)),
        ((49, 24), "one unit", (0, 24, 0)),
        ((42, 33), "one unit", (33, 0, 0)),  # `planar` takes it, channel-first
        ((12, 17), "avx512", (17, 0, 0)),  # all products are written out
        ((4000, 17), "avx512", (17, 0, 0)),  # sums continue from block to block
        ((2000, 2001), "avx512", (2001, 0, 0)),  # the filter is far
    ],
)
def test_what_fills_no_vector(shape, isa, expected):
    assert parts(*shape, TARGETS[isa]) == expected


@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_dot_products_are_one_block_of_the_reduction(isa, dtype):
    """At every width, and as many products as fit one block of some panels and not of others."""
    target = dataclasses.replace(TARGETS[isa], l2=256 << 10)
    dense, have_dots = next(f for f in FAMILIES if f.name == "dense"), 0
    for outputs in range(1, 200):
        for depth in range(130, 2200, 90):
            problem = ConvProblem(Geometry(1, depth, outputs), 1, 100, dtype)
            b = blocking_for(problem, target, dense)
            has_dots = any(p.sums_lanes for p in b.panels)
            assert not has_dots or len(b.reduction) == 1, (outputs, depth)
            have_dots += has_dots
    assert have_dots or isa == "avx"


def test_every_group_has_what_fills_no_vector():
    assert parts(256, 100, TARGETS["one unit"], num_groups=4) == (0, 24, 1)
    assert parts(256, 68, TARGETS["avx512"], num_groups=4) == (16, 0, 1)


@pytest.mark.parametrize("isa", ISAS)
def test_dense_tiles_fit_the_registers(isa):
    """MR×NV sums, NV columns, one x, and a product where it cannot be fused.

    That they also fit what LLVM adds is for tests/codegen to see.
    """
    target = ISAS[isa]
    for vectors, rows in enumerate(target.tile_rows, start=1):
        product = 0 if target.fma else 1
        assert rows >= 1
        assert rows * vectors + vectors + 1 + product <= target.registers


def registers_of(tile):
    """Sums, weights, one x, and a product where it cannot be fused.

    Weights of further taps may come from memory; tests/codegen sees whether anything spills.
    """
    sums, weights = tile.rows * tile.vectors, tile.vectors
    if tile.family == "interleaved":
        sums //= tile.variant.positions
    if tile.family == "planar":
        vectors = tile.rows // tile.lanes
        return tile.variant.outputs * vectors + vectors + 1 + (not tile.fma)
    if tile.family == "fir":
        taps = -(-tile.variant.written_taps // tile.variant.phases)
        lanes_of_permutations = len(tile.variant.permuted(taps))
        sums = tile.rows // tile.lanes
        weights = max(1, tile.variant.tap_block) + lanes_of_permutations
    return sums + weights + 1 + (not tile.fma)


@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("dilation", [1, 2])
def test_every_tile_fits_the_registers(isa, dtype, dilation):
    target, wide = TARGETS[isa], 3 * TARGETS[isa].lanes(dtype)
    shapes = [(wide, c, 1) for c in range(1, 130)] + [(1, 1, 1)]
    shapes += [(c, c, c) for c in range(2, 40)]
    shapes += [(8 * i, 8 * o, 8) for i in range(1, 9) for o in range(1, 9)]
    for inputs, outputs, groups in shapes:
        g = Geometry(5, inputs, outputs, dilation=dilation, num_groups=groups)
        problem = ConvProblem(g, 1, 100, dtype)
        family = next(f for f in FAMILIES if f.declines(problem, target) is None)
        for tile in {p.tile for p in family.panels(problem, target)}:
            # A tile of one row cannot be smaller; its weights are then read from memory.
            assert tile.rows == 1 or registers_of(tile) <= target.registers, tile.name


# --- blocks of the reduction


@given(blockings())
def test_reduction_blocks_continue_each_chain_in_order(b):
    g = b.problem.geometry
    steps = [
        (tap, channel)
        for block in b.reduction
        for tap in range(block.first_tap, block.first_tap + block.taps)
        for channel in range(block.first_channel, block.first_channel + block.depth)
    ]
    depth = g.group_in_channels
    assert steps == [(tap, channel) for tap in range(g.kernel_size) for channel in range(depth)]


@given(geometries(1), st.sampled_from([8, 16, 64]), st.sampled_from([4, 8]), targets)
def test_a_block_of_a_panel_fits_a_quarter_of_the_second_cache(geometry, width, itemsize, target):
    for block in reduction_blocks(geometry, geometry.in_channels, width, itemsize, target):
        elements = block.taps * block.depth * width
        assert elements * itemsize <= target.l2 // 4 or elements == width
        if block.depth < geometry.in_channels:
            assert block.taps == 1  # a block of part of the channels cannot merge taps


def test_a_small_reduction_is_one_block():
    geometry = Geometry(3, 64, 64)
    assert len(reduction_blocks(geometry, 64, 64, 4, ISAS["avx512"])) == 1


@given(problems(), targets)
def test_families_that_cannot_continue_a_chain_have_one_block(problem, target):
    for family in FAMILIES:
        if not family.sums_channels and family.declines(problem, target) is None:
            assert len(blocking_for(problem, target, family).reduction) == 1


# --- runs


@given(blockings())
def test_runs_are_whole_tiles(b):
    assert b.run >= b.tile.rows
    assert b.run % b.tile.rows == 0


@given(problems(), st.integers(1, 20), targets, st.booleans())
def test_a_run_of_rows_fits_the_cache_or_is_two_tiles(problem, rows, target, is_copied):
    g, run = problem.geometry, run_length(problem, rows, target, is_copied)
    assert run % rows == 0
    assert run <= max(MAX_RUN, 2 * rows, 4 * g.span if is_copied else 0)
    row_bytes = g.stride * g.in_channels * problem.dtype.itemsize
    is_far = is_far_filter(problem, target)
    assert is_far or run == 2 * rows or run * row_bytes <= target.l2 // 4


@given(st.integers(1, 3000), st.integers(4, 14), st.sampled_from([(512, 1), (1024, 1), (4096, 3)]))
def test_runs_that_read_a_far_filter_are_long_and_alike(positions, rows, layer):
    channels, taps = layer
    target = dataclasses.replace(ISAS["avx512"], l2=1 << 20)
    problem = ConvProblem(Geometry(taps, channels, 1024), 1, positions + taps - 1, F32)
    run = run_length(problem, rows, target, is_copied=False)
    assert run >= min(positions, FAR_TILES * rows / 2)
    *_, last = range(0, positions, run)
    assert positions - last >= min(positions, run // 4)


# --- the interior


def reads_inside(problem, l):
    """Whether each tap of output l reads a position that x has after cropping."""
    g = problem.geometry
    first = l * g.stride - max(0, problem.padding[0])
    taps = [first + t * g.dilation for t in range(g.kernel_size)]
    return all(0 <= position < problem.cropped_length for position in taps)


@given(problems(), st.integers(1, 20))
def test_the_interior_is_inside(problem, rows):
    inside = inside_of(problem, rows, 2 * rows)
    assert 0 <= inside.first <= inside.last <= problem.length_out
    edges = [*range(inside.first, min(inside.first + 3, inside.last))]
    edges += [*range(max(inside.first, inside.last - 3), inside.last)]
    assert all(reads_inside(problem, l) for l in edges)


@given(problems(geometries(1)), st.integers(1, 12))
def test_the_interior_gives_away_less_than_a_tile(problem, rows):
    inside = inside_of(problem, rows, 2 * rows)
    true = [l for l in range(problem.length_out) if reads_inside(problem, l)]
    if inside.last:
        assert inside.last == true[-1] + 1
        assert inside.first - true[0] < rows
        assert inside.first % rows == 0
        is_all = inside.last - inside.first == problem.length_out
        assert is_all or inside.last - inside.first >= 2 * rows
    else:
        assert len(true) < 3 * rows
        assert len(true) < problem.length_out  # without borders all is read in place


# --- threads


@given(blockings(), st.integers(1, 64))
def test_there_are_never_more_workers_than_threads_or_work(b, threads):
    workers, divide_panels = b.workers(threads)
    assert 1 <= workers <= threads
    if divide_panels:
        assert workers <= len(b.panels)
    if not deserves_threads(b.problem):
        assert (workers, divide_panels) == (1, False)


@given(blockings(), st.integers(1, 64))
def test_shares_cover_the_work_once(b, threads):
    workers, divide_panels = b.workers(threads)
    total = len(b.panels) if divide_panels else b.problem.batch * b.problem.length_out
    multiple = 1 if divide_panels else b.tile.rows
    bounds = [share.py_func(total, w, workers, multiple) for w in range(workers + 1)]
    assert bounds[0] == 0
    assert bounds[-1] == total
    assert bounds == sorted(bounds)
    assert all(bound % multiple == 0 for bound in bounds[:-1])


def test_threads_are_for_much_work_or_much_memory():
    def deserves(*shape, batch=1, length=1, **parameters):
        return deserves_threads(ConvProblem(Geometry(*shape, **parameters), batch, length, F32))

    assert not deserves(3, 64, 64, length=100)
    assert deserves(3, 64, 64, length=PARALLEL_FLOPS // (2 * 3 * 64 * 64) + 3)
    assert not deserves(1, 64, 64)
    assert deserves(1, 1024, 1024)  # one position, but 4 MiB of weights
    assert not deserves(1, 64, 64, batch=1, length=10, num_groups=64)
    assert deserves(1, 64, 64, length=PARALLEL_BYTES // (2 * 64 * 4), num_groups=64)
    assert not deserves(1, 64, 64, batch=0, length=10)


def test_much_work_is_shared():
    problem = ConvProblem(Geometry(3, 64, 64), 1, 10_000, F32)
    dense = next(f for f in FAMILIES if f.name == "dense")
    assert blocking_for(problem, ISAS["avx512"], dense).workers(4) == (4, False)


def test_few_positions_of_many_channels_are_shared_by_panels():
    problem = ConvProblem(Geometry(1, 2048, 2048), 1, 8, F32)
    dense = next(f for f in FAMILIES if f.name == "dense")
    assert blocking_for(problem, ISAS["avx512"], dense).workers(4) == (4, True)


# --- memory of decisions


def test_blockings_are_remembered_by_value():
    dense = next(f for f in FAMILIES if f.name == "dense")
    one, other = (
        blocking_for(ConvProblem(Geometry(3, 8, 8), 1, 100, F32), ISAS["sse"], dense)
        for _ in range(2)
    )
    assert one is other


def test_tile_names_tell_tiles_apart():
    seen = Counter()
    for isa, target in TARGETS.items():
        tiles = set()
        for dtype in (F32, F64):
            for channels in range(1, 130):
                for groups in {1, channels}:
                    g = Geometry(9, channels, channels, num_groups=groups)
                    problem = ConvProblem(g, 1, 100, dtype)
                    for family in FAMILIES:
                        if family.declines(problem, target) is None:
                            tiles |= {p.tile for p in family.panels(problem, target)}
        seen[isa] = len(tiles)
        assert len({tile.name for tile in tiles}) == len(tiles)
    assert min(seen.values()) >= 8

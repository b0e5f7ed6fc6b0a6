"""Packed weights hold each weight where its panel kernel reads it, and zeros elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from numbaconv.cpu.families import FAMILIES
from numbaconv.cpu.target import ISAS
from numbaconv.interop import address_of
from numbaconv.problem import ConvProblem, Geometry
from numbaconv.weights import Weights

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
BY_NAME = {family.name: family for family in FAMILIES}
TARGETS = {**ISAS, "one unit": dataclasses.replace(ISAS["avx512"], core="znver4")}


def shift_of(panel, s):
    """How many columns of slice `s` repeat channels of the slice before it."""
    if panel.tile.family not in ("planar", "short") or panel.tile.masked:
        return 0
    return max(0, (s + 1) * panel.width - panel.channels)


def unpack_columns(packed, panels, shape):
    """Read the filter back from slices of NR columns, and what stands in the padding."""
    taps, depth, outputs = shape
    reduction = taps * depth
    filter_, rest = np.full((reduction, outputs), np.nan, packed.dtype), []
    for panel in panels:
        if panel.sums_lanes:
            channels = slice(panel.first, panel.first + panel.channels)
            whole = (taps, depth, panel.channels)
            read, more = unpack_narrow(packed[panel.column * reduction :], [panel], whole)
            filter_[:, channels] = read.reshape(reduction, -1)
            rest.append(more)
            continue
        width = panel.tile.width
        for s in range(panel.slices):
            column, first = panel.column + s * width, panel.first + s * width
            block = packed[column * reduction : (column + width) * reduction]
            block, shift = block.reshape(reduction, width), shift_of(panel, s)
            rest.append((block[:, :shift] - filter_[:, first - shift : first]).ravel())
            block = block[:, shift:]
            count = min(width, panel.first + panel.channels - first)
            filter_[:, first : first + count] = block[:, :count]
            rest.append(block[:, count:].ravel())
    return filter_.reshape(shape), np.concatenate(rest)


def unpack_narrow(packed, panels, shape):
    """Read back (vector of input channels, tap, output, lane)."""
    taps, depth, outputs = shape
    lanes = panels[0].tile.lanes
    vectors = -(-depth // lanes)
    block = packed[: vectors * taps * outputs * lanes].reshape(vectors, taps, outputs, lanes)
    channels = block.transpose(1, 0, 3, 2).reshape(taps, -1, outputs)
    return channels[:, :depth], channels[:, depth:].ravel()


def unpack_sliced(packed, panels, shape):
    """Read back (slice, input channel, tap, lane)."""
    taps, depth, _ = shape
    blocks = packed.reshape(-1, depth, taps, panels[0].tile.lanes).swapaxes(1, 2)
    filter_, rest = np.full(shape, np.nan, packed.dtype), []
    for block, (first, count, known) in zip(blocks, slices_of(panels), strict=True):
        target = filter_[:, :, first : first + count]
        rest.append((block[:, :, :known] - target[:, :, :known]).ravel())
        target[...] = block[:, :, :count]
        rest.append(block[:, :, count:].ravel())
    return filter_, np.concatenate(rest)


def unpack_interleaved(packed, panels, shape):
    """Read back (tap, position, channel): positions have the same taps, and other lanes none."""
    positions, width = panels[0].tile.variant.positions, panels[0].tile.variant.groups
    rows = packed.reshape(shape[0], -1)
    repeated = rows[:, :width].reshape(shape[0], positions, shape[2])
    first = repeated[:, :1]
    return first, np.concatenate([(repeated[:, 1:] - first).ravel(), rows[:, width:].ravel()])


def slices_of(panels):
    """(first channel, channels, how many of those the slice before it has too) of each."""
    for panel in panels:
        size = panel.tile.variant.outputs * panel.tile.variant.groups
        for s in range(panel.slices):
            first, count = s * size, min(size, panel.channels - s * size)
            known = 0 if panel.tile.masked else size - count
            yield panel.first + first - known, count + known, known


def unpack_taps(packed, panels, shape):
    """Read back (signal, tap)."""
    return packed.reshape(shape[2], 1, shape[0]).T, packed[:0]


def unpack_planar(packed, panels, shape):
    """Read back (slice, product, output); the last slice repeats some outputs."""
    taps, depth, _ = shape
    order = panels[0].tile.variant.order
    products = [(t, ci) for t in range(taps) for ci in range(depth)]
    if order == "lanes":  # of a vector of channels, so that a tree adds up neighbours
        lanes = panels[0].tile.lanes
        reversed_digits = {1: [0]}
        for half in (1, 2, 4, 8, 16, 32):
            turns = [2 * lane for lane in reversed_digits[half]]
            reversed_digits[2 * half] = turns + [lane + 1 for lane in turns]
        turns = reversed_digits[lanes]
        products = [
            (t, ci) for lane in turns for ci in range(lane, depth, lanes) for t in range(taps)
        ]
    elif order:
        products = [
            (t, ci) for ci in range(depth) for r in range(order) for t in range(r, taps, order)
        ]
    filter_, repeats = np.full(shape, np.nan, packed.dtype), []
    for panel in panels:
        for s in range(panel.slices):
            column = panel.column + s * panel.width
            block = packed[column * taps * depth : (column + panel.width) * taps * depth]
            rows = block.reshape(taps * depth, panel.width)
            block = np.empty((taps, depth, panel.width), packed.dtype)
            for (t, ci), row in zip(products, rows, strict=True):
                block[t, ci] = row
            first = panel.first + min(s * panel.width, panel.channels - panel.width)
            known = panel.first + s * panel.width - first
            target = filter_[:, :, first : first + panel.width]
            repeats.append((block - target)[:, :, :known].ravel())
            target[...] = block
    return filter_, np.concatenate(repeats)


UNPACK = {
    "planar": unpack_planar,
    "dense": unpack_columns,
    "short": unpack_columns,
    "depthwise": unpack_sliced,
    "interleaved": unpack_interleaved,
    "groups": unpack_sliced,
    "sliding": unpack_sliced,
    "narrow": unpack_narrow,
    "fir": unpack_taps,
}


def columns_in_use(panel):
    """(column, channel of the panel) of packed columns."""
    if panel.tile.family == "interleaved":
        yield from ((j, j % panel.channels) for j in range(panel.tile.variant.groups))
        return
    if UNPACK[panel.tile.family] is unpack_sliced:
        for s, (first, count, _) in enumerate(slices_of([panel])):
            for j in range(count):
                yield panel.column + s * panel.tile.width + j, first - panel.first + j
        return
    for s in range(panel.slices):
        first = s * panel.width - shift_of(panel, s)
        for j in range(min(panel.width, panel.channels - first)):
            yield panel.column + s * panel.width + j, first + j


def layout_for(name):
    return "NCL" if name in ("planar", "fir") else "NLC"


def packed_by(name, geometry, dtype, isa, has_bias):
    rng = np.random.default_rng(0)
    filter_ = rng.standard_normal(geometry.filter_shape).astype(dtype)
    bias = rng.standard_normal(geometry.out_channels).astype(dtype) if has_bias else None
    weights = Weights(geometry, filter_, bias)
    problem = ConvProblem(geometry, 1, 1000, dtype, has_bias=has_bias, layout=layout_for(name))
    family, target = BY_NAME[name], TARGETS[isa]
    assert family.declines(problem, target) is None
    panels = family.panels(problem, target)
    return weights, panels, family.pack(weights, panels)


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(BY_NAME)))
    isa, dtype = draw(st.sampled_from(sorted(TARGETS))), draw(st.sampled_from([F32, F64]))
    lanes = TARGETS[isa].lanes(dtype)
    k, groups = draw(st.integers(1, 9)), 1
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 150))
    if name == "fir":
        groups = inputs = outputs = draw(st.integers(1, 70))
    elif name == "narrow":
        outputs = draw(st.integers(1, lanes // 2))
        inputs = lanes * draw(st.integers(1, 3)) + draw(st.integers(0, lanes - 1))
        if 0.65 * inputs / (-(-inputs // lanes)) < 0.85 * outputs:
            inputs = lanes * 3
    elif name == "interleaved":
        groups = inputs = outputs = draw(st.integers(2, 8))
    elif name == "depthwise":
        groups = inputs = outputs = draw(st.one_of(st.integers(2, 70), st.integers(2040, 2070)))
    elif name == "small groups":
        groups = draw(st.integers(2, 70))
        inputs, outputs = (groups * draw(st.integers(1, lanes // 2)) for _ in range(2))
    elif name == "sliding":
        groups = draw(st.integers(1, 5))
        inputs, outputs = groups * inputs, groups * draw(st.integers(1, lanes))
    elif name == "grouped":
        groups = draw(st.integers(1, 5))
        inputs, outputs = groups * inputs, groups * outputs
    geometry = Geometry(k, inputs, outputs, num_groups=groups)
    problem = ConvProblem(geometry, 1, 1000, dtype, layout=layout_for(name))
    assume(BY_NAME[name].declines(problem, TARGETS[isa]) is None)
    return name, geometry, dtype, isa, draw(st.booleans())


@given(cases())
def test_unpacking_gives_the_filter_and_zeros_in_the_padding(case):
    _, geometry, *_ = case
    weights, panels, packed = packed_by(*case)
    unpack = UNPACK[panels[0].tile.family]
    filter_, rest = unpack(packed.filter, panels, geometry.filter_shape)
    np.testing.assert_array_equal(filter_, weights.filter)
    assert not rest.any()
    between = packed.filter.size - weights.filter.size - rest.size  # nobody reads it
    lanes = TARGETS[case[3]].lanes(case[2])
    assert between == 0 or any(p.sums_lanes or p.tile.lanes < lanes for p in panels)
    assert 0 <= between <= packed.filter.size // 2


def packing_of(family, problem, target):
    """All of its panels that `pack` reads, or None where it declines."""
    if family.declines(problem, target) is not None:
        return None
    panels = family.panels(problem, target)
    tile, order, in_slices = panels[0].tile, None, None
    if tile.family == "planar":
        order = tile.variant.order
    elif tile.family in ("depthwise", "groups", "sliding", "interleaved"):
        in_slices = tile.variant.outputs, tile.variant.groups
    return order, in_slices, [
        (p.first, p.channels, p.column, p.width, p.slices, p.sums_lanes, p.tile.masked)
        for p in panels
    ]  # fmt: skip


@given(cases(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9), st.data())
def test_packed_weights_fit_whatever_is_convolved(case, stride, dilation, padding, data):
    """A layer keeps them for every batch and length."""
    name, geometry, dtype, isa, _ = case
    geometry = dataclasses.replace(
        geometry, stride=stride, dilation=dilation, padding=(padding, 2 * padding)
    )
    least, found = geometry.span, []
    layout = data.draw(st.sampled_from(["NLC", "NCL"]))
    for _ in range(4):
        problem = ConvProblem(
            geometry, data.draw(st.integers(1, 5)),
            least + data.draw(st.one_of(st.integers(0, 40), st.integers(0, 100_000))), dtype,
            layout=layout,
        )  # fmt: skip
        found.append(packing_of(BY_NAME[name], problem.thinned, TARGETS[isa]))
    known = [packing for packing in found if packing is not None]
    assert all(packing == known[0] for packing in known)


@given(cases())
def test_bias_stands_at_the_columns_of_its_panel_and_zeros_elsewhere(case):
    weights, panels, packed = packed_by(*case)
    expected = np.zeros(panels[-1].last_column, weights.filter.dtype)
    if weights.bias is not None:
        for panel in panels:
            for column, j in columns_in_use(panel):
                expected[column] = weights.bias[panel.first + j]
    np.testing.assert_array_equal(packed.bias, expected)


@given(cases())
def test_panels_begin_on_a_vector_and_the_whole_on_a_cache_line(case):
    _, geometry, dtype, isa, _ = case
    _, panels, packed = packed_by(*case)
    assert address_of(packed.filter) % 64 == 0
    assert address_of(packed.bias) % 64 == 0
    for panel in panels:
        for array, place in (
            (packed.filter, panel.column * geometry.reduction),
            (packed.bias, panel.column),
        ):
            address = address_of(array) + place * dtype.itemsize
            broadcast = panel.tile.family in ("planar", "fir")  # element by element
            assert broadcast or address % TARGETS[isa].vector_bytes == 0


@pytest.mark.parametrize("dtype", [F32, F64])
def test_every_panel_of_wide_vectors_begins_on_a_cache_line(dtype):
    geometry = Geometry(3, 5, 150)
    _, panels, packed = packed_by("dense", geometry, dtype, "avx512", True)
    assert len(panels) > 1
    for panel in panels:
        place = panel.column * geometry.reduction * dtype.itemsize
        assert (address_of(packed.filter) + place) % 64 == 0


def test_packing_copies():
    weights, _, packed = packed_by("fir", Geometry(3, 1, 1), F32, "avx2", True)
    weights.filter[...] = np.nan
    weights.bias[...] = np.nan
    assert not np.isnan(packed.filter).any()
    assert not np.isnan(packed.bias).any()


def test_a_strided_filter_is_read_by_its_strides():
    geometry = Geometry(3, 4, 6)
    filter_ = np.arange(72, dtype=F32).reshape(6, 4, 3).transpose(2, 1, 0)
    problem = ConvProblem(geometry, 1, 10, F32)
    dense = BY_NAME["dense"]
    panels = dense.panels(problem, TARGETS["avx2"])
    packed = dense.pack(Weights(geometry, filter_, None), panels)
    read, _ = unpack_columns(packed.filter, panels, geometry.filter_shape)
    np.testing.assert_array_equal(read, filter_)

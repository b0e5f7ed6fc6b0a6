"""What direct summation and transforms cost, estimated from the sizes of their loops.

An estimate is a sum of counts (multiply-adds, bytes, tiles, …) times nanoseconds for each.
The nanoseconds are in `costs`, fitted by `benchmarks/transform_costs.py` to measurements on one
core of each of three processors; only ratios matter here.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ... import _threads
from ...problem import ConvProblem
from ..target import Target
from .blocking import TransformBlocking, transform_blocking
from .folding import Folding
from .scheme import Scheme

if TYPE_CHECKING:
    from ..family import Blocking
    from ..microkernel import Tile

Candidate = tuple[Scheme, Folding]
Counts = dict[str, float]

# `auto` transforms where that is estimated to take less than this share of direct summation. Of the
# public list the 90th percentile of choice over best is 1.03 by 0.9, 1.07 by 0.95 on Sapphire
# Rapids; on Zen 3 the largest is 1.25 by 0.9, 1.06 by 0.95. On Zen 4 the 95th of all layers that
# were measured is 1.092 by 0.9, 1.086 by 0.91, and 256 → 512 K16 s8 at 75 positions gains 1.3×.
WORTHWHILE = {"sapphirerapids": 0.9, "znver4": 0.91, "znver3": 0.95}

# Of candidates within so much of the cheapest the one with the smallest spectrum is taken: choice
# over best at the 95th percentile of what was measured is 1.13 so, 1.15 without (Sapphire Rapids).
# Memory is saved, and more stays in the caches between calls: FIR K1023 takes 0.68 of the time on
# two rested cores, with 256 KiB rather than 383. On Zen 3 it is 1.09 by 1.03, 1.11 by 1.05.
NEARLY_BEST = {"sapphirerapids": 1.05, "znver4": 1.05, "znver3": 1.03}

# Below so many operations a call is over before a transform has saved anything.
LEAST_FLOPS = 400_000

# Bytes of a filter that come from memory in a nanosecond: where few positions share a long filter,
# the multiply-adds do not hide the reading.
FILTER_RATE = 8.0

# The same of spectra far away, which are prefetched (26 in a loop that only reads), and the share
# of the multiply-adds that hides it.
SPECTRUM_RATE, HIDING = 20.0, 0.3

# Nanoseconds in which a core starts one multiply-add.
SLOT = {"znver4": 0.27, "sapphirerapids": 0.18, "znver3": 0.17}

# Share of L2 that the spectra of all groups may have so that the next call finds them there.
KEPT = 0.5

# Sizes of spectra, as powers of two times L2, for which a byte has a price of its own; between two
# of them it pays a part of each. On Sapphire Rapids the prices are 1, 4, 6, 9, 13, 21, 32, 28: what
# a filter shares its caches with grows with it. With three prices (near, beyond L2, far) choice
# over best was 1.11 rather than 1.09 at the 95th percentile on Zen 4, 1.15 rather than 1.12 there.
LEAST_SPECTRUM, MOST_SPECTRUM = -2, 5

# How many times L2 planes, or x and y are from which they cost more than others beyond L2.
FAR_SIZE = 4

# The same of x and y together.
VERY_FAR_SIZE = 8

# Rows up to which a tile goes through x and y beyond L2 at the speed of memory: with 128 and more
# points estimates for large layers were 0.7 of the time, with 64 and fewer they were right.
MOST_STREAMS = 64

# Bytes from row to row from which most rows of a tile lie on pages of their own.
FAR = 2048


@functools.cache
def costs(core: str) -> dict[str, dict[str, float]]:
    """Nanoseconds by kind of kernel and by count."""
    text = importlib.resources.files(__package__).joinpath("costs", f"{core}.json").read_text()
    table: dict[str, dict[str, float]] = json.loads(text)
    return table


def tile_rows(rows: int, most: int) -> list[int]:
    """Rows of the register tiles that cover `rows`, as `Emitter.cover_rows` cuts them."""
    full = max(0, (rows - most) // most) if rows > most else 0
    rest = rows - full * most
    if rest <= most:
        return [most] * full + [rest]
    return [most] * full + [(rest + 1) // 2, rest // 2]


def slots(rows: int, vectors: int, units: int) -> float:
    """Multiply-adds that `units` could start during one step of a register tile.

    It starts rows*vectors of them, loads rows + vectors operands, two a cycle, and waits four
    cycles for the sums of the step before.
    """
    return max(rows * vectors, units * (rows + vectors) / 2, 4 * units)


def transform_counts(blocking: TransformBlocking) -> Counts:
    """What the skeleton does in one call."""
    tiles = blocking.total_tiles * blocking.folding.groups
    products = product_counts(blocking)
    return {
        "tiles": tiles, "calls": 1,
        **products,
        **spectrum_counts(blocking, products["gemm_slots"]),
        **plane_counts(blocking, tiles),
        **row_counts(blocking, tiles),
        **moving_counts(blocking, tiles),
        **window_counts(blocking),
        **transposition_counts(blocking),
    }  # fmt: skip


def product_counts(blocking: TransformBlocking) -> Counts:
    """Of the GEMM of each transform point."""
    scheme, folding, target = blocking.scheme, blocking.folding, blocking.target
    counts: Counts = defaultdict(float)
    for kind in scheme.products():
        depths = sum(scheme.depth_of(plane, folding) for plane in kind.x_planes)
        for (tiles, number), panel in itertools.product(blocking.block_sizes, blocking.panels):
            calls = folding.groups * number * len(kind.x_planes)
            steps = folding.groups * number * kind.terms * depths
            covered = tile_rows(tiles * kind.stacked, panel.tile.rows)
            counts["gemm_slots"] += steps * sum(
                slots(r, panel.tile.vectors, target.fma_units) for r in covered
            )
            counts["gemm_tiles"] += calls * len(covered)
            counts["gemm_lines"] += steps * panel.tile.vectors * len(covered)
            counts["gemm_calls"] += calls
    return counts


def spectrum_counts(blocking: TransformBlocking, gemm_slots: float) -> Counts:
    """Of reading the transformed filter."""
    target, itemsize = blocking.target, blocking.problem.dtype.itemsize
    size = blocking.folding.groups * blocking.group_weights * itemsize
    # In a program other layers have been in the caches since the last call.
    is_kept = size <= KEPT * target.l2
    bytes_read = size * (1 if is_kept else blocking.blocks)
    counts = {
        f"spectrum_bytes {power}": share * bytes_read for power, share in shares(size / target.l2)
    }
    if not is_kept:
        counts["stall"] = stall(bytes_read / SPECTRUM_RATE, HIDING * gemm_slots, target)
    return counts


def plane_counts(blocking: TransformBlocking, tiles: int) -> Counts:
    """Of planes: vectors of those of y, and bytes of all where they do not stay in L2."""
    scheme, target, itemsize = blocking.scheme, blocking.target, blocking.problem.dtype.itemsize
    lanes = target.lanes(blocking.problem.dtype)
    counts = {"y_planes": tiles * scheme.output_planes * blocking.m_row / lanes}
    planes = scheme.input_planes * blocking.v_row + scheme.output_planes * blocking.m_row
    plane_bytes = tiles * planes * itemsize
    if blocking.plane_bytes + blocking.group_weights * itemsize > target.l2:
        counts["plane_bytes"] = plane_bytes
    if blocking.plane_bytes > FAR_SIZE * target.l2:
        counts["far_plane_bytes"] = plane_bytes
    return counts


def row_counts(blocking: TransformBlocking, tiles: int) -> Counts:
    """Of the transforms themselves: vectors of rows of a tile."""
    scheme, folding, target = blocking.scheme, blocking.folding, blocking.target
    lanes = target.lanes(blocking.problem.dtype)
    counts: Counts = {
        f"forward {scheme.name}": x_rows(blocking, tiles),
        f"inverse {scheme.name}": tiles * math.ceil(folding.columns / lanes),
    }
    if not target.has_masks:  # the only vector of a row is partial, and not shifted back
        if folding.depth // folding.phases < lanes:
            counts["partial_x_rows"] = tiles * folding.phases * scheme.points
        if folding.columns < lanes:
            counts["partial_y_rows"] = tiles * scheme.outputs(folding.taps)
    return counts


def x_rows(blocking: TransformBlocking, tiles: int) -> int:
    """Vectors of the rows of x that tiles read at each point."""
    folding, lanes = blocking.folding, blocking.target.lanes(blocking.problem.dtype)
    return tiles * folding.phases * math.ceil(folding.depth / folding.phases / lanes)


def moving_counts(blocking: TransformBlocking, tiles: int) -> Counts:
    """Of x and y where they do not stay in L2."""
    problem, scheme, folding = blocking.problem, blocking.scheme, blocking.folding
    g, itemsize, target = problem.geometry, problem.dtype.itemsize, blocking.target
    outputs = tiles * scheme.outputs(folding.taps)
    moved = moved_bytes(problem, target)
    counts: Counts = {"bytes" if folding.groups == 1 else "group_bytes": moved}
    if moved > VERY_FAR_SIZE * target.l2:
        counts["far_bytes"] = moved
    if moved > FAR_SIZE * target.l2 and scheme.points > MOST_STREAMS:
        lines = outputs * math.ceil(folding.columns / target.lanes(problem.dtype))
        counts["scattered_lines"] = x_rows(blocking, tiles) * scheme.points + lines
    # Rows on pages of their own miss the table of addresses.
    if moved and folding.unit * folding.phases * g.in_channels * itemsize > FAR:
        counts["far_x_rows"] = tiles * scheme.points * folding.phases
    if moved and folding.residues * g.out_channels * itemsize > FAR:
        counts["far_y_rows"] = outputs
    return counts


def window_counts(blocking: TransformBlocking) -> Counts:
    """Of tiles that go through a window."""
    problem, scheme, folding = blocking.problem, blocking.scheme, blocking.folding
    windows = window_tiles(blocking) * folding.groups
    outputs = min(blocking.tiling.positions, -(-problem.length_out // folding.residues))
    reach = folding.phases * (outputs - 1) + problem.geometry.kernel_size
    # Rows that do not follow each other in x are copied one by one.
    follow_each_other = folding.unit == folding.row_positions
    copied = "window_rows" if follow_each_other else "window_strips"
    return {
        copied: windows * min(scheme.points * folding.phases, reach),
        "window_elements": windows * scheme.points * folding.depth,
    }


def transposition_counts(blocking: TransformBlocking) -> Counts:
    """Of channel-first arrays."""
    problem = blocking.problem
    if problem.layout == "NLC":
        return {}
    # With dilation, neighbours of a tile are no neighbours in y.
    y_name = "y_transposed" if blocking.folding.residues == 1 else "y_scattered"
    return {"x_transposed": math.prod(problem.in_shape), y_name: math.prod(problem.out_shape)}


def shares(size: float) -> Iterator[tuple[int, float]]:
    """The powers of two nearest to a spectrum's size, and how much it belongs to each.

    >>> list(shares(8)), list(shares(100))
    ([(3, 1.0)], [(5, 1)])
    """
    power = min(max(math.log2(size), LEAST_SPECTRUM), MOST_SPECTRUM)
    below = math.floor(power)
    yield below, below + 1 - power
    if power > below:
        yield below + 1, power - below


def stall(reading: float, slots: float, target: Target) -> float:
    """Nanoseconds by which reading takes longer than the multiply-adds that hide it."""
    return max(0.0, reading - slots * SLOT[target.core])


def window_tiles(blocking: TransformBlocking) -> int:
    """Tiles that go through scratch: both ends of a residue class, or all of a short one."""
    tiling = blocking.tiling
    is_short = tiling.length_out < tiling.positions * tiling.residues
    ends = 1 if is_short else sum(side > 0 for side in blocking.problem.padding)
    return min(blocking.total_tiles, blocking.problem.batch * tiling.residues * ends)


def direct_blocking(problem: ConvProblem, target: Target) -> Blocking:
    """The sizes of the kernel that sums directly."""
    from ..families import direct_family
    from ..family import blocking_for

    return blocking_for(problem, target, direct_family(problem, target))


def direct_counts(problem: ConvProblem, target: Target) -> tuple[str, Counts]:
    """The kernel that sums directly, and what it does in one call."""
    blocking = direct_blocking(problem, target)
    geometry, positions = problem.geometry, problem.batch * problem.length_out
    is_transposed = blocking.family.needs_unit_rows != (problem.layout == "NCL")
    if blocking.tile.family == "fir":
        counts = fir_counts(problem, blocking.tile)
    else:
        counts = tile_counts(blocking)
    filter_bytes = geometry.reduction * blocking.panels[-1].last_column * problem.dtype.itemsize
    is_in_bands = blocking.band.panels < len(blocking.panels)
    runs = 1 if is_in_bands or filter_bytes <= target.l2 else -(-positions // blocking.run)
    counts["filter_bytes"] = filter_bytes * runs
    counts["stall"] = stall(
        counts["filter_bytes"] / FILTER_RATE,
        sum(counts.get(f"slots{v}", 0.0) for v in range(1, 5)),
        target,
    )
    counts["positions"] = positions * geometry.num_groups
    x_size, y_size = math.prod(problem.in_shape), math.prod(problem.out_shape)
    counts["x_elements"] = x_size
    if is_transposed:
        counts["transposed"] = x_size + y_size
    elif blocking.family.sorts_x(problem):
        counts["transposed"] = x_size
    counts["bytes"] = moved_bytes(problem, target)
    if counts["bytes"] > VERY_FAR_SIZE * target.l2:
        counts["far_bytes"] = counts["bytes"]
    counts["calls"] = 1
    return blocking.family.name, counts


def tile_counts(blocking: Blocking) -> Counts:
    """Of all panels the slots of multiply-adds, by vectors of a tile, and the tiles."""
    problem, target = blocking.problem, blocking.target
    geometry, positions = problem.geometry, problem.batch * problem.length_out
    counts: Counts = defaultdict(float)
    for panel in blocking.panels:
        tile, depth = panel.tile, geometry.group_in_channels
        if panel.sums_lanes:
            depth = math.ceil(depth / tile.lanes)
        steps = positions / tile.rows * geometry.kernel_size * depth * panel.slices
        rows, vectors = tile.rows, tile.vectors
        if tile.family == "planar":  # rows of channels, vectors of positions
            rows, vectors = tile.variant.outputs, tile.rows // tile.lanes
        size = tile.lanes / target.lanes(problem.dtype)  # of a vector
        taken = steps * slots(rows, vectors, target.fma_units) * size
        counts[f"slots{min(tile.vectors, 4)}"] += taken
        slices = panel.slices if blocking.family.sums_channels else 1  # of dense tiles, each a tile
        counts["panel_tiles"] += positions / tile.rows * slices * len(blocking.reduction)
    return counts


def fir_counts(problem: ConvProblem, tile: Tile) -> Counts:
    """Of tiles of many vectors the products and loads, and the products of single vectors."""
    geometry, lanes = problem.geometry, tile.lanes
    taps, phases, of_phase = geometry.kernel_size, geometry.phases, geometry.phase_taps
    signals = problem.batch * problem.geometry.num_groups
    residues, block = min(of_phase, lanes), max(1, tile.variant.tap_block)
    blocks = residues * math.ceil(of_phase / residues / block)
    blocks = phases * (blocks - len(tile.variant.permuted(of_phase)))
    tiles = signals * (problem.length_out // tile.rows)
    singles = signals * math.ceil(problem.length_out % tile.rows / lanes)
    border = min(problem.length_out, sum(max(0, side) for side in problem.padding))
    return {
        "products": tiles * tile.rows / lanes * taps,
        "loads": tiles * tile.rows / lanes * blocks,
        "single_products": singles * taps,
        "border_products": signals * border / lanes * taps,
    }


def moved_bytes(problem: ConvProblem, target: Target) -> int:
    """Bytes of x and y, if they do not stay in L2."""
    size = problem.in_bytes + problem.out_bytes
    return size if size > target.l2 else 0


def prices(kind: str, problem: ConvProblem, target: Target) -> dict[str, float] | None:
    """Nanoseconds of each count, of float32 where float64 was not measured."""
    table = costs(target.core)
    return table.get(key_of(kind, problem), table.get(f"{kind} f32"))


def total(prices: dict[str, float], counts: Counts) -> float:
    """Nanoseconds."""
    return sum(prices.get(name, 0.0) * count for name, count in counts.items())


def key_of(kind: str, problem: ConvProblem) -> str:
    return f"{kind} f{8 * problem.dtype.itemsize}"


@functools.lru_cache(maxsize=4096)
def estimate(problem: ConvProblem, target: Target, scheme: Scheme, folding: Folding) -> float:
    """Nanoseconds of a call with as many threads as there are, the filter's share included."""
    threads = _threads.max_threads()
    blocking = transform_blocking(problem, target, scheme, folding, threads)
    counts = transform_counts(blocking)
    time = total(prices("transform", problem, target) or {}, counts)
    time /= blocking.workers(threads)
    if problem.filter_is_new:
        table = costs(target.core)
        time += table["filter"]["elements"] * blocking.group_weights * folding.groups
    return time


def direct_estimate(problem: ConvProblem, target: Target) -> float | None:
    """Nanoseconds of direct summation; None for a kernel that was not measured."""
    name, counts = direct_counts(problem, target)
    known = prices(name, problem, target)
    if known is None:
        return None
    workers, _ = direct_blocking(problem, target).workers(_threads.max_threads())
    return total(known, counts) / workers


@functools.lru_cache(maxsize=4096)
def best(problem: ConvProblem, target: Target, candidates: Sequence[Candidate]) -> Candidate:
    """The cheapest candidate, or of those nearly as cheap the one with the smallest spectrum."""
    times = {candidate: estimate(problem, target, *candidate) for candidate in candidates}
    most = NEARLY_BEST[target.core] * min(times.values())
    threads = _threads.max_threads()

    def size(candidate: Candidate) -> tuple[int, float]:
        weights = transform_blocking(problem, target, *candidate, threads).group_weights
        return weights * candidate[1].groups, times[candidate]

    return min((candidate for candidate in times if times[candidate] <= most), key=size)


def declines(
    problem: ConvProblem,
    target: Target,
    candidates: Sequence[Candidate],
    others: Sequence[Candidate],
) -> str | None:
    """Why `auto` sums directly, or takes one of `others`, rather than one of `candidates`."""
    if problem.flops < LEAST_FLOPS:
        return "too little to compute for a transform to pay"
    direct = direct_estimate(problem, target)
    if direct is None:
        return "direct summation by a kernel of its own is faster"
    scheme, folding = best(problem, target, tuple(candidates))
    fastest = estimate(problem, target, scheme, folding)
    if others:
        other = best(problem, target, tuple(others))
        if estimate(problem, target, *other) < fastest:
            return f"{other[0].name} is estimated to be faster than {scheme.name}"
    if fastest > WORTHWHILE[target.core] * direct:
        return (
            f"{scheme.name} is estimated at {fastest / 1e3:.1f} µs, "
            f"direct summation at {direct / 1e3:.1f} µs"
        )
    return None

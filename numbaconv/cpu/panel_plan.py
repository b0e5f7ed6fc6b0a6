"""The plan of every kernel that runs as panels under the macrokernel."""

from __future__ import annotations

import dataclasses
import functools
from functools import lru_cache

import numpy as np

from .. import _threads
from ..interop import address_of
from ..plan import Array, BoundCall, Entry, RememberingPlan
from ..problem import ConvProblem
from ..weights import Weights
from .blocking import Inside, deserves_threads, is_far_filter, least_piece
from .family import Blocking, Family, blocking_for
from .launch import Launcher, look_for, serial_launcher
from .macrokernel import convolve_address
from .microkernel import Tile
from .panel import panel_row
from .streaming import MANY_PRODUCTS, CallTables, may_stream
from .tables import BLOCK, CALL, PANEL
from .target import Target
from .transposition import copier_address
from .vector import LINE
from .window import MODE_CODES, WindowShape, filler_address, phase_shape, window_shape


class PanelPlan(RememberingPlan["PanelCall"]):
    """Blocking and packed panels for one problem.

    Parameters
    ----------
    problem : ConvProblem
    weights : Weights
    target : Target
    family : Family
    """

    def __init__(
        self, problem: ConvProblem, weights: Weights, target: Target, family: Family
    ) -> None:
        super().__init__()
        self.problem = problem
        self.blocking = blocking_for(problem, target, family)
        panels = self.blocking.panels
        form = (family.emitter.family, target)
        self.packed = weights.packed(form, lambda weights: family.pack(weights, panels))

    def make_call(self, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> PanelCall:
        return PanelCall(self, x_strides, y_strides)

    def details(self, threads: int | None, x_strides: tuple[int, ...]) -> dict[str, str]:
        blocking = self.blocking
        past_caches = streams(blocking, self.problem.plain_strides[1])
        tiles = dict.fromkeys(tile.name for tile in tiles_of(blocking, past_caches))
        inside = inside_read(blocking, x_strides)
        workers, divide_panels = blocking.workers(_threads.allowed(threads))
        return {
            "tile": ", ".join(tiles) + f" ({len(blocking.panels)} panels)",
            "blocking": (
                f"runs of {blocking.run} positions, "
                f"reduction in {len(blocking.reduction)} block(s)"
                f"{', each over all panels' if blocking.is_block_by_block else ''}, "
                f"positions read in place "
                f"{f'{inside.first}:{inside.last}' if inside.last else 'none'} "
                f"of {self.problem.length_out}"
            ),
            "threads": f"{workers}, dividing {'panels' if divide_panels else 'positions'}",
            "packed weights": f"{self.packed.filter.nbytes / 1024:.1f} KiB",
        }


# Up to this much work (some 5 µs) a call keeps the GIL. Giving it up and taking it again takes 20
# of the 430 ns of a streaming step, and up to 5 ms where another thread wants it.
BRIEF_FLOPS = 200_000


class PanelCall(BoundCall):
    """A `PanelPlan` with the strides of x and y: the macrokernel's parameter table."""

    def __init__(
        self, plan: PanelPlan, x_strides: tuple[int, ...], y_strides: tuple[int, ...]
    ) -> None:
        blocking = plan.blocking
        self.workers = functools.cache(blocking.workers)
        self.is_small = not deserves_threads(plan.problem)
        self.is_brief = plan.problem.flops <= BRIEF_FLOPS
        self.kernel = convolve_address(plan.problem.dtype)
        self.tables = CallTables(
            functools.partial(call_table, blocking, x_strides, y_strides),
            plan.packed, streams(blocking, y_strides), blocking.target.vector_bytes,
        )  # fmt: skip
        self.address = self.tables.usual
        self.launch = Launcher(self.kernel, self.tables)

    def __call__(self, x: Array, y: Array, threads: int | None) -> bool:
        if self.is_small:
            return self.launch(x, y, 1)
        workers, divide_panels = self.workers(_threads.allowed(threads))
        return self.launch(x, y, workers, int(divide_panels))

    def entry(self, x: Array, y: Array) -> Entry | None:
        if not self.is_small:
            return None
        return serial_launcher(
            self.kernel, self.tables, self.address, look_for(x, y), self.is_brief
        )


def streams(blocking: Blocking, y_strides: tuple[int, ...]) -> bool:
    """Whether y is written past the caches: large, no partial sums, panels of whole vectors.

    The last one may be partial if its tile is masked, and is not shifted back then. Of vectors of
    positions, those of tiles that look at the address themselves.
    """
    problem, target = blocking.problem, blocking.target
    along_positions = blocking.family.needs_unit_rows
    edges = [panel.first for panel in blocking.panels]
    edges += [panel.first + panel.channels for panel in blocking.panels if not panel.tile.masked]
    return (
        len(blocking.reduction) == 1
        and blocking.family.stores_lines(problem, target)
        and (
            along_positions
            or not any(edge * problem.dtype.itemsize % target.vector_bytes for edge in edges)
        )
        and may_stream(
            problem,
            y_strides,
            target,
            along_positions=along_positions,
            is_memory_bound=problem.geometry.reduction < MANY_PRODUCTS,
        )
    )


def tiles_of(blocking: Blocking, past_caches: bool) -> list[Tile]:
    """The tile of each panel, as it writes y."""
    return [dataclasses.replace(panel.tile, streams=past_caches) for panel in blocking.panels]


@lru_cache(maxsize=1024)
def panel_table(blocking: Blocking, past_caches: bool) -> Array:
    """A row for each panel: its kernel, compiled if need be, and what it reads and writes."""
    reduction = blocking.problem.geometry.reduction
    rows = [
        panel_row(panel, tile, panel.column * reduction, panel.column)
        for panel, tile in zip(blocking.panels, tiles_of(blocking, past_caches), strict=True)
    ]
    return np.array(rows, PANEL)


@lru_cache(maxsize=1024)
def block_table(blocking: Blocking) -> Array:
    """A row for each block of the reduction."""
    depth = blocking.problem.geometry.group_in_channels
    rows = [(b.first_tap, b.taps, b.first_channel, b.depth, depth) for b in blocking.reduction]
    return np.array(rows, BLOCK)


# Strides up to which windows of channel-first arrays keep the positions between outputs: squares
# of vectors take less time than a copy for each output. Zen 4, K3: 14 → 8 and 28 → 96 s4 gain 3.5×
# and 1.5×, 2 → 96 s8 and s32 7× and 3.7×, 28 → 96 s8 1.4×, 64 → 96 s16 1.2×; s64 is alike.
TRANSPOSED_STRIDE = 32


# Windows of as many times the second cache are filled where weights come from beyond it: they had
# better be read for a whole run, see `blocking.FAR_TILES`. Zen 4, channel-first: 1280 → 1280 K3
# gains 1.14-1.22×, 768 → 3072 K1 1.05-1.1×, others 1.0-1.04×. And where a smaller one would hold
# little but overlaps: 1024 → 6 K15 d8 gains 3.5×, 1024 → 64 1.5×, 512 → 2 K15 s3 d8 2.3×.
FAR_WINDOW = 2


def window_for(blocking: Blocking, inside: Inside) -> tuple[int, WindowShape]:
    """Positions of a window, as many as a run, the borders and a part of L2 allow.

    A vector of them at least where vectors lie along positions.
    """
    problem, geometry = blocking.problem, blocking.problem.geometry
    row_bytes = blocking.band.row * problem.dtype.itemsize
    limit = blocking.target.l2 * (3 if blocking.band.gap else 1) // 4
    if is_far_filter(problem, blocking.target) or 2 * geometry.span * row_bytes > limit:
        limit = FAR_WINDOW * blocking.target.l2
    positions = min(blocking.run, problem.length_out)
    if inside.last:
        positions = min(positions, max(inside.first, problem.length_out - inside.last, 1))
    # Transposing the gaps of a small stride takes less time than picking single positions.
    least = blocking.family.least_window(blocking.tile)
    positions = max(positions, least)
    if blocking.family.needs_unit_rows:
        least = min(blocking.tile.lanes, problem.length_out)
    is_strip = problem.layout == "NCL" and geometry.stride <= TRANSPOSED_STRIDE
    while True:
        if blocking.family.sorts_x(problem):
            shape = phase_shape(positions, geometry)
        else:
            shape = window_shape(
                positions, geometry.kernel_size, geometry.stride, geometry.dilation,
                keeps_stride=is_strip,
            )  # fmt: skip
        if positions <= least or shape.rows(positions) * row_bytes <= limit:
            return positions, shape
        positions = max(least, positions // 2)


def inside_read(blocking: Blocking, x_strides: tuple[int, ...]) -> Inside:
    """The positions that read an x with these strides in place, if its axis is contiguous."""
    needs_rows = blocking.family.needs_unit_rows
    is_signal = blocking.problem.geometry.in_channels == 1 and not needs_rows
    stride = x_strides[1] if needs_rows else x_strides[2]
    itemsize = blocking.problem.dtype.itemsize
    is_contiguous = is_signal or stride == itemsize
    if blocking.family.joins_positions:
        is_contiguous = is_contiguous and x_strides[1] == itemsize * blocking.band.row
    return blocking.inside if is_contiguous else Inside(0, 0)


def extent(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, int]:
    """Bytes from the first element of an array to the lowest and past the highest one."""
    if 0 in shape:
        return 0, 0
    reaches = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    return sum(min(0, r) for r in reaches), sum(max(0, r) for r in reaches) + itemsize


def array_fields(
    problem: ConvProblem, x_strides: tuple[int, ...], y_strides: tuple[int, ...]
) -> dict[str, int]:
    """What every table says of x and y: extents, strides in elements, padding."""
    geometry, itemsize = problem.geometry, problem.dtype.itemsize
    x_batch, x_row, x_channel = (stride // itemsize for stride in x_strides)
    y_batch, y_row, y_channel = (stride // itemsize for stride in y_strides)
    x_low, x_high = extent(problem.in_shape, x_strides, itemsize)
    y_low, y_high = extent(problem.out_shape, y_strides, itemsize)
    return dict(
        batch=problem.batch, length=problem.cropped_length, length_out=problem.length_out,
        x_batch=x_batch, x_row=x_row, x_channel=1 if geometry.in_channels == 1 else x_channel,
        y_batch=y_batch, y_row=y_row, y_channel=1 if geometry.out_channels == 1 else y_channel,
        x_low=x_low, x_high=x_high, y_low=y_low, y_high=y_high,
        crop=max(0, -problem.padding[0]), left=max(0, problem.padding[0]),
        mode=MODE_CODES[geometry.padding_mode], stride=geometry.stride,
    )  # fmt: skip


def filled(dtype: np.dtype, values: dict[str, int]) -> Array:
    """A table of one row."""
    return np.array([tuple(values[name] for name in dtype.names or ())], dtype)


def runs_together(blocking: Blocking, is_block_by_block: bool, y_in_place: bool) -> int:
    """How many runs share each block of weights: an interior and two borders, or one.

    Where blocks go over all panels, or come from far for a run or less.
    """
    problem = blocking.problem
    is_short = problem.length_out <= blocking.run and y_in_place
    is_shared = is_short and is_far_filter(problem, blocking.target)
    return 3 if is_block_by_block or is_shared else 1


@lru_cache(maxsize=1024)
def call_table(
    blocking: Blocking,
    x_strides: tuple[int, ...],
    y_strides: tuple[int, ...],
    past_caches: bool = False,
) -> tuple[Array, ...]:
    """The macrokernel's parameters for arrays with these strides in bytes, without weights.

    Returns the table, and the tables whose addresses it holds.
    """
    problem, geometry = blocking.problem, blocking.problem.geometry
    arrays = array_fields(problem, x_strides, y_strides)
    x_row, x_channel, y_row, y_channel = (
        arrays[name] for name in ("x_row", "x_channel", "y_row", "y_channel")
    )
    unit_rows = blocking.family.needs_unit_rows
    y_in_place = (y_row if unit_rows else y_channel) == 1
    if blocking.family.joins_positions:
        y_in_place = y_in_place and y_row == geometry.out_channels
    is_block_by_block = blocking.is_block_by_block and y_in_place
    # Whether nothing but whole rows is copied.
    is_plain = y_in_place and x_channel == y_channel == 1
    is_plain = is_plain and (not unit_rows or x_row == geometry.stride == 1)
    inside = inside_read(blocking, x_strides)
    positions, shape = window_for(blocking, inside)
    stage_rows = max(min(blocking.run, problem.length_out), positions)
    stage_width = max(panel.channels for panel in blocking.panels)
    band, line = blocking.band, LINE // problem.dtype.itemsize
    window_size = -(-shape.rows(positions) * band.row // line) * line  # the stage is behind it
    if unit_rows:
        shape = shape.in_planes(band.row)
    merges = blocking.family.sums_channels and geometry.num_groups == 1
    window_merges = blocking.family.sums_channels and band.row == geometry.group_in_channels
    panels, blocks = panel_table(blocking, past_caches), block_table(blocking)
    values = dict(
        panels=address_of(panels), panel_count=panels.size,
        blocks=address_of(blocks), block_count=blocks.size,
        dilation=geometry.dilation,
        inside_first=inside.first, inside_last=inside.last,
        run=blocking.run, window_run=positions,
        reduction=geometry.reduction, is_block_by_block=is_block_by_block,
        runs_together=runs_together(blocking, is_block_by_block, y_in_place),
        window_stride=shape.stride, window_dilation=shape.dilation,
        window_strips=shape.strips, window_pitch=shape.pitch, window_step=shape.step,
        window_first_rows=shape.first_rows, window_more_rows=shape.more_rows,
        window_every=shape.every, window_phase_dilation=shape.phase_dilation,
        window_long_strips=shape.long_strips,
        window_size=window_size,
        window_row=1 if unit_rows else band.row,
        window_channel=shape.strip_rows(positions) if unit_rows else 1,
        band_channels=band.channels, band_step=band.step, band_panels=band.panels,
        stage_size=0 if y_in_place else stage_rows * stage_width,
        stage_row=1 if unit_rows else stage_width, stage_channel=stage_rows if unit_rows else 1,
        x_is_merged=merges and geometry.dilation == 1 and x_row == geometry.in_channels,
        window_is_merged=window_merges and shape.dilation == 1,
        row_tile=blocking.tile.rows,
        least_piece=least_piece(problem, blocking.tile.rows, blocking.run, blocking.target),
        weights=0, bias=0,
        x_bytes=problem.in_bytes * problem.step,
        copier=0 if is_plain else copier_address(problem.dtype),
        filler=filler_address(problem.dtype),
        **arrays,
    )  # fmt: skip
    return (filled(CALL, values), panels, blocks)

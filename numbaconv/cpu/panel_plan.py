"""The plan of every kernel that runs as panels under the macrokernel."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Literal

import numpy as np

from .. import _threads
from ..interop import address_of
from ..plan import Array, Plan
from ..problem import ConvProblem
from ..weights import Weights
from . import blocking
from .macrokernel import convolve_address, launch, launch_parallel
from .packing import pack
from .panel import panel_address
from .tables import BLOCK, CALL, PANEL
from .target import Target
from .window import MODE_CODES, window_shape


class PanelPlan(Plan):
    """Blocking and packed panels for one problem.

    Parameters
    ----------
    problem : ConvProblem
    weights : Weights
    target : Target
    family : {"dense", "depthwise"}
    """

    def __init__(
        self,
        problem: ConvProblem,
        weights: Weights,
        target: Target,
        family: Literal["dense", "depthwise"],
    ) -> None:
        geometry = problem.geometry
        self.problem, self.target, self.family = problem, target, family
        self.depth = geometry.group_in_channels
        self.panels = blocking.panels_for(problem, target, family)
        self.tile = max((panel.tile for panel in self.panels), key=lambda tile: tile.width)
        self.run = blocking.run_length(problem, self.tile.rows, target)
        self.inside = blocking.inside_of(problem, self.tile.rows)
        self.blocks = blocking.reduction_blocks(
            geometry, self.depth, self.tile.width, problem.dtype.itemsize, target
        )
        self.packed = weights.packed((family, target), lambda weights: pack(weights, self.panels))
        self.panel_table, self.block_table = self._panel_table(), self._block_table()
        self.kernel = convolve_address(problem.dtype)
        # A plan meets few pairs of strides and numbers of threads.
        self._bound = lru_cache(maxsize=8)(partial(PanelCall, self))
        self.workers = lru_cache(maxsize=8)(
            partial(blocking.workers_for, problem, len(self.panels), self.tile.rows)
        )

    def _panel_table(self) -> Array:
        rows = [
            (
                panel_address(panel.tile),
                panel.group * self.depth if self.family == "dense" else panel.first,
                panel.first, panel.channels, panel.tile.width, panel.last_lanes,
                filter_offset, bias_offset,
            )
            for panel, filter_offset, bias_offset in zip(
                self.panels, self.packed.filter_offsets, self.packed.bias_offsets, strict=True
            )
        ]  # fmt: skip
        return np.array(rows, PANEL)

    def _block_table(self) -> Array:
        rows = [(b.first_tap, b.taps, b.first_channel, b.depth, self.depth) for b in self.blocks]
        return np.array(rows, BLOCK)

    def bind(self, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> PanelCall:
        return self._bound(x_strides, y_strides)

    def details(self) -> dict[str, str]:
        tiles = dict.fromkeys(panel.tile.name for panel in self.panels)
        inside = f"{self.inside.first}:{self.inside.last}" if self.inside.last else "none"
        workers, divide_panels = self.workers(_threads.allowed(None))
        return {
            "tile": ", ".join(tiles) + f" ({len(self.panels)} panels)",
            "blocking": (
                f"runs of {self.run} positions, reduction in {len(self.blocks)} block(s), "
                f"positions read in place {inside} of {self.problem.length_out}"
            ),
            "threads": f"{workers}, dividing {'panels' if divide_panels else 'positions'}",
            "packed weights": f"{self.packed.filter.nbytes / 1024:.1f} KiB",
        }


class PanelCall:
    """A `PanelPlan` with the strides of x and y: the macrokernel's parameter table."""

    def __init__(
        self, plan: PanelPlan, x_strides: tuple[int, ...], y_strides: tuple[int, ...]
    ) -> None:
        self.plan = plan
        self.kernel = plan.kernel
        self.table = call_table(plan, x_strides, y_strides)
        self.address = address_of(self.table)
        self.is_small = plan.problem.flops < blocking.PARALLEL_FLOPS

    def __call__(self, x: Array, y: Array, threads: int | None) -> bool:
        # A compiled launcher reads the address of a plain C-contiguous array in 0.1 µs,
        # Python takes 1 µs; other kinds of arrays would each compile a launcher.
        if not (x.flags.c_contiguous and x.flags.writeable and y.flags.c_contiguous):
            x, y = address_of(x), address_of(y)  # type: ignore[assignment]
        if self.is_small:
            return launch(self.kernel, self.address, x, y)
        workers, divide_panels = self.plan.workers(_threads.allowed(threads))
        if workers == 1:
            return launch(self.kernel, self.address, x, y)
        return _threads.run(
            lambda: launch_parallel(self.kernel, self.address, x, y, workers, divide_panels),
            lambda: launch(self.kernel, self.address, x, y),
        )


def window_run(plan: PanelPlan, inside: blocking.Inside) -> int:
    """Positions of a window: as many as a run, the borders and a quarter of L2 allow."""
    problem, geometry = plan.problem, plan.problem.geometry
    positions = min(plan.run, problem.length_out)
    if inside.last:
        positions = min(positions, max(inside.first, problem.length_out - inside.last, 1))
    row_bytes = geometry.in_channels * problem.dtype.itemsize
    while positions > 1:
        shape = window_shape(positions, geometry.kernel_size, geometry.stride, geometry.dilation)
        if shape.rows(positions) * row_bytes <= plan.target.l2 // 4:
            break
        positions //= 2
    return positions


def extent(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, int]:
    """Bytes from the first element of an array to the lowest and past the highest one."""
    reaches = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    return sum(min(0, r) for r in reaches), sum(max(0, r) for r in reaches) + itemsize


def call_table(plan: PanelPlan, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> Array:
    """The macrokernel's parameters for arrays with these strides in bytes."""
    problem, geometry = plan.problem, plan.problem.geometry
    itemsize = problem.dtype.itemsize
    x_batch, x_row, x_channel = (stride // itemsize for stride in x_strides)
    y_batch, y_row, y_channel = (stride // itemsize for stride in y_strides)
    x_channel = 1 if geometry.in_channels == 1 else x_channel
    y_channel = 1 if geometry.out_channels == 1 else y_channel
    x_low, x_high = extent(
        (problem.batch, problem.length, geometry.in_channels), x_strides, itemsize
    )
    y_low, y_high = extent(problem.out_shape, y_strides, itemsize)
    inside = plan.inside if x_channel == 1 else blocking.Inside(0, 0)
    positions = window_run(plan, inside)
    shape = window_shape(positions, geometry.kernel_size, geometry.stride, geometry.dilation)
    merges = plan.family == "dense" and geometry.num_groups == 1
    table = np.zeros(1, CALL)
    for name, value in dict(
        panels=address_of(plan.panel_table), panel_count=len(plan.panels),
        blocks=address_of(plan.block_table), block_count=len(plan.blocks),
        weights=address_of(plan.packed.filter), bias=address_of(plan.packed.bias),
        batch=problem.batch, length=problem.cropped_length, length_out=problem.length_out,
        in_channels=geometry.in_channels,
        x_batch=x_batch, x_row=x_row, x_channel=x_channel,
        y_batch=y_batch, y_row=y_row, y_channel=y_channel,
        x_low=x_low, x_high=x_high, y_low=y_low, y_high=y_high,
        crop=max(0, -problem.padding[0]), left=max(0, problem.padding[0]),
        stride=geometry.stride, dilation=geometry.dilation,
        mode=MODE_CODES[geometry.padding_mode],
        inside_first=inside.first, inside_last=inside.last, run=plan.run, window_run=positions,
        window_stride=shape.stride, window_dilation=shape.dilation,
        window_strips=shape.strips, window_pitch=shape.pitch, window_step=shape.step,
        window_first_rows=shape.first_rows, window_more_rows=shape.more_rows,
        window_size=shape.rows(positions) * geometry.in_channels,
        stage_width=0 if y_channel == 1 else plan.tile.width,
        x_is_merged=merges and geometry.dilation == 1 and x_row == geometry.in_channels,
        window_is_merged=merges and shape.dilation == 1,
        row_tile=plan.tile.rows,
    ).items():  # fmt: skip
        table[name] = value
    return table

"""The plan of every kernel that runs as panels under the macrokernel."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np

from .. import _jit
from ..interop import address_of
from ..plan import Plan
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
    """Blocking and packed panels for one problem; the strides of x and y come with the call.

    Parameters
    ----------
    problem : ConvProblem
    weights : Weights
    target : Target
    family : {"dense", "depthwise"}
    """

    def __init__(self, problem: ConvProblem, weights: Weights, target: Target, family: Any) -> None:
        geometry = problem.geometry
        self.problem, self.target = problem, target
        self.panels = blocking.panels_for(problem, target, family)
        self.is_dense = family == "dense"
        self.depth = geometry.group_in_channels
        widest = max((panel.tile for panel in self.panels), key=lambda tile: tile.width)
        self.tile = widest
        self.run = blocking.run_length(problem, widest.rows, target)
        self.blocks = blocking.reduction_blocks(
            geometry, self.depth, widest.width, problem.dtype.itemsize, target
        )
        self.inside = blocking.inside_of(problem, widest.rows)
        self.workers, self.divide_panels = blocking.workers_for(
            problem, len(self.panels), widest.rows, _jit.max_threads(), _jit.PARALLEL_FLOPS
        )
        form = (family, target, geometry.num_groups)
        self.packed = weights.packed(form, lambda weights: pack(weights, self.panels))
        self.panel_table = self._panel_table()
        self.block_table = np.array(
            [(b.first_tap, b.taps, b.first_channel, b.depth, self.depth) for b in self.blocks],
            BLOCK,
        )
        self.kernel = convolve_address(problem.dtype)
        # Strides repeat from call to call; a few layouts a plan is plenty.
        self._call_for = lru_cache(maxsize=8)(self._call)

    def _panel_table(self) -> np.ndarray[Any, Any]:
        rows = [
            (
                panel_address(panel.tile),
                panel.group * self.depth if self.is_dense else panel.first,
                panel.first, panel.channels, panel.tile.width, panel.last_lanes,
                filter_offset, bias_offset,
            )
            for panel, filter_offset, bias_offset in zip(
                self.panels, self.packed.filter_offsets, self.packed.bias_offsets, strict=True
            )
        ]  # fmt: skip
        return np.array(rows, PANEL)

    def _call(self, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> Any:
        """The macrokernel's parameters for arrays with these strides (bytes)."""
        problem, geometry, itemsize = (
            self.problem,
            self.problem.geometry,
            self.problem.dtype.itemsize,
        )
        x_batch, x_row, x_channel = (stride // itemsize for stride in x_strides)
        y_batch, y_row, y_channel = (stride // itemsize for stride in y_strides)
        x_channel = 1 if geometry.in_channels == 1 else x_channel
        y_channel = 1 if geometry.out_channels == 1 else y_channel
        in_place = x_channel == 1
        inside = self.inside if in_place else blocking.Inside(0, 0)
        window_run = self._window_run(inside)
        shape = window_shape(window_run, geometry.kernel_size, geometry.stride, geometry.dilation)
        merges = self.is_dense and geometry.num_groups == 1
        call = np.zeros(1, CALL)
        for name, value in dict(
            panels=address_of(self.panel_table), panel_count=len(self.panels),
            blocks=address_of(self.block_table), block_count=len(self.blocks),
            weights=address_of(self.packed.filter), bias=address_of(self.packed.bias),
            batch=problem.batch, length=problem.cropped_length, length_out=problem.length_out,
            in_channels=geometry.in_channels,
            x_batch=x_batch, x_row=x_row, x_channel=x_channel,
            y_batch=y_batch, y_row=y_row, y_channel=y_channel,
            stride=geometry.stride, dilation=geometry.dilation,
            left=max(0, problem.padding[0]), mode=MODE_CODES[geometry.padding_mode],
            inside_first=inside.first, inside_last=inside.last,
            run=self.run, window_run=window_run,
            window_stride=shape.stride, window_dilation=shape.dilation,
            window_strips=shape.strips, window_pitch=shape.pitch, window_step=shape.step,
            window_first_rows=shape.first_rows, window_more_rows=shape.more_rows,
            window_size=shape.rows(window_run) * geometry.in_channels,
            stage_width=0 if y_channel == 1 else self.tile.width,
            x_is_merged=merges and geometry.dilation == 1 and x_row == geometry.in_channels,
            window_is_merged=merges and shape.dilation == 1,
            divide_panels=self.divide_panels, row_tile=self.tile.rows,
        ).items():  # fmt: skip
            call[name] = value
        return call

    def _window_run(self, inside: blocking.Inside) -> int:
        """Positions of a window: as many as a run, the borders and a quarter of L2 allow."""
        problem, geometry = self.problem, self.problem.geometry
        positions = min(self.run, problem.length_out)
        if inside.last:
            positions = min(positions, max(inside.first, problem.length_out - inside.last, 1))
        row_bytes = geometry.in_channels * problem.dtype.itemsize
        while positions > 1:
            shape = window_shape(
                positions, geometry.kernel_size, geometry.stride, geometry.dilation
            )
            if shape.rows(positions) * row_bytes <= self.target.l2 // 4:
                break
            positions //= 2
        return positions

    def execute(self, x: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        if out.size == 0:
            return
        crop = max(0, -self.problem.padding[0])
        call = self._call_for(x.strides, out.strides)
        start = address_of(x) + crop * x.strides[1]
        arguments = (self.kernel, address_of(call), start, address_of(out))
        _jit.run_parallel(
            partial(launch_parallel, *arguments), partial(launch, *arguments), self.workers
        )

    def details(self) -> dict[str, str]:
        tiles = dict.fromkeys(panel.tile.name for panel in self.panels)
        inside = f"{self.inside.first}:{self.inside.last}" if self.inside.last else "none"
        return {
            "tile": ", ".join(tiles) + f" ({len(self.panels)} panels)",
            "blocking": (
                f"runs of {self.run} positions, reduction in {len(self.blocks)} block(s), "
                f"positions read in place {inside} of {self.problem.length_out}"
            ),
            "threads": f"{self.workers}, dividing "
            + ("panels" if self.divide_panels else "positions"),
            "packed weights": f"{self.packed.filter.nbytes / 1024:.1f} KiB",
        }

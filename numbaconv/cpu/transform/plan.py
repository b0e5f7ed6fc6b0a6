"""The plan of a transform, and what it does when a result is not finite."""

from __future__ import annotations

import functools
from functools import lru_cache

import numpy as np

from ... import _threads
from ...interop import address_of
from ...plan import Array, BoundCall, RememberingPlan
from ...problem import ConvProblem
from ...weights import Weights
from ..launch import Launcher, as_typed, launch_ranges
from ..macrokernel import range_address
from ..panel import panel_row
from ..panel_plan import PanelPlan, array_fields, filled
from ..streaming import CallTables, may_stream
from ..tables import PANEL, PRODUCT, TRANSFORM
from ..target import Target
from ..transposition import copier_address
from ..vector import LINE
from ..window import strip_address
from .accuracy import error_constant
from .blocking import TransformBlocking, transform_blocking
from .folding import Folding
from .kernels import Transform, transform_address
from .scheme import Scheme, product_sizes
from .skeleton import skeleton_address
from .spectrum import pack_spectrum


class TransformPlan(RememberingPlan["TransformCall"]):
    """A scheme, its blocking and the layer's spectrum, for one problem.

    Parameters
    ----------
    problem : ConvProblem
    weights : Weights
    target : Target
    scheme : Scheme
    folding : Folding
    """

    def __init__(
        self,
        problem: ConvProblem,
        weights: Weights,
        target: Target,
        scheme: Scheme,
        folding: Folding,
    ) -> None:
        super().__init__()
        self.problem, self.weights = problem, weights
        self.blocking = transform_blocking(problem, target, scheme, folding, _threads.max_threads())
        panels = self.blocking.panels
        self.spectrum = weights.packed(
            (scheme, folding, target),
            lambda weights: pack_spectrum(weights, folding, scheme, panels, target),
        )

    def make_call(self, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> TransformCall:
        return TransformCall(self, x_strides, y_strides)

    def direct(self) -> PanelPlan:
        """The plan of direct summation, made when a result is not finite."""
        from ..families import direct_family

        target = self.blocking.target
        return direct_family(self.problem, target).plan(self.problem, self.weights, target)

    def details(self, threads: int | None, x_strides: tuple[int, ...]) -> dict[str, str]:
        blocking, scheme, folding = self.blocking, self.blocking.scheme, self.blocking.folding
        tiles = dict.fromkeys(panel.tile.name for panel in blocking.panels)
        return {
            "transform": (
                f"{scheme.name}: {blocking.tiling.positions} outputs from {scheme.points} points, "
                f"{folding.taps} taps of {folding.depth} channels"
                + f", {folding.phases} phases" * (folding.phases > 1)
                + f", {folding.residues} residue classes" * (folding.residues > 1)
                + f", rows of {folding.row_positions} positions" * (folding.row_positions > 1)
            ),
            "tile": ", ".join(tiles) + f" ({len(blocking.panels)} panels)",
            "blocking": (
                f"blocks of {blocking.block_tiles} of {blocking.total_tiles} tiles, "
                f"planes of {blocking.plane_bytes / 1024:.0f} KiB"
            ),
            "threads": f"{blocking.workers(_threads.allowed(threads))}",
            "filter spectrum": f"{self.spectrum.filter.nbytes / 1024:.1f} KiB",
        }

    def error_bound(self) -> str:
        scheme, folding = self.blocking.scheme, self.blocking.folding
        return (
            f"max|error| <= c*eps*max|x|*max_co(sum|w|), c = {error_constant(scheme, folding)}, "
            f"eps = {np.finfo(self.problem.dtype).eps:.3g}, and direct summation where a result "
            f"is not finite"
        )


class TransformCall(BoundCall):
    """A `TransformPlan` with the strides of x and y."""

    def __init__(
        self, plan: TransformPlan, x_strides: tuple[int, ...], y_strides: tuple[int, ...]
    ) -> None:
        self.plan, blocking = plan, plan.blocking
        self.strides = (x_strides, y_strides)
        self.workers = functools.cache(blocking.workers)
        self.kernel = skeleton_address(plan.problem.dtype)
        self.tables = CallTables(
            functools.partial(transform_table, blocking, x_strides, y_strides),
            plan.spectrum, streams(blocking, y_strides), blocking.target.vector_bytes,
        )  # fmt: skip
        self.total_tiles = blocking.total_tiles
        self.launch = Launcher(self.kernel, self.tables)

    def __call__(self, x: Array, y: Array, threads: int | None) -> bool:
        # A byte for each tile, and a last one that is set with any of them.
        redo = np.zeros(self.total_tiles + 1, np.uint8)
        ran = self.launch(x, y, self.workers(_threads.allowed(threads)), redo)
        if redo[-1]:
            self.recompute(x, y, redo[:-1])
        return ran

    def recompute(self, x: Array, y: Array, redo: Array) -> None:
        """Give the outputs of the marked tiles their values by direct summation."""
        direct = self.plan.direct().bind(*self.strides)
        ranges = marked_ranges(self.plan.blocking, redo)
        kernel = range_address(self.plan.problem.dtype)
        launch_ranges(kernel, direct.address, *as_typed(x, y), ranges)


def marked_ranges(blocking: TransformBlocking, redo: Array) -> Array:
    """Runs (first, last) of the outputs in marked tiles, counted through the batch."""
    length = blocking.problem.length_out
    marked = np.zeros(blocking.problem.batch * length + 2, np.int8)
    for tile in np.flatnonzero(redo):
        n, rest = divmod(int(tile), blocking.tiling.tiles)
        outputs = blocking.tiling.outputs_of(rest)
        begin = 1 + n * length
        marked[begin + outputs.start : begin + outputs.stop : outputs.step] = 1
    return np.flatnonzero(np.diff(marked)).reshape(-1, 2)


@lru_cache(maxsize=1024)
def product_table(blocking: TransformBlocking) -> Array:
    """A row for each GEMM of one group."""
    scheme, folding = blocking.scheme, blocking.folding
    rows, place = [], 0
    sizes = product_sizes(scheme, folding.depth, blocking.m_row)
    for kind, size in zip(scheme.products(), sizes, strict=True):
        for x_plane, y_plane in zip(kind.x_planes, kind.y_planes, strict=True):
            depth = scheme.depth_of(x_plane, folding)
            rows.append((kind.terms, kind.stacked, depth, x_plane, y_plane, place))
            place += size
    return np.array(rows, PRODUCT)


@lru_cache(maxsize=1024)
def column_panels(blocking: TransformBlocking) -> Array:
    """A row for each panel of the columns of one group."""
    return np.array([panel_row(panel, panel.tile, 0, 0) for panel in blocking.panels], PANEL)


def streams(blocking: TransformBlocking, y_strides: tuple[int, ...]) -> bool:
    """Whether y is written past the caches: large, and every store of a tile is a whole line.

    Tiles of the polyphase form begin at any position of a single channel.
    """
    problem, folding, target = blocking.problem, blocking.folding, blocking.target
    return (
        target.vector_bytes % LINE == 0
        and folding.columns * problem.dtype.itemsize % target.vector_bytes == 0
        and folding.row_positions == 1
        and may_stream(problem, y_strides, target, is_memory_bound=False)
    )


def kernel_of(
    blocking: TransformBlocking, direction: str, width: int, past_caches: bool = False
) -> int:
    """The transform kernel for rows of `width` elements."""
    problem, target = blocking.problem, blocking.target
    lanes = target.lanes(problem.dtype)
    # Without masks in registers of their own a vector that may be partial is stored in nine times
    # the time of a whole one (Zen 3): by a last vector that is shifted back 60 → 60 K3 gains 1.9×,
    # 25 → 25 K7 d8 1.6×.
    masked = width % lanes > 0 if target.has_masks else width < lanes
    return transform_address(
        Transform(
            blocking.scheme, direction, 8 * problem.dtype.itemsize, lanes, masked,
            fma=target.fma, streams=past_caches,
        )
    )  # fmt: skip


@lru_cache(maxsize=1024)
def transform_table(
    blocking: TransformBlocking,
    x_strides: tuple[int, ...],
    y_strides: tuple[int, ...],
    past_caches: bool = False,
) -> tuple[Array, ...]:
    """The skeleton's parameters for arrays with these strides in bytes, without weights.

    Returns the table, and the tables whose addresses it holds.
    """
    problem, geometry = blocking.problem, blocking.problem.geometry
    scheme, folding, tiling = blocking.scheme, blocking.folding, blocking.tiling
    arrays = array_fields(problem, x_strides, y_strides)
    # Elements of a row must lie side by side: channels, or positions in the polyphase form.
    axis = "row" if folding.row_positions > 1 else "channel"
    is_x_in_place, is_y_in_place = (arrays[f"{array}_{axis}"] == 1 for array in "xy")
    # Prefetching gains 1.04-1.1× at 7 to 28 MiB of x (128 → 128 K3, 64 → 128 K8 s4, 15 → 15 K51),
    # nothing at 1 MiB, and loses 4 % at 4 MiB (32 → 32 K7, one channel K1023), on one core.
    is_far = problem.in_bytes > 2 * blocking.target.l2
    products, panels = product_table(blocking), column_panels(blocking)
    values = dict(
        forward=kernel_of(blocking, "forward", folding.row_positions * geometry.group_in_channels),
        inverse=kernel_of(blocking, "inverse", folding.columns, past_caches), streams=past_caches,
        panels=address_of(panels), panel_count=panels.size,
        products=address_of(products), product_count=products.size,
        weights=0, group_weights=blocking.group_weights, bias=0,
        kernel_size=geometry.kernel_size,
        points=scheme.points, outputs=scheme.outputs(folding.taps),
        phases=folding.phases, residues=folding.residues,
        unit=folding.unit, row_positions=folding.row_positions,
        in_channels=geometry.group_in_channels, out_channels=geometry.group_out_channels,
        groups=folding.groups, depth=folding.depth, lanes=blocking.target.lanes(problem.dtype),
        is_x_in_place=is_x_in_place, is_y_in_place=is_y_in_place,
        strip_positions=0 if is_x_in_place else blocking.strip_positions,
        stage_positions=tiling.positions if is_y_in_place else blocking.stage_positions,
        positions=tiling.positions, short_tiles=tiling.short_tiles, row_tiles=tiling.tiles,
        total_tiles=blocking.total_tiles, blocks=blocking.blocks, step=blocking.step,
        v_row=blocking.v_row, v_plane=blocking.v_plane,
        v_size=scheme.input_planes * blocking.v_plane,
        m_row=blocking.m_row, m_plane=blocking.m_plane, is_stacked=scheme.stacked > 1,
        m_size=scheme.output_planes * blocking.m_plane,
        prefetched_rows=scheme.outputs(folding.taps) if is_far else 0,
        copier=0 if is_x_in_place and is_y_in_place else copier_address(problem.dtype),
        filler=strip_address(problem.dtype),
        **arrays,
    )  # fmt: skip
    return (filled(TRANSFORM, values), products, panels)

"""Sizes of a transform: tiles, planes, blocks of tiles, workers. Pure arithmetic."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from ...problem import ConvProblem, Geometry
from ..blocking import PARALLEL_FLOPS, Panel
from ..dense import cut_channels
from ..target import Target
from .folding import Folding, Tiling, tiling_of
from .scheme import Scheme, spectrum_size


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def odd_lines(elements: int, itemsize: int) -> int:
    """At least so many elements, an odd number of cache lines.

    Planes whose distance is a multiple of 4 KiB fall into the same sets of the first cache,
    which costs up to half of the speed.
    """
    line = 64 // itemsize
    return (-(-elements // line) | 1) * line


@dataclass(frozen=True)
class TransformBlocking:
    """All sizes of one problem under one scheme.

    Attributes
    ----------
    problem, target, scheme, folding
        What they were derived from.
    tiling : Tiling
    panels : tuple of Panel
        Of the columns of one group, padded to whole vectors.
    block_tiles : int
        Tiles that are transformed before the GEMMs.
    v_row, v_plane, m_row, m_plane : int
        Elements from tile to tile and from plane to plane, of input and output; stacked planes
        follow each other tile by tile, so that of fewer tiles they lie closer.
    """

    problem: ConvProblem
    target: Target
    scheme: Scheme
    folding: Folding
    tiling: Tiling
    panels: tuple[Panel, ...]
    block_tiles: int
    v_row: int
    v_plane: int
    m_row: int
    m_plane: int

    @property
    def total_tiles(self) -> int:
        return self.problem.batch * self.tiling.tiles

    @property
    def group_weights(self) -> int:
        """Elements of the spectrum of one group."""
        return spectrum_size(self.scheme, self.folding.depth, self.m_row)

    @property
    def plane_bytes(self) -> int:
        """Scratch of one worker."""
        scheme = self.scheme
        elements = scheme.input_planes * self.v_plane + scheme.output_planes * self.m_plane
        return elements * self.problem.dtype.itemsize

    def run_positions(self, least: int, channels: int, step: int) -> int:
        """Positions of so many channels that are transposed at once, if that is needed at all.

        A multiple of `step` and of a vector, if so many are allowed: remainders of squares of
        vectors take several times as long as squares.
        """
        itemsize = self.problem.dtype.itemsize
        most = min(MOST_RUN_POSITIONS, self.target.l2 // RUN_SHARE // (channels * itemsize))
        whole = math.lcm(step, self.target.lanes(self.problem.dtype))
        return max(least, most // whole * whole or most)

    @property
    def strip_positions(self) -> int:
        """Positions of x, at least those of a tile."""
        folding = self.folding
        reach = (self.scheme.points * folding.phases - 1) * folding.unit + folding.row_positions
        return self.run_positions(reach, self.problem.geometry.group_in_channels, 1)

    @property
    def stage_positions(self) -> int:
        """Positions of y, the same; tiles follow each other without a gap."""
        tile = self.tiling.positions
        return self.run_positions(tile, self.problem.geometry.group_out_channels, tile)

    def workers(self, threads: int) -> int:
        if threads == 1 or self.problem.flops < PARALLEL_FLOPS:
            return 1
        return min(threads, self.folding.groups * -(-self.total_tiles // self.block_tiles))


# Tiles of a block where the spectrum of a group does not stay in L2: at most so many, and as
# many as make the planes a third of the spectrum, which is read for every block.
# 1280 → 1536 K5 by 16 points: 139 ms at 144 tiles, 154 at 72, 179 at 48 (spectrum 173 MiB);
# 256 → 256 K7 by 64 points: 13.7 ms at 36 tiles, 14.0 at 48, 15.6 at 72 (24 MiB).
TILES_OF_LARGE_SPECTRA, PLANES_OF_LARGE_SPECTRA = 144, 3

# Positions that are transposed at once, and the share of L2 that they may take.
MOST_RUN_POSITIONS, RUN_SHARE = 512, 8

# Bytes of planes: what exceeds 32 MiB glibc asks of the system and gives back in every call,
# and its pages fault (139 → 159 ms at 33 MiB).
MOST_PLANE_BYTES = 24 << 20


def tiles_of_block(
    total: int, tile_bytes: int, filter_bytes: int, rows: int, target: Target
) -> int:
    """Tiles whose planes fit in L2 beside the spectrum; many where the spectrum is larger.

    Every block reads the spectrum of each group. A quarter of L2 is left to x and y, and
    planes have a quarter at least: 32 → 32 K40 takes 2.4 ms with planes of 0.5 to 1 MiB beside
    a spectrum of 0.75, 2.8 with 1.5 MiB, 3.1 with 2. Blocks are nearly equal, and whole
    register tiles.
    """
    fitting = max(1, max(target.l2 // 4, target.l2 * 3 // 4 - filter_bytes) // tile_bytes)
    if filter_bytes > target.l2:
        share = filter_bytes // (PLANES_OF_LARGE_SPECTRA * tile_bytes)
        fitting = max(fitting, min(TILES_OF_LARGE_SPECTRA, share))
    fitting = max(1, min(fitting, MOST_PLANE_BYTES // tile_bytes))
    blocks = max(1, round(total / fitting))
    return min(total, round_up(-(-total // blocks), rows))


@functools.lru_cache(maxsize=1024)
def transform_blocking(
    problem: ConvProblem, target: Target, scheme: Scheme, folding: Folding, threads: int
) -> TransformBlocking:
    """Derive all sizes; `threads` share the blocks."""
    itemsize, lanes = problem.dtype.itemsize, target.lanes(problem.dtype)
    tiling = tiling_of(problem, folding, scheme.outputs(folding.taps))
    columns = round_up(folding.columns, lanes)
    gemm = ConvProblem(Geometry(1, folding.depth, columns), 1, 1, problem.dtype)
    cut = functools.partial(
        cut_channels, gemm, target, first=0, channels=columns, x_offset=0, column=0, x_is_near=True
    )
    panels = cut()
    v_row, m_row = round_up(folding.depth, 64 // itemsize), panels[-1].last_column
    if scheme.stacked > 1:  # planes without gaps between them: their distance is odd if tiles are
        v_row = odd_lines(v_row, itemsize)
    tile_bytes = (scheme.input_planes * v_row + scheme.output_planes * m_row) * itemsize
    filter_bytes = spectrum_size(scheme, folding.depth, m_row) * itemsize
    total = problem.batch * tiling.tiles
    rows = max(panel.tile.rows for panel in panels) // scheme.stacked
    share = -(-total // max(1, threads // folding.groups))
    block_tiles = tiles_of_block(share, tile_bytes, filter_bytes, rows, target)
    if filter_bytes * folding.groups > target.l2:
        panels = cut(sharing=block_tiles * scheme.stacked)
    v_plane, m_plane = block_tiles * v_row, block_tiles * m_row
    if scheme.stacked == 1:
        v_plane, m_plane = (odd_lines(plane, itemsize) for plane in (v_plane, m_plane))
    return TransformBlocking(
        problem, target, scheme, folding, tiling, tuple(panels), block_tiles,
        v_row, v_plane, m_row, m_plane,
    )  # fmt: skip

"""Sizes of a transform: tiles, planes, blocks of tiles, workers. Pure arithmetic."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from ...problem import ConvProblem, Geometry
from ..blocking import PARALLEL_FLOPS, Panel, round_up
from ..dense import cut_channels
from ..target import Target
from ..vector import LINE
from .folding import Folding, Tiling, tiling_of
from .scheme import Scheme, spectrum_size


def odd_lines(elements: int, itemsize: int) -> int:
    """At least so many elements, an odd number of cache lines.

    Planes whose distance is a multiple of 4 KiB fall into the same sets of the first cache,
    which costs up to half of the speed.
    """
    line = LINE // itemsize
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
    blocks : int
        Into which the tiles are cut; those of a block are transformed before the GEMMs.
    step : int
        Blocks begin at multiples of so many tiles: those of a register tile, if they are many.
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
    blocks: int
    step: int
    v_row: int
    v_plane: int
    m_row: int
    m_plane: int

    @property
    def total_tiles(self) -> int:
        return self.problem.batch * self.tiling.tiles

    @property
    def block_tiles(self) -> int:
        """Tiles of the largest blocks."""
        return max(tiles for tiles, _ in self.block_sizes)

    @property
    def block_sizes(self) -> list[tuple[int, int]]:
        """Tiles, and how many blocks have so many; the last has what is left."""
        steps = -(-self.total_tiles // self.step)
        least, more = divmod(steps, self.blocks)
        missing = steps * self.step - self.total_tiles
        largest = (least + (more > 0)) * self.step
        sizes = [
            (least * self.step, self.blocks - more - (more == 0)),
            (largest, more - (more > 0)),
            (largest - missing, 1),
        ]
        return [(tiles, blocks) for tiles, blocks in sizes if blocks]

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
        return min(threads, self.folding.groups * self.blocks)


# Share of L2 up to which the spectrum of a group stays there, and that of planes beside it.
# 15 → 15 K51 by 256 points takes 3.4 ms with planes of 3/16, 1/4 or 3/8 of L2, 3.9 with 3/4; ten
# layers on two cores take 1.08 times as long with 3/4 as with 1/4. On Zen 4, whose last cache is
# near, spectra of twice L2 may be kept: 64 → 64 K11 d5 by 64 points (spectrum 1.5 MiB, L2 1 MiB)
# takes 0.86 of the time with planes of 1/4 of L2 instead of three times L2. On Zen 3, L2 0.5 MiB,
# 80 → 384 K3 (0.94 MiB) takes 0.86-0.9 of the time with planes of twice L2, and six layers of up
# to 1 MiB 0.8-1.04 on one core and on two; with 0.19 to 0.25 MiB planes of 1/4 are the better ones.
KEPT_SPECTRUM, PLANES_BESIDE = {"sapphirerapids": 3 / 4, "znver4": 2, "znver3": 3 / 4}, 1 / 4

# Planes beside a spectrum that does not stay, which is read for every block: as many times L2, or
# this share of the spectrum if that is more, and at most so many tiles. 64 → 384 K15 by 32 points
# (spectrum 4.4 MiB, L2 2 MiB) takes 0.85 of the time with 60 tiles (4.8 MiB) instead of 18;
# 256 → 96 K15 by 128 points (18 MiB) takes 1.15 times as long with 68 tiles (17 MiB) as with 24.
# On Zen 4 192 → 96 K15 by 64 points (6.8 MiB) takes 0.9 of the time with planes of 2.5 instead of
# 4.2 MiB.
PLANES_OF_LARGE_SPECTRA = {"sapphirerapids": 3, "znver4": 2, "znver3": 2}
SHARE_OF_LARGE_SPECTRA, TILES_OF_LARGE_SPECTRA = 1 / 3, 144

# Positions that are transposed at once, and the share of L2 that they may take.
MOST_RUN_POSITIONS, RUN_SHARE = 512, 8

# Bytes of planes: what exceeds 32 MiB glibc asks of the system and gives back in every call,
# and its pages fault (139 → 159 ms at 33 MiB).
MOST_PLANE_BYTES = 30 << 20

# Register tiles of each further thread from which blocks consist of whole ones: the larger share
# of two threads is then at most 1.3 times the smaller one.
LEAST_STEPS = 8


def cut_tiles(
    total: int, tile_bytes: int, filter_bytes: int, rows: int, target: Target, shares: int
) -> tuple[int, int]:
    """Blocks of tiles whose planes stay in L2 beside the spectrum and x and y; and their step.

    They hold `rows` tiles at least, which one register tile takes, if their planes fit at all;
    are larger if the spectrum does not stay; and as many for each of `shares` threads: of nine
    blocks one of two threads has 1.11 times its share.
    """
    if filter_bytes <= KEPT_SPECTRUM[target.core] * target.l2:
        fitting = int(PLANES_BESIDE * target.l2) // tile_bytes
        fitting = max(fitting, min(rows, target.l2 // 2 // tile_bytes))
    else:
        least = PLANES_OF_LARGE_SPECTRA[target.core] * target.l2
        planes = max(least, int(SHARE_OF_LARGE_SPECTRA * filter_bytes))
        fitting = min(TILES_OF_LARGE_SPECTRA, planes // tile_bytes)
    are_many = total >= rows * max(1, LEAST_STEPS * (shares - 1))
    step = rows if are_many and fitting >= rows else 1
    steps, steps_of_block = -(-total // step), max(1, round(fitting / step))
    least = -(-total * tile_bytes // (shares * MOST_PLANE_BYTES))
    blocks = shares * max(least, round(steps / (shares * steps_of_block)))
    return max(1, min(steps, blocks)), step


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
        cut_channels,
        gemm,
        target,
        first=0,
        channels=columns,
        x_offset=0,
        column=0,
        of_transform=True,
    )
    panels = cut()
    width, m_row = folding.depth // folding.phases, panels[-1].last_column
    # Without masks in registers of their own whole vectors are stored to planes (`kernels`).
    beyond = 0 if target.has_masks else max(0, lanes - width)
    v_row = round_up(folding.depth + beyond, LINE // itemsize)
    if scheme.stacked > 1:  # planes without gaps between them: their distance is odd if tiles are
        v_row = odd_lines(v_row, itemsize)
    tile_bytes = (scheme.input_planes * v_row + scheme.output_planes * m_row) * itemsize
    filter_bytes = spectrum_size(scheme, folding.depth, m_row) * itemsize
    total = problem.batch * tiling.tiles
    shares = threads // math.gcd(threads, folding.groups)
    rows = max(panel.tile.rows for panel in panels) // scheme.stacked
    blocks, step = cut_tiles(total, tile_bytes, filter_bytes, rows, target, shares)
    block_tiles = step * -(-total // (step * blocks))
    if filter_bytes * folding.groups > target.l2:
        panels = cut(sharing=block_tiles * scheme.stacked)
    v_plane, m_plane = block_tiles * v_row, block_tiles * m_row
    if scheme.stacked == 1:
        v_plane, m_plane = (odd_lines(plane, itemsize) for plane in (v_plane, m_plane))
    return TransformBlocking(
        problem, target, scheme, folding, tiling, tuple(panels), blocks, step,
        v_row, v_plane, m_row, m_plane,
    )  # fmt: skip

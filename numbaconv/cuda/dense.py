"""Dense and grouped convolution: which tile of which pipeline, and how it is launched."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any

from ..problem import ConvProblem
from .ffma import FfmaTile
from .kernel import MAX_BLOCKS_YZ, Family, LaunchShape, Site, Tile, common_values, fits_int32
from .mma import MmaTile
from .slab import SlabTile
from .tma import MOST_STRIDE, TmaTile
from .wgmma import WgmmaTile

# A chunk of channels has 16 to 64 of them, a tile 64 columns or more; with fewer channels than
# these nearly all products are zeros.
LEAST_CHANNELS = 12

# Channels of 16 bits in one chunk.
CHUNK_OF_HALVES = 64

# The compute capability that has `wgmma`; later ones have other instructions.
HOPPER = (9, 0)

# The share of the largest tile's rate that each tile reaches: a guess until a GPU has been at hand.
SHARE = {(256, 128): 1.0, (128, 128): 1.0, (128, 64): 0.7, (64, 64): 0.8}


def swizzle_of(stride: int) -> int:
    """By how much rows are shifted before they choose a place: see `slab.copy_x_text`."""
    return {2: 1, 4: 2}.get(stride, 0)


class SlabFamily(Family):
    """Problems of which a slab of x fits in shared memory."""

    @abstractmethod
    def refuses(self, problem: ConvProblem, site: Site) -> str | None:
        """Return why the arithmetic of this family does not suit `problem`."""

    @abstractmethod
    def tiles(self, problem: ConvProblem, width: int) -> list[SlabTile]:
        """Tiles that may serve, the largest first."""

    def declines(self, problem: ConvProblem, site: Site) -> str | None:
        g = problem.geometry
        reason = self.refuses(problem, site) or site.refuses_copies(problem)
        if reason is not None:
            return reason
        if min(g.group_in_channels, g.group_out_channels) < LEAST_CHANNELS:
            return f"fewer than {LEAST_CHANNELS} channels in or out of a group"
        if not fits_int32(problem):
            return "positions or weights beyond 32 bits"
        fitting = self._fitting(problem, site)
        if not fitting:
            return (
                f"no slab of {g.span} positions and more fits in "
                f"{site.device.shared_memory >> 10} KiB of shared memory"
            )
        _, y, z = self._grid(problem, fitting[-1])
        if max(y, z) > MAX_BLOCKS_YZ:
            return f"more than {MAX_BLOCKS_YZ} batches, or groups by tiles of channels"
        return None

    def _fitting(self, problem: ConvProblem, site: Site) -> list[SlabTile]:
        g, width = problem.geometry, site.width(problem) or 4
        return [
            tile
            for tile in self.tiles(problem, width)
            if tile.shared(g.stride, g.span, g.kernel_size) <= site.device.shared_memory
        ]

    @staticmethod
    def _grid(problem: ConvProblem, tile: SlabTile) -> tuple[int, int, int]:
        g = problem.geometry
        across = -(-g.group_out_channels // tile.columns)
        return -(-problem.length_out // tile.rows), g.num_groups * across, problem.batch

    def tile(self, problem: ConvProblem, site: Site) -> SlabTile:
        """The tile with which the busiest multiprocessor takes the least time."""

        def cost(tile: SlabTile) -> float:
            x, y, z = self._grid(problem, tile)
            blocks = -(-x * y * z // site.device.multiprocessors)
            return blocks * tile.rows * tile.columns / SHARE[tile.rows, tile.columns]

        return min(self._fitting(problem, site), key=cost)

    def launch_shape(self, problem: ConvProblem, site: Site, tile: Any) -> LaunchShape:
        g = problem.geometry
        values = common_values(problem, site)
        values.update(
            swizzle=swizzle_of(g.stride), slab_rows=tile.slab_rows(g.stride, g.span),
            slabs=tile.slab_count(g.kernel_size),
        )  # fmt: skip
        shared = tile.shared(g.stride, g.span, g.kernel_size)
        return LaunchShape(self._grid(problem, tile), shared, values)


class Ffma(SlabFamily):
    """float32, every product and sum rounded as on the CPU."""

    name = "ffma"

    def refuses(self, problem: ConvProblem, site: Site) -> str | None:
        return None if problem.dtype == "float32" else f"multiplies float32, not {problem.dtype}"

    def tiles(self, problem: ConvProblem, width: int) -> list[SlabTile]:
        return [FfmaTile(128, 128, width, 3), FfmaTile(64, 64, width, 3)]

    def shipped(self) -> list[Tile]:
        return [tile for width in (16, 4) for tile in self.tiles(None, width)]  # type: ignore


def product_of(problem: ConvProblem) -> str | None:
    """What a tensor core is to multiply, None if it cannot."""
    halves = {"float16": "f16", "bfloat16": "bf16"}
    if problem.dtype == "float32":
        return None if problem.precision == "exact" else problem.precision
    return halves.get(problem.dtype.name)


class Mma(SlabFamily):
    """float16 and bfloat16, and float32 where tf32 has been allowed; sums are float32."""

    name = "mma"

    def refuses(self, problem: ConvProblem, site: Site) -> str | None:
        if product_of(problem) is not None:
            return None
        if problem.dtype == "float32":
            return "would round products to tf32: ask for precision='tf32' or '3xtf32'"
        return f"tensor cores of this family do not multiply {problem.dtype}"

    def tiles(self, problem: ConvProblem, width: int) -> list[SlabTile]:
        return mma_tiles(product_of(problem) or "", width)

    def error_bound(self, problem: ConvProblem) -> str:
        bound = super().error_bound(problem)
        more = {"tf32": "10", "3xtf32": "20"}.get(product_of(problem) or "")
        return bound if more is None else f"|x|*|w|/2^{more} more than for exact products: {bound}"

    def shipped(self) -> list[Tile]:
        return [
            tile
            for product in ("tf32", "3xtf32", "f16", "bf16")
            for width in (16, 4)
            for tile in mma_tiles(product, width)
        ]


class Tma(SlabFamily):
    """float16 and bfloat16 on Hopper, padded by zeros; sums are float32."""

    name = "tma"

    def refuses(self, problem: ConvProblem, site: Site) -> str | None:
        g = problem.geometry
        reason = WGMMA.refuses(problem, site)
        if reason is not None:
            return reason
        if g.padding_mode != "zeros" and max(problem.padding) > 0:
            return f"padding_mode={g.padding_mode!r}: what lies beyond an array reads as zero"
        if g.stride > MOST_STRIDE:
            return f"stride={g.stride}: a box takes every {MOST_STRIDE}th position at most"
        if g.num_groups > 1 and g.group_in_channels % CHUNK_OF_HALVES:
            return f"a box of {CHUNK_OF_HALVES} channels reaches into the next group"
        if site.width(problem) != 16 or 0 in (problem.batch, problem.cropped_length):
            return "rows of x or the filter do not lie on multiples of 16 bytes"
        if min(site.x.strides) <= 0:
            return "positions of x do not follow each other upwards in memory"
        return None

    def tiles(self, problem: ConvProblem, width: int) -> list[SlabTile]:
        return tma_tiles(product_of(problem) or "")

    def launch_shape(self, problem: ConvProblem, site: Site, tile: Any) -> LaunchShape:
        plain, g = super().launch_shape(problem, site, tile), problem.geometry
        _, rows = tile.boxes(g.stride, g.span)
        phases = tile.phases(g.stride, g.span, g.kernel_size)
        plain.values.update(phases=phases, box_rows=rows, x_map=0, w_map=0)
        extents = (g.in_channels, problem.cropped_length, problem.batch)
        # An axis of one entry may have any stride, and a map wants 16 bytes at least.
        strides = (max(16, site.x.strides[1]), max(16, site.x.strides[0]))
        w_strides = (site.filter.strides[1], site.filter.strides[0])
        maps = {
            "x_map": ("x", tile.x_map(extents, strides, g.stride, g.span)),
            "w_map": ("w", tile.w_map(g.filter_shape[::-1], w_strides)),
        }
        return dataclasses.replace(plain, maps=maps)

    def shipped(self) -> list[Tile]:
        return [tile for product in ("f16", "bf16") for tile in tma_tiles(product)]


def tma_tiles(product: str) -> list[SlabTile]:
    """The tiles of one product, the largest first."""
    return [
        TmaTile(256, 128, 16, 4, product, warpgroups=2),
        TmaTile(128, 64, 16, 4, product, warpgroups=2),
    ]


class Wgmma(SlabFamily):
    """float16 and bfloat16 on Hopper; sums are float32."""

    name = "wgmma"

    def refuses(self, problem: ConvProblem, site: Site) -> str | None:
        if site.device.capability != HOPPER:
            return "wgmma is an instruction of compute capability 9.0 alone"
        if product_of(problem) not in ("f16", "bf16"):
            return f"multiplies float16 and bfloat16, not {problem.dtype}"
        return None

    def tiles(self, problem: ConvProblem, width: int) -> list[SlabTile]:
        return wgmma_tiles(product_of(problem) or "", width)

    def shipped(self) -> list[Tile]:
        return [
            tile
            for product in ("f16", "bf16")
            for width in (16, 4)
            for tile in wgmma_tiles(product, width)
        ]


def wgmma_tiles(product: str, width: int) -> list[SlabTile]:
    """The tiles of one product, the largest first."""
    return [
        WgmmaTile(256, 128, width, 4, product, warpgroups=2),
        WgmmaTile(128, 64, width, 4, product, warpgroups=2),
    ]


def mma_tiles(product: str, width: int) -> list[SlabTile]:
    """The tiles of one product, the largest first."""
    # Both parts of the operands of 64x64 would not fit in the registers.
    columns = 32 if product == "3xtf32" else 64
    return [
        MmaTile(128, 128, width, 3, product, 64, columns),
        MmaTile(64, 64, width, 4, product, 32, 32),
    ]


FFMA, MMA, WGMMA, TMA = Ffma(), Mma(), Wgmma(), Tma()

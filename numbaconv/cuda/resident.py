"""Few channels on tensor cores: the whole filter stays in shared memory.

Blocks are persistent: each copies the filter once and then walks over tiles of positions, two
slabs of x in turn, so that the copy of the next one overlaps with the arithmetic of this one.
Between two slabs there is one barrier, and none between taps. Ragged channels are filled up
with zeros in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..problem import ConvProblem
from .dense import product_of
from .kernel import Family, LaunchShape, Site, Tile, common_values, fits_int32
from .mma import STORAGE
from .slab import Run, finish_text, log2, names_of_tile
from .storage import F32, Storage

WARPS = 4
# Channels in shared memory, and 16-row fragments of a warp's tile.
SIZES = {16: 4, 32: 2, 64: 2}


@dataclass(frozen=True)
class ResidentTile(Tile):
    """The kernel for up to `channels` channels in and out.

    Attributes
    ----------
    product : {"tf32", "f16", "bf16"}
    channels : {16, 32, 64}
    width : int
        Bytes of one copy: 16, or 4 where channels are ragged.
    """

    product: str
    channels: int
    width: int

    LONG: ClassVar = ("x_n", "x_l", "y_n", "y_l")
    SHORT: ClassVar = (
        "batches", "length", "length_out", "group_in", "group_out", "taps", "dilation", "left",
        "mode", "has_bias", "slab_rows", "tiles",
    )  # fmt: skip

    @property
    def name(self) -> str:
        return (
            f"resident {self.product}, up to {self.channels} channels, copies of {self.width} bytes"
        )

    @property
    def threads(self) -> int:
        return 32 * WARPS

    @property
    def storage(self) -> Storage:
        return STORAGE[self.product]

    @property
    def fragments(self) -> int:
        """16-row fragments of a warp."""
        return SIZES[self.channels]

    @property
    def rows(self) -> int:
        """Positions of one tile."""
        return WARPS * 16 * self.fragments

    @property
    def row_bytes(self) -> int:
        """Bytes of a slab's row in one plane: 128 at most, which ldmatrix can swizzle."""
        return min(128, self.channels * self.storage.size)

    @property
    def planes(self) -> int:
        """Parts of the channels that lie in slabs of their own."""
        return self.channels * self.storage.size // self.row_bytes

    @property
    def pitch(self) -> int:
        """Bytes from one row of the filter to the next; see `MmaTile.pitch`."""
        return (self.channels + 8) * 4 if self.storage == F32 else self.channels * 2

    @property
    def together(self) -> int:
        """Fragments of 8 columns that one load of the filter serves."""
        return min(4, self.channels // 8) if self.storage == F32 else 2

    @property
    def words_of_store(self) -> int:
        return min(self.width // 4, self.together) if self.storage == F32 else 1

    @property
    def sums(self) -> int:
        return self.fragments * self.channels // 2

    def shared(self, span: int, taps: int) -> int:
        """Bytes of shared memory: the filter and two slabs."""
        slab = (self.rows + span - 1) * self.row_bytes * self.planes
        return taps * self.channels * self.pitch + 2 * slab

    def runs(self) -> list[Run]:
        """As `MmaTile.runs`, where a load serves `together` fragments."""
        found: list[Run] = []
        across, w = self.channels // 8, self.together
        for i in range(self.fragments):
            for h in range(2):
                for q in range(across // w):
                    at = [4 * (i * across + q * w + j) + 2 * h for j in range(w)]
                    row = 16 * i + 8 * h
                    if self.storage == F32:
                        for e in range(2):
                            found.append((row, 8 * w * q + w * e, tuple(a + e for a in at)))
                    else:
                        for j, a in enumerate(at):
                            found.append((row, 8 * (w * q + j), (a, a + 1)))
        return found

    def function(self) -> Callable[..., Any]:
        from . import frontend, instructions

        space: dict[str, Any] = {
            **names_of_tile(self, waiting=1),
            "load": instructions.load_words(instructions.SHARED, self.together),
            "load_matrix": instructions.load_matrix(False),
            "load_transposed": instructions.load_matrix(True), "round": instructions.round_tf32,
            "product": instructions.matrix_product(self.product),
        }  # fmt: skip
        parts = {
            "copy_filter": self._copy_filter_text(), "copy_slab": self._copy_slab_text(),
            "multiply": self._multiply_text(), "finish": finish_text(self),
        }  # fmt: skip
        for name, text in parts.items():
            space[name] = frontend.device_function(frontend.define(name, text, space))
        text = KERNEL.format(
            parameters=", ".join(self.parameters()), size=self.storage.size, rows=self.rows,
            row_bytes=self.row_bytes, planes=self.planes, sums=self.sums,
            tap_bytes=self.channels * self.pitch, warp_rows=16 * self.fragments,
            own=2 * (self.together if self.storage == F32 else 1),
        )  # fmt: skip
        return frontend.define("conv_resident", text, space)

    @property
    def _swizzle(self) -> tuple[int, int]:
        """(shift, mask) by which pieces of 16 bytes of a slab's row change places."""
        return log2(128 // self.row_bytes), self.row_bytes // 16 - 1

    @property
    def _filter_swizzle(self) -> tuple[int, int]:
        """The same for rows of the filter with elements of 16 bits."""
        pieces = self.channels // 8
        return log2(max(1, 8 // pieces)), pieces - 1

    def _copy_filter_text(self) -> str:
        size, shift_mask = self.storage.size, self._filter_swizzle
        pieces = self.channels * size // self.width
        place = "b"
        if self.storage != F32:
            shift, mask = shift_mask
            place = f"((((b >> 4) ^ ((k >> {shift}) & {mask})) << 4) | (b & 15))"
        return f"""
def copy_filter(target, w, taps, thread, group_in, group_out):
    e = thread
    while e < taps * {self.channels * pieces}:
        b = int32((e & {pieces - 1}) * {self.width})
        k = int32((e >> {log2(pieces)}) & {self.channels - 1})
        t = int32(e >> {log2(pieces * self.channels)})
        is_channel = (k < group_in) & (b < group_out * {size})
        p = w + int64(t * group_in + k) * int64(group_out * {size}) + int64(b)
        d = int32(target + (t * {self.channels} + k) * {self.pitch} + {place})
        copy(d, p, int32({self.width}) if is_channel else int32(0))
        e = int32(e + {self.threads})
"""

    def _copy_slab_text(self) -> str:
        size = self.storage.size
        pieces = self.channels * size // self.width
        shift, mask = self._swizzle
        plane = log2(self.row_bytes)
        return f"""
def copy_slab(slab, x, first, rows, thread, x_l, length, mode, group_in):
    b = int32((thread & {pieces - 1}) * {self.width})
    r = int32(thread >> {log2(pieces)})
    base = int32(slab + (b >> {plane}) * (rows * {self.row_bytes}) + (b & 15))
    piece = int32((b >> 4) & {mask})
    while r < rows:
        l = position(int32(first + r), length, mode)
        size = int32({self.width}) if (l >= 0) & (b < group_in * {size}) else int32(0)
        d = int32(base + r * {self.row_bytes} + ((piece ^ ((r >> {shift}) & {mask})) << 4))
        copy(d, x + int64(l) * x_l + int64(b), size)
        r = int32(r + {self.threads // pieces})
"""

    def _multiply_text(self) -> str:
        """The products of one tap."""
        shift, mask = self._swizzle
        lines = [
            "def multiply(sums, slab, filter, row, lane, plane_bytes):",
            "    matrix = int32(lane >> 3)",
        ]
        for i in range(self.fragments):
            lines += [
                f"    r{i} = int32(row + {16 * i} + ((matrix & 1) << 3) + (lane & 7))",
                f"    s{i} = int32((r{i} >> {shift}) & {mask})",
                f"    p{i} = int32(slab + r{i} * {self.row_bytes})",
            ]
        for step in range(self.channels * self.storage.size // 32):
            plane, inside = divmod(step, self.row_bytes // 32)
            lines += [f"    piece = int32({2 * inside} + (matrix >> 1))"]
            for i in range(self.fragments):
                place = f"p{i} + {plane} * plane_bytes + ((piece ^ s{i}) << 4)"
                lines += [f"    a{i} = load_matrix(int32({place}))"]
            count = self.channels // 8 // self.together
            for q in range(count):
                lines += self._load_filter(step, q)
            a = " + ".join(f"a{i}" for i in range(self.fragments))
            b = " + ".join(f"b{q}" for q in range(count))
            if self.product == "tf32":
                a, b = f"round({a})", f"round({b})"
            lines += [f"    sums = product(sums, {a}, {b})"]
        return "\n".join([*lines, "    return sums"]) + "\n"

    def _load_filter(self, step: int, q: int) -> list[str]:
        w = self.together
        if self.storage == F32:
            pairs = ", ".join(f"u[{j}], v[{j}]" for j in range(w))
            return [
                f"    w = int32(filter + ({8 * step} + (lane & 3)) * {self.pitch}"
                f" + ({8 * w * q} + (lane >> 2) * {w}) * 4)",
                "    u = load(w)",
                f"    v = load(int32(w + {4 * self.pitch}))",
                f"    b{q} = ({pairs})",
            ]
        shift, mask = self._filter_swizzle
        return [
            f"    k = int32({16 * step} + ((matrix & 1) << 3) + (lane & 7))",
            f"    c = int32(({2 * q} + (matrix >> 1)) ^ ((k >> {shift}) & {mask}))",
            f"    b{q} = load_transposed(int32(filter + k * {self.pitch} + (c << 4)))",
        ]


KERNEL = """
def conv_resident({parameters}):
    shared = cuda.shared.array(0, float32, alignment=128)
    thread = int32(cuda.threadIdx.x)
    lane = int32(thread & 31)
    warp = int32(thread >> 5)
    filter = shared_address(shared)
    plane_bytes = int32(slab_rows * {row_bytes})
    slab0 = int32(filter + taps * {tap_bytes})
    slab_bytes = int32(plane_bytes * {planes})
    total = int32(tiles * batches)
    tile = int32(cuda.blockIdx.x)
    step = int32(cuda.gridDim.x)
    copy_filter(filter, w, taps, thread, group_in, group_out)
    n = int32(tile // tiles)
    if tile < total:
        copy_slab(slab0, x + int64(n) * x_n, int32((tile - n * tiles) * {rows} - left), slab_rows,
                  thread, x_l, length, mode, group_in)
    commit()
    buffer = int32(0)
    while tile < total:
        following = int32(tile + step)
        n2 = int32(following // tiles)
        if following < total:
            copy_slab(
                int32(slab0 + (1 - buffer) * slab_bytes), x + int64(n2) * x_n,
                int32((following - n2 * tiles) * {rows} - left), slab_rows, thread, x_l, length,
                mode, group_in,
            )
        commit()
        wait()
        cuda.syncthreads()
        sums = zeros({sums})
        row = int32(warp * {warp_rows})
        m0 = int32((tile - n * tiles) * {rows} + row + (lane >> 2))
        at = filter
        for k in range(taps):
            sums = multiply(sums, int32(slab0 + buffer * slab_bytes), at, row, lane, plane_bytes)
            row = int32(row + dilation)
            at = int32(at + {tap_bytes})
        finish(
            sums, bias, y + int64(n) * y_n, m0, int32((lane & 3) * {own}), length_out, group_out,
            y_l, has_bias,
        )
        cuda.syncthreads()
        tile = following
        n = n2
        buffer = int32(1 - buffer)
"""


class Resident(Family):
    """One group of up to 64 channels in and out, stride 1, on tensor cores."""

    name = "resident"

    def declines(self, problem: ConvProblem, site: Site) -> str | None:
        g = problem.geometry
        product = product_of(problem)
        if product is None or product == "3xtf32":
            return "multiplies tf32, f16 and bf16 only"
        if g.num_groups != 1 or g.stride != 1:
            return "one group and stride 1 only"
        if max(g.in_channels, g.out_channels) > max(SIZES):
            return f"more than {max(SIZES)} channels: the filter does not stay in shared memory"
        reason = site.refuses_copies(problem)
        if reason is not None:
            return reason
        if not fits_int32(problem):
            return "positions or weights beyond 32 bits"
        tile = self.tile(problem, site)
        needed = tile.shared(g.span, g.kernel_size)
        if needed > site.device.shared_memory:
            return (
                f"filter and slabs take {needed >> 10} KiB of shared memory, the device has "
                f"{site.device.shared_memory >> 10}"
            )
        return None

    def tile(self, problem: ConvProblem, site: Site) -> ResidentTile:
        g = problem.geometry
        widest = max(g.in_channels, g.out_channels)
        channels = next(size for size in SIZES if size >= widest)
        return ResidentTile(product_of(problem) or "", channels, site.width(problem) or 4)

    def launch_shape(self, problem: ConvProblem, site: Site, tile: Any) -> LaunchShape:
        g = problem.geometry
        shared = tile.shared(g.span, g.kernel_size)
        tiles = -(-problem.length_out // tile.rows)
        together = max(1, min(4, site.device.shared_memory // (shared + 1024)))
        blocks = min(tiles * problem.batch, together * site.device.multiprocessors)
        values = common_values(problem, site)
        values |= {
            "batches": problem.batch, "tiles": tiles, "slab_rows": tile.rows + g.span - 1,
        }  # fmt: skip
        return LaunchShape((blocks, 1, 1), shared, values)

    def shipped(self) -> list[Tile]:
        return [
            ResidentTile(product, channels, width)
            for product in ("tf32", "f16", "bf16")
            for channels in SIZES
            for width in (16, 4)
        ]


RESIDENT = Resident()

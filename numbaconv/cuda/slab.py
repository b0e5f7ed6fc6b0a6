"""Implicit matrix products over slabs of x: the pipeline that all dense kernels share.

A block computes `rows` positions by `columns` output channels of one group. The reduction
runs over chunks of channels, and in each chunk over taps. The rows of x that all taps of a
chunk need, a *slab*, are copied to shared memory once, and tap t reads them t*dilation rows
further down; the filter's (chunk, tap) tiles pass through a ring of `stages` buffers. Both
copies are asynchronous and run ahead of the arithmetic. An implicit matrix product as in
cuDNN (Chetlur et al. 2014) would copy x once for each tap.

The padding rule acts where rows of x are copied, so borders cost no more than interiors.
What happens between shared memory and the sums is up to the subclasses of `SlabTile`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from .kernel import Tile
from .positions import source_position
from .storage import Storage

# One piece of the sums of a thread: row and first column relative to the thread's corner, and
# which sums stand in consecutive columns from there on.
Run = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True)
class SlabTile(Tile):
    """A block's tile.

    Attributes
    ----------
    rows, columns : int
        Positions and output channels of a block.
    width : int
        Bytes of one copy and one store: 16, or 4 where channels are ragged.
    stages : int
        Buffers of the filter's ring.
    """

    rows: int
    columns: int
    width: int
    stages: int

    LONG: ClassVar[tuple[str, ...]] = ("x_n", "x_l", "y_n", "y_l")
    SHORT: ClassVar[tuple[str, ...]] = (
        "length", "length_out", "out_channels", "group_in", "group_out", "taps", "stride",
        "dilation", "left", "mode", "has_bias", "swizzle", "slab_rows", "slabs",
    )  # fmt: skip
    # Bytes of channels in one chunk, a row of the slab.
    CHUNK: ClassVar[int] = 128
    # Of the ring and of the slabs behind it.
    ALIGNMENT: ClassVar[int] = 128

    @property
    @abstractmethod
    def storage(self) -> Storage:
        """Of x, filter and y."""

    @property
    @abstractmethod
    def pitch(self) -> int:
        """Bytes from one row of a filter tile to the next."""

    @property
    @abstractmethod
    def sums(self) -> int:
        """Sums of one thread."""

    @abstractmethod
    def multiply_text(self) -> str:
        """Source of `multiply(sums, slab, tile, row, column, lane, stride, swizzle, rows)`."""

    @abstractmethod
    def corner_text(self) -> str:
        """Source that sets `row` and `column`, where in the tile `multiply` begins."""

    def own_text(self) -> str:
        """Source that moves `row` and `column` to the thread's own sums."""
        return "pass"

    @abstractmethod
    def runs(self) -> list[Run]:
        """Where the sums of a thread belong."""

    def repair_text(self) -> str:
        """Source that computes a thread's sums again, where its arithmetic needs that."""
        return ""

    def row_text(self) -> str:
        """Source that sets `place`, where row `r` lies in the slab, and `turn`: see `copy_x`."""
        return """
place = r
turn = int32(r >> swizzle)
"""

    def begin_text(self) -> str:
        """Source that sets `slab_bytes`, and what `fetch_text` needs."""
        return f"""
slab_bytes = int32(slab_rows * {self.CHUNK})
xg = x + batch * x_n + int64(group * group_in) * {self.storage.size}
wg = w + int64(group * group_out) * {self.storage.size}
"""

    def fetch_text(self) -> str:
        """Source that begins the copies of one step; `next_*` say which, and where to."""
        return f"""
if next_tap == 0:
    copy_x(int32(slab0 + next_slab * slab_bytes), xg, next_channel, first, slab_rows, thread,
           x_l, length, mode, group_in, stride, swizzle)
copy_w(int32(ring + next_stage * {self.stage_bytes}), wg, next_tap, next_channel, n0, thread,
       group_in, group_out, out_channels)
"""

    def commit_text(self) -> str:
        """Source that ends the copies of a step, if there were any."""
        return "commit()"

    def arrive_text(self) -> str:
        """Source that waits until the thread's own copies of step `i` have arrived."""
        return "wait()"

    def place_text(self) -> str:
        """Where byte `b` of row `k` of a filter tile lies in that row."""
        return "b"

    def helpers(self) -> dict[str, Any]:
        """What `multiply_text` names."""
        return {}

    @property
    def chunk_channels(self) -> int:
        return self.CHUNK // self.storage.size

    @property
    def stage_bytes(self) -> int:
        return self.chunk_channels * self.pitch

    @property
    def ring_bytes(self) -> int:
        return self.stages * self.stage_bytes

    @property
    def ahead(self) -> int:
        """Steps by which copies run ahead of the arithmetic."""
        return self.stages - 1

    def slab_rows(self, stride: int, span: int) -> int:
        """Rows of x that one tile sees."""
        return (self.rows - 1) * stride + span

    def slab_count(self, taps: int) -> int:
        """Slabs in memory at once: those that the ring's run-ahead reaches."""
        return -(-(self.stages - 1) // taps) + 1

    def shared(self, stride: int, span: int, taps: int) -> int:
        """Bytes of shared memory."""
        return self.ring_bytes + self.slab_count(taps) * self.slab_rows(stride, span) * self.CHUNK

    def function(self) -> Callable[..., Any]:
        from . import frontend, instructions

        space: dict[str, Any] = {
            **names_of_tile(self, waiting=self.ahead - 1),
            "is_finite": instructions.is_finite,
            "load_one": instructions.load_element(self.storage),
            "store_one": instructions.store_element(self.storage),
            **self.helpers(),
        }  # fmt: skip
        for name, text in self.parts().items():
            space[name] = frontend.device_function(frontend.define(name, text, space))
        return frontend.define("conv_slab", kernel_text(self), space)

    def parts(self) -> dict[str, str]:
        """Sources of the functions that the kernel calls."""
        return {
            "copy_x": copy_x_text(self), "copy_w": copy_w_text(self),
            "multiply": self.multiply_text(), "finish": finish_text(self),
        }  # fmt: skip

    @property
    def words_of_store(self) -> int:
        """Words of one store: 16 bytes of float32, two neighbours of 16 bits."""
        return self.width // 4 if self.storage.size == 4 else 1


def names_of_tile(tile: Any, waiting: int) -> dict[str, Any]:
    """What kernels call that copy to shared memory, at most `waiting` groups behind."""
    import numba

    from . import frontend, instructions

    return {
        "cuda": frontend.cuda, "int32": numba.int32, "int64": numba.int64, "uint32": numba.uint32,
        "float32": frontend.types.float32,
        "position": frontend.device_function(source_position),
        "copy": instructions.copy_async(tile.width), "commit": instructions.commit_copies,
        "wait": instructions.wait_for_copies(waiting),
        "shared_address": instructions.shared_address, "zeros": instructions.zeros,
        "add": instructions.add, "pack": instructions.pack(tile.storage),
        "unpack": instructions.unpack(tile.storage),
        "load_bias": instructions.load_words_if(tile.words_of_store),
        "store": instructions.store_words(instructions.GLOBAL, tile.words_of_store),
    }  # fmt: skip


def log2(number: int) -> int:
    return number.bit_length() - 1


def copy_x_text(tile: SlabTile) -> str:
    """Copy the slab of one chunk; rows that the padding rule makes zero, and channels beyond
    the group, become zeros.

    16-byte pieces of a row change places by its `turn`, r >> swizzle, so that the rows which a
    warp reads at once, `stride` apart, lie in different banks.
    """
    pieces, size = tile.CHUNK // tile.width, tile.storage.size
    return f"""
def copy_x(slab, x, c0, first, rows, thread, x_l, length, mode, group_in, stride, swizzle):
    r = int32(thread >> {log2(pieces)})
    b = int32((thread & {pieces - 1}) * {tile.width})
    is_channel = c0 * {size} + b < group_in * {size}
    p = x + int64(c0 * {size} + b)
    while r < rows:
        l = position(int32(first + r), length, mode)
        {indented(tile.row_text(), 8)}
        at = int32((((b >> 4) ^ (turn & {tile.CHUNK // 16 - 1})) << 4) | (b & 15))
        size = int32({tile.width}) if is_channel & (l >= 0) else int32(0)
        copy(int32(slab + place * {tile.CHUNK} + at), p + int64(l) * x_l, size)
        r = int32(r + {tile.threads // pieces})
"""


def copy_w_text(tile: SlabTile) -> str:
    """Copy the filter of one (chunk, tap), zeros beyond the group's channels."""
    size = tile.storage.size
    pieces = tile.columns * size // tile.width
    step = tile.threads // pieces
    return f"""
def copy_w(tile, w, tap, c0, n0, thread, group_in, group_out, out_channels):
    k = int32(thread >> {log2(pieces)})
    b = int32((thread & {pieces - 1}) * {tile.width})
    is_channel = n0 * {size} + b < group_out * {size}
    p = w + int64(tap * group_in + c0 + k) * int64(out_channels * {size}) + int64(n0 * {size} + b)
    step = int64(out_channels) * {step * size}
    for i in range({tile.chunk_channels // step}):
        size = int32({tile.width}) if is_channel & (c0 + k < group_in) else int32(0)
        copy(int32(tile + k * {tile.pitch} + ({tile.place_text()})), p, size)
        p += step
        k = int32(k + {step})
"""


def finish_text(tile: Any) -> str:
    """Add the bias and store: the slot for whatever is done to a sum before its one store."""
    size, words = tile.storage.size, tile.words_of_store
    together = words * tile.storage.per_word
    lines = ["def finish(sums, bias, y, row, column, length_out, group_out, y_l, has_bias):"]
    pieces: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for row, column, indices in tile.runs():
        for i in range(0, len(indices), together):
            pieces.setdefault(column + i, []).append((row, indices[i : i + together]))
    for column, rows in pieces.items():
        lines += [
            f"    c = int32(column + {column})",
            "    if c < group_out:",
            f"        b = unpack(load_bias(bias + int64(c) * {size}, has_bias))",
        ]
        for row, indices in rows:
            values = ", ".join(f"sums[{i}]" for i in indices)
            lines += [
                f"        m = int32(row + {row})",
                "        if m < length_out:",
                f"            s = add(({values},), b)",
                f"            store(y + int64(m) * y_l + int64(c) * {size}, pack(s))",
            ]
    return "\n".join(lines) + "\n"


# Copies for the step that is `ahead` of this one; `next_*` say which one that is.
ADVANCE = """
if {condition}:
    {fetch}
    next_stage = int32(next_stage + 1)
    if next_stage == {stages}:
        next_stage = int32(0)
    next_tap = int32(next_tap + 1)
    if next_tap == taps:
        next_tap = int32(0)
        next_channel = int32(next_channel + {chunk})
        next_slab = int32(next_slab + 1)
        if next_slab == slabs:
            next_slab = int32(0)
{commit}
"""

KERNEL = """
def conv_slab({parameters}):
    shared = cuda.shared.array(0, float32, alignment={alignment})
    thread = int32(cuda.threadIdx.x)
    lane = int32(thread & 31)
    warp = int32(thread >> 5)
    tiles = int32((group_out + {columns} - 1) // {columns})
    group = int32(cuda.blockIdx.y // tiles)
    n0 = int32((cuda.blockIdx.y - group * tiles) * {columns})
    m0 = int32(cuda.blockIdx.x * {rows})
    batch = int64(cuda.blockIdx.z)
    ring = shared_address(shared)
    slab0 = int32(ring + {ring_bytes})
    first = int32(m0 * stride - left)
    steps = int32(((group_in + {chunk} - 1) // {chunk}) * taps)
    {begin}
    {corner}

    next_stage = int32(0)
    next_tap = int32(0)
    next_channel = int32(0)
    next_slab = int32(0)
    for i in range({ahead}):
        {advance_first}
    sums = zeros({sums})
    tap = int32(0)
    stage = int32(0)
    slab = int32(0)
    for i in range(steps):
        {arrive}
        cuda.syncthreads()
        {advance}
        sums = multiply(
            sums, int32(slab0 + slab * slab_bytes), int32(ring + stage * {stage_bytes}),
            int32(row * stride + tap * dilation), column, lane, stride, swizzle, slab_rows,
        )
        stage = int32(stage + 1)
        if stage == {stages}:
            stage = int32(0)
        tap = int32(tap + 1)
        if tap == taps:
            tap = int32(0)
            slab = int32(slab + 1)
            if slab == slabs:
                slab = int32(0)
    {own}
    {check}
    finish(
        sums, bias + int64(group * group_out) * {size},
        y + batch * y_n + int64(group * group_out) * {size},
        int32(m0 + row), int32(n0 + column), length_out, group_out, y_l, has_bias,
    )
    {repair}
"""

# Arithmetic that splits its factors makes NaN of infinity. A thread that holds what is not finite
# computes its outputs again from the definition, which says how NaN and infinity spread.
REPAIR = """
if not is_whole:
    for i in range({rows}):
        m = int32(m0 + row + 8 * int32(i))
        for j in range({columns}):
            c = int32(n0 + column + ((int32(j) >> 3) << 5) + (int32(j) & 7))
            if (m < length_out) & (c < group_out):
                s = float32(0)
                for k in range(taps):
                    l = position(int32(m * stride + int32(k) * dilation - left), length, mode)
                    xi = xg + int64(l) * x_l
                    wi = wg + (int64(k) * int64(group_in) * int64(out_channels) + int64(c)) * 4
                    for ci in range(group_in):
                        s += (load_one(xi) if l >= 0 else float32(0)) * load_one(wi)
                        xi += 4
                        wi += int64(out_channels) * 4
                if has_bias != 0:
                    s += load_one(bias + int64(group * group_out + c) * 4)
                at = y + batch * y_n + int64(m) * y_l + int64(group * group_out + c) * 4
                store_one(at, s)
"""


def indented(text: str, spaces: int) -> str:
    return ("\n" + " " * spaces).join(text.strip().splitlines())


def kernel_text(tile: SlabTile) -> str:
    repair = tile.repair_text()

    def advance(condition: str) -> str:
        text = ADVANCE.format(
            condition=condition, fetch=indented(tile.fetch_text(), 4), commit=tile.commit_text(),
            stages=tile.stages, chunk=tile.chunk_channels,
        )  # fmt: skip
        return indented(text, 8)

    return KERNEL.format(
        parameters=", ".join(tile.parameters()), rows=tile.rows, columns=tile.columns,
        ring_bytes=tile.ring_bytes, stage_bytes=tile.stage_bytes, stages=tile.stages,
        chunk=tile.chunk_channels, size=tile.storage.size, alignment=tile.ALIGNMENT,
        sums=tile.sums, ahead=tile.ahead, begin=indented(tile.begin_text(), 4),
        corner=indented(tile.corner_text(), 4), arrive=indented(tile.arrive_text(), 8),
        own=indented(tile.own_text(), 4), repair=indented(repair or "pass", 4),
        check="is_whole = is_finite(sums)" if repair else "pass",
        advance_first=advance("i < steps"), advance=advance(f"i + {tile.ahead} < steps"),
    )  # fmt: skip

"""One input channel for each output channel: bound by memory.

A thread owns one piece of channels, up to 16 bytes, and walks along L; a warp reads and writes
512 bytes side by side. With stride and dilation 1 the last K-1 rows stay in registers, so x is
read once; otherwise the rows of a few outputs are read again for each tap, from the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..problem import ConvProblem
from .kernel import (
    MAX_BLOCKS_YZ,
    Family,
    LaunchShape,
    Site,
    Tile,
    common_values,
    fits_int32,
    storage,
)
from .positions import source_position
from .storage import BF16, F16, F32, Storage

THREADS = 128
# Taps that a thread can keep the rows of in registers, at 16 bytes a row.
MOST_SLIDING = 8
# Rows of one turn of the loop.
UNROLL = {"sliding": 8, "gathering": 4}
# Positions of one thread: short walks where there is too little to fill the device otherwise.
WALKS = (128, 64, 32, 16)
# Blocks for each multiprocessor that fill it.
FULL = 16

HEAD = """
def conv_depthwise({parameters}):
    c = int32((cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x) * {channels})
    if c >= channels:
        return
    m = int32(cuda.blockIdx.y * walk)
    end = int32(min(length_out, m + walk))
    batch = int64(cuda.blockIdx.z)
    xc = x + batch * x_n + int64(c) * {size}
    yc = y + batch * y_n + int64(c) * {size} + int64(m) * y_l
    wc = w + int64(c) * {size}
    w_k = int64(channels) * {size}
    b = unpack(load(bias + int64(c) * {size}, has_bias))
"""


@dataclass(frozen=True)
class DepthwiseTile(Tile):
    """The kernel for one storage and width of a piece.

    Attributes
    ----------
    storage : Storage
    width : int
        Bytes of channels of one thread: 16, or 4 where channels are ragged.
    taps : int
        K if rows slide through registers, 0 if they are read for each tap.
    """

    storage: Storage
    width: int
    taps: int

    LONG: ClassVar = ("x_n", "x_l", "y_n", "y_l")
    SHORT: ClassVar = (
        "length", "length_out", "channels", "taps", "stride", "dilation", "left", "mode",
        "has_bias", "walk",
    )  # fmt: skip

    @property
    def name(self) -> str:
        how = f"K={self.taps} sliding" if self.taps else "any K"
        return f"depthwise {self.storage.name}, {how}, {self.width} bytes a thread"

    @property
    def threads(self) -> int:
        return THREADS

    @property
    def channels(self) -> int:
        """Channels of one thread."""
        return self.width // self.storage.size

    def text(self) -> str:
        head = HEAD.format(
            parameters=", ".join(self.parameters()), channels=self.channels,
            size=self.storage.size,
        )  # fmt: skip
        return head + ("\n".join(self._sliding() if self.taps else self._gathering())) + "\n"

    @staticmethod
    def _row(name: str, position: str, indent: str) -> list[str]:
        """Load the row that stands at a position of the padded signal."""
        return [
            f"{indent}l = position(int32({position}), length, mode)",
            f"{indent}{name} = unpack(load(xc + int64(l) * x_l, int32(1) if l >= 0 else int32(0)))",
        ]

    def _sliding(self) -> list[str]:
        rows, taps = UNROLL["sliding"], self.taps
        lines = [f"    w{k} = unpack(load(wc + {k} * w_k, int32(1)))" for k in range(taps)]
        lines += ["    p = int32(m - left)"]
        for i in range(taps - 1):
            lines += self._row(f"x{i}", f"p + {i}", "    ")
        lines += ["    while m < end:"]
        for u in range(rows):
            lines += self._row(f"x{taps - 1 + u}", f"p + {taps - 1 + u}", " " * 8)
        for u in range(rows):
            lines += [f"        s = fma(b, x{u}, w0)"]
            lines += [f"        s = fma(s, x{u + k}, w{k})" for k in range(1, taps)]
            lines += [f"        if m + {u} < end:", f"            store(yc + {u} * y_l, pack(s))"]
        lines += [f"        x{i} = x{rows + i}" for i in range(taps - 1)]
        return lines + self._advance(rows) + [f"        p = int32(p + {rows})"]

    def _gathering(self) -> list[str]:
        rows = UNROLL["gathering"]
        lines = ["    while m < end:"]
        lines += [f"        s{u} = b" for u in range(rows)]
        lines += [
            "        p = int32(m * stride - left)",
            "        wk = wc",
            "        for k in range(taps):",
            "            wt = unpack(load(wk, int32(1)))",
            "            wk += w_k",
        ]
        for u in range(rows):
            lines += self._row("xt", f"p + {u} * stride", " " * 12)
            lines += [f"            s{u} = fma(s{u}, xt, wt)"]
        lines += ["            p = int32(p + dilation)"]
        for u in range(rows):
            lines += [
                f"        if m + {u} < end:",
                f"            store(yc + {u} * y_l, pack(s{u}))",
            ]
        return lines + self._advance(rows)

    @staticmethod
    def _advance(rows: int) -> list[str]:
        return [f"        yc += {rows} * y_l", f"        m = int32(m + {rows})"]

    def function(self) -> Callable[..., Any]:
        import numba

        from . import frontend, instructions

        words = self.width // 4
        space = {
            "cuda": frontend.cuda, "int32": numba.int32, "int64": numba.int64,
            "position": frontend.device_function(source_position), "fma": instructions.fma,
            "load": instructions.load_words_if(words),
            "store": instructions.store_words(instructions.GLOBAL, words),
            "pack": instructions.pack(self.storage), "unpack": instructions.unpack(self.storage),
        }  # fmt: skip
        return frontend.define("conv_depthwise", self.text(), space)


class Depthwise(Family):
    """As many groups as channels, in and out."""

    name = "depthwise"

    def declines(self, problem: ConvProblem, site: Site) -> str | None:
        g = problem.geometry
        if not g.num_groups == g.in_channels == g.out_channels:
            return "not one input channel for each output channel"
        if problem.dtype == "float64":
            return "sums in float32"
        if not site.is_channel_last(problem):
            return "channels do not lie side by side in x, filter or y"
        if self._width(problem, site) is None:
            return "channels are not whole words of 4 bytes, or not aligned to them"
        if not fits_int32(problem) or problem.batch > MAX_BLOCKS_YZ:
            return "positions or weights beyond 32 bits, or too many batches"
        return None

    @staticmethod
    def _width(problem: ConvProblem, site: Site) -> int | None:
        """As `Site.width`, of whole rows: groups of one channel lie side by side."""
        row = problem.geometry.in_channels * problem.dtype.itemsize
        operands = (site.x, site.y, site.filter, site.bias)
        for width in (16, 4):
            if row % width == 0 and all(operand.allows(width) for operand in operands):
                return width
        return None

    def tile(self, problem: ConvProblem, site: Site) -> DepthwiseTile:
        g = problem.geometry
        slides = g.stride == g.dilation == 1 and g.kernel_size <= MOST_SLIDING
        width = self._width(problem, site) or 4
        return DepthwiseTile(storage(problem), width, g.kernel_size if slides else 0)

    def launch_shape(self, problem: ConvProblem, site: Site, tile: Any) -> LaunchShape:
        across = -(-problem.geometry.in_channels // (tile.channels * THREADS))
        wanted = FULL * site.device.multiprocessors
        for walk in WALKS:
            along = -(-problem.length_out // walk)
            if along * across * problem.batch >= wanted:
                break
        while along > MAX_BLOCKS_YZ:
            walk, along = 2 * walk, -(-problem.length_out // (2 * walk))
        values = common_values(problem, site) | {"walk": walk}
        return LaunchShape((across, along, problem.batch), 0, values)

    def shipped(self) -> list[Tile]:
        return [
            DepthwiseTile(storage, width, taps)
            for storage in (F32, F16, BF16)
            for width in (16, 4)
            for taps in (0, 4, 8)
        ]


DEPTHWISE = Depthwise()

"""float32 by fused multiply-adds: 8x8 sums for each thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .slab import Run, SlabTile
from .storage import F32, Storage

# A warp's threads form 4 rows by 8 columns; each has every fourth row, and two runs of four
# columns half a warp's width apart, so that the loads of a warp touch every bank once.
THREAD_ROWS, THREAD_COLUMNS = 8, 8
WARP_ROWS, WARP_COLUMNS = 32, 64


@dataclass(frozen=True)
class FfmaTile(SlabTile):
    """Rows are a multiple of 32, columns of 64."""

    CHUNK: ClassVar[int] = 64

    @property
    def name(self) -> str:
        return f"ffma f32 {self.rows}x{self.columns}, copies of {self.width} bytes"

    @property
    def threads(self) -> int:
        return (self.rows // THREAD_ROWS) * (self.columns // THREAD_COLUMNS)

    @property
    def storage(self) -> Storage:
        return F32

    @property
    def pitch(self) -> int:
        return self.columns * 4

    @property
    def sums(self) -> int:
        return THREAD_ROWS * THREAD_COLUMNS

    def corner_text(self) -> str:
        warps = self.rows // WARP_ROWS
        return f"""
row = int32((warp % {warps}) * {WARP_ROWS} + (lane >> 3))
column = int32((warp // {warps}) * {WARP_COLUMNS} + (lane & 7) * 4)
"""

    def runs(self) -> list[Run]:
        return [
            (4 * i, 32 * half, tuple(range(8 * i + 4 * half, 8 * i + 4 * half + 4)))
            for half in range(2)
            for i in range(THREAD_ROWS)
        ]

    def helpers(self) -> dict[str, Any]:
        from . import instructions

        load = instructions.load_words(instructions.SHARED, 4)
        return {"load4": load, "outer": instructions.outer_product}

    def multiply_text(self) -> str:
        """For each four channels: 8 loads of x, 8 of the filter, 256 multiply-adds."""
        quads = self.CHUNK // 16
        lines = ["def multiply(sums, slab, tile, row, column, lane, stride, swizzle, rows):"]
        for i in range(THREAD_ROWS):
            lines += [
                f"    r{i} = int32(row + {4 * i} * stride)",
                f"    s{i} = int32((r{i} >> swizzle) & {quads - 1})",
                f"    p{i} = int32(slab + r{i} * {self.CHUNK})",
            ]
        lines += [f"    for q in range({quads}):"]
        for i in range(THREAD_ROWS):
            lines += [f"        x{i} = unpack(load4(int32(p{i} + ((int32(q) ^ s{i}) << 4))))"]
        for k in range(4):
            column = ", ".join(f"x{i}[{k}]" for i in range(THREAD_ROWS))
            lines += [
                f"        w = int32(tile + (int32(q) * 4 + {k}) * {self.pitch} + column * 4)",
                "        w0 = unpack(load4(w))",
                "        w1 = unpack(load4(int32(w + 128)))",
                f"        sums = outer(sums, ({column}), w0 + w1)",
            ]
        return "\n".join([*lines, "    return sums"]) + "\n"

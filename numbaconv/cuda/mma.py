"""Dense convolution on tensor cores by `mma.sync`, from sm_80 on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .slab import REPAIR, Run, SlabTile
from .storage import BF16, F16, F32, Storage

STORAGE = {"tf32": F32, "3xtf32": F32, "f16": F16, "bf16": BF16}


@dataclass(frozen=True)
class MmaTile(SlabTile):
    """Tiles of a warp are multiples of 16 rows and 32 columns.

    Attributes
    ----------
    product : {"tf32", "3xtf32", "f16", "bf16"}
        What the tensor core multiplies; 3xtf32 is float32 in three products of tf32.
    warp_rows, warp_columns : int
    """

    product: str
    warp_rows: int
    warp_columns: int

    @property
    def name(self) -> str:
        return (
            f"mma {self.product} {self.rows}x{self.columns}, warps of "
            f"{self.warp_rows}x{self.warp_columns}, copies of {self.width} bytes"
        )

    @property
    def threads(self) -> int:
        return 32 * (self.rows // self.warp_rows) * (self.columns // self.warp_columns)

    @property
    def storage(self) -> Storage:
        return STORAGE[self.product]

    @property
    def pitch(self) -> int:
        # 8 words more turn the four rows that a warp reads at once to other banks; rows of
        # 16-bit elements are swizzled instead, which ldmatrix can follow.
        return (self.columns + 8) * 4 if self.storage == F32 else self.columns * 2

    @property
    def sums(self) -> int:
        return self.warp_rows * self.warp_columns // 32

    def place_text(self) -> str:
        return "b" if self.storage == F32 else "(((b >> 4) ^ (k & 7)) << 4) | (b & 15)"

    def repair_text(self) -> str:
        if self.product != "3xtf32":
            return ""
        return REPAIR.format(rows=self.warp_rows // 8, columns=self.warp_columns // 4)

    def corner_text(self) -> str:
        warps = self.rows // self.warp_rows
        return f"""
row = int32((warp % {warps}) * {self.warp_rows})
column = int32((warp // {warps}) * {self.warp_columns})
"""

    def own_text(self) -> str:
        columns = 8 if self.storage == F32 else 2
        return f"""
row = int32(row + (lane >> 2))
column = int32(column + (lane & 3) * {columns})
"""

    def runs(self) -> list[Run]:
        """Fragments of `mma`: a thread has two rows, 8 apart, and two columns of each 16x8.

        Of float32, column g of the j-th of four tiles is column 4g + j of the filter, so that
        the four words of one load are those of four tiles; a thread's sums are then four
        columns side by side.
        """
        found = []
        for i in range(self.warp_rows // 16):
            for h in range(2):
                for block in range(self.warp_columns // 32):
                    at = [4 * (i * self.warp_columns // 8 + 4 * block + j) for j in range(4)]
                    row = 16 * i + 8 * h
                    if self.storage == F32:
                        for e in range(2):
                            sums = tuple(a + 2 * h + e for a in at)
                            found.append((row, 32 * block + 4 * e, sums))
                    else:
                        for j, a in enumerate(at):
                            sums = (a + 2 * h, a + 2 * h + 1)
                            found.append((row, 32 * block + 8 * j, sums))
        return found

    def helpers(self) -> dict[str, Any]:
        from . import instructions

        if self.product == "3xtf32":
            product = instructions.matrix_product_3xtf32
        else:
            product = instructions.matrix_product(self.product)
        return {
            "load4": instructions.load_words(instructions.SHARED, 4), "product": product,
            "load_matrix": instructions.load_matrix(False),
            "load_transposed": instructions.load_matrix(True), "round": instructions.round_tf32,
        }  # fmt: skip

    def multiply_text(self) -> str:
        """For each 32 bytes of channels: load both fragments, multiply."""
        tiles = self.warp_rows // 16
        lines = [
            "def multiply(sums, slab, tile, row, column, lane, stride, swizzle, rows):",
            "    matrix = int32(lane >> 3)",
            "    r = int32(row + (((matrix & 1) << 3) + (lane & 7)) * stride)",
        ]
        for i in range(tiles):
            lines += [
                f"    r{i} = int32(r + {16 * i} * stride)",
                f"    s{i} = int32((r{i} >> swizzle) & 7)",
                f"    p{i} = int32(slab + r{i} * {self.CHUNK})",
            ]
        for step in range(self.CHUNK // 32):
            lines += [f"    piece = int32({2 * step} + (matrix >> 1))"]
            for i in range(tiles):
                lines += [f"    a{i} = load_matrix(int32(p{i} + ((piece ^ s{i}) << 4)))"]
            lines += self._load_filter(step)
            a = " + ".join(f"a{i}" for i in range(tiles))
            b = " + ".join(f"b{j}" for j in range(self.warp_columns // 32))
            if self.product == "tf32":
                a, b = f"round({a})", f"round({b})"
            lines += [f"    sums = product(sums, {a}, {b})"]
        return "\n".join([*lines, "    return sums"]) + "\n"

    def _load_filter(self, step: int) -> list[str]:
        """Words of the filter's fragments, 32 columns at a time."""
        lines = []
        for block in range(self.warp_columns // 32):
            if self.storage == F32:
                lines += [
                    f"    w = int32(tile + ({8 * step} + (lane & 3)) * {self.pitch} "
                    f"+ (column + {32 * block} + (lane >> 2) * 4) * 4)",
                    "    u = load4(w)",
                    f"    v = load4(int32(w + {4 * self.pitch}))",
                    f"    b{block} = (u[0], v[0], u[1], v[1], u[2], v[2], u[3], v[3])",
                ]
            else:
                lines += [
                    f"    k = int32({16 * step} + ((matrix & 1) << 3) + (lane & 7))",
                    f"    c = int32(((column + {32 * block}) >> 3) + (matrix >> 1))",
                    f"    w = int32(tile + k * {self.pitch})",
                    f"    b{block} = load_transposed(int32(w + ((c ^ (k & 7)) << 4)))"
                    " + load_transposed(int32(w + (((c + 2) ^ (k & 7)) << 4)))",
                ]
        return lines

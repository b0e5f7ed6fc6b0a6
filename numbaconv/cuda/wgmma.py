"""Dense convolution on Hopper's tensor cores by `wgmma`, which reads both factors itself.

The pipeline is that of `slab`; what differs is who reads shared memory. The slab's rows are the
left matrix as they lie: tap t begins t*dilation rows further down, at any row, since the swizzle
follows the address. Outputs that are `stride` apart need rows that follow each other, so the
slab keeps the rows of each phase of the stride together. The filter's rows are the right matrix,
transposed by the instruction. Products of one step run while the next is being prepared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .slab import Run, SlabTile
from .storage import BF16, F16, Storage

STORAGE = {"f16": F16, "bf16": BF16}

# Columns of one row of the filter's tile, and bytes of its 64 rows.
BLOCK_COLUMNS, BLOCK_BYTES = 64, 64 * 128


@dataclass(frozen=True)
class WgmmaTile(SlabTile):
    """Tiles of a warpgroup are all columns of a multiple of 64 rows.

    Attributes
    ----------
    product : {"f16", "bf16"}
        What the tensor core multiplies.
    warpgroups : int
    """

    product: str
    warpgroups: int

    # The swizzle repeats every 1024 bytes of address.
    ALIGNMENT: ClassVar[int] = 1024
    HOPPER_ONLY: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return (
            f"wgmma {self.product} {self.rows}x{self.columns}, {self.warpgroups} warpgroups, "
            f"copies of {self.width} bytes"
        )

    @property
    def threads(self) -> int:
        return 128 * self.warpgroups

    @property
    def storage(self) -> Storage:
        return STORAGE[self.product]

    @property
    def pitch(self) -> int:
        return 128

    @property
    def stage_bytes(self) -> int:
        return self.columns // BLOCK_COLUMNS * BLOCK_BYTES

    @property
    def ahead(self) -> int:
        return self.stages - 2  # the buffer of the step before is still being read

    @property
    def sums(self) -> int:
        return self.rows // self.warpgroups * self.columns // 128

    def slab_rows(self, stride: int, span: int) -> int:
        """Rows of x that one tile sees, the same number in each phase: whole eights."""
        return -(-super().slab_rows(stride, span) // (8 * stride)) * 8 * stride

    def row_text(self) -> str:
        return """
place = r
if stride > 1:
    quotient = uint32(r) // uint32(stride)
    phase = uint32(r) - quotient * uint32(stride)
    place = int32(phase * (uint32(rows) // uint32(stride)) + quotient)
turn = place
"""

    def place_text(self) -> str:
        return f"((b >> 7) * {BLOCK_BYTES}) | ((((b >> 4) & 7) ^ (k & 7)) << 4) | (b & 15)"

    def arrive_text(self) -> str:
        return "wait()\npublish()"

    def corner_text(self) -> str:
        return f"""
row = int32((warp >> 2) * {self.rows // self.warpgroups})
column = int32(0)
"""

    def own_text(self) -> str:
        return """
sums = wait_for_products(0, sums)
row = int32(row + (warp & 3) * 16 + (lane >> 2))
column = int32((lane & 3) * 2)
"""

    def runs(self) -> list[Run]:
        """Fragments of `wgmma`: a thread has two rows, 8 apart, and two columns of each 64x8."""
        found: list[Run] = []
        for block in range(self.rows // self.warpgroups // 64):
            first = block * self.columns // 2
            for h in range(2):
                for j in range(self.columns // 8):
                    at = first + 4 * j + 2 * h
                    found.append((64 * block + 8 * h, 8 * j, (at, at + 1)))
        return found

    def helpers(self) -> dict[str, Any]:
        from . import hopper

        return {
            "publish": hopper.publish, "begin": hopper.begin_products,
            "commit_products": hopper.commit_products,
            "wait_for_products": hopper.wait_for_products,
            "left_matrix": hopper.matrix_descriptor(16, 1024),
            "right_matrix": hopper.matrix_descriptor(BLOCK_BYTES, 1024),
            "product": hopper.warpgroup_product(self.product, self.columns),
        }  # fmt: skip

    def multiply_text(self) -> str:
        """All of a step at once; the one before it is done when this returns."""
        return f"""
def multiply(sums, slab, tile, row, column, lane, stride, swizzle, rows):
    r = int32(row)
    {"".join(f"{line}{chr(10)}    " for line in self.row_text().strip().splitlines())}
    left = left_matrix(int32(slab + place * {self.CHUNK}))
    right = right_matrix(tile)
    begin()
    sums = product(sums, left, right)
    commit_products()
    return wait_for_products(1, sums)
"""

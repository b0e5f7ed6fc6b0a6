"""Dense convolution on Hopper: `wgmma` fed by the tensor memory accelerator (TMA).

As `wgmma`, but one thread asks for whole boxes of x and of the filter, which arrive swizzled; a
barrier in shared memory counts their bytes. What lies beyond an array is zero, so there is nothing
to do at borders, for padding by zeros alone. A box takes every `stride`-th position: the rows of
one phase, which then follow each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .kernel import MapShape
from .slab import finish_text
from .wgmma import BLOCK_BYTES, BLOCK_COLUMNS, WgmmaTile

# Of the driver: elements along an axis of a box, those left out included.
MOST_OF_BOX = 256
# And every how many elements a box may take.
MOST_STRIDE = 8


@dataclass(frozen=True)
class TmaTile(WgmmaTile):
    """As `WgmmaTile`; `width` is always 16, which is what TMA copies."""

    LONG: ClassVar[tuple[str, ...]] = ("x_map", "w_map", "y_n", "y_l")
    SHORT: ClassVar[tuple[str, ...]] = (
        "length_out", "group_in", "group_out", "taps", "stride", "dilation", "left", "has_bias",
        "slab_rows", "slabs", "phases", "box_rows",
    )  # fmt: skip

    @property
    def name(self) -> str:
        return f"tma {self.product} {self.rows}x{self.columns}, {self.warpgroups} warpgroups"

    def boxes(self, stride: int, span: int) -> tuple[int, int]:
        """(boxes, rows of a box) for the rows of one phase: whole eights, as the swizzle wants."""
        rows = -(-((self.rows - 1) * stride + span) // stride)
        count = -(-rows // (MOST_OF_BOX // stride // 8 * 8))
        return count, -(-rows // (8 * count)) * 8

    def slab_rows(self, stride: int, span: int) -> int:
        count, rows = self.boxes(stride, span)
        return stride * count * rows

    @staticmethod
    def phases(stride: int, span: int, taps: int) -> int:
        """Phases up to the last that some tap needs."""
        dilation = (span - 1) // max(1, taps - 1)
        return max(t * dilation % stride for t in range(min(taps, stride))) + 1

    def shared(self, stride: int, span: int, taps: int) -> int:
        slab = self.slab_rows(stride, span) // stride * self.phases(stride, span, taps) * self.CHUNK
        return self.ring_bytes + self.slab_count(taps) * slab + 8 * self.stages

    def x_map(self, extents: tuple[int, int, int], strides: tuple[int, int], stride: int,
              span: int) -> MapShape:  # fmt: skip
        """Of x (N, L, C), the extents innermost first."""
        _, rows = self.boxes(stride, span)
        return MapShape(extents, strides, (self.chunk_channels, rows * stride, 1), (1, stride, 1))

    def w_map(self, extents: tuple[int, int, int], strides: tuple[int, int]) -> MapShape:
        """Of the filter (K, C_in/G, C_out)."""
        return MapShape(extents, strides, (BLOCK_COLUMNS, self.chunk_channels, 1))

    def begin_text(self) -> str:
        """Make a barrier for each stage, and have the maps ready."""
        return f"""
phase_rows = int32(uint32(slab_rows) // uint32(stride))
slab_bytes = int32(phases * phase_rows * {self.CHUNK})
barriers = int32(slab0 + slabs * slab_bytes)
swizzle = int32(0)
if thread == 0:
    for i in range({self.stages}):
        make_barrier(int32(barriers + 8 * int32(i)))
    publish_barriers()
    acquire_map(x_map)
    acquire_map(w_map)
cuda.syncthreads()
"""

    def fetch_text(self) -> str:
        """A buffer is free: all have passed the barrier behind the products that read it."""
        return f"""
if thread == 0:
    fetch(int32(slab0 + next_slab * slab_bytes), int32(ring + next_stage * {self.stage_bytes}),
          int32(barriers + 8 * next_stage), x_map, w_map, next_tap, next_channel, first,
          int32(batch), int32(group * group_in), int32(group * group_out + n0), stride, phases,
          phase_rows, box_rows)
"""

    def commit_text(self) -> str:
        return "pass"

    def arrive_text(self) -> str:
        return f"""
while is_complete(int32(barriers + 8 * stage), int32((i // {self.stages}) & 1)) == 0:
    pass
"""

    def helpers(self) -> dict[str, Any]:
        from . import hopper

        return super().helpers() | {
            "make_barrier": hopper.make_barrier, "publish_barriers": hopper.publish_barriers,
            "expect_bytes": hopper.expect_bytes, "is_complete": hopper.is_complete,
            "acquire_map": hopper.acquire_map, "load_box": hopper.load_box,
        }  # fmt: skip

    def parts(self) -> dict[str, str]:
        return {
            "fetch": self.boxes_text(), "multiply": self.multiply_text(),
            "finish": finish_text(self),
        }  # fmt: skip

    def boxes_text(self) -> str:
        """The boxes of one (chunk, tap): the filter's, and at the first tap those of x."""
        return f"""
def fetch(slab, tile, barrier, x_map, w_map, tap, channel, first, batch, x_first, w_first, stride,
          phases, phase_rows, box_rows):
    if tap == 0:
        expect_bytes(barrier, int32({self.stage_bytes} + phases * phase_rows * {self.CHUNK}))
        for phase in range(phases):
            row = int32(0)
            while row < phase_rows:
                load_box(slab, x_map, int32(x_first + channel),
                         int32(first + int32(phase) + row * stride), batch, barrier)
                slab = int32(slab + box_rows * {self.CHUNK})
                row = int32(row + box_rows)
    else:
        expect_bytes(barrier, int32({self.stage_bytes}))
    for block in range({self.columns // BLOCK_COLUMNS}):
        load_box(int32(tile + int32(block) * {BLOCK_BYTES}), w_map,
                 int32(w_first + int32(block) * {BLOCK_COLUMNS}), channel, tap, barrier)
"""

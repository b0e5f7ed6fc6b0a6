"""Dense convolution on Hopper: `wgmma` fed by the tensor memory accelerator (TMA).

As `wgmma`, but one thread asks for whole boxes of x and of the filter, which arrive swizzled; a
barrier in shared memory counts their bytes. What lies beyond an array is zero, so there is nothing
to do at borders, for padding by zeros alone. A box takes every `stride`-th position: the rows of
one phase, which then follow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from .kernel import MapShape
from .slab import finish_text, indented, names_of_tile
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
    def phases(stride: int, span: int) -> int:
        """Phases that some tap needs."""
        return min(stride, span)

    def shared(self, stride: int, span: int, taps: int) -> int:
        slab = self.slab_rows(stride, span) // stride * self.phases(stride, span) * self.CHUNK
        return self.ring_bytes + self.slab_count(taps) * slab + 8 * self.stages

    def x_map(self, extents: tuple[int, int, int], strides: tuple[int, int], stride: int,
              span: int) -> MapShape:  # fmt: skip
        """Of x (N, L, C), the extents innermost first."""
        _, rows = self.boxes(stride, span)
        return MapShape(extents, strides, (self.chunk_channels, rows * stride, 1), (1, stride, 1))

    def w_map(self, extents: tuple[int, int, int], strides: tuple[int, int]) -> MapShape:
        """Of the filter (K, C_in/G, C_out)."""
        return MapShape(extents, strides, (BLOCK_COLUMNS, self.chunk_channels, 1))

    def function(self) -> Callable[..., Any]:
        from . import frontend, hopper

        space: dict[str, Any] = {
            **names_of_tile(self, waiting=0), **self.helpers(),
            "make_barrier": hopper.make_barrier, "publish_barriers": hopper.publish_barriers,
            "expect_bytes": hopper.expect_bytes, "is_complete": hopper.is_complete,
            "acquire_map": hopper.acquire_map, "load_box": hopper.load_box,
        }  # fmt: skip
        parts = {"multiply": self.multiply_text(), "finish": finish_text(self), "fetch": FETCH}
        for name, text in parts.items():
            text = text.format(**self.numbers()) if name == "fetch" else text
            space[name] = frontend.device_function(frontend.define(name, text, space))
        return frontend.define("conv_tma", self.kernel_text(), space)

    def numbers(self) -> dict[str, int]:
        return dict(
            stage_bytes=self.stage_bytes, block_bytes=BLOCK_BYTES, block_columns=BLOCK_COLUMNS,
            blocks=self.columns // BLOCK_COLUMNS, row_bytes=self.CHUNK,
        )  # fmt: skip

    def kernel_text(self) -> str:
        step = dict(stages=self.stages, chunk=self.chunk_channels)
        return KERNEL.format(
            parameters=", ".join(self.parameters()), rows=self.rows, columns=self.columns,
            ring_bytes=self.ring_bytes, size=self.storage.size, sums=self.sums, ahead=self.ahead,
            stage_bytes=self.stage_bytes, row_bytes=self.CHUNK, **step,
            corner=indented(self.corner_text(), 4), own=indented(self.own_text(), 4),
            advance_first=indented(ADVANCE.format(condition="i < steps", **step), 8),
            advance=indented(ADVANCE.format(condition=f"i + {self.ahead} < steps", **step), 8),
        )  # fmt: skip


# The boxes of one (chunk, tap): the filter's, and at the first tap those of x.
FETCH = """
def fetch(slab, tile, barrier, x_map, w_map, tap, channel, first, batch, x_first, w_first, stride,
          phases, phase_rows, box_rows):
    if tap == 0:
        expect_bytes(barrier, int32({stage_bytes} + phases * phase_rows * {row_bytes}))
        for phase in range(phases):
            row = int32(0)
            while row < phase_rows:
                load_box(slab, x_map, int32(x_first + channel),
                         int32(first + int32(phase) + row * stride), batch, barrier)
                slab = int32(slab + box_rows * {row_bytes})
                row = int32(row + box_rows)
    else:
        expect_bytes(barrier, int32({stage_bytes}))
    for block in range({blocks}):
        load_box(int32(tile + int32(block) * {block_bytes}), w_map,
                 int32(w_first + int32(block) * {block_columns}), channel, tap, barrier)
"""

# Boxes for a later step; `next_*` say which one that is.
ADVANCE = """
if {condition}:
    if thread == 0:
        fetch(int32(slab0 + next_slab * slab_bytes), int32(ring + next_stage * stage_bytes),
              int32(barriers + 8 * next_stage), x_map, w_map, next_tap, next_channel, first, batch,
              x_first, w_first, stride, phases, phase_rows, box_rows)
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
"""

# A buffer is free once all threads have passed the barrier of the next step but one: by then the
# products that read it are done.
KERNEL = """
def conv_tma({parameters}):
    shared = cuda.shared.array(0, float32, alignment=1024)
    thread = int32(cuda.threadIdx.x)
    lane = int32(thread & 31)
    warp = int32(thread >> 5)
    tiles = int32((group_out + {columns} - 1) // {columns})
    group = int32(cuda.blockIdx.y // tiles)
    n0 = int32((cuda.blockIdx.y - group * tiles) * {columns})
    m0 = int32(cuda.blockIdx.x * {rows})
    batch = int32(cuda.blockIdx.z)
    phase_rows = int32(uint32(slab_rows) // uint32(stride))
    ring = shared_address(shared)
    slab0 = int32(ring + {ring_bytes})
    slab_bytes = int32(phases * phase_rows * {row_bytes})
    stage_bytes = int32({stage_bytes})
    barriers = int32(slab0 + slabs * slab_bytes)
    first = int32(m0 * stride - left)
    x_first = int32(group * group_in)
    w_first = int32(group * group_out + n0)
    steps = int32(((group_in + {chunk} - 1) // {chunk}) * taps)
    if thread == 0:
        for i in range({stages}):
            make_barrier(int32(barriers + 8 * int32(i)))
        publish_barriers()
        acquire_map(x_map)
        acquire_map(w_map)
    cuda.syncthreads()
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
    parity = int32(0)
    for i in range(steps):
        while is_complete(int32(barriers + 8 * stage), parity) == 0:
            pass
        cuda.syncthreads()
        {advance}
        sums = multiply(
            sums, int32(slab0 + slab * slab_bytes), int32(ring + stage * stage_bytes),
            int32(row * stride + tap * dilation), column, lane, stride, int32(0), slab_rows,
        )
        stage = int32(stage + 1)
        if stage == {stages}:
            stage = int32(0)
            parity = int32(parity ^ 1)
        tap = int32(tap + 1)
        if tap == taps:
            tap = int32(0)
            slab = int32(slab + 1)
            if slab == slabs:
                slab = int32(0)
    {own}
    finish(
        sums, bias + int64(group * group_out) * {size},
        y + int64(batch) * y_n + int64(group * group_out) * {size},
        int32(m0 + row), int32(n0 + column), length_out, group_out, y_l, has_bias,
    )
"""

"""Panel kernels as compiled functions: from a `Tile` to an address that jitted code calls."""

from __future__ import annotations

import functools

from numba.core import types
from numba.extending import intrinsic, models, register_model

from .. import _jit
from .blocking import Panel
from .families import emit_panel
from .microkernel import INTEGERS, POINTERS, Tile


class TileType(types.Type):
    """A Numba type without a value: it carries a `Tile` through type inference.

    Literal sizes travel in the type, so one module-level function serves every tile and
    Numba's cache tells them apart (an intrinsic captured in a closure never hits).
    """

    def __init__(self, tile: Tile) -> None:
        self.tile = tile
        super().__init__(name=f"Tile({tile.name})")


register_model(TileType)(models.OpaqueModel)


# Numba compiles no *arguments for C functions, so the list stands three times.
@intrinsic
def panel_kernel(
    typingctx, tile, x, w, bias, y, x_row, x_tap, x_channel, x_slice, y_row, y_channel,
    rows, taps, depth, slices, last_lanes, accumulate, x_bytes, w_next,
):  # fmt: skip
    """The panel kernel of `tile`, inlined; contract in `microkernel`."""
    arguments = (
        x, w, bias, y, x_row, x_tap, x_channel, x_slice, y_row, y_channel,
        rows, taps, depth, slices, last_lanes, accumulate, x_bytes, w_next,
    )  # fmt: skip

    def codegen(context, builder, signature, values):
        emit_panel(builder, tile.tile, values[1:])
        return context.get_dummy_value()

    return types.void(tile, *arguments), codegen


def panel_entry(
    tile, x, w, bias, y, x_row, x_tap, x_channel, x_slice, y_row, y_channel,
    rows, taps, depth, slices, last_lanes, accumulate, x_bytes, w_next,
):  # fmt: skip
    panel_kernel(
        tile, x, w, bias, y, x_row, x_tap, x_channel, x_slice, y_row, y_channel,
        rows, taps, depth, slices, last_lanes, accumulate, x_bytes, w_next,
    )  # fmt: skip


@functools.cache
def panel_address(tile: Tile) -> int:
    """Compile the panel kernel of `tile`, once a process, and return its address.

    Its C signature is that of `families.standalone_module`: the tile (no value, a null
    pointer), then `POINTERS`, then `INTEGERS`.
    """
    element = types.float32 if tile.bits == 32 else types.float64
    pointers = [types.CPointer(element)] * len(POINTERS)
    signature = types.void(TileType(tile), *pointers, *[types.int64] * len(INTEGERS))
    return _jit.c_address(panel_entry, signature)


def panel_row(panel: Panel, tile: Tile, weights: int, bias: int) -> tuple[int, ...]:
    """A row of `tables.PANEL`: `panel` by `tile`, and where its weights and its bias begin."""
    return (
        panel_address(tile), panel.x_offset, panel.first, panel.channels,
        panel.width, panel.slices, panel.x_slice, panel.last_lanes,
        weights, bias, not panel.sums_lanes,
    )  # fmt: skip

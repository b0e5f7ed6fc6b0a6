"""Panel kernels as compiled functions: from a `Tile` to an address that jitted code calls."""

from __future__ import annotations

from numba.core import types
from numba.extending import intrinsic, models, register_model

from .. import _jit
from .microkernel import INTEGERS, POINTERS, PanelEmitter, Tile


class TileType(types.Type):
    """A Numba type without a value: it carries a `Tile` through type inference.

    Literal sizes travel in the type, so one module-level function serves every tile and
    Numba's cache tells them apart (an intrinsic captured in a closure never hits).
    """

    def __init__(self, tile: Tile) -> None:
        self.tile = tile
        super().__init__(name=f"Tile({tile.name})")


register_model(TileType)(models.OpaqueModel)


@intrinsic
def panel_kernel(
    typingctx, tile, x, w, bias, y, x_row, x_tap, y_row, rows, taps, depth, last_lanes, accumulate
):
    """The panel kernel of `tile`, inlined; contract in `microkernel`."""
    arguments = (x, w, bias, y, x_row, x_tap, y_row, rows, taps, depth, last_lanes, accumulate)

    def codegen(context, builder, signature, values):
        PanelEmitter(builder, tile.tile, values[1:]).emit()
        return context.get_dummy_value()

    return types.void(tile, *arguments), codegen


def panel_entry(
    tile, x, w, bias, y, x_row, x_tap, y_row, rows, taps, depth, last_lanes, accumulate
):
    panel_kernel(
        tile, x, w, bias, y, x_row, x_tap, y_row, rows, taps, depth, last_lanes, accumulate
    )


def panel_address(tile: Tile) -> int:
    """Compile the panel kernel of `tile`, once a process, and return its address.

    Its C signature is that of `microkernel.standalone_module`: the tile (no value, a null
    pointer), four pointers, and eight 64-bit integers.
    """
    element = types.float32 if tile.bits == 32 else types.float64
    pointers = [types.CPointer(element)] * len(POINTERS)
    signature = types.void(TileType(tile), *pointers, *[types.int64] * len(INTEGERS))
    return _jit.c_address(panel_entry, signature)

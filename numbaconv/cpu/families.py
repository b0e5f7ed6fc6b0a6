"""All families of panel kernels, and the way from a tile to its code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from .dense import DENSE, GROUPED
from .depthwise import DEPTHWISE, SMALL_GROUPS
from .family import Family
from .fir import FIR
from .microkernel import INTEGERS, POINTERS, Emitter, Tile
from .narrow import NARROW
from .planar import PLANAR
from .vector import i8, i64, void

# In the order of preference.
FAMILIES: tuple[Family, ...] = (FIR, NARROW, PLANAR, DEPTHWISE, DENSE, SMALL_GROUPS, GROUPED)

EMITTERS: dict[str, type[Emitter]] = {f.emitter.family: f.emitter for f in FAMILIES}


def emit_panel(builder: ir.IRBuilder, tile: Tile, arguments: Sequence[Any]) -> None:
    """Emit the panel kernel of `tile` at the builder's place."""
    EMITTERS[tile.family](builder, tile, arguments).emit()
    if tile.streams:  # such stores may pass each other: all are done before others read y
        builder.fence("seq_cst")


def standalone_module(tile: Tile, triple: str) -> ir.Module:
    """The panel kernel alone in a module, to read its assembly for any processor."""
    module = ir.Module(tile.name)
    module.triple = triple
    pointer = (ir.FloatType() if tile.bits == 32 else ir.DoubleType()).as_pointer()
    arguments = [i8.as_pointer(), *[pointer] * len(POINTERS), *[i64] * len(INTEGERS)]
    function = ir.Function(module, ir.FunctionType(void, arguments), tile.name)
    builder = ir.IRBuilder(function.append_basic_block())
    emit_panel(builder, tile, function.args[1:])
    builder.ret_void()
    return module

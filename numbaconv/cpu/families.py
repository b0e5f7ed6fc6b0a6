"""All families of panel kernels, and the way from a tile to its code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from ..problem import ConvProblem
from .dense import DENSE, GROUPED
from .depthwise import DEPTHWISE
from .family import Family
from .fir import FIR
from .interleaved import INTERLEAVED
from .microkernel import INTEGERS, POINTERS, Emitter, Tile
from .narrow import NARROW
from .planar import PLANAR
from .short import ShortEmitter
from .sliding import SLIDING
from .small_groups import SMALL_GROUPS
from .target import Target
from .vector import i8, i64, void

# In the order of preference.
FAMILIES: tuple[Family, ...] = (
    FIR, NARROW, INTERLEAVED, PLANAR, DEPTHWISE, SLIDING, DENSE, SMALL_GROUPS, GROUPED,
)  # fmt: skip


@functools.lru_cache(maxsize=1024)
def direct_family(problem: ConvProblem, target: Target) -> Family:
    """The first that takes `problem`: what `dispatch` chooses if no transform is faster."""
    return next(family for family in FAMILIES if family.declines(problem, target) is None)


EMITTERS: dict[str, type[Emitter]] = {f.emitter.family: f.emitter for f in FAMILIES}
EMITTERS[ShortEmitter.family] = ShortEmitter  # tiles of `dense` and `grouped`


def emit_panel(builder: ir.IRBuilder, tile: Tile, arguments: Sequence[Any]) -> None:
    """Emit the panel kernel of `tile` at the builder's place."""
    EMITTERS[tile.family](builder, tile, arguments).emit()
    if tile.streams:  # such stores may pass each other: all are done before others read y
        builder.fence("seq_cst")


def standalone_module(tile: Tile, triple: str) -> ir.Module:
    """The panel kernel alone in a module, to read its assembly for any processor."""

    def emit(builder: ir.IRBuilder, arguments: Sequence[Any]) -> None:
        emit_panel(builder, tile, arguments)

    return module_of(tile.name, tile.bits, (POINTERS, INTEGERS), emit, triple)


def module_of(
    name: str,
    bits: int,
    arguments: tuple[Sequence[str], Sequence[str]],
    emit: Callable[[ir.IRBuilder, Sequence[Any]], None],
    triple: str,
) -> ir.Module:
    """A module of one kernel, with the C signature that Numba gives it.

    `arguments` names its pointers and its integers; an opaque one comes before them.
    """
    module = ir.Module(name)
    module.triple = triple
    pointers, integers = arguments
    pointer = (ir.FloatType() if bits == 32 else ir.DoubleType()).as_pointer()
    kinds = [i8.as_pointer(), *[pointer] * len(pointers), *[i64] * len(integers)]
    function = ir.Function(module, ir.FunctionType(void, kinds), name)
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, function.args[1:])
    builder.ret_void()
    return module

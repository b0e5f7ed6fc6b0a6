"""How workers share the work of a call: each begins with its own share, then helps the others.

Cores are not equally fast: a neighbour takes the time of one, a laptop has two kinds of them, a
thread wakes late. So a share is cut into pieces, and whoever has finished his takes pieces of
others that nobody has begun. As long as all are alike, a core meets the same positions in every
call, and finds them in its cache.
"""

from __future__ import annotations

from numba.core import types
from numba.extending import intrinsic

from .. import _jit
from .vector import i64


@intrinsic
def take(typingctx, queue, index):
    """Add one to counter `index` of `queue`, and return what it was: each caller another number."""

    def codegen(context, builder, signature, values):
        base = builder.inttoptr(values[0], i64.as_pointer())
        return builder.atomic_rmw("add", builder.gep(base, [values[1]]), i64(1), "monotonic")

    return types.int64(types.int64, types.int64), codegen


@_jit.inner(result=types.int64)
def share(total, worker, workers, multiple):
    """The first item of `worker`'s share of `total`, a multiple of the tile."""
    if worker == workers:
        return total
    return total * worker // workers // multiple * multiple


@_jit.inner(result=types.int64)
def next_unit(queue, worker, workers, units):
    """A unit that nobody has begun: of the worker's own share, else of another's; -1 if none."""
    for turn in range(workers):
        owner = (worker + turn) % workers
        unit = share(units, owner, workers, 1) + take(queue, owner)
        if unit < share(units, owner + 1, workers, 1):
            return unit
    return -1


@_jit.inner(result=types.int64)
def pieces_of(items, least):
    """Into how many pieces a share of so many items is cut, each of `least` or more."""
    pieces = 1
    while items >> pieces >= least:
        pieces += 1
    return pieces


@_jit.inner(result=types.int64)
def first_item(total, unit, workers, pieces, multiple):
    """Where unit `unit` of `total` items begins: the units of a share are its pieces.

    Each piece is half of what is left of the share, and the last one is all of it.
    """
    owner = unit // pieces
    first = share(total, owner, workers, multiple)
    items = share(total, owner + 1, workers, multiple) - first
    return first + (items - (items >> (unit - owner * pieces))) // multiple * multiple

"""Stores past the caches: when they pay, and the parameter table of a call that uses them.

A store to a line that is in no cache first reads the line. Past the caches it does not, and y does
not push out what is needed next; but whoever reads y finds it in memory.
"""

from __future__ import annotations

from collections.abc import Callable

from ..interop import address_of
from ..plan import Array
from ..problem import ConvProblem
from .packing import PackedWeights
from .target import Target

# Bytes of y from which it is written past the caches, or this share of the last cache if that is
# smaller. Measured on a Zen 4 with 32 MiB, on one and two cores, in chains of two layers, of which
# each reads what the other wrote: at 2 MiB transforms gain 1.07× and 1.08×, at 3 nothing on two, at
# 4 they gain 1.1-1.2× and 1.0-1.1×, at 8 and more 1.09-1.16×, and alone 1.05-1.6× (4 → 288 K15).
# Dense layers gain 1.0× (64 → 64 K3) to 1.05× (512 → 512 K1) at 4 to 8 MiB.
STREAMED_FROM, STREAMED_SHARE = 16 << 20, 0.1

# Direct kernels with fewer products than this for an output are bound by memory. There half of x
# is subtracted from y, and a larger share of the last cache is needed. Zen 4: 1 → 512 K10 s5
# loses 1.13× at 6 MiB of y, depthwise K31 1.14× at 8; depthwise K4 gains 2.2× and 1.1× at 16 MiB,
# 1.6× and 1.4× at 24, and at 12 MiB gains 1.6× on one core and loses 1.15× on two. One and two
# cores of a Xeon: 1 → 512 K10 s5 gains 1.2× and 1.3× at 16 MiB, 4 → 288 K15 1.2× and 1.1× at 33,
# 64 → 512 K1 1.3× and 1.2× at 20; depthwise K4, whose x is as large, loses 1.1× and 1.2× at 24 MiB
# and gains 1.35× and 1.1× at 48.
MANY_PRODUCTS, SHARE_IF_MEMORY_BOUND = 64, 1 / 4


def is_large_output(problem: ConvProblem, target: Target, *, is_memory_bound: bool) -> bool:
    """Whether y is so large that it had better be written past the caches."""
    size, share = float(problem.out_bytes), STREAMED_SHARE
    if is_memory_bound:
        size -= problem.in_bytes / 2
        share = SHARE_IF_MEMORY_BOUND
    return size >= min(STREAMED_FROM, share * target.last_cache)


def may_stream(
    problem: ConvProblem,
    y_strides: tuple[int, ...],
    target: Target,
    *,
    is_memory_bound: bool,
    along_positions: bool = False,
) -> bool:
    """Whether y is large enough, and whole vectors of channels, or positions, aligned in it."""
    batch, row, channel = y_strides
    if along_positions:
        step, others = row, (batch, channel) if problem.geometry.out_channels > 1 else (batch,)
    else:
        step, others = channel, (batch, row)
    return (
        is_large_output(problem, target, is_memory_bound=is_memory_bound)
        and step == problem.dtype.itemsize
        and not any(stride % target.vector_bytes for stride in others)
    )


class CallTables:
    """The parameter table of a call, and a second one where y may be written past the caches.

    Parameters
    ----------
    make : callable
        `make(past_caches)` returns the table without weights, and the tables that it points at.
    packed : PackedWeights
        Filter (or its spectrum) and bias, whose addresses are written into the table.
    streams : bool
        Whether there is a second table.
    alignment : int
        Bytes of a vector: stores past the caches fault at other addresses.
    """

    def __init__(
        self,
        make: Callable[[bool], tuple[Array, ...]],
        packed: PackedWeights,
        streams: bool,
        alignment: int,
    ) -> None:
        self.packed, self.streams, self.alignment = packed, streams, alignment
        self.kept: list[Array] = []
        self.usual = self.fill(make(False))
        self.streaming = self.fill(make(True)) if streams else self.usual

    def fill(self, tables: tuple[Array, ...]) -> int:
        """Keep the tables, with the addresses of the weights in a copy of the first."""
        table = tables[0].copy()
        table["weights"] = address_of(self.packed.filter)
        table["bias"] = address_of(self.packed.bias)
        self.kept += [table, *tables[1:]]
        return address_of(table)

    def address_for(self, y: Array | int) -> int:
        """The table for y, an array or its address."""
        if not self.streams:
            return self.usual
        place = y if isinstance(y, int) else address_of(y)
        return self.usual if place % self.alignment else self.streaming

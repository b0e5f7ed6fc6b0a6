"""The ceilings of this machine, measured in the process that quotes them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from numbaconv.cpu.target import host
from numbaconv.cpu.vector import VectorBuilder, i64

# Independent chains: enough to cover a latency of 4 cycles at two multiply-adds a cycle.
CHAINS = 12


@intrinsic
def multiply_add_chains(typingctx, array, steps):
    """Run CHAINS independent chains of vector multiply-adds in registers."""
    bits = array.dtype.bitwidth

    def codegen(context, builder, signature, values):
        target = host()
        v = VectorBuilder(builder, bits, target.vector_bytes * 8 // bits, target.fma)
        memory = context.make_array(array)(context, builder, values[0]).data
        factor, *sums = (v.load(v.at(memory, k * v.lanes)) for k in range(CHAINS + 1))
        sums = v.loop(
            i64(0), values[1], 1, sums, lambda _, sums: [v.fma(s, factor, factor) for s in sums]
        )
        for k, value in enumerate(sums):
            v.store(value, v.at(memory, k * v.lanes))
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@numba.njit(parallel=True, nogil=True)
def run_chains(memory, steps, threads):
    for thread in numba.prange(threads):
        multiply_add_chains(memory[thread], steps)


def fma_seconds(threads: int, dtype: type = np.float32, steps: int = 300_000) -> tuple[float, int]:
    """Time one burst of multiply-adds; return (seconds, floating-point operations)."""
    lanes = host().lanes(np.dtype(dtype))
    memory = np.full((threads, (CHAINS + 1) * lanes), 1e-3, dtype)
    begin = time.perf_counter()
    run_chains(memory, steps, threads)
    return time.perf_counter() - begin, 2 * CHAINS * lanes * steps * threads


def median_seconds(run: Callable[[], object], at_least: float = 0.1, rounds: int = 5) -> float:
    """The median time of `run()` over at least `rounds` rounds and `at_least` seconds."""
    times: list[float] = []
    while len(times) < rounds or sum(times) < at_least:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def fma_peak(threads: int = 1, dtype: type = np.float32) -> float:
    """Floating-point operations a second of `threads` cores, best of a few bursts."""
    fma_seconds(threads, dtype, steps=10)
    return max(
        flops / seconds for seconds, flops in (fma_seconds(threads, dtype) for _ in range(7))
    )

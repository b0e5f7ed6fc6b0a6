"""The ceilings of this machine, measured in the process that quotes them."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
from numba.core import types
from numba.core.errors import RequireLiteralValue
from numba.extending import intrinsic

from numbaconv.cpu.target import host
from numbaconv.cpu.vector import VectorBuilder, i64

# Independent chains: enough to cover a latency of 4 cycles at two multiply-adds a cycle.
CHAINS = 12

# Behind a dense layer the clock stays low for 1.3 ms and then rises in steps (Sapphire Rapids).
# Three bursts of 0.2 ms end before that.
BURSTS_BEHIND = 3
STEPS_BEHIND = 100_000

# Vectors of one round of the copying loop.
COPIED_AT_ONCE = 4


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


@functools.cache
def launch_seconds(threads: int, dtype: type = np.float32) -> float:
    """What `fma_seconds` takes without its multiply-adds."""
    return statistics.median(fma_seconds(threads, dtype, steps=1)[0] for _ in range(50))


def fma_peak_behind(threads: int = 1, dtype: type = np.float32) -> float:
    """Floating-point operations a second at the clock that the caller's last work has left.

    A processor lowers its clock where long vectors are loaded and multiplied at once: a Xeon of
    2023 runs multiply-adds from registers at 3.4 GHz, and the very same ones at 2.9 GHz in the
    first millisecond behind a dense layer or a product of oneMKL. `fma_peak` is what the units
    could do at the clock of an empty pipe to memory, this is what they could do in place of the
    layer. The best of a few bursts, so that an interruption lowers nothing. Call it once before
    the work: the first call compiles.
    """
    launch = launch_seconds(threads, dtype)
    bursts = [fma_seconds(threads, dtype, STEPS_BEHIND) for _ in range(BURSTS_BEHIND)]
    return max(flops / max(seconds - launch, 1e-9) for seconds, flops in bursts)


@intrinsic
def copy_vectors(typingctx, target, source, count, streaming):
    """Copy `count` vectors; a literal `streaming` of 1 stores them past the caches.

    Both arrays begin at a multiple of the vector's size.
    """
    if not isinstance(streaming, types.IntegerLiteral):
        raise RequireLiteralValue("streaming must be a literal")
    bits, past_caches = source.dtype.bitwidth, bool(streaming.literal_value)

    def codegen(context, builder, signature, values):
        machine = host()
        v = VectorBuilder(builder, bits, machine.vector_bytes * 8 // bits, machine.fma)
        to, origin = (
            context.make_array(array)(context, builder, value).data
            for array, value in zip((target, source), values, strict=False)
        )

        def body(index, carried):
            for k in range(COPIED_AT_ONCE):
                offset = builder.add(index, i64(k * v.lanes))
                v.store(v.load_aligned(v.at(origin, offset)), v.at(to, offset), past_caches)
            return []

        elements = builder.mul(values[2], i64(v.lanes))
        v.loop(i64(0), elements, COPIED_AT_ONCE * v.lanes, [], body)
        return context.get_dummy_value()

    return types.void(target, source, count, streaming), codegen


@numba.njit(parallel=True, nogil=True)
def copy_regular(targets, sources, count, times, threads):
    for thread in numba.prange(threads):
        for _ in range(times):
            copy_vectors(targets[thread], sources[thread], count, 0)


@numba.njit(parallel=True, nogil=True)
def copy_streaming(targets, sources, count, times, threads):
    for thread in numba.prange(threads):
        for _ in range(times):
            copy_vectors(targets[thread], sources[thread], count, 1)


def aligned(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """NaNs that begin on a cache line, so that nothing unwritten passes for a result."""
    size = int(np.prod(shape))
    memory = np.empty(size + 64 // np.dtype(dtype).itemsize, dtype)
    first = -memory.ctypes.data % 64 // memory.itemsize
    array = memory[first : first + size].reshape(shape)
    array.fill(np.nan)
    return array


def copy_bandwidth(footprint: int, threads: int = 1, at_least: float = 0.03) -> float:
    """Bytes read and written a second by a copy between two arrays of footprint/2 bytes.

    Each thread copies an array of its own; the better of regular and streaming stores.
    """
    vector = host().vector_bytes
    count = max(1, round(footprint / 2 / threads / (vector * COPIED_AT_ONCE))) * COPIED_AT_ONCE
    sources, targets = (aligned((threads, count * vector // 4)) for _ in range(2))
    sources.fill(1.0)
    moved = 2 * count * vector * threads
    times = max(1, (8 << 20) // moved)  # the launch of threads must not count in a cache
    best = 0.0
    for copy in (copy_regular, copy_streaming):
        run = functools.partial(copy, targets, sources, count, times, threads)
        run()
        best = max(best, moved * times / median_seconds(run, at_least))
    return best

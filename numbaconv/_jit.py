"""The only module that knows how Numba compiles: options, cache place, threads."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import numba
from numba.core import config

logger = logging.getLogger(__name__)

OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}

# Below this much work one thread is faster: entering and leaving a parallel region costs
# 2-5 µs on two cores (GNU OpenMP), in which one core does about 0.5-1 MFLOP.
PARALLEL_FLOPS = 2_000_000

# Compiling is not thread-safe for C callbacks in every Numba release: one at a time.
_compiling = threading.RLock()

# The workqueue layer ends the process when two threads enter it; the second one that
# comes takes the serial path instead.
_workqueue = threading.Lock()


def is_disabled() -> bool:
    """Whether NUMBA_DISABLE_JIT is set, so that only the reference can run."""
    return bool(config.DISABLE_JIT)


def jit(function: Callable[..., Any]) -> Any:
    """Compile for the CPU at the first call: nopython, without the GIL."""
    return numba.njit(**OPTIONS)(function)


def parallel_jit(function: Callable[..., Any]) -> Any:
    """As `jit`, with `prange` spread over threads."""
    return numba.njit(parallel=True, **OPTIONS)(function)


def c_address(function: Callable[..., Any], signature: Any) -> int:
    """Compile `function` for one signature and return its address as a C function."""
    with _compiling:
        return int(_c_callback(function, signature).address)


@functools.cache
def _c_callback(function: Callable[..., Any], signature: Any) -> Any:
    logger.debug("compiling %s%s", function.__name__, signature)
    return numba.cfunc(signature, **OPTIONS)(function)


def max_threads() -> int:
    """Threads that a call may use: NUMBA_NUM_THREADS, by default all cores.

    Reads Numba's configuration; `numba.get_num_threads()` would reset torch's own count.
    """
    return int(config.NUMBA_NUM_THREADS)


def run_parallel(parallel: Callable[[int], None], serial: Callable[[], None], workers: int) -> None:
    """Run `parallel(workers)`, or `serial()` where a second entry would kill the process."""
    if workers == 1:
        serial()
    elif threading_layer() != "workqueue":
        parallel(workers)
    elif _workqueue.acquire(blocking=False):
        try:
            parallel(workers)
        finally:
            _workqueue.release()
    else:
        serial()


def threading_layer() -> str:
    """The threading layer in use, or "workqueue" while it is unknown."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return "workqueue"

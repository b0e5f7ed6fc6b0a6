"""The only module that knows how Numba compiles: options, and the cache behind each function."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba
from numba.core import config
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock

from ._cache import KernelCache

logger = logging.getLogger(__name__)

OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def is_disabled() -> bool:
    """Whether NUMBA_DISABLE_JIT is set, so that only the reference can run."""
    return bool(config.DISABLE_JIT)


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """Compile for the CPU at the first call: nopython, without the GIL, kept on disk."""
    dispatcher = numba.njit(**OPTIONS, **options)(function)
    if not is_disabled():
        dispatcher._cache = KernelCache(function)
    return dispatcher


def inner(function: Callable[..., Any]) -> Any:
    """As `jit`, for what only compiled code calls: without entries for Python and for C.

    Those took 0.36 of the 2.5 s in which the skeleton of transforms compiles.
    """
    return jit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def parallel_jit(function: Callable[..., Any]) -> Any:
    """As `jit`, with `prange` spread over threads."""
    return jit(function, parallel=True)


def c_address(function: Callable[..., Any], signature: Any) -> int:
    """Compile `function` for one signature and return its address as a C function."""
    with global_compiler_lock:
        return int(_c_callback(function, signature).address)


@functools.cache
def _c_callback(function: Callable[..., Any], signature: Any) -> CFunc:
    logger.debug("loading or compiling %s%s", function.__name__, signature)
    callback = CFunc(function, (signature.args, signature.return_type), {}, OPTIONS)
    callback._cache = KernelCache(function)
    callback.compile()
    return callback

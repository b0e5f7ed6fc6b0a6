"""The only module that knows how Numba compiles: options, and the cache behind each function."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import numba
from numba.core import config, types
from numba.core.ccallback import CFunc
from numba.core.compiler import Flags
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from ._cache import KernelCache

logger = logging.getLogger(__name__)

# A decorator: one thread at a time, and no fork meanwhile (`_threads`).
locked = global_compiler_lock

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


def inner(function: Callable[..., Any] | None = None, *, result: Any = types.void) -> Any:
    """Compile `function` into each jitted function that calls it, and only there.

    A dispatcher of its own adds a cache, another round of type inference, and machine code that
    nobody calls. Without it, and with `memory.smaller` for `min`, a first call takes 0.92 of the
    time.

    Parameters
    ----------
    function : callable
        Called by position from compiled code alone, with integers, booleans and pointers.
    result : numba.types.Type or callable, optional
        What it returns; a callable gives it from the types of the arguments.
    """
    if function is None:
        return functools.partial(inner, result=result)

    def definition(typingctx, *arguments):
        kinds = [types.unliteral(argument) for argument in arguments]
        returned = result if isinstance(result, types.Type) else result(*kinds)

        def codegen(context, builder, signature, values):
            flags = Flags()
            flags.error_model, flags.nrt = OPTIONS["error_model"], True
            compiled = context.compile_subroutine(builder, function, signature, flags=flags)
            return context.call_internal(builder, compiled.fndesc, signature, values)

        return returned(*kinds), codegen

    functools.update_wrapper(definition, function)
    parameters = inspect.signature(function).parameters.values()
    first = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    definition.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    call = intrinsic(definition)
    call.py_func = function  # as a dispatcher has it
    return call


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

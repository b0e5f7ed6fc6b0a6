"""The only module that knows how Numba compiles: options, and the cache behind each function."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numba
from numba.core import config, types
from numba.core.ccallback import CFunc
from numba.core.codegen import CodeLibrary
from numba.core.compiler import CompilerBase, Flags
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode
from numba.extending import intrinsic

from ._cache import KernelCache

logger = logging.getLogger(__name__)

# A decorator: one thread at a time, and no fork meanwhile (`_threads`).
locked = global_compiler_lock

OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def is_disabled() -> bool:
    """Whether NUMBA_DISABLE_JIT is set, so that only the reference can run."""
    return bool(config.DISABLE_JIT)


class _Lean(CompilerBase):
    """Numba's compiler for plain functions of numbers, pointers and single elements of arrays.

    Without the passes for closures and comprehensions, `with`, `raise`, array expressions, calls
    that are inlined as Python, constant items of mixed tuples, branches on types and literals, and
    parallel loops: a function that needs one of them fails to compile.
    """

    def define_pipelines(self) -> list[PassManager]:
        passes = PassManager("lean")
        for step in (
            TranslateByteCode, FixupArgs, IRProcessing, ReconstructSSA, NopythonTypeInference,
            PreLowerStripPhis, IRLegalization, NativeLowering, NoPythonBackend,
        ):  # fmt: skip
            passes.add_pass(step)
        passes.finalize()
        return [passes]


def _dispatcher(function: Callable[..., Any], **options: Any) -> Any:
    """Compile for the CPU at the first call: nopython, without the GIL, kept on disk."""
    dispatcher = numba.njit(**OPTIONS, **options)(function)
    if not is_disabled():
        dispatcher._cache = KernelCache(function)
    return dispatcher


def jit(function: Callable[..., Any]) -> Any:
    """Compile `function`, of numbers, addresses and arrays, at the first call."""
    return _dispatcher(function, pipeline_class=_Lean)


def parallel_jit(function: Callable[..., Any]) -> Any:
    """As `jit`, with `prange` spread over threads."""
    return _dispatcher(function, parallel=True)


# What has been compiled into a library: descriptions of functions by (function, signature).
_parts: WeakKeyDictionary[CodeLibrary, dict[Any, Any]] = WeakKeyDictionary()


def _compile_part(context: Any, function: Callable[..., Any], signature: Any, inlined: bool) -> Any:
    """Compile `function` into the library that is being compiled, once; return its description.

    Numba's own way, a library for each function, optimizes and compiles each of them by itself,
    and again in each library that links it: a first call takes 1.4 times as long.
    """
    library = context.active_code_library
    parts = _parts.setdefault(library, {})
    key = function, signature
    if key not in parts:
        flags = Flags()
        flags.error_model, flags.nrt = OPTIONS["error_model"], True
        flags.forceinline = inlined
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        kinds, result = signature.args, signature.return_type
        lean = _Lean(context.typing_context, context, library, kinds, result, flags, locals={})
        part = parts[key] = lean.compile_extra(function).fndesc
        part.typemap = part.calltypes = None  # as in Numba's caches: large, and done with
        # Unlike an external function, it is left out where it has been inlined.
        library.get_function(part.llvm_func_name).linkage = "linkonce_odr"
    return parts[key]


def inner(
    function: Callable[..., Any] | None = None, *, result: Any = types.void, inlined: bool = False
) -> Any:
    """Compile `function` into each jitted function that calls it, and only there.

    Parameters
    ----------
    function : callable
        Called by position from compiled code alone, with integers, booleans and pointers.
    result : numba.types.Type or callable, optional
        What it returns; a callable gives it from the types of the arguments.
    inlined : bool
        Whether LLVM has to inline it, and not only where it finds that this pays.
    """
    if function is None:
        return functools.partial(inner, result=result, inlined=inlined)

    def definition(typingctx, *arguments):
        kinds = [types.unliteral(argument) for argument in arguments]
        returned = result if isinstance(result, types.Type) else result(*kinds)

        def codegen(context, builder, signature, values):
            part = _compile_part(context, function, signature, inlined)
            return context.call_internal(builder, part, signature, values)

        return returned(*kinds), codegen

    functools.update_wrapper(definition, function)
    parameters = inspect.signature(function).parameters.values()
    first = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    definition.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    call = intrinsic(definition)
    call.py_func = function  # as a dispatcher has it
    return call


def c_address(function: Callable[..., Any], signature: Any) -> int:
    """Compile `function` for one signature and return its address as a C function."""
    with global_compiler_lock:
        return int(_c_callback(function, signature).address)


@functools.cache
def _c_callback(function: Callable[..., Any], signature: Any) -> CFunc:
    logger.debug("loading or compiling %s%s", function.__name__, signature)
    callback = CFunc(function, (signature.args, signature.return_type), {}, OPTIONS, _Lean)
    callback._cache = KernelCache(function)
    callback.compile()
    return callback

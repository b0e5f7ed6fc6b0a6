"""The one door to numba-cuda: what is used of it, and the repairs it needs.

Instructions and kernels take these names from here, so that another front end that compiles
Python for CUDA has one module to replace.
"""

from __future__ import annotations

import functools
import linecache
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

# numba-cuda 0.30 names `np.row_stack`, which NumPy 2.5 has removed, at its first compilation.
if "row_stack" not in vars(np):
    vars(np)["row_stack"] = np.vstack

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy 2.5, at import
    from numba import cuda
    from numba.core.errors import NumbaPerformanceWarning, RequireLiteralValue
    from numba.cuda import dispatcher, types
    from numba.cuda.compiler import compile_cuda, kernel_fixup
    from numba.cuda.cudadrv import nvvm
    from numba.cuda.extending import intrinsic
    from numba.cuda.typing import signature

__all__ = [
    "NumbaPerformanceWarning",
    "RequireLiteralValue",
    "compile_cuda",
    "cuda",
    "define",
    "device_function",
    "dispatcher",
    "intrinsic",
    "kernel_fixup",
    "nvvm",
    "signature",
    "types",
]


@functools.cache
def device_function(function: Callable[..., Any]) -> Any:
    """A function that kernels call, compiled into them."""
    return cuda.jit(device=True, forceinline=True)(function)


def define(name: str, text: str, namespace: dict[str, Any]) -> Callable[..., Any]:
    """Return the function `name` that the generated `text` defines in a copy of `namespace`.

    Tracebacks show its lines, and Numba's errors too.
    """
    place = f"<numbaconv {name}>"
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    space = dict(namespace)
    exec(compile(text, place, "exec"), space)
    function: Callable[..., Any] = space[name]
    return function

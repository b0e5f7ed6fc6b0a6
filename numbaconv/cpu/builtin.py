"""Builtin functions of Python made of our machine code, and what they need of CPython and NumPy.

To call one takes 0.02 µs; to call a Numba dispatcher with two arrays takes 0.7.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .. import _jit
from .memory import record
from .vector import i64

# C signature of a METH_FASTCALL function: its owner, an array of arguments, their number; returns
# a new reference.
SIGNATURE = types.int64(types.int64, types.int64, types.int64)
METH_FASTCALL = 0x80


@intrinsic
def give_up_gil(typingctx):
    """Let other Python threads run; returns what `take_gil` needs."""

    def codegen(context, builder, signature, values):
        return builder.ptrtoint(context.get_python_api(builder).save_thread(), i64)

    return types.int64(), codegen


@intrinsic
def take_gil(typingctx, state):
    """Wait for the turn of this thread again."""

    def codegen(context, builder, signature, values):
        api = context.get_python_api(builder)
        api.restore_thread(builder.inttoptr(values[0], api.voidptr))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def truth(typingctx, flag):
    """A reference to True or False."""

    def codegen(context, builder, signature, values):
        bit = builder.trunc(values[0], ir.IntType(1))
        return builder.ptrtoint(context.get_python_api(builder).bool_from_bool(bit), i64)

    return types.int64(types.boolean), codegen


@_jit.inner(result=types.int64)
def address_of_array(array):
    """The address of the first element of an ndarray (a `PyObject *`)."""
    return record(array, 0, "ndarray").data


class MethodDef(ctypes.Structure):
    """CPython's `PyMethodDef`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


# Of a definition's address, a self and a module.
_new_builtin = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object
)(("PyCFunction_NewEx", ctypes.pythonapi))


def builtin(
    definition: MethodDef, owner: np.ndarray[Any, Any], needed: object
) -> Callable[..., bool]:
    """A builtin function, whose machine code finds its parameters in `owner`.

    It keeps `owner` alive as its self, and what else is `needed` as its module.
    """
    # The definition too: two threads that meet a cache's first call have one each.
    place, kept = ctypes.addressof(definition), (definition, needed)
    function: Callable[..., bool] = _new_builtin(place, owner, kept)
    return function


def define(name: str, function: Callable[..., Any]) -> MethodDef:
    """Compile `function(owner, arguments, count)` into the definition of builtin functions."""
    return MethodDef(name.encode(), _jit.c_address(function, SIGNATURE), METH_FASTCALL, None)

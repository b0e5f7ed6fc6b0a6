"""How functions are compiled that only compiled code calls."""

import inspect

import numpy as np
import pytest
from numba.core import types
from numba.core.caching import NullCache

from numbaconv import _jit


@_jit.inner(result=types.int64)
def quotient(a, b):
    return a // b


@_jit.inner(result=types.UniTuple(types.int64, 2))
def in_order(a, b):
    return (a, b) if a < b else (b, a)


@_jit.inner(result=lambda *kinds: kinds[1])
def second(a, b):
    return b


@_jit.inner
def put(array, i, value):
    array[i] = value


@_jit.jit
def use(a, b, array):
    low, high = in_order(a, b)
    put(array, 0, low)
    put(array, 1, high)
    return quotient(a, b), second(a, 2.5)


def test_results_are_of_the_declared_types():
    array = np.zeros(2)
    assert use(7, -2, array) == (-4, 2.5)
    assert array.tolist() == [-2, 7]


def test_division_by_zero_raises_nothing_as_in_all_our_code():
    assert use(1, 0, np.zeros(2))[0] == 0


def test_signature_and_name_are_those_of_the_function():
    assert quotient.__name__ == "quotient"
    assert quotient.py_func(7, 2) == 3
    assert list(inspect.signature(quotient.py_func).parameters) == ["a", "b"]


@_jit.inner(result=types.int64)
def difference_of_squares(a, b):
    return quotient(a * a, 1) - quotient(b * b, 1)


@_jit.inner(result=types.int64, inlined=True)
def plain_sum(a, b):
    return a + b


@_jit.jit
def nested(a, b):
    return difference_of_squares(a, b) + quotient(a, b) + plain_sum(a, b)


def test_a_part_is_compiled_once_into_the_library_that_calls_it(monkeypatch):
    compiled, compile_extra = [], _jit._Lean.compile_extra

    def counting(self, function):
        compiled.append(function.__name__)
        return compile_extra(self, function)

    monkeypatch.setattr(_jit._Lean, "compile_extra", counting)
    dispatcher = _jit.jit(nested.py_func)
    dispatcher._cache = NullCache()
    assert dispatcher(7, 2) == 49 - 4 + 3 + 9
    assert sorted(compiled) == ["difference_of_squares", "nested", "plain_sum", "quotient"]
    (overload,) = dispatcher.overloads.values()
    names = [function.name for function in overload.library.get_defined_functions()]
    assert not any("plain_sum" in name for name in names)


def test_python_cannot_call_it():
    with pytest.raises(NotImplementedError, match="not usable in pure-python"):
        quotient(1, 2)

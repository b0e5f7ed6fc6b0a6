"""What every plan offers, whatever the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from .problem import ConvProblem

Array = np.ndarray[Any, Any]


# A function of x and y that makes sure by itself that they are plain arrays of the shapes it was
# made for, and do not overlap, and then computes y. Returns whether it did.
Entry = Callable[[Array, Array], bool]


class BoundCall(ABC):
    """A plan that has met the strides of x and y: all that can be known before the call.

    Only the memory of the arrays it is given matters, not the order of their axes.
    """

    @abstractmethod
    def __call__(self, x: Array, y: Array, threads: int | None) -> bool:
        """Compute all of y; return False, with nothing written, if x and y may overlap."""

    def entry(self, x: Array, y: Array) -> Entry | None:
        """The same for plain C-contiguous arrays of these shapes and this dtype, and no others.

        None where so much is to compute that checks in Python do not count.
        """
        return None


Call = TypeVar("Call", bound=BoundCall)

# Pairs of strides that one plan remembers: a program has few.
CALLS_KEPT = 16


class Plan(ABC):
    """A kernel with its blocking, bound to weights, for one problem.

    Plans are immutable and may be used by several threads at once.
    """

    problem: ConvProblem

    @abstractmethod
    def bind(self, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> BoundCall:
        """Prepare calls on x (N, L, C_in) and y (N, L_out, C_out) with these strides in bytes.

        Both are aligned native arrays of the problem's dtype with any strides.
        """

    @abstractmethod
    def details(self, threads: int | None, x_strides: tuple[int, ...]) -> dict[str, str]:
        """Facts for `explain`: tile, blocking, what a call with `threads` uses of them.

        Of a call on an x with these strides, and a new y.
        """

    def error_bound(self) -> str:
        """What holds for the result, in words."""
        return direct_error_bound(self.problem)

    def execute(self, x: Array, y: Array, threads: int | None = None) -> None:
        """Compute all of y from x, through a temporary where the two may overlap."""
        if y.size == 0 or self.bind(x.strides, y.strides)(x, y, threads):
            return
        result = np.empty(y.shape, y.dtype)
        if not self.bind(x.strides, result.strides)(x, result, threads):
            raise ValueError(
                f"x with strides {x.strides} reaches over memory of other arrays; pass x.copy()"
            )
        y[...] = result


class RememberingPlan(Plan, Generic[Call]):
    """A plan whose bound calls are worth keeping, by the strides of x and y."""

    def __init__(self) -> None:
        self._calls: dict[tuple[tuple[int, ...], tuple[int, ...]], Call] = {}

    @abstractmethod
    def make_call(self, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> Call:
        """Prepare a call that has not been met, or was forgotten."""

    def bind(self, x_strides: tuple[int, ...], y_strides: tuple[int, ...]) -> Call:
        call = self._calls.get((x_strides, y_strides))
        if call is None:
            call = self.make_call(x_strides, y_strides)
            if len(self._calls) >= CALLS_KEPT:
                self._calls.clear()
            self._calls[x_strides, y_strides] = call
        return call


def direct_error_bound(problem: ConvProblem) -> str:
    """The elementwise bound of direct summation in words (Higham 2002, section 3.1)."""
    terms = problem.geometry.reduction + 1
    unit = np.finfo(problem.accumulator_dtype).eps / 2
    return (
        f"|error| <= gamma({terms})*(|x|*|w| + |b|) + {terms - 1}*tiny, "
        f"gamma(n) = n*u/(1 - n*u), u = {unit:.3g}"
    )

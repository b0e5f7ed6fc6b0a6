"""What every plan offers, whatever the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .problem import ConvProblem


class Plan(ABC):
    """A kernel with its blocking, bound to weights, for one problem.

    Plans are immutable and may be executed by several threads at once.
    """

    problem: ConvProblem

    @abstractmethod
    def execute(self, x: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        """Compute all of `out` (N, L_out, C_out) from `x` (N, L, C_in).

        Both are native arrays of the problem's dtype with any strides; they do not overlap.
        """

    @abstractmethod
    def details(self) -> dict[str, str]:
        """Facts for `explain`: tile, blocking, threads."""


def error_bound(problem: ConvProblem) -> str:
    """The elementwise bound of direct summation in words (Higham 2002, section 3.1)."""
    terms = problem.geometry.reduction + 1
    return (
        f"|error| <= gamma({terms})*(|x|*|w| + |b|) + {terms - 1}*tiny, "
        f"gamma(n) = n*u/(1 - n*u), u = {np.finfo(problem.accumulator_dtype).eps / 2:.3g}"
    )

"""Which kernel runs: an ordered list a device, in which each kernel accepts or says why not.

The order of the list is the policy. On the CPU:

1. `winograd`      kernels of 2 to 5 taps by Toom-Cook tiles, where asked for or cheaper
2. `fft`           longer kernels by short Fourier transforms, likewise
3. `fir`           one channel; or channel-first or with a stride, a filter for each channel
4. `narrow`        C_out/G that fills few lanes, C_in/G that fills many
5. `interleaved`   few channels with a filter each, stride 1: positions share vectors
6. `planar`        channel-first arrays; channels or groups that leave lanes idle; a near filter
7. `depthwise`     one input channel for each output channel
8. `sliding`       groups of at most a vector of outputs, taps that share rows of x
9. `dense`         one group
10. `small groups`  groups of which several fit in a vector, channel multipliers
11. `grouped`       any number of groups
12. `reference`     everything, and all there is under NUMBA_DISABLE_JIT
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from . import _jit, reference
from .plan import Plan
from .problem import ConvProblem
from .weights import Weights


class Kernel(Protocol):
    """A kernel is anything with these three names: a family of panel kernels, or a module."""

    @property
    def name(self) -> str:
        """As `explain` shows it."""

    def declines(self, problem: ConvProblem, target: Any) -> str | None:
        """Return why this kernel does not take `problem`, None if it does."""

    def plan(self, problem: ConvProblem, weights: Weights, target: Any) -> Plan:
        """Bind this kernel to `problem` and `weights`."""


@dataclass(frozen=True)
class Choice:
    """A kernel, and why each one before it in the list declined."""

    kernel: Kernel
    declined: tuple[tuple[str, str], ...]


@functools.cache
@_jit.locked
def cpu_kernels() -> tuple[Kernel, ...]:
    """The kernels of the CPU, in order of preference.

    Imported under the lock that a fork waits for: the child would inherit a module's own lock.
    """
    from .cpu.families import FAMILIES
    from .cpu.transform.methods import METHODS

    return (*METHODS, *FAMILIES, reference)


@functools.cache
def cuda_kernels() -> tuple[Any, ...]:
    """The kernels of CUDA devices, in order of preference."""
    from .cuda.families import FAMILIES

    return FAMILIES


@functools.cache
@_jit.locked
def cpu_target() -> Any:
    """The processor to block for; None where nothing will be compiled."""
    if _jit.is_disabled():
        return None
    from .cpu import target

    return target.host()


def choose(
    problem: ConvProblem, kernels: Sequence[Kernel] | None = None, target: Any = None
) -> Choice:
    """Return the first kernel that accepts `problem`."""
    if target is None:
        target = cpu_target()
    if kernels is None:
        kernels = cpu_kernels() if target is not None else (reference,)
    declined = []
    if target is None:
        declined.append(("compiled kernels", "NUMBA_DISABLE_JIT is set"))
    for kernel in kernels:
        reason = kernel.declines(problem, target)
        if reason is None:
            return Choice(kernel, tuple(declined))
        declined.append((kernel.name, reason))
    raise LookupError(f"no kernel accepts {problem}")


@functools.lru_cache(maxsize=1024)
def chosen(problem: ConvProblem) -> Kernel:
    """The kernel of `choose`, remembered, since `conv1d` asks in every call."""
    return choose(problem).kernel


def make_plan(problem: ConvProblem, weights: Weights) -> Plan:
    """Choose a kernel for `problem`, of those positions that it reads, and bind it to `weights`."""
    problem = problem.thinned
    return chosen(problem).plan(problem, weights, cpu_target())


@dataclass(frozen=True)
class Explanation:
    """What runs and why; `str()` of it is for people, the attributes are for programs.

    Attributes
    ----------
    kernel : str
        Name of the kernel that runs.
    declined : tuple of (str, str)
        Each kernel before it in the list, with its reason.
    details : dict
        Tile, blocking, threads, memory of packed weights; which positions of x are read, if not
        all.
    error_bound : str
    """

    kernel: str
    declined: tuple[tuple[str, str], ...]
    details: dict[str, str]
    error_bound: str

    def __str__(self) -> str:
        lines = [f"kernel: {self.kernel}"]
        lines += [f"  declined {name}: {reason}" for name, reason in self.declined]
        lines += [f"{key}: {value}" for key, value in self.details.items()]
        return "\n".join([*lines, f"error bound: {self.error_bound}"])


def explain_problem(
    problem: ConvProblem,
    weights: Weights,
    threads: int | None = None,
    x_strides: tuple[int, ...] | None = None,
) -> Explanation:
    """Say which kernel runs `problem` on so many threads, and why each one before it does not.

    By default for a C-contiguous x; its strides in bytes are those of (batch, position, channel).
    """
    batch, row, channel = problem.plain_strides[0] if x_strides is None else x_strides
    problem = problem.thinned
    choice = choose(problem)
    plan = choice.kernel.plan(problem, weights, cpu_target())
    details = plan.details(threads, (batch, row * problem.step, channel))
    if problem.step > 1:
        g = problem.geometry
        as_read = f"one in {problem.step} positions, with stride {g.stride}, dilation {g.dilation}"
        details = {"x is read": as_read, **details}
    return Explanation(choice.kernel.name, choice.declined, details, plan.error_bound())

"""What a peer is: a module with a few names, and the ways in which it computes a layer.

A module of this package that is a peer has

* `PACKAGES`: distributions whose versions are recorded
* `environment(threads)`: variables that must be set before its library is imported
* `start(threads)`: import the library and set its threads
* `WAYS`: the ways to compute a layer
* `LIMIT`, if it needs more seconds than others to prepare a layer

and imports its library in no other place, so that it can be named where it is not installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..problems import Problem

Array = np.ndarray[Any, Any]

# What numbaconv is told to use; it is measured with each, beside the same peer.
ALGORITHMS = ("direct", "auto")

# Times taken while others had more than this share of our cores are called disturbed.
DISTURBED = 0.05

# Seconds that one way may take to prepare a layer, and that all rounds of a layer may take.
LIMIT = 150.0


def our_way(algorithm: str, preallocated: bool) -> str:
    """The name of one of the ways of numbaconv itself."""
    return f"numbaconv {algorithm}{', out=' * preallocated}"


OUR_WAYS = tuple(our_way(algorithm, into) for algorithm in ALGORITHMS for into in (True, False))


class NotOffered(Exception):
    """A peer has no such operation; the message says which."""


@dataclass(frozen=True)
class Layer:
    """A problem with its data, channel-last: x (N, L, C_in), w (K, C_in/G, C_out)."""

    problem: Problem
    x: Array
    w: Array
    threads: int

    @property
    def x_ncl(self) -> Array:
        """x as (N, C_in, L), contiguous."""
        return np.ascontiguousarray(self.x.transpose(0, 2, 1))

    @property
    def w_oik(self) -> Array:
        """w as (C_out, C_in/G, K), contiguous."""
        return np.ascontiguousarray(self.w.transpose(2, 1, 0))


@dataclass(frozen=True)
class Prepared:
    """A layer that is ready to run: `run` is timed; `result` turns its value into y, untimed.

    y is (N, L_out, C_out). A way that says "nlc" must give it contiguous. `memory` is what
    the library reads and writes without holding it.
    """

    run: Callable[[], Any]
    result: Callable[[Any], Array] = np.asarray
    memory: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Way:
    """One way of computing a layer.

    `layout` is "nlc" where x comes and y goes in channel-last memory, transposes included in
    the time, and "own" where both are in the layout that the peer likes best.
    """

    name: str
    layout: Literal["nlc", "own"]
    preallocated: bool
    prepare: Callable[[Layer], Prepared]


def from_ncl(y: Any) -> Array:
    """(N, C, L) as (N, L, C)."""
    return np.asarray(y).transpose(0, 2, 1)


def crop(problem: Problem) -> tuple[int, int] | None:
    """Symmetric padding for peers that know no other: (padding, outputs to skip).

    None where the outputs of the wider padding do not contain those that are wanted.
    """
    left, right = problem.padding
    wide = max(left, right)
    skipped, rest = divmod(wide - left, problem.stride)
    return None if rest else (wide, skipped)


# --- for libraries that compile a graph, and convolve over one axis or over two


def graph_ways(name: str, prepare: Callable[..., Prepared]) -> tuple[Way, ...]:
    """`prepare(layer, axes, nlc, bound)` in each sensible combination.

    A second axis has length one. N-L-C is reached by transposes within the graph. A bound
    call writes to memory that was there before.
    """
    chosen = [(axes, nlc, True) for axes in (1, 2) for nlc in (False, True)]
    chosen += [(1, nlc, False) for nlc in (False, True)]
    return tuple(
        Way(
            f"{name} {axes}d{', N-L-C' * nlc}{', bound' * bound}",
            "nlc" if nlc else "own",
            bound,
            functools.partial(prepare, axes=axes, nlc=nlc, bound=bound),
        )
        for axes, nlc, bound in chosen
    )


def graph_shapes(p: Problem, axes: int, nlc: bool) -> list[tuple[int, ...]]:
    """The shapes of x and y as a graph sees them."""
    one = (1,) * (axes - 1)
    both = (p.x_shape, p.y_shape)
    if nlc:
        return [(batch, *one, length, channels) for batch, length, channels in both]
    return [(batch, channels, *one, length) for batch, length, channels in both]


def graph_transposes(axes: int) -> tuple[list[int], list[int]]:
    """The permutations from N-L-C to a graph's own order, and back."""
    return ([0, 2, 1], [0, 2, 1]) if axes == 1 else ([0, 3, 1, 2], [0, 2, 3, 1])


def graph_result(p: Problem, y: Array, nlc: bool) -> Array:
    """What a graph gave, as (N, L_out, C_out)."""
    batch, length, channels = p.y_shape
    return y.reshape(p.y_shape) if nlc else from_ncl(y.reshape(batch, channels, length))

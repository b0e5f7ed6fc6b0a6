"""numbaconv itself, by each algorithm, in the two ways it is called."""

from __future__ import annotations

import functools

from numbaconv import Conv1D, explain

from ..roofline import aligned
from .base import ALGORITHMS, Layer, Prepared, Way, our_way


def make_layer(layer: Layer, algorithm: str) -> Conv1D:
    p = layer.problem
    conv = Conv1D(
        p.kernel_size, p.in_channels, p.out_channels, stride=p.stride, padding=p.padding,
        dilation=p.dilation, num_groups=p.groups, algorithm=algorithm, threads=layer.threads,
    )  # fmt: skip
    conv.filter = layer.w
    return conv


def kernels(layer: Layer) -> dict[str, str]:
    """The kernel that `explain` names, for each algorithm."""
    return {
        algorithm: explain(make_layer(layer, algorithm), layer.x).kernel for algorithm in ALGORITHMS
    }


def into(layer: Layer, algorithm: str) -> Prepared:
    return Prepared(
        functools.partial(make_layer(layer, algorithm), layer.x, aligned(layer.problem.y_shape))
    )


def allocating(layer: Layer, algorithm: str) -> Prepared:
    return Prepared(functools.partial(make_layer(layer, algorithm), layer.x))


def ways() -> tuple[Way, ...]:
    return tuple(
        Way(our_way(algorithm, prepare is into), "nlc", prepare is into,
            functools.partial(prepare, algorithm=algorithm))
        for algorithm in ALGORITHMS
        for prepare in (into, allocating)
    )  # fmt: skip

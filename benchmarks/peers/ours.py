"""numbaconv itself, in the two ways it is called."""

from __future__ import annotations

import functools

from numbaconv import Conv1D, explain

from ..roofline import aligned
from .base import OURS_INTO, OURS_NEW, Layer, Prepared, Way


def make_layer(layer: Layer, algorithm: str) -> Conv1D:
    p = layer.problem
    conv = Conv1D(
        p.kernel_size, p.in_channels, p.out_channels, stride=p.stride, padding=p.padding,
        dilation=p.dilation, num_groups=p.groups, algorithm=algorithm, threads=layer.threads,
    )  # fmt: skip
    conv.filter = layer.w
    return conv


def kernel(layer: Layer, algorithm: str) -> str:
    """The kernel that `explain` names."""
    return explain(make_layer(layer, algorithm), layer.x).kernel


def into(layer: Layer, algorithm: str) -> Prepared:
    return Prepared(
        functools.partial(make_layer(layer, algorithm), layer.x, aligned(layer.problem.y_shape))
    )


def allocating(layer: Layer, algorithm: str) -> Prepared:
    return Prepared(functools.partial(make_layer(layer, algorithm), layer.x))


def ways(algorithm: str) -> tuple[Way, ...]:
    return (
        Way(OURS_INTO, "nlc", True, functools.partial(into, algorithm=algorithm)),
        Way(OURS_NEW, "nlc", False, functools.partial(allocating, algorithm=algorithm)),
    )

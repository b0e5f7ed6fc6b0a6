"""OpenVINO: one compiled model a layer, in float32 (its default on some processors is less)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..problems import Problem
from ..roofline import aligned
from .base import (
    Array,
    Layer,
    Prepared,
    graph_result,
    graph_shapes,
    graph_transposes,
    graph_ways,
)

PACKAGES = ("openvino",)


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads)}


def start(threads: int) -> None:
    import openvino  # noqa: F401


def convolution(x: Any, w: Array, p: Problem, axes: int) -> Any:
    """The node: weights (O, I, …), or (G, O/G, I/G, …) for groups."""
    from openvino import opset13 as ops

    one, zero = [1] * (axes - 1), [0] * (axes - 1)
    if axes == 2:
        w = w[:, :, None]
    borders = [[*one, p.stride], [*zero, p.padding[0]], [*zero, p.padding[1]], [*one, p.dilation]]
    if p.groups == 1:
        return ops.convolution(x, ops.constant(w), *borders)
    split = w.reshape(p.groups, p.out_channels // p.groups, *w.shape[1:])
    return ops.group_convolution(x, ops.constant(split), *borders)


def graph(layer: Layer, axes: int, nlc: bool) -> Any:
    """A model from x to y, with transposes around the convolution for `nlc`."""
    import openvino
    from openvino import opset13 as ops

    shape = graph_shapes(layer.problem, axes, nlc)[0]
    forth, back = graph_transposes(axes)
    x = ops.parameter(shape, np.float32)
    image = ops.transpose(x, ops.constant(forth)) if nlc else x
    y = convolution(image, layer.w_oik, layer.problem, axes)
    return openvino.Model([ops.transpose(y, ops.constant(back)) if nlc else y], [x])


def compiled(layer: Layer, axes: int, nlc: bool) -> Any:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": layer.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "ENABLE_HYPER_THREADING": False,
        "ENABLE_CPU_PINNING": False,
    }
    return openvino.Core().compile_model(graph(layer, axes, nlc), "CPU", options)


def prepare(layer: Layer, axes: int, nlc: bool, bound: bool) -> Prepared:
    import openvino

    model = compiled(layer, axes, nlc)
    request = model.create_infer_request()
    x_shape, y_shape = graph_shapes(layer.problem, axes, nlc)
    x = (layer.x if nlc else layer.x_ncl).reshape(x_shape)
    if not bound:
        return Prepared(
            lambda: request.infer([x], share_inputs=True),
            lambda found: graph_result(layer.problem, found[0], nlc),
        )
    y = aligned(y_shape)
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    request.set_output_tensor(openvino.Tensor(y, shared_memory=True))
    return Prepared(
        lambda: request.infer(share_outputs=True),
        lambda _: graph_result(layer.problem, y, nlc),
        memory=(x, y),
    )


WAYS = graph_ways("Convolution", prepare)

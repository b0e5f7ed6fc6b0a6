"""ONNX Runtime: `Conv` over one and over two axes, its CPU provider."""

from __future__ import annotations

from typing import Any

from ..problems import Problem
from ..roofline import aligned
from .base import (
    Layer,
    Prepared,
    graph_result,
    graph_shapes,
    graph_transposes,
    graph_ways,
)

PACKAGES = ("onnxruntime", "onnx")


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads)}


def start(threads: int) -> None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)


def attributes(p: Problem, axes: int) -> dict[str, Any]:
    """Of the node; a second axis has length one."""
    one, zero = [1] * (axes - 1), [0] * (axes - 1)
    left, right = p.padding
    return dict(
        kernel_shape=[*one, p.kernel_size], strides=[*one, p.stride],
        dilations=[*one, p.dilation], pads=[*zero, left, *zero, right], group=p.groups,
    )  # fmt: skip


def model(layer: Layer, axes: int, nlc: bool) -> bytes:
    """A graph from x to y, with transposes around the convolution for `nlc`."""
    from onnx import TensorProto, helper, numpy_helper

    p, w = layer.problem, layer.w_oik
    if axes == 2:
        w = w[:, :, None]
    x_shape, y_shape = graph_shapes(p, axes, nlc)
    image = "x_ncl" if nlc else "x"
    nodes = [helper.make_node("Conv", [image, "w"], ["c"], **attributes(p, axes))]
    if nlc:
        forth, back = graph_transposes(axes)
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["x_ncl"], perm=forth))
        nodes.append(helper.make_node("Transpose", ["c"], ["y"], perm=back))
    else:
        nodes[0].output[0] = "y"
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
        [numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def session(layer: Layer, axes: int, nlc: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = layer.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(
        model(layer, axes, nlc), options, providers=["CPUExecutionProvider"]
    )


def prepare(layer: Layer, axes: int, nlc: bool, bound: bool) -> Prepared:
    import onnxruntime

    ready = session(layer, axes, nlc)
    x_shape, y_shape = graph_shapes(layer.problem, axes, nlc)
    x = (layer.x if nlc else layer.x_ncl).reshape(x_shape)
    if not bound:
        feed = {"x": x}
        return Prepared(
            lambda: ready.run(None, feed), lambda y: graph_result(layer.problem, y[0], nlc)
        )
    y = aligned(y_shape)
    binding = ready.io_binding()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (x, y)]
    binding.bind_ortvalue_input("x", values[0])
    binding.bind_ortvalue_output("y", values[1])
    return Prepared(
        lambda: ready.run_with_iobinding(binding),
        lambda _: graph_result(layer.problem, values[1].numpy(), nlc),
    )


WAYS = graph_ways("Conv", prepare)

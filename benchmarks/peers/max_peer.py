"""Modular MAX: `max.nn.Conv1D` in a graph of its own, compiled for the shape."""

from __future__ import annotations

from .base import Layer, Prepared, Way

PACKAGES = ("max", "max-core")

# Compiling one layer takes up to a minute on two quiet cores.
LIMIT = 240.0


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "MODULAR_TELEMETRY_ENABLED": "false"}


def start(threads: int) -> None:
    """Import; threads are held down by the cores that the process may use.

    `InferenceSession(num_threads=…)` of 26.7 aborts the process: the device that it makes
    for itself already has other options.
    """
    import max.engine
    import max.nn  # noqa: F401


def prepare(layer: Layer) -> Prepared:
    from max.driver import CPU, Buffer
    from max.dtype import DType
    from max.engine import InferenceSession
    from max.graph import DeviceRef, Graph, TensorType
    from max.nn import Conv1D

    p, device = layer.problem, DeviceRef.CPU()
    conv = Conv1D(
        p.kernel_size, p.in_channels, p.out_channels, DType.float32, stride=p.stride,
        padding=p.padding, dilation=p.dilation, num_groups=p.groups, device=device,
    )  # fmt: skip
    conv.load_state_dict({"weight": layer.w})
    with Graph("layer", input_types=[TensorType(DType.float32, p.x_shape, device)]) as graph:
        graph.output(conv(graph.inputs[0].tensor))
    model = InferenceSession(devices=[CPU()]).load(graph, weights_registry=conv.state_dict())
    x = Buffer.from_numpy(layer.x)
    return Prepared(lambda: model.execute(x), lambda y: y[0].to_numpy())


WAYS = (Way("nn.Conv1D", "nlc", False, prepare),)

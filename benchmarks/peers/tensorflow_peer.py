"""TensorFlow: `conv2d` on N-L-C memory, as a graph of its own kernels and compiled by XLA.

Weights are constants of the graph, so that oneDNN may keep them packed.
"""

from __future__ import annotations

import functools
from typing import Any

from .base import Layer, NotOffered, Prepared, Way

PACKAGES = ("tensorflow-cpu",)


def environment(threads: int) -> dict[str, str]:
    return {
        "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}",
        "NPROC": str(threads), "PJRT_NPROC": str(threads),
    }  # fmt: skip


def start(threads: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def borders(layer: Layer) -> list[list[int]]:
    return [[0, 0], [0, 0], list(layer.problem.padding), [0, 0]]


def convolution(layer: Layer) -> Any:
    """`conv2d` of (N, 1, L, C) with weights (1, K, C_in/G, C_out)."""
    import tensorflow as tf

    p = layer.problem
    w = tf.constant(layer.w[None])
    return lambda image: tf.nn.conv2d(
        image, w, (1, p.stride), borders(layer), dilations=(1, p.dilation)
    )


def depthwise(layer: Layer) -> Any:
    """`depthwise_conv2d`, which takes weights (1, K, C_in, C_out/C_in), and no uneven strides."""
    import tensorflow as tf

    p = layer.problem
    if p.groups != p.in_channels or p.in_channels == 1:
        raise NotOffered("depthwise_conv2d is for one input channel an output channel")
    if p.stride > 1 and p.dilation > 1:
        raise NotOffered("depthwise_conv2d has no dilation with a stride")
    w = tf.constant(layer.w.reshape(1, p.kernel_size, p.in_channels, -1))
    dilations = (1, p.dilation)
    return lambda image: tf.nn.depthwise_conv2d(
        image, w, (1, p.stride, p.stride, 1), borders(layer), dilations=dilations
    )


def prepare(layer: Layer, operation: Any, compiled: bool) -> Prepared:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    apply = operation(layer)
    x = tf.constant(layer.x)

    def convolve(signal: Any) -> Any:
        return tf.squeeze(apply(signal[:, None]), 1)

    function = tf.function(convolve, jit_compile=compiled, autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec(x.shape, x.dtype))
    if not compiled:
        frozen = convert_variables_to_constants_v2(concrete)
        return Prepared(lambda: frozen(x), lambda y: y[0].numpy())
    return Prepared(lambda: concrete(x), lambda y: y.numpy())


WAYS = tuple(
    Way(name, "nlc", False, functools.partial(prepare, operation=operation, compiled=compiled))
    for name, operation, compiled in (
        ("conv2d", convolution, False),
        ("conv2d, XLA", convolution, True),
        ("depthwise_conv2d", depthwise, False),
    )
)

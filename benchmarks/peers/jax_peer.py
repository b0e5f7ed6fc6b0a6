"""JAX: one jitted convolution a layer, weights as constants of the program."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .base import Layer, Prepared, Way, from_ncl

PACKAGES = ("jax", "jaxlib")


def environment(threads: int) -> dict[str, str]:
    # XLA takes the size of its thread pools from NPROC.
    flags = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    return {
        "XLA_FLAGS": flags, "NPROC": str(threads), "PJRT_NPROC": str(threads),
        "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu",
    }  # fmt: skip


def start(threads: int) -> None:
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")


def prepare(layer: Layer, nlc: bool) -> Prepared:
    import jax

    p = layer.problem
    w = jax.numpy.asarray(layer.w if nlc else layer.w_oik)
    order = ("NWC", "WIO", "NWC") if nlc else ("NCW", "OIW", "NCW")

    @jax.jit
    def convolve(signal: Any) -> Any:
        return jax.lax.conv_general_dilated(
            signal, w, (p.stride,), (p.padding,), rhs_dilation=(p.dilation,),
            dimension_numbers=order, feature_group_count=p.groups,
        )  # fmt: skip

    x = jax.device_put(layer.x if nlc else layer.x_ncl)
    ready = convolve.lower(x).compile()
    return Prepared(lambda: ready(x).block_until_ready(), np.asarray if nlc else from_ncl)


WAYS = (
    Way("NCW", "own", False, functools.partial(prepare, nlc=False)),
    Way("NWC", "nlc", False, functools.partial(prepare, nlc=True)),
)

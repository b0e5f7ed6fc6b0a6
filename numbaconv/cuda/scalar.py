"""The plain kernel: one sum of products for each element of y, whatever the memory layout.

It takes every problem, and its text is plain Python: the CUDA simulator runs it, given other
ways to load and store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numba

from ..problem import ConvProblem
from .kernel import Family, LaunchShape, Site, Tile, common_values, storage
from .positions import source_position
from .storage import BF16, F16, F32, F64, Storage

THREADS = 256
# Blocks for each multiprocessor: more threads than it holds, so that the last ones are few.
BLOCKS = 32

TEXT = """
def conv_scalar({parameters}):
    at = int64(cuda.blockIdx.x) * int64(cuda.blockDim.x) + int64(cuda.threadIdx.x)
    step = int64(cuda.gridDim.x) * int64(cuda.blockDim.x)
    while at < total:
        co = int32(at % int64(out_channels))
        row = at // int64(out_channels)
        m = int32(row % int64(length_out))
        n = row // int64(length_out)
        ci = int64(co // group_out) * int64(group_in)
        s = ZERO
        for k in range(taps):
            l = position(int32(m * stride + k * dilation - left), length, mode)
            xi = n * x_n + int64(l) * x_l + ci * x_c
            wi = int64(k) * w_k + int64(co) * w_o
            if l >= 0:
                for c in range(group_in):
                    s += load(x + xi) * load(w + wi)
                    xi += x_c
                    wi += w_i
            else:
                # A zero of the padding times an infinite weight is NaN, as in the definition.
                for c in range(group_in):
                    s += ZERO * load(w + wi)
                    wi += w_i
        if has_bias != 0:
            s += load(bias + int64(co) * b_o)
        store(y + n * y_n + int64(m) * y_l + int64(co) * y_c, s)
        at += step
"""


@dataclass(frozen=True)
class ScalarTile(Tile):
    """The kernel for one storage."""

    storage: Storage

    LONG: ClassVar = (
        "total", "x_n", "x_l", "x_c", "w_k", "w_i", "w_o", "b_o", "y_n", "y_l", "y_c",
    )  # fmt: skip
    SHORT: ClassVar = (
        "length", "length_out", "out_channels", "group_in", "group_out", "taps", "stride",
        "dilation", "left", "mode", "has_bias",
    )  # fmt: skip

    @property
    def name(self) -> str:
        return f"scalar {self.storage.name}"

    @property
    def threads(self) -> int:
        return THREADS

    @classmethod
    def text(cls) -> str:
        """The source, whose free names are those of `namespace`."""
        return TEXT.format(parameters=", ".join(cls.parameters()))

    def namespace(self, cuda: Any) -> dict[str, Any]:
        """What the source needs besides loads, stores and `position`."""
        zero = getattr(numba, self.storage.accumulator)(0)
        return {"cuda": cuda, "int32": numba.int32, "int64": numba.int64, "ZERO": zero}

    def function(self) -> Callable[..., Any]:
        from . import frontend, instructions

        space = self.namespace(frontend.cuda)
        space["load"] = instructions.load_element(self.storage)
        space["store"] = instructions.store_element(self.storage)
        space["position"] = frontend.device_function(source_position)
        return frontend.define("conv_scalar", self.text(), space)


class Scalar(Family):
    """Everything: any strides, any storage."""

    name = "scalar"

    def declines(self, problem: ConvProblem, site: Site) -> str | None:
        return None

    def tile(self, problem: ConvProblem, site: Site) -> ScalarTile:
        return ScalarTile(storage(problem))

    def launch_shape(self, problem: ConvProblem, site: Site, tile: Any) -> LaunchShape:
        n, length_out, outputs = problem.out_shape
        total = n * length_out * outputs
        values = common_values(problem, site)
        w_k, w_i, w_o = site.filter.strides
        values.update(
            total=total, x_c=site.x.strides[2], y_c=site.y.strides[2],
            w_k=w_k, w_i=w_i, w_o=w_o, b_o=site.bias.strides[0],
        )  # fmt: skip
        blocks = min(-(-total // THREADS), BLOCKS * site.device.multiprocessors)
        return LaunchShape((blocks, 1, 1), 0, values)

    def shipped(self) -> list[Tile]:
        return [ScalarTile(storage) for storage in (F16, BF16, F32, F64)]


SCALAR = Scalar()

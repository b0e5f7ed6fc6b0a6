"""How numbers lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Storage:
    """How an element lies in memory.

    Attributes
    ----------
    name : {"f16", "bf16", "f32", "f64"}
    size : int
        Bytes of an element.
    """

    name: str
    size: int

    @property
    def per_word(self) -> int:
        """Elements of one word of 32 bits."""
        return 4 // self.size

    @property
    def accumulator(self) -> str:
        """The type of sums."""
        return "float64" if self.name == "f64" else "float32"


F16, BF16, F32, F64 = (
    Storage(name, size) for name, size in (("f16", 2), ("bf16", 2), ("f32", 4), ("f64", 8))
)
STORAGES = {"float16": F16, "bfloat16": BF16, "float32": F32, "float64": F64}


def storage_of(dtype: np.dtype[Any]) -> Storage:
    """The storage of a dtype that a problem may have."""
    return STORAGES[dtype.name]

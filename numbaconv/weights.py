"""Filter and bias of one layer, and everything that is derived from them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from .interop import as_numpy, require_dtype
from .problem import Geometry

if TYPE_CHECKING:
    from .plan import BoundCall, Entry, Plan

    Latest = tuple[Entry, "NewOutput"] | None


Shape = tuple[int, ...]
NewOutput = Callable[[], np.ndarray[Any, Any]]


def frozen_copy(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """A C-contiguous, native, read-only copy."""
    copy = np.array(array, dtype=dtype, order="C", copy=True, subok=False)
    copy.flags.writeable = False
    return copy


def checked(
    value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """Return `value` as an array of exactly this shape and dtype, or say what differs."""
    array = as_numpy(value, name)
    require_dtype(array, name, dtype)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


class Weights:
    """An immutable pair of filter and bias, with all that is derived from them.

    A layer replaces its `Weights` as a whole on assignment, so what was packed or planned
    for one filter can never meet another, whatever other threads are doing.

    Parameters
    ----------
    geometry : Geometry
    filter : numpy.ndarray
        (K, C_in/G, C_out), any strides; read, never written.
    bias : numpy.ndarray or None
        (C_out,).

    Attributes
    ----------
    plans, calls, latest
        What a layer remembers: plans by the extent of an input; bound calls by its shape and
        strides, with the shape of the output, what makes one, and what `latest` then is; the entry
        of the latest call, if it had one, and what makes its output.
    """

    def __init__(
        self,
        geometry: Geometry,
        filter: np.ndarray[Any, Any],
        bias: np.ndarray[Any, Any] | None,
    ) -> None:
        self.geometry = geometry
        self.filter = filter
        self.bias = bias
        self.plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self.calls: OrderedDict[Hashable, tuple[BoundCall, Shape, NewOutput, Latest]] = (
            OrderedDict()
        )
        self.latest: Latest = None
        self._packed: dict[Hashable, Any] = {}

    def packed(self, form: Hashable, pack: Callable[[Weights], Any]) -> Any:
        """Return these weights in a packed `form`, made once and shared by all plans."""
        packed = self._packed.get(form)
        if packed is None:  # two threads may both pack; the first to finish is kept
            packed = self._packed.setdefault(form, pack(self))
        return packed


def initial_weights(
    geometry: Geometry, dtype: np.dtype[Any], has_bias: bool, rng: Any
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Draw filter and bias uniformly from ±1/sqrt(K*C_in/G), as `torch.nn.Conv1d` does."""
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"rng must be a numpy.random.Generator, a seed of 0 or more, or None, got {rng!r}"
        ) from error
    bound = 1.0 / np.sqrt(geometry.reduction)
    weight = generator.uniform(-bound, bound, geometry.filter_shape).astype(dtype)
    bias = generator.uniform(-bound, bound, geometry.out_channels).astype(dtype)
    return weight, bias if has_bias else None

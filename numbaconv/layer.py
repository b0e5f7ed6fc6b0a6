"""The layer: parameters, weights, and the plans it has made."""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._threads import as_threads, max_threads
from .dispatch import Explanation, explain_problem, make_plan
from .functional import (
    channel_last,
    checked_input,
    checked_out,
    execute,
    filter_to_kio,
    positions_read,
)
from .interop import is_native, is_on_cuda, output_maker
from .plan import Array
from .problem import (
    ALGORITHMS,
    PRECISIONS,
    Algorithm,
    ConvProblem,
    Geometry,
    Padding,
    PaddingMode,
    Precision,
    as_dtype,
    as_flag,
    as_word,
)
from .weights import Weights, checked, frozen_copy, initial_weights

# Plans and bound calls kept for one layer: inputs of more shapes than this are planned again, in
# microseconds, not compiled again.
PLANS_KEPT = 32


def key_of(array: Any, dtype: np.dtype[Any]) -> tuple[Any, ...] | None:
    """What calls on arrays like this one are remembered by: its shape, or also its strides.

    None for what kernels do not read in place.
    """
    if type(array) is not np.ndarray or array.dtype != dtype:
        return None
    flags = array.flags
    if flags.carray:  # contiguous, aligned and writeable, in one look
        return array.shape
    return (array.shape, array.strides) if flags.aligned else None


def is_target(array: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether kernels that expect a contiguous y of this shape can write to `array`."""
    return (
        type(array) is np.ndarray
        and array.flags.carray
        and array.shape == shape
        and array.dtype == dtype
    )


def remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    """Add to a bounded dictionary, forgetting the oldest entries."""
    kept[key] = value
    if len(kept) > PLANS_KEPT:
        with contextlib.suppress(KeyError):  # another thread was faster
            kept.popitem(last=False)


def as_device(device: Any) -> str | None:
    """Return a device that this machine can serve, or say what is missing."""
    if device is None or device == "cpu":
        return device
    if isinstance(device, str) and re.fullmatch(r"cuda(:\d+)?", device):
        from .cuda import execute

        execute.require(f"device={device!r} asks for CUDA")
        execute.ordinal_of(device)
        return device
    raise ValueError(f"device must be None, 'cpu', 'cuda' or 'cuda:0' and so on, got {device!r}")


class Conv1D:
    """A 1-D convolution (cross-correlation) over the rows of channel-last arrays.

    Behaves as `max.nn.Conv1D` does, at every border.

    Parameters
    ----------
    kernel_size : int
        K, taps of the kernel.
    in_channels, out_channels : int
        C_in and C_out, both divisible by `num_groups`.
    dtype : {float32, float64}, default float32
        Of weights, inputs and outputs. Nothing is cast silently. With device="cuda" also
        float16, and bfloat16 (of `ml_dtypes`); their sums are float32.
    stride : int, default 1
        Positions between outputs.
    padding : int, (int, int), "same", "valid" or "causal", default 0
        Positions added on the left and right; negative values crop. "same" gives
        ceil(L/stride) outputs, "causal" is (dilation*(K-1), 0).
    dilation : int, default 1
        Positions between taps.
    num_groups : int, default 1
        G: output channels of one group see the input channels of that group only.
    device : {None, "cpu", "cuda", "cuda:0", ...}
        None: where the input lives. With "cuda" NumPy arrays are copied to the device and
        the result back. Weights live on the CPU and are copied to a device once.
    has_bias : bool, default False
        Whether a bias (C_out,) is added.
    permute : bool, default False
        Order axes as PyTorch does: input (N, C_in, L), output (N, C_out, L_out),
        filter (C_out, C_in/G, K).
    name : str, optional
        Weights are named `{name}.weight` and `{name}.bias` in the state dict.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}, keyword-only
        What stands in the padding. "reflect" needs padding < L, "circular" <= L.
    algorithm : {"auto", "direct", "winograd", "fft"}, keyword-only
        "direct" sums products one by one: every element holds the bound that `explain`
        states, and its bits depend on its receptive field alone. "winograd" and "fft" save
        products by transforms along the positions; their bound is relative to the largest
        numbers, and what they do not serve is summed directly. "auto" takes the one that is
        estimated to be the fastest.
    rng : numpy.random.Generator, int or None, keyword-only
        Source of the initial weights, uniform in ±1/sqrt(K*C_in/G).
    threads : int, optional, keyword-only
        Threads of a call, by default those of `set_num_threads`.
    precision : {"exact", "3xtf32", "tf32"}, keyword-only
        How a GPU may multiply float32: "tf32" rounds factors to 11 bits, "3xtf32" splits each
        into two such numbers and comes close to float32. The CPU is always exact.

    Attributes
    ----------
    filter, bias : numpy.ndarray
        Read-only; assignment copies. `bias` is None without bias.

    Raises
    ------
    TypeError, ValueError
        One sentence that names the argument, what came and what was expected.
    RuntimeError
        For a device that is not there.

    See Also
    --------
    conv1d : the function, for a filter that is used once.
    explain : which kernel runs, and why.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import Conv1D
    >>> smooth = Conv1D(3, 1, 1, padding="same", padding_mode="replicate")
    >>> smooth.filter = np.full((3, 1, 1), 1 / 3, np.float32)
    >>> x = np.array([0, 3, 0, 3], np.float32).reshape(1, 4, 1)
    >>> smooth(x).ravel().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """

    # A misspelt attribute is an error, where it would else be kept beside the real one.
    __slots__ = (
        "__weakref__", "_algorithm", "_device", "_dtype", "_geometry", "_name", "_padding",
        "_permute", "_precision", "_threads", "_weights",
    )  # fmt: skip

    def __init__(
        self,
        kernel_size: int,
        in_channels: int,
        out_channels: int,
        dtype: Any = np.float32,
        stride: int = 1,
        padding: Padding = 0,
        dilation: int = 1,
        num_groups: int = 1,
        device: str | None = None,
        has_bias: bool = False,
        permute: bool = False,
        name: str | None = None,
        *,
        padding_mode: PaddingMode = "zeros",
        algorithm: Algorithm = "auto",
        rng: Any = None,
        threads: int | None = None,
        precision: Precision = "exact",
    ) -> None:
        self._geometry = Geometry(
            kernel_size, in_channels, out_channels, stride, padding, dilation, num_groups,
            padding_mode,
        )  # fmt: skip
        self._device = as_device(device)
        self._dtype = as_dtype(dtype, on_cuda=device not in (None, "cpu"))
        self._padding = tuple(padding) if isinstance(padding, list) else padding
        self._permute = as_flag(permute, "permute")
        self.name = name
        self._algorithm = as_word(algorithm, "algorithm", ALGORITHMS)
        self._threads = None if threads is None else as_threads(threads)
        self._precision = as_word(precision, "precision", PRECISIONS)
        has_bias = as_flag(has_bias, "has_bias")
        self._set_weights(*initial_weights(self._geometry, self._dtype, has_bias, rng))

    # --- parameters, fixed at construction
    kernel_size = property(lambda self: self._geometry.kernel_size, doc="K.")
    in_channels = property(lambda self: self._geometry.in_channels, doc="C_in.")
    out_channels = property(lambda self: self._geometry.out_channels, doc="C_out.")
    stride = property(lambda self: self._geometry.stride, doc="Positions between outputs.")
    dilation = property(lambda self: self._geometry.dilation, doc="Positions between taps.")
    num_groups = property(lambda self: self._geometry.num_groups, doc="G.")
    padding_mode = property(lambda self: self._geometry.padding_mode, doc="Rule of the padding.")
    padding = property(lambda self: self._padding, doc="As it was given.")
    dtype = property(lambda self: self._dtype, doc="Of weights, inputs and outputs.")
    device = property(lambda self: self._device, doc="None: where the input lives.")
    has_bias = property(lambda self: self._weights.bias is not None, doc="Whether a bias is added.")
    permute = property(lambda self: self._permute, doc="Whether axes are in PyTorch's order.")
    threads = property(lambda self: self._threads, doc="Threads of a call, None by default.")
    algorithm = property(lambda self: self._algorithm, doc='"auto", "direct", "winograd" or "fft".')
    precision = property(lambda self: self._precision, doc='"exact", "3xtf32" or "tf32".')

    @property
    def name(self) -> str | None:
        """What the keys of the state dict begin with, or None."""
        return self._name

    @name.setter
    def name(self, value: str | None) -> None:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"name must be a string or None, got {value!r}")
        self._name = value

    # --- weights
    @property
    def filter(self) -> Array:
        """The filter (K, C_in/G, C_out), read-only; (C_out, C_in/G, K) with `permute`."""
        # A view: the owner of memory may make itself writeable again.
        return filter_to_kio(self._weights.filter, self._permute).view()

    @filter.setter
    def filter(self, value: Any) -> None:
        self._set_weights(self._checked_filter(value, "filter"), self._weights.bias)

    @property
    def bias(self) -> Array | None:
        """The bias (C_out,), read-only, or None."""
        return None if self._weights.bias is None else self._weights.bias.view()

    @bias.setter
    def bias(self, value: Any) -> None:
        self._set_weights(self._weights.filter, self._checked_bias(value, "bias"))

    def _checked_filter(self, value: Any, name: str) -> Array:
        shape = self.filter.shape
        if shape != shape[::-1] == getattr(value, "shape", None):
            other = "without" if self._permute else "with"
            raise ValueError(
                f"{name} must have shape {shape}, got {shape[::-1]}, the order of a layer {other} "
                f"permute=True; pass {name}.transpose(2, 1, 0)"
            )
        return filter_to_kio(checked(value, name, shape, self._dtype), self._permute)

    def _checked_bias(self, value: Any, name: str) -> Array:
        if self._weights.bias is None:
            raise ValueError(f"{name} cannot be set: the layer was made with has_bias=False")
        return checked(value, name, (self.out_channels,), self._dtype)

    def _set_weights(self, weight: Array, bias: Array | None) -> None:
        """Replace filter and bias at once, with the plans that were bound to them."""
        self._weights = Weights(
            self._geometry,
            frozen_copy(weight, self._dtype),
            None if bias is None else frozen_copy(bias, self._dtype),
        )

    def _key(self, entry: str) -> str:
        return f"{self.name}.{entry}" if self.name else entry

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the weights by name: `weight`, and `bias` if there is one."""
        state = {self._key("weight"): self.filter.copy()}
        if self.bias is not None:
            state[self._key("bias")] = self.bias.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Replace the weights by those in `state`.

        Parameters
        ----------
        state : mapping of str to array
            Any NumPy, array-interface or (CPU) DLPack arrays of exactly the layer's
            shapes and dtype.
        strict : bool, default True
            Refuse missing and unexpected keys; otherwise keep what is missing and
            ignore what is not known.

        Raises
        ------
        KeyError, TypeError, ValueError
            The layer is then as it was.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"state must be a mapping of names to arrays, got {type(state).__name__}"
            )
        weight_key, bias_key = self._key("weight"), self._key("bias")
        expected = [weight_key, bias_key] if self.has_bias else [weight_key]
        missing = [key for key in expected if key not in state]
        unexpected = [key for key in state if key not in expected]
        if strict and (missing or unexpected):
            raise KeyError(
                f"state must have exactly the keys {expected}: "
                f"missing {missing}, unexpected {unexpected}"
            )
        weight, bias = self._weights.filter, self._weights.bias
        if weight_key in state:
            weight = self._checked_filter(state[weight_key], weight_key)
        if bias is not None and bias_key in state:
            bias = self._checked_bias(state[bias_key], bias_key)
        self._set_weights(weight, bias)

    # --- computation
    def _problem(self, batch: int, length: int) -> ConvProblem:
        return ConvProblem(
            self._geometry, batch, length, self._dtype,
            has_bias=self.has_bias, algorithm=self._algorithm, precision=self._precision,
            layout="NCL" if self._permute else "NLC",
        )  # fmt: skip

    def __call__(self, x: Any, out: Any = None, *, threads: int | None = None) -> Any:
        """Convolve `x`.

        Parameters
        ----------
        x : array, shape (N, L, C_in)
            Of the layer's dtype, any strides, never written; (N, C_in, L) with `permute`. An
            array on a CUDA device (CuPy, torch, JAX, numba and others) is convolved there, on
            the caller's current stream, without a copy.
        out : array, optional
            Where to write y: its shape and dtype, any strides. Overlap with `x` is allowed in
            host memory, where it is a NumPy array; on a CUDA device it is of any kind there.
        threads : int, optional
            Threads of this call, by default those of the layer or of `set_num_threads`.

        Returns
        -------
        array, shape (N, L_out, C_out)
            `out` if given, else a new one: a NumPy array for an x in host memory, on a CUDA device
            an array of the kind of x. (N, C_out, L_out) with `permute`.

        Raises
        ------
        TypeError, ValueError
            If x or out do not fit the layer; nothing has been written then.
        """
        weights = self._weights
        latest = weights.latest  # read once: other threads replace it
        if latest is not None and threads is None:
            # Perhaps as the call before, and so small that checks in Python would take longer.
            enter, new_output = latest
            y = new_output() if out is None else out
            if enter(x, y):
                return y
        threads = self._threads if threads is None else as_threads(threads)
        # An array like that of an earlier call has passed its checks before; to look it up
        # takes a third of the time of checking.
        key = key_of(x, self._dtype)
        known = None if key is None else weights.calls.get(key)
        if known is not None:
            call, shape, new_output, weights.latest = known
            y = new_output() if out is None else out
            fits = out is None or is_target(out, self._dtype, shape)
            if fits and call(x, y, threads):
                return y
        return self._checked_call(weights, x, out, threads)

    def _checked_call(
        self, weights: Weights, x: Any, out: Array | None, threads: int | None
    ) -> Array:
        on_cuda = is_on_cuda(x)
        if self._is_cuda(on_cuda):
            return self._cuda_call(weights, x, out, on_cuda)
        view = checked_input(x, self._geometry, self._dtype, self._permute)
        extent = view.shape[:2]
        plan = weights.plans.get(extent)
        if plan is None:
            plan = make_plan(self._problem(*extent), weights)
            remember(weights.plans, extent, plan)
        target = None if out is None else checked_out(out, plan.problem, self._permute)
        y = execute(plan, view, target, self._permute, threads)
        key = key_of(x, self._dtype)
        # What was copied is not remembered: aligned elements may lie at odd steps.
        if key is not None and is_native(x) and is_target(y, self._dtype, y.shape):
            read = positions_read(view, plan)
            call = plan.bind(read.strides, channel_last(y, self._permute).strides)
            entry = call.entry(x, y) if x.flags.c_contiguous else None
            new_output = output_maker(y.shape, self._dtype)
            latest = None if entry is None else (entry, new_output)
            weights.latest = latest
            remember(weights.calls, key, (call, y.shape, new_output, latest))
        return y if out is None else out

    def _is_cuda(self, on_cuda: bool) -> bool:
        """Whether an x that lies on a CUDA device, or does not, is convolved on one."""
        return on_cuda if self._device is None else self._device != "cpu"

    def _cuda_call(self, weights: Weights, x: Any, out: Any, on_cuda: bool) -> Any:
        from .cuda import execute

        if not on_cuda:
            view = checked_input(x, self._geometry, self._dtype, self._permute)
            problem = self._problem(view.shape[0], view.shape[1])
            target = None if out is None else checked_out(out, problem, self._permute)
            y = execute.from_host(view, problem, weights, execute.ordinal_of(self._device or ""))
            if target is None:
                return np.ascontiguousarray(channel_last(y, self._permute))
            target[...] = y
            return out
        execute.require("x lies on a CUDA device")

        def there(ordinal: int, stream: int) -> Any:
            if ":" in (self._device or "") and execute.ordinal_of(self._device or "") != ordinal:
                raise ValueError(f"x lies on device {ordinal}, and the layer on {self._device!r}")
            return execute.DeviceWeights.of(weights, ordinal)

        return execute.on_device(x, out, self._problem, there, self._dtype, self._permute)

    def explain(self, x: Any) -> Explanation:
        """Say which kernel runs for `x`; see `numbaconv.explain`."""
        if self._is_cuda(is_on_cuda(x)):
            from .cuda import execute

            execute.require("x lies on a CUDA device")
            ordinal = execute.ordinal_of(self._device or "cuda")
            return execute.explain(
                x, self._problem, self._weights, self._dtype, self._permute, ordinal
            )
        view = checked_input(x, self._geometry, self._dtype, self._permute)
        problem = self._problem(*view.shape[:2])
        return explain_problem(problem, self._weights, self._threads, view.strides)

    # --- copies
    def __getstate__(self) -> dict[str, Any]:
        own = [slot for slot in Conv1D.__slots__ if slot not in ("__weakref__", "_weights")]
        state = {slot: getattr(self, slot) for slot in own} | getattr(self, "__dict__", {})
        return {**state, "weight": self._weights.filter, "bias": self._weights.bias}

    def __setstate__(self, state: dict[str, Any]) -> None:
        weight, bias = state.pop("weight"), state.pop("bias")
        for slot, value in state.items():
            setattr(self, slot, value)
        if self._threads is not None:  # of a process that may have had more
            self._threads = min(self._threads, max_threads())
        self._set_weights(weight, bias)

    def __repr__(self) -> str:
        defaults = dict(
            stride=1, padding=0, dilation=1, num_groups=1, device=None, has_bias=False,
            permute=False, name=None, padding_mode="zeros", algorithm="auto", threads=None,
            precision="exact",
        )  # fmt: skip
        changed = [
            f"{key}={getattr(self, key)!r}"
            for key, default in defaults.items()
            if getattr(self, key) != default
        ]
        shown = [
            f"kernel_size={self.kernel_size}", f"in_channels={self.in_channels}",
            f"out_channels={self.out_channels}", f"dtype={self._dtype.name}",
        ]  # fmt: skip
        return f"Conv1D({', '.join(shown + changed)})"


def explain(layer: Conv1D, x: Any) -> Explanation:
    """Say which kernel a layer runs for an input, why each earlier one declined, and how.

    Parameters
    ----------
    layer : Conv1D
    x : array
        An input as the layer would get; its values are not read.

    Returns
    -------
    Explanation
        `str()` of it is for people; `kernel`, `declined`, `details` and `error_bound`
        are for programs.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import Conv1D, explain
    >>> explain(Conv1D(3, 40, 40, num_groups=40), np.zeros((1, 10, 40), np.float32)).kernel
    'depthwise'
    """
    if not isinstance(layer, Conv1D):
        raise TypeError(f"layer must be a Conv1D, got {type(layer).__name__}")
    return layer.explain(x)

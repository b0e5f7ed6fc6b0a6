"""What a convolution is, before anyone asks how to compute it.

All validation lives here, and nothing here needs a compiler: a `Geometry` is what a
layer knows, a `ConvProblem` is a geometry that has met an input of N rows of length L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Algorithm = Literal["auto", "direct", "winograd", "fft"]
Layout = Literal["NLC", "NCL"]
Precision = Literal["exact", "3xtf32", "tf32"]
Padding = int | tuple[int, int] | Literal["same", "valid", "causal"]

PADDING_MODES: tuple[str, ...] = get_args(PaddingMode)
PADDING_WORDS = ("same", "valid", "causal")
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
PRECISIONS: tuple[str, ...] = get_args(Precision)
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
# On CUDA devices too; bfloat16 is a dtype of `ml_dtypes`.
HALVES = ("float16", "bfloat16")


# What is larger would overflow where kernels count positions.
LARGEST = 2**31 - 1


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def as_integer(value: Any, name: str, minimum: int | None = None) -> int:
    """Return `value` as an int, or say which argument is not one."""
    if not is_integer(value) or (minimum is not None and value < minimum):
        wanted = "an integer" if minimum is None else f"an integer >= {minimum}"
        error = ValueError if is_integer(value) else TypeError
        raise error(f"{name} must be {wanted}, got {value!r}")
    if abs(int(value)) > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST} in magnitude, got {value!r}")
    return int(value)


def as_word(value: Any, name: str, words: tuple[str, ...]) -> Any:
    """Return `value` if it is one of `words`, or list the words."""
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}, got {value!r}")
    return value


def as_flag(value: Any, name: str) -> bool:
    """Return `value` as a bool if it is one, of Python or NumPy, or 0 or 1."""
    is_flag = isinstance(value, (bool, np.bool_)) or (is_integer(value) and value in (0, 1))
    if not is_flag:
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_dtype(value: Any, name: str = "dtype", on_cuda: bool = False) -> np.dtype[Any]:
    """Return `value` as one of the supported dtypes, in native byte order."""
    if on_cuda and getattr(value, "name", value) == "bfloat16":
        value = as_bfloat16(value)
    try:
        dtype = np.dtype(value).newbyteorder("=")
    except (TypeError, ValueError, SyntaxError):  # NumPy parses strings such as "f4,f8"
        dtype = None
    # None is a dtype to NumPy (float64), and equals one.
    known = dtype in DTYPES or (on_cuda and dtype is not None and dtype.name in HALVES)
    if value is None or dtype is None or not known:
        names = "float16, bfloat16, float32 or float64" if on_cuda else "float32 or float64"
        is_half = dtype is not None and dtype.name in HALVES
        advice = "; it needs device='cuda'" if is_half and name == "dtype" else ""
        raise TypeError(f"{name} must be {names}, got {value!r}{advice}")
    return dtype


def as_bfloat16(value: Any) -> Any:
    """NumPy's bfloat16, or which package has it."""
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            f"{value} needs ml_dtypes, which gives NumPy this dtype: pip install ml_dtypes"
        ) from None
    return ml_dtypes.bfloat16


def as_padding(value: Any, kernel_size: int, dilation: int) -> tuple[int, int] | Literal["same"]:
    """Normalise padding to (left, right); only "same" has to wait for the length."""
    expected = (
        f"padding must be an int, a pair (left, right) or one of "
        f"{', '.join(map(repr, PADDING_WORDS))}, got {value!r}"
    )
    if isinstance(value, str):
        if value not in PADDING_WORDS:
            raise ValueError(expected)
        if value == "same":
            return "same"
        return (dilation * (kernel_size - 1) if value == "causal" else 0, 0)
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(expected)
        return (as_integer(value[0], "padding[0]"), as_integer(value[1], "padding[1]"))
    if not is_integer(value):
        raise TypeError(expected)
    return (as_integer(value, "padding"),) * 2


@dataclass(frozen=True)
class Geometry:
    """Everything a layer knows before it sees an input.

    Parameters are those of `numbaconv.Conv1D`. `padding` is normalised to a pair
    (left, right), or stays "same", whose width depends on the length.

    Raises
    ------
    TypeError, ValueError
        One sentence that names the argument, what came and what was expected.
    """

    kernel_size: int
    in_channels: int
    out_channels: int
    stride: int = 1
    padding: Any = 0
    dilation: int = 1
    num_groups: int = 1
    padding_mode: PaddingMode = "zeros"

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        for name in (
            "kernel_size", "in_channels", "out_channels", "stride", "dilation", "num_groups",
        ):  # fmt: skip
            set_field(self, name, as_integer(getattr(self, name), name, minimum=1))
        for name in ("in_channels", "out_channels"):
            channels = getattr(self, name)
            if channels % self.num_groups:
                raise ValueError(
                    f"{name} must be divisible by num_groups, "
                    f"got {name}={channels} and num_groups={self.num_groups}"
                )
        as_word(self.padding_mode, "padding_mode", PADDING_MODES)
        set_field(self, "padding", as_padding(self.padding, self.kernel_size, self.dilation))

    @property
    def group_in_channels(self) -> int:
        """Input channels that one output channel sees, C_in/G."""
        return self.in_channels // self.num_groups

    @property
    def group_out_channels(self) -> int:
        """Output channels of one group, C_out/G."""
        return self.out_channels // self.num_groups

    @property
    def span(self) -> int:
        """Positions from the first tap to the last, `dilation*(K-1) + 1`."""
        return self.dilation * (self.kernel_size - 1) + 1

    @property
    def common_step(self) -> int:
        """Positions that outputs and taps lie a multiple of apart."""
        return math.gcd(self.stride, self.dilation) if self.kernel_size > 1 else self.stride

    @property
    def phases(self) -> int:
        """Sets of positions, each as far apart as outputs are, that the taps of one output meet."""
        return self.stride // self.common_step

    @property
    def phase_taps(self) -> int:
        """Taps of the first phase; others have as many, or one less."""
        return -(-self.kernel_size // self.phases)

    @property
    def phase_dilation(self) -> int:
        """Positions of a phase from one of its taps to the next."""
        return max(1, self.dilation // self.common_step)

    @property
    def reduction(self) -> int:
        """Products summed for one output, R = K*C_in/G."""
        return self.kernel_size * self.group_in_channels

    @property
    def filter_shape(self) -> tuple[int, int, int]:
        """(K, C_in/G, C_out)."""
        return (self.kernel_size, self.group_in_channels, self.out_channels)

    def padding_for(self, length: int) -> tuple[int, int]:
        """Return (left, right) for an input of `length` positions."""
        if self.padding != "same":
            return self.padding
        outputs = -(-length // self.stride)
        total = max(0, (outputs - 1) * self.stride + self.span - length)
        return (total // 2, total - total // 2)


@dataclass(frozen=True)
class ConvProblem:
    """One convolution, completely: a geometry, an input's extent, and the dtypes.

    Attributes
    ----------
    geometry : Geometry
    batch, length : int
        N and L of the input (N, L, C_in).
    dtype, filter_dtype, accumulator_dtype, out_dtype : numpy.dtype
        Of x, of filter and bias, of the sums, and of y. Only that of the sums may differ.
    has_bias : bool
        The only epilogue so far.
    algorithm : {"auto", "direct", "winograd", "fft"}
    layout : {"NLC", "NCL"}
        Which axis the caller's arrays have last; no bit of direct summation depends on it.
    filter_is_new : bool
        Whether this call has to prepare the filter, too: "auto" then counts that.
    precision : {"exact", "3xtf32", "tf32"}
        How products of float32 may be formed where a GPU has tf32; see `Conv1D`.
    step : int
        Of which positions of the caller's x this is the problem: each `step`-th; see `thinned`.

    Raises
    ------
    ValueError
        If the padded input is shorter than the dilated kernel, or the padding is
        wider than its mode allows.
    """

    geometry: Geometry
    batch: int
    length: int
    dtype: np.dtype[Any]
    has_bias: bool = False
    algorithm: Algorithm = "auto"
    layout: Layout = "NLC"
    filter_is_new: bool = False
    precision: Precision = "exact"
    step: int = 1

    def __post_init__(self) -> None:
        as_word(self.algorithm, "algorithm", ALGORITHMS)
        as_word(self.precision, "precision", PRECISIONS)
        self._check_length()
        self._check_border()

    def _check_length(self) -> None:
        g, (left, right) = self.geometry, self.padding
        if self.length + left + right < g.span:
            raise ValueError(
                f"x is too short: length {self.length} + padding ({left}, {right}) = "
                f"{self.length + left + right} is less than the dilated kernel, "
                f"dilation*(kernel_size-1)+1 = {g.span}"
            )
        if self.cropped_length < 0:
            raise ValueError(
                f"padding ({left}, {right}) crops more positions than the length "
                f"{self.length} of x has"
            )

    def _check_border(self) -> None:
        mode, widest = self.geometry.padding_mode, max(self.padding)
        limits = {
            "reflect": (self.cropped_length - 1, "less than"),
            "circular": (self.cropped_length, "at most"),
        }
        if widest > 0 and mode == "replicate" and self.cropped_length == 0:
            raise ValueError(
                f"padding for padding_mode='replicate' needs a position to repeat, and x has none "
                f"(after cropping), got {self.padding}"
            )
        if widest <= 0 or mode not in limits:
            return
        limit, words = limits[mode]
        if widest > limit:
            raise ValueError(
                f"padding for padding_mode={mode!r} must be {words} the length "
                f"{self.cropped_length} of x (after cropping), got {self.padding}"
            )

    filter_dtype = out_dtype = property(lambda self: self.dtype)

    @property
    def accumulator_dtype(self) -> np.dtype[Any]:
        """Of the sums: float32 where elements are narrower."""
        return self.dtype if self.dtype in DTYPES else DTYPES[0]

    @cached_property
    def padding(self) -> tuple[int, int]:
        """(left, right), resolved for this length."""
        return self.geometry.padding_for(self.length)

    @property
    def cropped_length(self) -> int:
        """Positions of x that remain after negative padding has cropped."""
        return self.length + sum(min(0, side) for side in self.padding)

    @cached_property
    def length_out(self) -> int:
        """Positions of y, `(L + left + right - span)//stride + 1`."""
        g = self.geometry
        return (self.length + sum(self.padding) - g.span) // g.stride + 1

    @property
    def thinned(self) -> ConvProblem:
        """The same convolution of each `step`-th position of x, where no other one is read.

        That is so if outputs and taps lie a multiple of `step` apart: a pointwise layer with a
        stride has none, and one with stride and dilation 2 those of 1, with their fast kernels.
        """
        g, step = self.geometry, self.geometry.common_step
        if step == 1:
            return self
        left, right = self.padding
        repeats_x = g.padding_mode != "zeros" and max(left, right) > 0
        if left % step or repeats_x:
            return self
        stride = g.stride // step
        dilation = g.dilation // step if g.kernel_size > 1 else 1
        length = -(-self.length // step)
        read = (self.length_out - 1) * stride + (g.kernel_size - 1) * dilation + 1
        padding = (left // step, read - length - left // step)
        if length + sum(min(0, side) for side in padding) < 0:  # nothing but padding is read
            return self
        geometry = replace(g, stride=stride, dilation=dilation, padding=padding)
        return replace(self, geometry=geometry, length=length, step=step)

    @property
    def plain_strides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Strides in bytes of a C-contiguous x and y, as (batch, position, channel)."""
        size, found = self.dtype.itemsize, []
        for _, length, channels in (self.in_shape, self.out_shape):
            row, channel = (channels, 1) if self.layout == "NLC" else (1, length)
            found.append((length * channels * size, row * size, channel * size))
        return found[0], found[1]

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """(N, L, C_in)."""
        return (self.batch, self.length, self.geometry.in_channels)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(N, L_out, C_out)."""
        return (self.batch, self.length_out, self.geometry.out_channels)

    @property
    def in_bytes(self) -> int:
        return math.prod(self.in_shape) * self.dtype.itemsize

    @property
    def out_bytes(self) -> int:
        return math.prod(self.out_shape) * self.dtype.itemsize

    @property
    def filter_bytes(self) -> int:
        return math.prod(self.geometry.filter_shape) * self.dtype.itemsize

    @property
    def flops(self) -> int:
        """Floating-point operations of the definition, two for each product."""
        return 2 * self.batch * self.length_out * math.prod(self.geometry.filter_shape)

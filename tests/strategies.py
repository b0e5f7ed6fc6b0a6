"""Convolution problems to test with: what they are, where their arrays lie, how to draw them."""

from dataclasses import MISSING, dataclass, fields, replace

import numpy as np
from hypothesis import strategies as st

from tests import oracle


# --- numbers
def small_integers(rng, shape):
    """Every sum of products of these is exact, in whatever order it is formed."""
    return rng.integers(-4, 5, shape)


# --- memory layouts: the same numbers, elsewhere; gaps hold NaN
def _contiguous(array):
    return np.array(array, order="C")


def _fortran(array):
    return np.array(array, order="F")


def _reversed(array):
    back = tuple(slice(None, None, -1) for _ in array.shape)
    return np.array(array[back], order="C")[back]


def _stepped(array, axis, step):
    shape = list(array.shape)
    shape[axis] *= step
    room = np.full(shape, np.nan, array.dtype)
    view = room[(slice(None),) * axis + (slice(None, None, step),)]
    view[...] = array
    return view


def _middle_axis(array):
    return (array.ndim - 1) // 2


def _inner(array):
    room = np.full([n + 3 for n in array.shape], np.nan, array.dtype)
    view = room[tuple(slice(1, n + 1) for n in array.shape)]
    view[...] = array
    return view


def _channel_first(array):
    if array.ndim < 2:
        return _contiguous(array)
    return np.array(array.swapaxes(-1, -2), order="C").swapaxes(-1, -2)


def _read_only(array):
    copy = _contiguous(array)
    copy.flags.writeable = False
    return copy


def _byte_swapped(array):
    return array.astype(array.dtype.newbyteorder())


def _unaligned(array):
    view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _broadcast(array):
    return np.broadcast_to(array[:1].copy(), array.shape)


LAYOUTS = {
    "contiguous": _contiguous,
    "fortran": _fortran,
    "reversed": _reversed,
    "every third position": lambda array: _stepped(array, _middle_axis(array), 3),
    "every second channel": lambda array: _stepped(array, array.ndim - 1, 2),
    "inner": _inner,
    "channel-first": _channel_first,
    "read-only": _read_only,
    "byte-swapped": _byte_swapped,
    "unaligned": _unaligned,
}
OUT_LAYOUTS = ("none", *(name for name in LAYOUTS if name != "read-only"))
# One row for the whole batch, at a stride of zero: it changes the numbers too.
X_LAYOUTS = (*LAYOUTS, "broadcast")


def laid_out(array, layout):
    """The numbers of `array` in memory of this layout."""
    return _broadcast(array) if layout == "broadcast" else LAYOUTS[layout](array)


def whole_memory(view):
    """The array around `view`: all elements that surround it in its layout."""
    while isinstance(view.base, np.ndarray) and view.base.dtype == view.dtype:
        view = view.base
    return view


# --- problems
@dataclass(frozen=True)
class Case:
    """One convolution with the shapes, numbers and memory layouts of its arrays."""

    kernel_size: int
    in_channels: int
    out_channels: int
    length: int
    batch: int = 1
    stride: int = 1
    padding: object = 0
    dilation: int = 1
    num_groups: int = 1
    padding_mode: str = "zeros"
    has_bias: bool = False
    permute: bool = False
    dtype: str = "float32"
    x_layout: str = "contiguous"
    filter_layout: str = "contiguous"
    out_layout: str = "none"
    seed: int = 0

    @property
    def parameters(self):
        """Those that Conv1D, conv1d and the oracle have in common."""
        names = ("stride", "padding", "dilation", "num_groups", "padding_mode", "permute")
        return {name: getattr(self, name) for name in names}

    def arrays(self, numbers=small_integers, filter_numbers=None):
        """Draw x, filter and bias (or None), in the caller's order of axes."""
        rng = np.random.default_rng(self.seed)
        depth = self.in_channels // self.num_groups
        x_shape = (self.batch, self.length, self.in_channels)
        filter_shape = (self.kernel_size, depth, self.out_channels)
        if self.permute:
            x_shape, filter_shape = (x_shape[0], *x_shape[:0:-1]), filter_shape[::-1]
        x = numbers(rng, x_shape).astype(self.dtype)
        filter = (filter_numbers or numbers)(rng, filter_shape).astype(self.dtype)
        bias = numbers(rng, (self.out_channels,)).astype(self.dtype) if self.has_bias else None
        return (
            laid_out(x, self.x_layout),
            laid_out(filter, self.filter_layout),
            None if bias is None else laid_out(bias, self.filter_layout),
        )

    def __str__(self):
        """The four sizes, and what is not as usual."""
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.default is not MISSING and getattr(self, field.name) != field.default
        ]
        sizes = f"K{self.kernel_size} {self.in_channels}-{self.out_channels} L{self.length}"
        return " ".join([sizes, *changed])

    def but(self, **changes):
        """This case with some fields changed."""
        return replace(self, **changes)


MOST_CHANNELS = 70
MOST_POSITIONS = 80


@st.composite
def channels(draw):
    """(C_in, C_out, G) of every kind of connection, up to 70 channels."""
    kind = draw(st.sampled_from(["dense", "groups", "depthwise", "multiplier"]))
    if kind == "dense":
        most = st.integers(1, MOST_CHANNELS)
        return draw(most), draw(most), 1
    if kind == "depthwise":
        groups = draw(st.integers(1, MOST_CHANNELS))
        return groups, groups, groups
    if kind == "multiplier":
        multiplier = draw(st.integers(2, 3))
        groups = draw(st.integers(1, MOST_CHANNELS // multiplier))
        return groups, groups * multiplier, groups
    groups = draw(st.integers(2, 8))
    depth, width = (draw(st.integers(1, MOST_CHANNELS // groups)) for _ in range(2))
    return groups * depth, groups * width, groups


def paddings(kernel_size, dilation):
    """Padding of every form: words, and widths from cropping to far wider than the kernel."""
    widest = dilation * (kernel_size - 1) + 1 + 20
    width = st.integers(-5, 8) | st.integers(-20, widest)
    return st.sampled_from(["same", "valid", "causal"]) | width | st.tuples(width, width)


@st.composite
def cases(draw):
    """A valid problem, all of its parameters drawn together."""
    kernel_size = draw(st.integers(1, 12))
    stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    padding = draw(paddings(kernel_size, dilation))
    padding_mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))

    def is_valid(length):
        return oracle.is_valid(length, kernel_size, stride, dilation, padding, padding_mode)

    # A wide kernel may need a longer signal than the other problems have.
    ranges = (range(MOST_POSITIONS + 1), range(4 * MOST_POSITIONS))
    lengths = next(valid for r in ranges if (valid := [l for l in r if is_valid(l)]))
    in_channels, out_channels, num_groups = draw(channels())
    return Case(
        kernel_size, in_channels, out_channels,
        length=draw(st.sampled_from(lengths)),
        batch=draw(st.sampled_from([1, 2, 3, 1, 2, 3, 0])),
        stride=stride, padding=padding, dilation=dilation, num_groups=num_groups,
        padding_mode=padding_mode,
        has_bias=draw(st.booleans()),
        permute=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float64"])),
        x_layout=draw(st.sampled_from(X_LAYOUTS)),
        filter_layout=draw(st.sampled_from(list(LAYOUTS))),
        out_layout=draw(st.sampled_from(OUT_LAYOUTS)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )  # fmt: skip

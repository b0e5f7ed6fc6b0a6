"""Convolution from its definition alone: nothing here knows how numbaconv computes.

Parameters mean what they mean in `numbaconv.Conv1D`. Everything is re-derived: widths of
padding, what stands in it, the output's length, which channels meet.
"""

import numpy as np


def padding_widths(length, kernel_size, stride, dilation, padding):
    """Return (left, right), negative where positions are cropped."""
    reach = dilation * (kernel_size - 1)
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach, 0
    if padding == "same":
        outputs = (length + stride - 1) // stride
        total = max(0, (outputs - 1) * stride + reach + 1 - length)
        return total // 2, total - total // 2
    if isinstance(padding, int):
        return padding, padding
    left, right = padding
    return left, right


def kept_length(length, widths):
    """Positions of x that are left after cropping."""
    return length - max(0, -widths[0]) - max(0, -widths[1])


def is_valid(length, kernel_size, stride, dilation, padding, padding_mode):
    """Whether x is long enough for the kernel and for its own padding."""
    widths = padding_widths(length, kernel_size, stride, dilation, padding)
    kept, widest = kept_length(length, widths), max(widths)
    if kept < 0 or length + sum(widths) < dilation * (kernel_size - 1) + 1:
        return False
    if widest <= 0 or padding_mode == "zeros":
        return True
    if padding_mode == "reflect":
        return widest < kept
    if padding_mode == "circular":
        return widest <= kept
    return kept >= 1


def source_positions(length, widths, padding_mode):
    """For each position of the padded signal, the position of x it shows; -1 shows a zero."""
    left, right = widths
    kept = kept_length(length, widths)
    index = np.arange(-max(0, left), kept + max(0, right))
    if padding_mode == "zeros":
        index = np.where((index >= 0) & (index < kept), index, -1)
    elif padding_mode == "replicate":
        index = np.clip(index, 0, kept - 1)
    elif padding_mode == "circular":
        index = np.where(index < 0, index + kept, index)
        index = np.where(index >= kept, index - kept, index)
    elif padding_mode == "reflect":
        index = np.abs(index)
        index = np.where(index >= kept, 2 * (kept - 1) - index, index)
    return np.where(index >= 0, index + max(0, -left), -1)


def convolve(
    x,
    filter,
    bias=None,
    *,
    stride=1,
    padding=0,
    dilation=1,
    num_groups=1,
    padding_mode="zeros",
    permute=False,
    accumulator=np.float64,
):
    """Return y in `accumulator` precision, one sum of products for each tap."""
    if permute:
        x, filter = np.swapaxes(x, 1, 2), np.transpose(filter, (2, 1, 0))
    batch, length, in_channels = x.shape
    kernel_size, depth, out_channels = filter.shape
    widths = padding_widths(length, kernel_size, stride, dilation, padding)
    source = source_positions(length, widths, padding_mode)
    length_out = (len(source) - dilation * (kernel_size - 1) - 1) // stride + 1

    # A row of zeros at the end is what index -1 finds.
    signal = np.concatenate([x, np.zeros((batch, 1, in_channels), x.dtype)], axis=1)
    signal = signal.astype(accumulator)
    taps = filter.astype(accumulator)
    y = np.zeros((batch, length_out, num_groups, out_channels // num_groups), accumulator)
    with np.errstate(invalid="ignore"):
        for k in range(kernel_size):
            at = source[k * dilation + stride * np.arange(length_out)]
            seen = signal[:, at].reshape(batch, length_out, num_groups, depth)
            weights = taps[k].reshape(depth, num_groups, out_channels // num_groups)
            y += np.einsum("nlgi,igo->nlgo", seen, weights)
        y = y.reshape(batch, length_out, out_channels)
        if bias is not None:
            y = y + bias.astype(accumulator)
    return np.swapaxes(y, 1, 2) if permute else y


def gamma(terms, unit_roundoff):
    """Higham's γ: the relative error of so many roundings in a row."""
    return terms * unit_roundoff / (1 - terms * unit_roundoff)


def error_bound(x, filter, bias=None, *, permute=False, accumulator=np.float64, **parameters):
    """What direct summation in the dtype of x may be off by, element by element.

    It holds against `convolve` in the same `accumulator`, whose own rounding is in it.
    """
    depth, taps = filter.shape[1], filter.shape[2 if permute else 0]
    reduction = depth * taps
    magnitude = convolve(
        np.abs(x), np.abs(filter), None if bias is None else np.abs(bias),
        permute=permute, accumulator=accumulator, **parameters,
    )  # fmt: skip
    dtype = np.finfo(x.dtype)
    roundings = gamma(reduction + 1, np.longdouble(dtype.eps) / 2)
    roundings += gamma(reduction + 1, np.finfo(accumulator).eps / 2)
    return roundings * magnitude + reduction * np.longdouble(dtype.tiny)

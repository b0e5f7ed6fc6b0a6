"""PyTorch: `conv1d`, and `conv2d` in channels-last on N-L-C memory, also with packed weights.

Its convolutions have no working out= (the generated one computes and then copies), so all
ways allocate.
"""

from __future__ import annotations

import functools
from typing import Any

from ..problems import Problem
from .base import Layer, Prepared, Way, crop, from_ncl

PACKAGES = ("torch",)


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)


def borders(p: Problem, copies_output: bool) -> tuple[int, tuple[int, int] | None, int]:
    """(padding of the convolution, padding before it, outputs to skip after it).

    Symmetric padding is the convolution's own. Other padding: where a slice of a wider
    output is free, that; else one copy of the smaller array, which is x.
    """
    symmetric = crop(p)
    if symmetric is None or (copies_output and p.batch > 1 and p.padding[0] != p.padding[1]):
        return 0, p.padding, 0
    return symmetric[0], None, symmetric[1]


def conv1d(layer: Layer, nlc: bool) -> Prepared:
    import torch
    from torch.nn import functional as F

    p = layer.problem
    padding, before, skipped = borders(p, copies_output=nlc)
    x = torch.from_numpy(layer.x if nlc else layer.x_ncl)
    w = torch.from_numpy(layer.w_oik)
    kept = slice(skipped, skipped + p.length_out)

    def run() -> Any:
        signal = x.transpose(1, 2) if nlc else x
        if before:
            signal = F.pad(signal, before)
        y = F.conv1d(signal, w, None, p.stride, padding, p.dilation, p.groups)[:, :, kept]
        return y.transpose(1, 2).contiguous() if nlc else y

    return Prepared(run, (lambda y: y.numpy()) if nlc else (lambda y: from_ncl(y.numpy())))


def conv2d(layer: Layer, packed: bool) -> Prepared:
    import torch
    from torch.nn import functional as F

    p = layer.problem
    padding, before, skipped = borders(p, copies_output=True)
    x = torch.from_numpy(layer.x)
    w = torch.from_numpy(layer.w_oik)[:, :, None].to(memory_format=torch.channels_last)
    # stride, padding, dilation of (height, length)
    stride, pads, dilation = [1, p.stride], [0, padding], [1, p.dilation]
    if packed:
        length = p.length + (sum(before) if before else 0)
        size = [p.batch, p.in_channels, 1, length]
        w = torch.ops.mkldnn._reorder_convolution_weight(w, pads, stride, dilation, p.groups, size)

    def run() -> Any:
        signal = F.pad(x, (0, 0, *before)) if before else x
        length, channels = signal.shape[1:]
        image = signal.as_strided(
            (p.batch, channels, 1, length), (length * channels, 1, length * channels, channels)
        )
        if packed:
            y = torch.ops.mkldnn._convolution_pointwise(
                image, w, None, pads, stride, dilation, p.groups, "none", [], ""
            )
        else:
            y = F.conv2d(image, w, None, stride, pads, dilation, p.groups)
        return y[:, :, 0, skipped : skipped + p.length_out].transpose(1, 2).contiguous()

    return Prepared(run, lambda y: y.numpy())


WAYS = (
    Way("conv1d", "own", False, functools.partial(conv1d, nlc=False)),
    Way("conv1d, N-L-C", "nlc", False, functools.partial(conv1d, nlc=True)),
    Way("conv2d channels_last", "nlc", False, functools.partial(conv2d, packed=False)),
    Way("conv2d channels_last, packed", "nlc", False, functools.partial(conv2d, packed=True)),
)

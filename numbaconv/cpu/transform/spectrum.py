"""The filter of a layer, transformed once and packed for the panel kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...interop import aligned_empty, large_page_empty
from ...weights import Weights
from ..blocking import Panel
from ..target import Target
from .folding import Folding, folded_filter
from .kernels import Transform, transform_rows
from .scheme import Scheme, Winograd, product_sizes, spectrum_size

Array = np.ndarray[Any, Any]

# Scratch for the transform of a filter: input channels are taken so many at a time.
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Spectrum:
    """Matrices of all products, group by group, and the bias by columns.

    Attributes
    ----------
    filter : numpy.ndarray
        Flat; group after group, product after product, panel after panel.
    bias : numpy.ndarray
        (G, columns), columns padded to whole vectors.
    """

    filter: Array
    bias: Array


def transform_filter(filter: Array, scheme: Scheme, target: Target) -> Array:
    """Planes (plane, depth, columns) of a filter (taps, depth, columns), in float64.

    The transform kernel of float64 serves both dtypes, so that matrices of float32 carry
    one rounding.
    """
    taps, depth, columns = filter.shape
    lanes = target.lanes(np.dtype(np.float64))
    direction = "filter" if isinstance(scheme, Winograd) else "forward"
    transform = Transform(scheme, direction, 64, lanes, masked=False, fma=target.fma)
    width = -(-depth * columns // lanes) * lanes
    rows = np.zeros((scheme.filter_points, width))
    rows[:taps, : depth * columns] = filter.reshape(taps, -1)
    planes = np.empty((scheme.input_planes, width))
    transform_rows(transform, rows, planes)
    return planes[:, : depth * columns].reshape(-1, depth, columns)


def pack_spectrum(
    weights: Weights, folding: Folding, scheme: Scheme, panels: Sequence[Panel], target: Target
) -> Spectrum:
    """Transform the filter and order its matrices as the panel kernels read them."""
    filter = folded_filter(weights.filter, folding)
    width, dtype = panels[-1].last_column, weights.filter.dtype
    kinds = scheme.products()
    sizes = product_sizes(scheme, folding.depth, width)
    counts = [len(kind.x_planes) for kind in kinds]
    group_size = spectrum_size(scheme, folding.depth, width)
    flat = large_page_empty(folding.groups * group_size, dtype).reshape(folding.groups, group_size)
    row_bytes = 8 * scheme.input_planes * filter.shape[2]
    chunk = max(1, min(folding.depth, CHUNK_BYTES // row_bytes))
    for first in range(0, folding.depth, chunk):
        part = filter[:, first : first + chunk]
        depths = slice(first, first + part.shape[1])
        # What is not finite here makes results that are not, which are then summed directly.
        with np.errstate(invalid="ignore", over="ignore"):
            matrices = scheme.matrices(transform_filter(part, scheme, target))
            done = 0
            for kind, matrix, size, count in zip(kinds, matrices, sizes, counts, strict=True):
                block = flat[:, done : done + count * size]
                write_matrices(block, matrix, kind.terms, folding, panels, depths)
                done += count * size
    return Spectrum(flat.reshape(-1), packed_bias(weights, folding, width))


def write_matrices(
    block: Array,
    matrices: Array,
    terms: int,
    folding: Folding,
    panels: Sequence[Panel],
    depths: slice,
) -> None:
    """Put the rows `depths` of matrices (product, terms*rows, G*columns) into their panels."""
    count, _, columns = matrices.shape
    by_group = matrices.reshape(count, terms, -1, folding.groups, columns // folding.groups)
    source = by_group.transpose(3, 0, 1, 2, 4)
    target = block.reshape(folding.groups, count, -1)
    reduction = terms * folding.depth
    for panel in panels:
        place = target[:, :, panel.column * reduction : panel.last_column * reduction]
        place = place.reshape(folding.groups, count, terms, folding.depth, panel.tile.width)
        some = source[..., panel.first : panel.first + panel.channels]
        place[:, :, :, depths, : some.shape[-1]] = some
        place[:, :, :, depths, some.shape[-1] :] = 0


def packed_bias(weights: Weights, folding: Folding, width: int) -> Array:
    """The bias of each group, as wide as its planes."""
    bias = aligned_empty(folding.groups * width, weights.filter.dtype)
    bias = bias.reshape(folding.groups, width)
    bias[:] = 0
    if weights.bias is not None:
        # In the polyphase form all columns are one channel.
        bias[:, : folding.columns] = weights.bias.reshape(folding.groups, -1)
    return bias

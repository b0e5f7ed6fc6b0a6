"""Compile ahead of time what calls will need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from . import _jit, dispatch
from .layer import Conv1D
from .problem import DTYPES, as_dtype

# One layer for each tile: whole and partial vectors of one to four, and depthwise.
VECTORS = (1, 2, 3, 4)

Job = tuple[str, Callable[[], Any]]


def jobs_of_layer(layer: Conv1D) -> Iterator[Job]:
    """What `layer` needs: its panel kernels, the macrokernel of its dtype, both launchers."""
    length = layer.kernel_size * layer.dilation + 64
    small = np.zeros(
        (1, layer.in_channels, length) if layer.permute else (1, length, layer.in_channels),
        layer.dtype,
    )
    reversed_ = np.zeros_like(small)[::-1]
    reversed_.flags.writeable = False
    yield f"{layer}", lambda: layer(small)
    yield f"{layer} on views", lambda: layer(reversed_)


def jobs_of_dtype(dtype: np.dtype[Any]) -> Iterator[Job]:
    """What layers of `dtype` need, whatever their channels."""
    lanes = dispatch.cpu_target().lanes(dtype)
    for vectors in VECTORS:
        for channels in (vectors * lanes, vectors * lanes - 1):
            yield from jobs_of_layer(Conv1D(3, 4, channels, dtype))
            yield from jobs_of_layer(Conv1D(3, channels, channels, dtype, num_groups=channels))
    # Enough work for the parallel launcher.
    wide = Conv1D(3, 64, 64, dtype)
    large = np.zeros((1, 256, 64), dtype)
    yield f"{wide} in parallel", lambda: wide(large)
    yield f"{wide} in parallel on views", lambda: wide(large[:, ::-1])


def with_progress(jobs: list[Job], progress: bool | None) -> Iterable[Job]:
    """Show a bar on a terminal, if tqdm is installed (`pip install numbaconv[progress]`)."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return jobs
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return jobs
    return tqdm(jobs, desc="numbaconv: compiling", unit="kernel", leave=False)


def warmup(*what: Any, progress: bool | None = None) -> None:
    """Compile, or load from the cache, the kernels that later calls will need.

    Without it the first call of a layer takes 1-3 s where nothing is cached yet.

    Parameters
    ----------
    *what : Conv1D or dtype
        Layers whose kernels are needed, or dtypes (float32, float64) for every kernel of
        that precision. Nothing stands for both dtypes.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal. It needs tqdm.

    Raises
    ------
    TypeError
        For anything else than a layer or one of the dtypes.

    Examples
    --------
    >>> import numbaconv
    >>> numbaconv.warmup(numbaconv.Conv1D(3, 8, 16))
    """
    if _jit.is_disabled():
        return
    jobs: list[Job] = []
    for item in what or DTYPES:
        jobs += jobs_of_layer(item) if isinstance(item, Conv1D) else jobs_of_dtype(as_dtype(item))
    for _, job in with_progress(jobs, progress):
        job()

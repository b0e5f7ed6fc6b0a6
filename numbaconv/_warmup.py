"""Compile ahead of time what calls will need."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _jit, _threads, dispatch
from .layer import Conv1D
from .problem import DTYPES, ConvProblem, as_dtype
from .weights import Weights

if TYPE_CHECKING:
    from .cpu.microkernel import Tile
    from .cpu.transform.cost import Candidate
    from .plan import Plan

Job = tuple[str, Callable[[], Any]]


# Positions beyond the kernel, from short inputs to long ones, among which `auto` may choose anew,
# and tiles may differ; on a GPU these.
LENGTHS = tuple(8 * 2**i for i in range(14))
LENGTH_ON_GPU = 64


def jobs_of_layer(layer: Conv1D) -> Iterator[Job]:
    """What `layer` needs for short and long inputs: kernels, macrokernels, launchers."""
    padding = layer._weights.geometry.padding
    reach = layer.kernel_size * layer.dilation
    reach += 0 if isinstance(padding, str) else sum(map(abs, padding))
    if layer._is_cuda(on_cuda=False):
        length = reach + LENGTH_ON_GPU
        shape = (1, layer.in_channels, length) if layer.permute else (1, length, layer.in_channels)
        yield f"{layer}", lambda: layer(np.zeros(shape, layer.dtype))
        return
    from .cpu.transform.methods import METHODS, likely

    yield f"launchers of {layer.dtype}", functools.partial(compile_launchers, layer.dtype)
    seen = set()
    # Where the padding depends on the length, all remainders: it decides what is thinned.
    remainders = range(layer._weights.geometry.common_step if padding == "same" else 1)
    for more in (length + rest for length in LENGTHS for rest in remainders):
        problem = layer._problem(1, reach + more).thinned
        candidates: Sequence[Candidate | None] = [None]
        if dispatch.chosen(problem) in METHODS:
            candidates = likely(problem, dispatch.cpu_target())
        for candidate in candidates:
            key = (candidate, *kernels_of(problem, candidate))
            if key not in seen:
                seen.add(key)
                yield f"{layer}", functools.partial(prepare, layer, problem, candidate)


def kernels_of(problem: ConvProblem, candidate: Candidate | None) -> tuple[frozenset[Tile], bool]:
    """The tiles of a transform, or of the kernel that is chosen; whether y skips the caches."""
    from .cpu import panel_plan
    from .cpu.families import FAMILIES
    from .cpu.family import blocking_for
    from .cpu.transform import plan as transform_plan
    from .cpu.transform.blocking import transform_blocking

    target, kernel = dispatch.cpu_target(), dispatch.chosen(problem)
    _, y_strides = problem.plain_strides
    if candidate is not None:
        transform = transform_blocking(problem, target, *candidate, _threads.max_threads())
        tiles = frozenset(panel.tile for panel in transform.panels)
        return tiles, transform_plan.streams(transform, y_strides)
    for family in FAMILIES:
        if family is kernel:
            blocking = blocking_for(problem, target, family)
            tiles = frozenset(panel.tile for panel in blocking.panels)
            return tiles, panel_plan.streams(blocking, y_strides)
    return frozenset(), False


def prepare(layer: Conv1D, problem: ConvProblem, candidate: Candidate | None) -> None:
    """Plan a call on plain arrays, which compiles all it needs, and packs the weights.

    Spectra are made for a copy and dropped: not every length will be called.
    """
    weights, target = layer._weights, dispatch.cpu_target()
    plan: Plan
    if candidate is None:
        plan = dispatch.make_plan(problem, weights)
    else:
        from .cpu.transform.plan import TransformPlan

        copied = Weights(weights.geometry, weights.filter, weights.bias)
        plan = TransformPlan(problem, copied, target, *candidate)
    plan.bind(*problem.plain_strides)


@functools.cache
def compile_launchers(dtype: np.dtype[Any]) -> None:
    """The launchers, those of threads for plain arrays and for addresses; copies of layouts."""
    from numba import from_dtype
    from numba.core import types

    from .cpu import launch
    from .cpu.transposition import copier_address

    copier_address(dtype)
    launch.definition_of_run()
    for array in (types.Array(from_dtype(dtype), 3, "C"), types.int64):
        arguments = (types.int64, types.int64, array, array, types.int64, types.int64)
        launch.launch_parallel.compile(arguments)


def jobs_of_dtype(dtype: np.dtype[Any]) -> Iterator[Job]:
    """A layer for each tile of `dtype`: whole and partial vectors, sliding taps."""
    from .cpu.blocking import round_up
    from .cpu.dense import FEW_PRODUCTS
    from .cpu.sliced import MOST_WRITTEN_TAPS

    target = dispatch.cpu_target()
    lanes = target.lanes(dtype)
    shapes = [(1, 1, 1)]
    long = target.l1 // (3 * target.vector_bytes) + 1  # weights outgrow the first cache
    shapes += [
        (inputs, v * lanes - part, 1)
        # One more than the widest tile has: of three vectors by tiles of two, one is left.
        for v in range(1, len(target.tile_rows) + 2)
        for part in (0, 1)
        for inputs in (4, 16, long)
    ]
    # So many outputs, in the widest panels, that x is used much and not prefetched.
    many = round_up(FEW_PRODUCTS // 3 + 1, len(target.tile_rows) * lanes)
    shapes += [(inputs, many, 1) for inputs in (16, long)]
    shapes += [(c, out, 1) for out in range(1, lanes // 2 + 1) for c in (4 * lanes, 4 * lanes + 1)]
    shapes += [(8 * n, 8 * n, 8) for n in (2, 3, 4) if 2 * n <= lanes]
    for inputs, outputs, groups in shapes:
        layer = Conv1D(3, inputs, outputs, dtype, num_groups=groups, algorithm="direct")
        yield from jobs_of_layer(layer)
    # Signals and slices in whose tiles few taps are written out, and those of any number.
    slices = [(c, c, c) for c in (2 * lanes, 2 * lanes - 1, lanes - 1)]
    slices += [(4, lanes, 1), (4, lanes - 1, 1), (1, 1, 1)]
    for inputs, outputs, groups in slices:
        most = max(MOST_WRITTEN_TAPS, lanes if outputs == 1 else 0)
        for taps in range(2, most + 2):
            layer = Conv1D(taps, inputs, outputs, dtype, num_groups=groups, algorithm="direct")
            yield from jobs_of_layer(layer)
    # A few channels with filters of their own, whose taps slide or not.
    for channels in range(2, lanes // 2 + 1):
        for taps in (2, lanes + 1):
            layer = Conv1D(taps, channels, channels, dtype, num_groups=channels, algorithm="direct")
            yield from jobs_of_layer(layer)
    # Where channels leave lanes idle: vectors of positions, and of half the size.
    few = range(1, lanes // 2 + 1)
    for outputs in (*few, *range(lanes // 2 + 1, lanes, 2), lanes + 1, lanes + lanes // 2):
        layer = Conv1D(5, 5 * lanes // 4, outputs, dtype, algorithm="direct")
        yield from jobs_of_layer(layer)
    # What all transforms share; each layer has tiles of its own, 0.3 s each.
    yield from jobs_of_layer(Conv1D(3, 4 * lanes, 4 * lanes, dtype, algorithm="winograd"))


def with_progress(jobs: list[Job], progress: bool | None) -> Iterable[Job]:
    """Show a bar on a terminal, if tqdm is installed (`pip install numbaconv[progress]`)."""
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return jobs
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return jobs
    return tqdm(jobs, desc="numbaconv: compiling", unit="kernel", leave=False)


def dtype_to_warm(item: Any) -> np.dtype[Any]:
    try:
        return as_dtype(item)
    except TypeError:
        raise TypeError(
            f"warmup takes layers and the dtypes float32 and float64, each as an argument of its "
            f"own, got {item!r}"
        ) from None


def warmup(*what: Any, progress: bool | None = None) -> None:
    """Compile, or load from the cache, the kernels that later calls will need.

    Without it the first call of a layer takes 2-5 s where nothing is cached yet.

    Parameters
    ----------
    *what : Conv1D or dtype
        Layers whose kernels are needed; or dtypes (float32, float64) for the common kernels of that
        precision, which are those of most dense and depthwise layers and of small groups. Nothing
        stands for both dtypes. Only a layer itself brings what is made for few: channel-first
        arrays, transforms, few products an output, unusual strides and groups, large outputs.
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
    items = [item if isinstance(item, Conv1D) else dtype_to_warm(item) for item in what or DTYPES]
    if _jit.is_disabled():
        return
    jobs: list[Job] = []
    for item in items:
        jobs += jobs_of_layer(item) if isinstance(item, Conv1D) else jobs_of_dtype(item)
    for _, job in with_progress(jobs, progress):
        job()

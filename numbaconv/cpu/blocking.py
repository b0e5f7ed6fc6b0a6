"""Sizes of everything: tiles, runs, windows, blocks of the reduction, shares of threads.

Pure arithmetic on a problem and a target: nothing is compiled to test it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..problem import ConvProblem, Geometry
from .microkernel import Tile
from .target import Target

# Positions of one run. Longer runs use a panel more often while it is near; beyond this
# nothing was gained, and threads would share less evenly.
MAX_RUN = 480

# Below this much work one thread is faster. Measured on two cores (GNU OpenMP), 64 → 64 K3:
# 18 µs on one and 22 on two at 3.1 MFLOP, 26 and 25 at 4.7, 50 and 39 at 9.4.
PARALLEL_FLOPS = 5_000_000

# Or below so much memory, where it is memory that takes the time (28 GB/s on one core).
PARALLEL_BYTES = 1 << 20


def deserves_threads(problem: ConvProblem) -> bool:
    """Whether there is so much to compute, or to read and write, that threads pay."""
    size = problem.in_bytes + problem.filter_bytes + problem.out_bytes
    return problem.flops >= PARALLEL_FLOPS or size >= PARALLEL_BYTES


def is_mostly_filter(problem: ConvProblem) -> bool:
    """Whether threads had better share the filter than the positions: it is more than x is."""
    return problem.filter_bytes > problem.in_bytes


@dataclass(frozen=True)
class Band:
    """Panels that go over all positions before the next ones do.

    Attributes
    ----------
    panels : int
        Panels of a band.
    channels, step : int
        Channels of x that a window holds for them, and channels from band to band.
    is_copied : bool
        Whether all of x goes through windows, not only the borders.
    gap : int
        Elements of a window between the end of a row and the next one.
    """

    panels: int
    channels: int
    step: int
    is_copied: bool
    gap: int = 0

    @property
    def row(self) -> int:
        """Elements from one row of a window to the next."""
        return self.channels + self.gap


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def split_evenly(total: int, most: int) -> list[int]:
    """Split `total` into the fewest parts of at most `most`, as equal as possible.

    >>> split_evenly(9, 4), split_evenly(5, 4)
    ([3, 3, 3], [3, 2])
    """
    parts = -(-total // most)
    return [total // parts + (part < total % parts) for part in range(parts)]


@dataclass(frozen=True)
class Panel:
    """Channels `first` … `first+channels-1` of y, computed by one panel kernel.

    Attributes
    ----------
    tile : Tile
    first, channels : int
        Which channels of y.
    x_offset : int
        The first channel of x that they read.
    column : int
        Where the panel begins in packed weights, whose panels are padded.
    slices, x_slice : int
        Slices of NR columns, and channels of x from one to the next. More than one slice
        where the kernel itself goes along the channels.
    last_lanes : int
        Lanes in use of the last vector, if the tile is masked; channels of the last slice
        where the kernel goes along them one by one.
    slice_columns : int or None
        Columns of a slice in packed weights, if not the width of the tile.
    sums_lanes : bool
        Whether vectors lie along the input channels, as those of dot products do.
    """

    tile: Tile
    first: int
    channels: int
    x_offset: int
    column: int
    last_lanes: int
    slices: int = 1
    x_slice: int = 0
    slice_columns: int | None = None
    sums_lanes: bool = False

    @property
    def width(self) -> int:
        """Columns of one slice in packed weights."""
        return self.tile.width if self.slice_columns is None else self.slice_columns

    @property
    def columns(self) -> int:
        """Columns in packed weights."""
        return self.slices * self.width

    @property
    def last_column(self) -> int:
        return self.column + self.columns

    def channels_of(self, s: int) -> slice:
        """Channels of y of slice `s`.

        Without a mask a slice has as many as columns: the last one is shifted back over the one
        before it.
        """
        begin = s * self.width
        if not self.tile.masked:
            begin = min(begin, self.channels - self.width)
        return slice(self.first + begin, self.first + min(begin + self.width, self.channels))


@dataclass(frozen=True)
class ReductionBlock:
    """Taps and channels that are summed before partial sums go back to y."""

    first_tap: int
    taps: int
    first_channel: int
    depth: int


def reduction_blocks(
    geometry: Geometry, depth: int, width: int, itemsize: int, target: Target
) -> list[ReductionBlock]:
    """Cut the reduction so that a block of a panel fits in a quarter of L2.

    Cuts lie between taps, or within one tap between channels, so that blocks in order
    continue each chain in the order of (tap, channel).
    """
    most = max(1, target.l2 // 4 // (width * itemsize))
    taps = geometry.kernel_size
    if depth <= most:
        first, blocks = 0, []
        for count in split_evenly(taps, max(1, most // depth)):
            blocks.append(ReductionBlock(first, count, 0, depth))
            first += count
        return blocks
    blocks = []
    for tap in range(taps):
        first = 0
        for count in split_evenly(depth, most):
            blocks.append(ReductionBlock(tap, 1, first, count))
            first += count
    return blocks


def is_far_filter(problem: ConvProblem, target: Target) -> bool:
    """Whether the filter is larger than the second cache."""
    return problem.filter_bytes > target.l2


# Positions up to which a block may go over all panels, see below.
FEW_POSITIONS = 128


def is_block_by_block(problem: ConvProblem, target: Target) -> bool:
    """Whether a block of the reduction goes over all panels before the next one does.

    Where few positions read a large x, it would come from the last cache for every panel; of a
    block's part of x all that they read stays in the second cache. Zen 3, 512 KiB: 256 → 512 K16 s8
    at 75 positions gains 1.1-1.16×, 1024 → 1024 K4 s2 at 64 1.07-1.2×; 1024 → 1024 K3 at 120, whose
    x still fits, loses up to 1.1×.
    """
    g = problem.geometry
    return (
        problem.batch == g.num_groups == 1
        and problem.layout == "NLC"
        and problem.length_out <= FEW_POSITIONS
        and is_far_filter(problem, target)
        and problem.length * g.in_channels * problem.dtype.itemsize > target.l2
    )


def blocks_of(problem: ConvProblem, width: int, target: Target) -> list[ReductionBlock]:
    """The blocks of panels of `width` columns."""
    g, itemsize = problem.geometry, problem.dtype.itemsize
    if is_block_by_block(problem, target):
        width = -(-problem.length_out // 2)  # its part of x takes half of L2
    return reduction_blocks(g, g.group_in_channels, width, itemsize, target)


# What reading x once more costs, against reading the filter once more, which streams: at a
# ratio of 2, 256 → 256 K7 and 512 → 512 K3 s2 lose 2 % by bands. Channel-first, x is transposed
# again for every band: 256 → 512 K16 s8 at batch 8 loses 14 % at a ratio of 3.
COST_OF_X = {"NLC": 2, "NCL": 12}


def band_of(problem: ConvProblem, panels: int, run: int, target: Target) -> Band:
    """All panels in one band, or as many at a time as have weights in half of L2.

    In one band the filter is read for every run and border, in several x for every band:
    512 → 512 K3 at 50 positions gains 1.2× by bands, at batch 8 and 100 positions 1.14×.
    """
    filter_bytes, x_bytes = problem.filter_bytes, problem.in_bytes
    together = max(1, target.l2 // 2 * panels // max(1, filter_bytes))
    runs = problem.batch * (-(-problem.length_out // run) + sum(p > 0 for p in problem.padding))
    if runs * filter_bytes <= COST_OF_X[problem.layout] * -(-panels // together) * x_bytes:
        together = panels
    channels = problem.geometry.in_channels
    return Band(min(together, panels), channels, step=0, is_copied=False)


# Receptive fields of a run whose x is copied, all of it, through windows: where they overlap it is
# copied again. 15 → 15 K51 d8 on 120000 positions is 1.27 times faster by vectors of positions
# with 4 than with 1 or 2, and no faster with 8.
RUN_SPANS = 4


# Tiles of a run, about, where the filter comes from beyond the second cache: its blocks are read
# for every run, and x, though it may then come from there too, is less. Zen 4: 768 → 3072 K1 gains
# 1.04-1.12× at 140 to 2000 positions, 4096 → 1024 K1 1.04×, 1024 → 1024 K1 1.02×, 512 → 512 K3
# nothing; 80 tiles lose up to 3 % again.
FAR_TILES = 32


def run_length(problem: ConvProblem, rows: int, target: Target, is_copied: bool) -> int:
    """Positions of one run: their rows of x take at most a quarter of L2, or with those of y.

    Or more, where the filter does not fit there; runs of one length then, since a short one would
    read all of the filter for little.
    """
    g, itemsize = problem.geometry, problem.dtype.itemsize
    fitting = min(MAX_RUN, target.l2 // 4 // (g.stride * g.in_channels * itemsize))
    if is_copied:
        both = (g.stride * g.in_channels + g.out_channels) * itemsize
        fitting = max(fitting, min(RUN_SPANS * g.span, target.l2 // 4 // both))
    if is_far_filter(problem, target):
        fitting = max(fitting, min(MAX_RUN, FAR_TILES * rows))
        positions, longest = problem.length_out, MAX_RUN // rows * rows
        runs = max(1, -(-positions // longest), round(positions / fitting))
        fitting = round_up(-(-positions // runs), rows)
    return max(2 * rows, fitting // rows * rows)


# Tiles of the smallest piece of a share, of which each reads all panels anew.
PIECE_TILES = 16


def least_piece(problem: ConvProblem, rows: int, run: int, target: Target) -> int:
    """Positions of the smallest piece of a thread's share: a run, if weights come from far."""
    is_read_anew = problem.filter_bytes > target.l2 // 2
    return run if is_read_anew else min(run, PIECE_TILES * rows)


@dataclass(frozen=True)
class Inside:
    """The positions of y whose receptive field lies within the cropped x."""

    first: int
    last: int


def inside_of(problem: ConvProblem, rows: int, least: int) -> Inside:
    """Find the interior, and give back to the borders what would leave them a partial tile.

    An interior of less than `least` positions is not worth a run of its own, if there are borders:
    without any, 768 → 12 K1 at 64 channel-first positions takes 0.6 of the time in place.
    """
    geometry = problem.geometry
    left = max(0, problem.padding[0])
    first = -(-left // geometry.stride)
    fields = problem.cropped_length + left - geometry.span
    last = min(problem.length_out, fields // geometry.stride + 1)
    first = min(-(-first // rows) * rows, problem.length_out)
    has_border = first > 0 or last < problem.length_out
    if has_border and last - first < least:
        return Inside(0, 0)
    return Inside(first, last)

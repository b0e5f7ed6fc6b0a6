"""The tables that a plan fills and the macrokernel reads."""

from __future__ import annotations

import numpy as np


def int64_fields(*names: str) -> np.dtype:
    """A structured dtype of 64-bit integers."""
    return np.dtype([(name, np.int64) for name in names])


# How all tables of a call begin: bytes from the first element of x and of y to either end.
ENDS = ("x_low", "x_high", "y_low", "y_high")
EXTENT = int64_fields(*ENDS)

# One call: addresses of the tables below, extents, strides in elements. x is already cropped.
CALL = int64_fields(
    *ENDS,
    "panels", "panel_count", "blocks", "block_count", "weights", "bias",
    "batch", "length", "length_out",
    "x_batch", "x_row", "x_channel", "y_batch", "y_row", "y_channel",
    "crop", "stride", "dilation", "left", "mode",
    "inside_first", "inside_last",  # positions of y whose receptive field lies in x
    "run", "window_run",  # positions of one run in place, and through a window
    "reduction", "is_block_by_block",  # see Blocking
    "runs_together",  # that share the weights of a panel
    "window_stride", "window_dilation", "window_strips", "window_pitch", "window_step",
    "window_first_rows", "window_more_rows", "window_size",
    "window_every", "window_phase_dilation", "window_long_strips",
    "band_channels", "band_step", "band_panels",  # see Band
    "window_row", "window_channel",
    "stage_size", "stage_row", "stage_channel",  # the buffer for a y that kernels cannot write
    "x_is_merged", "window_is_merged",  # whether taps follow each other without a gap
    "row_tile", "least_piece",  # of positions, see `sharing`
    "x_bytes",  # of all of x
    "copier", "filler",  # see `memory.copy_block`, `window.fill_window`
)  # fmt: skip

# One panel: its kernel, what it reads and what it writes (offsets in elements).
PANEL = int64_fields(
    "kernel", "x_offset", "first_channel", "channels", "width", "slices", "x_slice", "last_lanes",
    "weights", "bias", "merges_taps",
)  # fmt: skip

# One block of the reduction: taps × channels, in the order of the chain.
BLOCK = int64_fields("first_tap", "taps", "first_channel", "depth", "full_depth")

# Some positions of a call: where their fields and their y begin (addresses), strides in elements.
RUN = int64_fields("source", "row", "tap", "channel", "y", "rows", "is_window", "is_merged")

# One call of a transform (cpu/transform): kernels, the sizes of `Folding` and `Tiling`, planes.
TRANSFORM = int64_fields(
    *ENDS,
    "forward", "inverse", "panels", "panel_count", "products", "product_count",
    "weights", "group_weights", "bias",
    "length", "length_out",
    "x_batch", "x_row", "x_channel", "y_batch", "y_row", "y_channel",
    "crop", "left", "mode", "stride", "kernel_size",
    "points", "outputs", "phases", "residues", "unit", "row_positions",
    "in_channels", "out_channels", "groups", "depth",  # channels of one group
    "lanes", "is_x_in_place", "is_y_in_place",
    "positions", "short_tiles", "row_tiles",  # see Tiling
    "strip_positions", "stage_positions",  # what `transform.runs` holds of x and y
    "total_tiles", "blocks", "step",  # see TransformBlocking
    "v_row", "v_plane", "v_size", "m_row", "m_plane", "m_size", "is_stacked", "copier", "filler",
    "prefetched_rows", "streams",
)  # fmt: skip

# One GEMM of a transform: which planes it reads and writes, and its matrix.
PRODUCT = int64_fields("terms", "stacked", "depth", "x_plane", "y_plane", "weights")

# What a launcher in machine code runs, and the arrays that it may be called with; see `launch`.
ENTRY = int64_fields(
    "kernel", "call", "is_brief", "is_checked",
    "type", "kind", "x_batch", "x_length", "x_channels", "y_batch", "y_length", "y_channels",
)  # fmt: skip
ARGUMENTS = int64_fields("x", "y", "extra")

SHAPE = int64_fields("batch", "length", "channels")

TABLES = {
    "entry": ENTRY, "arguments": ARGUMENTS, "shape": SHAPE,
    "extent": EXTENT, "call": CALL, "panel": PANEL, "block": BLOCK, "run": RUN,
    "transform": TRANSFORM, "product": PRODUCT,
}  # fmt: skip

# An ndarray as the ABI of NumPy has it (`PyArrayObject_fields`), behind the head that all objects
# of a build of Python have, whose last member is their type.
HEAD = object.__basicsize__
NDARRAY = np.dtype(
    {
        "names": ["type", "data", "dimensions", "shape", "descr", "flags"],
        "formats": [np.int64, np.int64, np.int32, np.int64, np.int64, np.int32],
        "offsets": [HEAD - 8, HEAD, HEAD + 8, HEAD + 16, HEAD + 40, HEAD + 48],
        "itemsize": HEAD + 56,
    }
)
# A NumPy dtype (`PyArray_Descr`): one word of its kind, byte order and number. Equal dtypes need
# not be one object: those that were pickled, or given a byte order, are not.
DESCR_KIND = HEAD + 8
DESCR = np.dtype({"names": ["kind"], "formats": [np.int64], "offsets": [DESCR_KIND]})

OBJECTS = {"ndarray": NDARRAY, "descr": DESCR}

"""Convolve a real recording with a chain of layers, check every layer, and draw the result.

    python -m benchmarks.demo [FILE] [--samples N] [--output FOLDER]

FILE is a .wav, .npy or .csv; without it, the electrocardiogram that PyWavelets ships.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from numbaconv import Conv1D, Explanation
from numbaconv._jit import is_disabled

from .roofline import fma_peak, median_seconds

# Read from one recording, over all its channels: 64 channels of this many float32 are 64 MiB.
SAMPLES = 1 << 18

# The check holds float64 copies of one block of outputs, not of the whole recording.
CHECKED_AT_ONCE = 1 << 14

BANDS = 32
FEATURES = 64
GROUPS = 8
PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class UnreadableError(Exception):
    """A recording that cannot be used; the message is one sentence for people."""


# --- the recording


@dataclass
class Recording:
    """Channels (C, L) as float32, and what is known about them.

    `rate` is in samples a second, None where the file does not say.
    """

    name: str
    channels: np.ndarray[Any, Any]
    rate: float | None = None
    unit: str = "as recorded"
    notes: list[str] = field(default_factory=list)

    def times(self, step: int = 1) -> np.ndarray[Any, Any]:
        """The time of every `step`-th sample."""
        return np.arange(0, self.channels.shape[1], step) / (self.rate or 1.0)


def electrocardiogram() -> Recording:
    """Three heart beats, 1024 samples; PyWavelets states neither rate nor unit."""
    import pywt.data

    return Recording("electrocardiogram (PyWavelets)", pywt.data.ecg()[None].astype(np.float32))


def read_wav(path: Path) -> Recording:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        # Chunks of metadata that scipy does not know do not concern the samples.
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        rate, samples = wavfile.read(path)
    if samples.dtype == np.uint8:
        samples = (samples - np.float32(128)) / np.float32(128)
    elif samples.dtype.kind == "i":
        samples = samples / np.float64(-np.iinfo(samples.dtype).min)
    return Recording(path.name, as_channels(samples), float(rate), "full scale = 1")


def read_npy(path: Path) -> Recording:
    with path.open("rb") as file:
        return Recording(path.name, as_channels(np.lib.format.read_array(file)))


def read_csv(path: Path) -> Recording:
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    samples = np.loadtxt(path, delimiter=",", ndmin=2, skiprows=int(names_columns(first)))
    return Recording(path.name, as_channels(samples))


def names_columns(line: str) -> bool:
    """Whether the first line of a table holds words rather than samples."""
    try:
        return not [float(cell) for cell in line.split(",") if cell.strip()]
    except ValueError:
        return True


READERS = {".wav": read_wav, ".npy": read_npy, ".csv": read_csv}


def as_channels(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """View samples (L,) or (L, C) as (C, L) in float32."""
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiub":
        raise ValueError(
            f"expected real samples (L,) or (L, C), got {samples.dtype} of shape {samples.shape}"
        )
    with np.errstate(over="ignore"):  # what becomes infinite is refused by `load`
        return np.atleast_2d(samples.T).astype(np.float32)


def load(path: Path | None, limit: int | None) -> Recording:
    """Read a recording, or raise `UnreadableError` with one sentence that says why not."""
    if path is None:
        recording = electrocardiogram()
    elif path.suffix.lower() not in READERS:
        raise UnreadableError(f"{path} is not one of {', '.join(READERS)}.")
    else:
        try:
            with warnings.catch_warnings():
                # NumPy warns about an empty table; an empty recording is refused below.
                warnings.simplefilter("ignore", UserWarning)
                recording = READERS[path.suffix.lower()](path)
        except (OSError, ValueError, struct.error) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise UnreadableError(f"{path} cannot be read: {reason.rstrip('.')}.") from error
    count, length = recording.channels.shape
    if length == 0 or count == 0:
        raise UnreadableError(f"{recording.name} holds no samples.")
    if not np.isfinite(recording.channels).all():
        raise UnreadableError(f"{recording.name} holds values that are not finite float32 numbers.")
    limit = max(1, SAMPLES // count) if limit is None else limit
    if length > limit:
        recording.channels = recording.channels[:, :limit]
        recording.notes.append(f"the first {limit:,} of {length:,} samples; --samples takes more")
    return recording


# --- the chain


@dataclass
class Stage:
    """A layer, whether its output is rectified before the next one, and what it is for."""

    name: str
    layer: Conv1D
    rectify: bool = False


def hann(taps: int) -> np.ndarray[Any, Any]:
    """A window of unit sum without the two zeros at its ends."""
    window = np.hanning(taps + 2)[1:-1]
    return window / window.sum()


def band_centres() -> np.ndarray[Any, Any]:
    """Centres of the filter bank in cycles per sample, evenly spaced in pitch."""
    return np.geomspace(0.01, 0.42, BANDS)


def high_pass(taps: int) -> np.ndarray[Any, Any]:
    """The sample less the average of its surroundings, (K, 1, 1)."""
    taps_1d = np.full(taps, -1 / taps)
    taps_1d[taps // 2] += 1
    return taps_1d[:, None, None]


def band_pass_bank(taps: int) -> np.ndarray[Any, Any]:
    """Windowed-sinc band-passes with unit gain at their centres, (K, 1, BANDS)."""
    n = np.arange(taps)[:, None] - taps // 2
    centre = band_centres()
    # A window of K taps cannot separate bands that are closer than about 2/K.
    half = np.maximum(0.15 * centre, 1 / taps)
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, 0.5)
    bank = 2 * high * np.sinc(2 * high * n) - 2 * low * np.sinc(2 * low * n)
    bank *= np.hamming(taps)[:, None]
    bank /= np.abs((bank * np.exp(-2j * np.pi * centre * n)).sum(0))
    return bank[:, None]


def cosines_within_groups(taps: int) -> np.ndarray[Any, Any]:
    """A DCT-II over the channels of each group, smoothed in time, (K, C/G, C)."""
    size = FEATURES // GROUPS
    channel, order = np.arange(size)[:, None], np.arange(size)
    basis = np.cos(np.pi * (channel + 0.5) * order / size) / size
    return hann(taps)[:, None, None] * np.tile(basis, (1, GROUPS))


def mean_readout(taps: int) -> np.ndarray[Any, Any]:
    """The average of the groups' means (their cosines of order 0), smoothed, (K, C, 1)."""
    weights = np.zeros(FEATURES)
    weights[:: FEATURES // GROUPS] = 1 / GROUPS
    return (hann(taps)[:, None] * weights)[:, :, None]


def chain() -> list[Stage]:
    """The layers in order. All weights but the mixing layer's are designed.

    `algorithm="direct"` because its elementwise bound is what `check` demands.
    """
    mixing = np.random.default_rng(2026).normal(0, 1 / np.sqrt(BANDS * 7), (7, BANDS, FEATURES))
    # Name, rectify, filter, and what Conv1D needs to know besides the filter's shape.
    rows: list[tuple[str, bool, np.ndarray[Any, Any], dict[str, Any]]] = [
        ("baseline", False, high_pass(201), dict(padding="same", padding_mode="replicate")),
        ("filter bank", False, band_pass_bank(63), dict(padding="same")),
        ("mixing", True, mixing, dict(padding="causal", dilation=2)),
        (
            "smoothing", False, np.tile(hann(15)[:, None, None], (1, 1, FEATURES)),
            dict(padding="same", num_groups=FEATURES),
        ),
        (
            "cosines", False, cosines_within_groups(5),
            dict(padding=2, stride=2, num_groups=GROUPS),
        ),
        ("envelope", False, mean_readout(9), dict(padding="same")),
    ]  # fmt: skip
    stages = []
    for name, rectify, filter, parameters in rows:
        taps, depth, out_channels = filter.shape
        in_channels = depth * parameters.get("num_groups", 1)
        layer = Conv1D(taps, in_channels, out_channels, algorithm="direct", name=name, **parameters)
        layer.filter = filter.astype(np.float32)
        stages.append(Stage(name, layer, rectify))
    return stages


# --- the check


def definition(
    layer: Conv1D,
    x: np.ndarray[Any, Any],
    filter: np.ndarray[Any, Any],
    bias: np.ndarray[Any, Any] | float,
    first: int,
    count: int,
) -> np.ndarray[Any, Any]:
    """Evaluate outputs `first` … `first+count-1` in float64 with NumPy alone.

    Shares no code with the library; x is channel-last and padded already, filter is
    (K, C_in/G, C_out).
    """
    begin = first * layer.stride
    span = layer.dilation * (layer.kernel_size - 1) + 1
    part = x[:, begin : begin + (count - 1) * layer.stride + span].astype(np.float64)
    groups = layer.num_groups
    y = np.zeros((x.shape[0], count, groups, layer.out_channels // groups))
    for k in range(layer.kernel_size):
        begin = k * layer.dilation
        rows = part[:, begin : begin + (count - 1) * layer.stride + 1 : layer.stride]
        rows = rows.reshape(x.shape[0], count, groups, -1)
        taps = filter[k].astype(np.float64).reshape(rows.shape[-1], groups, -1)
        # optimize lets BLAS do the dense layers
        y += np.einsum("nlgi,igo->nlgo", rows, taps, optimize=True)
    return y.reshape(x.shape[0], count, -1) + bias


def pad(layer: Conv1D, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pad positions of channel-last x as the layer's parameters say."""
    left_over = layer.dilation * (layer.kernel_size - 1)
    if layer.padding == "same":
        length = x.shape[1]
        outputs = -(-length // layer.stride)
        total = max(0, (outputs - 1) * layer.stride + left_over + 1 - length)
        sides = (total // 2, total - total // 2)
    elif layer.padding == "causal":
        sides = (left_over, 0)
    elif layer.padding == "valid":
        sides = (0, 0)
    else:
        sides = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,) * 2
    return np.pad(x, ((0, 0), sides, (0, 0)), mode=PAD_MODES[layer.padding_mode])  # type: ignore[call-overload]


def check(layer: Conv1D, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[float, bool]:
    """Compare y with the definition in float64.

    Returns
    -------
    error : float
        max |y - exact|, relative to max |exact|.
    holds : bool
        Whether every element is within γ(R+1)·(|x|⋆|w| + |b|) + R·tiny (Higham 2002, 3.1).
    """
    filter, bias = layer.filter, layer.bias
    if layer.permute:
        x, y, filter = x.transpose(0, 2, 1), y.transpose(0, 2, 1), filter.transpose(2, 1, 0)
    offset = np.zeros(layer.out_channels) if bias is None else bias.astype(np.float64)
    terms = filter.shape[0] * filter.shape[1] + 1
    numbers = np.finfo(layer.dtype)
    unit = float(numbers.eps) / 2
    gamma = terms * unit / (1 - terms * unit)
    padded = pad(layer, x)
    worst = largest = 0.0
    holds = True
    for first in range(0, y.shape[1], CHECKED_AT_ONCE):
        part = y[:, first : first + CHECKED_AT_ONCE]
        count = part.shape[1]
        exact = definition(layer, padded, filter, offset, first, count)
        size = definition(layer, np.abs(padded), np.abs(filter), np.abs(offset), first, count)
        error = np.abs(part - exact)
        # Not "error > bound": a NaN in y must not pass.
        holds &= bool((error <= gamma * size + (terms - 1) * float(numbers.tiny)).all())
        worst = float(np.maximum(worst, error.max(initial=0)))
        largest = max(largest, float(np.abs(exact).max(initial=0)))
    return (worst / largest if largest else worst), holds


# --- the run


@dataclass
class Result:
    """What one stage did."""

    stage: Stage
    y: np.ndarray[Any, Any]
    explanation: Explanation
    first_seconds: float
    seconds: float
    flops: int
    error: float
    holds: bool

    @property
    def threads(self) -> int:
        """Threads that the plan uses."""
        return int(self.explanation.details.get("threads", "1").split(",")[0])


def run_stage(stage: Stage, x: np.ndarray[Any, Any]) -> Result:
    """Run, check and time one stage."""
    layer = stage.layer
    begin = time.perf_counter()
    y = layer(x)
    first_seconds = time.perf_counter() - begin
    error, holds = check(layer, x, y)
    out = np.empty_like(y)
    seconds = median_seconds(lambda: layer(x, out=out))
    depth = layer.in_channels // layer.num_groups
    flops = 2 * y.size * layer.kernel_size * depth
    return Result(stage, y, layer.explain(x), first_seconds, seconds, flops, error, holds)


def run_chain(stages: Sequence[Stage], x: np.ndarray[Any, Any]) -> list[Result]:
    """Feed x (N, L, 1) through all stages."""
    results = []
    for stage in stages:
        results.append(run_stage(stage, x))
        x = results[-1].y
        if stage.rectify:
            x = np.abs(x)
    return results


def tabulate(results: Sequence[Result]) -> Table:
    """The table of all layers, with shares of a peak measured in this run."""
    counts = {result.threads for result in results}
    # Without a compiler there is no peak to compare with.
    peaks = {} if is_disabled() else {threads: fma_peak(threads) for threads in counts}
    caption = "; ".join(f"{t} thread(s): {peak / 1e9:.0f} GF/s" for t, peak in peaks.items())
    table = Table(caption=f"FMA peak, float32, in this run: {caption}" if peaks else None)
    for heading in ("layer", "kernel", "C, K"):
        table.add_column(heading)
    for heading in ("y (N, L, C)", "threads", "time", "GF/s", "of peak", "error"):
        table.add_column(heading, justify="right")
    table.add_column("bound")
    for result in results:
        layer, rate = result.stage.layer, result.flops / result.seconds
        peak = peaks.get(result.threads)
        table.add_row(
            result.stage.name,
            result.explanation.kernel,
            f"{layer.in_channels}→{layer.out_channels}, {layer.kernel_size}",
            str(result.y.shape),
            str(result.threads),
            f"{result.seconds * 1e6:,.0f} µs",
            f"{rate / 1e9:.1f}",
            f"{rate / peak:.0%}" if peak else "–",
            f"{result.error:.1e}",
            "holds" if result.holds else "[bold red]WRONG",
        )
    return table


# --- the picture


def draw(recording: Recording, results: Sequence[Result], path: Path) -> None:
    """Draw the first channel: recording, filter bank, features, envelope."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    outputs = {result.stage.name: result.y[0] for result in results}
    x, t = recording.channels[0], recording.times()
    figure, axes = plt.subplots(
        4, 1, figsize=(11, 10), sharex=True, height_ratios=(3, 3, 3, 2), layout="constrained"
    )
    ink, accent = "#1f3a5f", "#c8553d"

    axes[0].plot(t, x, color="#b5b5b5", lw=1, label="recording")
    axes[0].plot(t, outputs["baseline"][:, 0], color=ink, lw=1.1, label="without its baseline")
    axes[0].set_ylabel(f"amplitude\n({recording.unit})")
    axes[0].legend(loc="upper right", ncols=2, frameon=False)
    extra = "" if len(recording.channels) == 1 else f", channel 1 of {len(recording.channels)}"
    axes[0].set_title(f"{recording.name}{extra}", loc="left", weight="bold")

    step = 1 / (recording.rate or 1.0)
    sides = (t[0] - step / 2, t[-1] + step / 2)
    bands = outputs["filter bank"].T
    bands = bands / np.maximum(np.abs(bands).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    image = axes[1].imshow(
        bands, aspect="auto", origin="lower", extent=(*sides, -0.5, BANDS - 0.5),
        cmap="RdBu_r", vmin=-1, vmax=1, interpolation="antialiased",
    )  # fmt: skip
    ticks = np.linspace(0, BANDS - 1, 6).round().astype(int)
    centres = band_centres()[ticks] * (recording.rate or 1.0)
    axes[1].set_yticks(ticks, [f"{float(f'{centre:.2g}'):g}" for centre in centres])
    axes[1].set_ylabel("band centre\n" + ("(Hz)" if recording.rate else "(cycles per sample)"))
    axes[1].set_title(f"filter bank: 1→{BANDS} channels, 63 taps", loc="left", fontsize=10)
    figure.colorbar(image, ax=axes[1], pad=0.01, label="output / largest\nof its band")

    features = outputs["smoothing"].T
    top = max(float(features.max()), float(np.finfo(np.float32).tiny))
    decibels = 20 * np.log10(np.maximum(features / top, 1e-3))
    image = axes[2].imshow(
        decibels, aspect="auto", origin="lower", extent=(*sides, -0.5, FEATURES - 0.5),
        cmap="magma", vmin=-40, vmax=0, interpolation="antialiased",
    )  # fmt: skip
    axes[2].set_ylabel("feature")
    axes[2].set_title(
        f"mixing (random, dilation 2, causal), rectified, then smoothed: {FEATURES} channels",
        loc="left", fontsize=10,
    )  # fmt: skip
    figure.colorbar(image, ax=axes[2], pad=0.01, label="magnitude\n(dB below largest)")

    envelope = outputs["envelope"][:, 0]
    coarse = recording.times(2)[: len(envelope)]
    axes[3].fill_between(coarse, envelope, color=accent, alpha=0.2, lw=0)
    axes[3].plot(coarse, envelope, color=accent, lw=1.4, label="envelope, stride 2")
    axes[3].set_ylabel(f"envelope\n({recording.unit})")
    axes[3].set_xlabel("time (s)" if recording.rate else "sample")
    axes[3].legend(loc="upper right", frameon=False)
    axes[3].set_xlim(sides)
    for axis in (axes[0], axes[3]):
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.15)
    axes[3].set_ylim(bottom=min(0.0, float(envelope.min())))

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo",
        description="Convolve a recording with a chain of layers, check and draw the result.",
    )
    parser.add_argument(
        "file", nargs="?", type=Path,
        help=".wav, or .npy / .csv of samples (L,) or (L, C); default: PyWavelets' ECG",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder")
    parser.add_argument(
        "--samples", type=int, help=f"read at most so many; default {SAMPLES:,} over all channels"
    )
    options = parser.parse_args(arguments)
    if options.samples is not None and options.samples < 1:
        parser.error(f"--samples must be at least 1, got {options.samples}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every layer is right, 1 if one is not, 2 if there is nothing to run."""
    options = parse(arguments)
    try:
        recording = load(options.file, options.samples)
    except UnreadableError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console.width = 120  # 80, rich's guess for a pipe, would fold the table
    count, length = recording.channels.shape
    rate = f" at {recording.rate:g} Hz" if recording.rate else ""
    notes = "".join(f"; {note}" for note in recording.notes)
    print(f"{recording.name}: {count} channel(s) of {length:,} samples{rate}{notes}")

    # Channels of the recording are rows of the batch: each goes through the same chain.
    results = run_chain(chain(), recording.channels[:, :, None])
    console.print(tabulate(results))
    first = sum(result.first_seconds for result in results)
    print(f"first calls, compilation included: {first:.1f} s")
    print("error: max|y - exact| / max|exact|, exact = the definition in float64 NumPy")
    stem = options.file.stem if options.file else "ecg"
    path = options.output / f"{stem}.png"
    draw(recording, results, path)
    print(f"picture: {path}")
    wrong = [result.stage.name for result in results if not result.holds]
    if wrong:
        print(f"WRONG: {', '.join(wrong)} not within the error bound of direct summation")
        return 1
    print("every element of every layer is within the error bound of direct summation")
    return 0


if __name__ == "__main__":
    sys.exit(main())

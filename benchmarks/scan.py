"""Random layers, which are in no list: what each reaches, and what the order of axes costs.

    python -m benchmarks.scan [--layers N] [--seed N] [--dtype float64] [--threads N] [--mib N]

Layers are dense, grouped or depthwise, of 1 to 1024 channels and 1 to 64 taps, by `direct`, with
`out=`, warm. The share is that of the multiply-adds of bursts before and after each layer in this
process; where memory binds a layer, it is low, and the bytes a second of x and y stand beside it.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from numbaconv import Conv1D

from .demo import check
from .dense import Burst, Peak
from .roofline import aligned

CHANNELS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 18, 20, 24, 28, 32, 40, 48, 64, 80, 96, 100, 128,
            192, 256)  # fmt: skip
DEPTHWISE_CHANNELS = (2, 4, 8, 16, 19, 32, 50, 64, 100, 128, 256, 512)
TAPS = (1, 2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 21, 31, 51, 64)
LENGTHS = (100, 300, 1000, 4000, 16000)

# Operations of the smallest and of the largest layer: calls are not what is measured here.
FLOPS = (200_000, 200_000_000)

ROUNDS = 5
SHOWN = 25


@dataclass(frozen=True)
class Layer:
    """A layer and the extent of its input."""

    batch: int
    length: int
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    dilation: int
    groups: int

    def __str__(self) -> str:
        marks = (("s", self.stride), ("d", self.dilation), ("g", self.groups))
        changed = "".join(f" {mark}{value}" for mark, value in marks if value > 1)
        channels = f"{self.in_channels}→{self.out_channels}"
        return f"{self.batch}×{self.length} {channels} K{self.kernel_size}{changed}"

    @property
    def elements(self) -> int:
        """Of x and y."""
        outputs = self.out_channels * self.length // self.stride
        return self.batch * (self.length * self.in_channels + outputs)

    @property
    def flops(self) -> int:
        products = self.kernel_size * self.in_channels // self.groups * self.out_channels
        return 2 * self.batch * (self.length // self.stride) * products

    def build(self, dtype: str, threads: int, permute: bool) -> Conv1D:
        return Conv1D(
            self.kernel_size, self.in_channels, self.out_channels, dtype, stride=self.stride,
            padding=self.dilation * (self.kernel_size - 1) // 2, dilation=self.dilation,
            num_groups=self.groups, algorithm="direct", threads=threads, permute=permute, rng=0,
        )  # fmt: skip


def draw(rng: random.Random) -> Layer:
    """A layer of any kind, which may be too large or need a longer input."""
    kind = rng.choice(("dense", "dense", "dense", "groups", "depthwise"))
    groups, inputs, outputs = 1, rng.choice(CHANNELS), rng.choice(CHANNELS)
    if kind == "groups":
        groups = rng.choice((2, 3, 4, 8, 16, 32))
        inputs, outputs = (groups * rng.choice(CHANNELS[:17]) for _ in range(2))
    elif kind == "depthwise":
        groups = inputs = rng.choice(DEPTHWISE_CHANNELS)
        outputs = inputs * rng.choice((1, 1, 1, 2))
    return Layer(
        rng.choice((1, 4)), rng.choice(LENGTHS), inputs, outputs, rng.choice(TAPS),
        rng.choice((1, 1, 1, 2, 4)), rng.choice((1, 1, 1, 2, 4, 16)), groups,
    )  # fmt: skip


def layers(seed: int, count: int, most_bytes: float, itemsize: int) -> Iterator[Layer]:
    """Draw `count` layers whose x and y fit in `most_bytes`."""
    rng = random.Random(seed)
    while count:
        layer = draw(rng)
        is_long = layer.length > layer.dilation * (layer.kernel_size - 1)
        is_near = layer.elements * itemsize <= most_bytes
        if is_long and is_near and FLOPS[0] < layer.flops < FLOPS[1]:
            count -= 1
            yield layer


@dataclass(frozen=True)
class Result:
    """What one layer reached: the share of the peak, and seconds by the order of axes."""

    layer: Layer
    kernels: tuple[str, str]
    share: float
    last: float
    first: float
    nbytes: int
    is_right: bool

    @property
    def ratio(self) -> float:
        """The time of channel-first arrays over that of channel-last ones."""
        return self.first / self.last


def measure(layer: Layer, dtype: str, threads: int, peak: Peak) -> Result:
    """Time both orders of axes in turns, between bursts of multiply-adds."""
    shape = (layer.batch, layer.length, layer.in_channels)
    x = aligned(shape, np.dtype(dtype).type)
    x[...] = np.random.default_rng(0).standard_normal(shape)
    bursts, kernels, nbytes, is_right = [], [], 0, True
    for permute in (False, True):
        built = layer.build(dtype, threads, permute)
        given = np.ascontiguousarray(x.transpose(0, 2, 1)) if permute else x
        y = built(given)
        is_right &= check(built, given, y)[1]
        kernels.append(built.explain(given).kernel)
        nbytes = given.nbytes + y.nbytes
        bursts.append(Burst(partial(built, given, out=y)))
    share, last, first = [], [], []
    for _ in range(ROUNDS):
        before, seconds, seconds_first, after = (
            peak.alone(), bursts[0].seconds(), bursts[1].seconds(), peak.alone(),
        )  # fmt: skip
        share.append(2 * layer.flops / seconds / (before + after))
        last.append(seconds)
        first.append(seconds_first)
    return Result(
        layer, (kernels[0], kernels[1]), statistics.median(share) * x.itemsize / 4,
        statistics.median(last), statistics.median(first), nbytes, is_right,
    )  # fmt: skip


def table(title: str, results: list[Result]) -> Table:
    shown = Table(title=title)
    for name in ("layer", "kernel", "of peak", "GB/s", "µs", "permute", "kernel there"):
        is_text = "kernel" in name or name == "layer"
        shown.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for r in results:
        speed = f"{r.nbytes / r.last / 1e9:.0f}"
        cells = (f"{r.share:.0%}", speed, f"{1e6 * r.last:.1f}", f"{r.ratio:.2f}")
        if not r.is_right:
            cells = ("wrong",) * 4
        shown.add_row(str(r.layer), r.kernels[0], *cells, r.kernels[1])
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mib", type=float, default=2, help="most of x and y together")
    given = parser.parse_args()
    itemsize = np.dtype(given.dtype).itemsize
    drawn = list(layers(given.seed, given.layers, given.mib * 2**20, itemsize))
    peak, console = Peak(given.threads), Console()
    results = [
        measure(layer, given.dtype, given.threads, peak)
        for layer in track(drawn, console=Console(stderr=True), transient=True)
    ]
    right = [r for r in results if r.is_right]
    by_share = sorted(right, key=lambda r: r.share)
    wrong = [r for r in results if not r.is_right]
    console.print(table("least of the multiply-add peak", wrong + by_share[:SHOWN]))
    by_ratio = sorted(right, key=lambda r: -r.ratio)
    console.print(table("most for channel-first arrays", by_ratio[:SHOWN]))
    shares, ratios = [r.share for r in right], [r.ratio for r in right]
    console.print(
        f"{len(right)} layers, {len(wrong)} wrong; seed {given.seed}, {given.dtype}, "
        f"{given.threads} thread(s), x and y up to {given.mib:g} MiB\n"
        f"share of the peak: median {statistics.median(shares):.0%}, "
        f"{sum(s < 0.5 for s in shares)} below 50%\n"
        f"channel-first over channel-last: geometric mean {statistics.geometric_mean(ratios):.2f}, "
        f"{sum(r > 1.18 for r in ratios)} above 1.18, {sum(r < 0.85 for r in ratios)} below 0.85"
    )


if __name__ == "__main__":
    main()

"""Times on a GPU against torch and CuPy, with the device's ceilings beside: `make gpu`.

Times are medians by events. Below 50 µs a CUDA graph of calls over rotating buffers is timed,
so that neither Python nor a warm cache is what one sees.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

GRAPH_BELOW_MICROSECONDS = 50
ROTATING_BYTES = 512 << 20  # several times any second-level cache
REPEATS = 15


@dataclass(frozen=True)
class Layer:
    """A layer of a known network, (N, L, C_in) in, and what it must reach.

    Attributes
    ----------
    fills : bool
        Whether it has at least two waves of tiles.
    limit : float or None
        Microseconds that bfloat16 must stay under.
    """

    name: str
    batch: int
    length: int
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    fills: bool = False
    limit: float | None = None

    @property
    def length_out(self) -> int:
        span = self.dilation * (self.kernel_size - 1) + 1
        return (self.length + sum(self.padding) - span) // self.stride + 1

    @property
    def flops(self) -> float:
        depth = self.in_channels // self.groups
        return 2.0 * self.batch * self.length_out * self.out_channels * depth * self.kernel_size

    def bytes(self, size: int) -> int:
        """Of x, y and filter, each once."""
        x = self.batch * self.length * self.in_channels
        y = self.batch * self.length_out * self.out_channels
        filter = self.kernel_size * self.in_channels // self.groups * self.out_channels
        return (x + y + filter) * size


LAYERS = [
    Layer("depthwise K4 L16384 C12288", 1, 16384, 12288, 12288, 4, groups=12288, limit=210),
    Layer("Mamba C4096 L8192", 1, 8192, 4096, 4096, 4, padding=(3, 0), groups=4096),
    Layer("whisper-large conv2 b8", 8, 3000, 1280, 1280, 3, 2, 1, (1, 1), fills=True),
    Layer("wav2vec2 512 K3 s2 b8", 8, 15999, 512, 512, 3, 2, fills=True),
    Layer("HiFi-GAN 128 K7 b16", 16, 2048, 128, 128, 7, 1, 3, (9, 9), fills=True),
    Layer("HiFi-GAN 64 K11 d5 b16", 16, 4096, 64, 64, 11, 1, 5, (25, 25), fills=True),
    Layer("HiFi-GAN 32 K3 b16", 16, 8192, 32, 32, 3, 1, 1, (1, 1)),
    Layer("whisper-tiny conv2 b1", 1, 3000, 384, 384, 3, 2, 1, (1, 1)),
    Layer("whisper-tiny conv1 b1", 1, 3000, 80, 384, 3, 1, 1, (1, 1)),
    Layer("AtacWorks 15 K51 d8 b8", 8, 60000, 15, 15, 51, 1, 8, (200, 200)),
    Layer("grouped 512 G8 K3 b8", 8, 4096, 512, 512, 3, 1, 1, (1, 1), groups=8),
    Layer("wav2vec2 conv0 1-512 K10 s5 b8", 8, 80000, 1, 512, 10, 5),
]
# dtype of torch, precision of ours
KINDS = [("bfloat16", "exact"), ("float16", "exact"), ("float32", "exact"), ("float32", "tf32")]


def median_of(call: Callable[[], None], repeats: int = REPEATS, inner: int = 1) -> float:
    """Microseconds of `call`, by events around `inner` calls in a row."""
    import torch

    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(inner):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / inner)
    return statistics.median(times)


def microseconds(calls: list[Callable[[], None]]) -> float:
    """Time of one call; `calls` do the same on different buffers."""
    import torch

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls:  # each on arrays of its own, whose tensor maps are then written
            call()
    torch.cuda.synchronize()
    rough = median_of(calls[0], 5)
    if rough >= GRAPH_BELOW_MICROSECONDS:
        return median_of(calls[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return median_of(graph.replay) / len(calls)


def ceilings() -> dict[str, float]:
    """What this device reaches: copy in GB/s, products of bf16 and fp32 in TFLOP/s."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy = median_of(lambda: target.copy_(source))
    found = {"copy GB/s": 2 * source.nbytes / copy / 1e3}
    for name, n in (("bfloat16", 8192), ("float32", 4096)):
        a, b = (torch.randn(n, n, device="cuda").to(getattr(torch, name)) for _ in range(2))
        out = torch.empty_like(a)
        spent = median_of(lambda a=a, b=b, out=out: torch.matmul(a, b, out=out))  # type: ignore
        found[f"{name} matmul TFLOP/s"] = 2 * n**3 / spent / 1e6
    return found


def peers_of(layer: Layer, x: Any, w: Any, dtype: str) -> dict[str, list[Callable[[], None]]]:
    """torch on N-L-C arrays, on its own layout and as conv2d channels-last; CuPy by products."""
    import torch
    from torch.nn import functional as F

    pad, s, d, g = max(layer.padding), layer.stride, layer.dilation, layer.groups
    wt = w.permute(2, 1, 0).contiguous()
    viewed = [one.transpose(1, 2) for one in x]
    own = [one.contiguous() for one in viewed]
    flat = [one.unsqueeze(2).contiguous(memory_format=torch.channels_last) for one in viewed]
    w2 = wt.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    found: dict[str, list[Callable[[], None]]] = {
        "torch conv1d on NLC": [lambda a=a: F.conv1d(a, wt, None, s, pad, d, g) for a in viewed],
        "torch conv1d on NCL": [lambda a=a: F.conv1d(a, wt, None, s, pad, d, g) for a in own],
        "torch conv2d channels-last": [
            lambda a=a: F.conv2d(a, w2, None, (1, s), (0, pad), (1, d), g) for a in flat
        ],
    }
    if dtype != "bfloat16" and g == 1:
        try:
            import cupy
        except ImportError:
            return found
        there = [cupy.asarray(one) for one in x]
        taps = cupy.asarray(w)
        windows = cupy.lib.stride_tricks.sliding_window_view
        span = d * (layer.kernel_size - 1) + 1

        def product(one: Any) -> None:
            padded = cupy.pad(one, ((0, 0), layer.padding, (0, 0)))
            seen = windows(padded, span, axis=1)[:, ::s, :, ::d]  # N, L_out, C_in, K
            cupy.tensordot(seen, taps, axes=((3, 2), (0, 1)))

        found["CuPy windows and tensordot"] = [lambda a=a: product(a) for a in there]
    return found


def measure(layer: Layer, dtype: str, precision: str) -> dict[str, Any]:
    """Our time and error for one layer, and the peers' times."""
    import torch

    kind = getattr(torch, dtype)
    depth = layer.in_channels // layer.groups
    count = max(1, min(16, ROTATING_BYTES // layer.bytes(kind.itemsize)))
    shape = (layer.batch, layer.length, layer.in_channels)
    x = [torch.randn(shape, device="cuda").to(kind) for _ in range(count)]
    w = torch.randn(layer.kernel_size, depth, layer.out_channels, device="cuda")
    w = (w / (layer.kernel_size * depth) ** 0.5).to(kind)
    made = our_layer(layer, w, dtype, precision)
    y = [made(one) for one in x]
    calls = [lambda a=a, b=b: made(a, out=b) for a, b in zip(x, y, strict=True)]
    row: dict[str, Any] = {
        "layer": asdict(layer), "dtype": dtype, "precision": precision,
        "kernel": str(made.explain(x[0])), "relative error": error_of(layer, x[0], w, y[0]),
        "microseconds": microseconds(calls),
    }  # fmt: skip
    row["TFLOP/s"] = layer.flops / row["microseconds"] / 1e6
    row["GB/s"] = layer.bytes(kind.itemsize) / row["microseconds"] / 1e3
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    row["peers"] = {}
    for name, peer in peers_of(layer, x, w, dtype).items():
        try:
            row["peers"][name] = microseconds(peer)
        except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
            row["peers"][name] = f"failed: {error}".splitlines()[0]
    return row


def our_layer(layer: Layer, w: Any, dtype: str, precision: str) -> Any:
    """A `Conv1D` with the filter of `w`."""
    from numbaconv import Conv1D
    from numbaconv.problem import as_dtype

    native = as_dtype(dtype, on_cuda=True)
    made = Conv1D(
        layer.kernel_size, layer.in_channels, layer.out_channels, native, layer.stride,
        layer.padding, layer.dilation, layer.groups, device="cuda", precision=precision,  # type: ignore
    )  # fmt: skip
    made.filter = np.ascontiguousarray(w.float().cpu().numpy()).astype(native)
    return made


def error_of(layer: Layer, x: Any, w: Any, y: Any) -> float:
    """Relative error in the 2-norm against float64, on the first entry of the batch."""
    import torch
    from torch.nn import functional as F

    padded = F.pad(x[:1].transpose(1, 2).double(), layer.padding)
    wanted = F.conv1d(
        padded, w.permute(2, 1, 0).double(), None, layer.stride, 0, layer.dilation, layer.groups
    ).transpose(1, 2)
    return float(torch.linalg.norm(y[:1].double() - wanted) / torch.linalg.norm(wanted))


def line_of(row: dict[str, Any]) -> str:
    """One line for people."""
    name, kind = row["layer"]["name"], f"{row['dtype']} {row['precision']}"
    peers = ", ".join(
        f"{peer} {spent if isinstance(spent, str) else f'{spent:.1f} us'}"
        for peer, spent in row["peers"].items()
    )
    return (
        f"{name:32} {kind:16} {row['microseconds']:9.1f} us {row['TFLOP/s']:7.1f} TFLOP/s "
        f"{row['GB/s']:7.0f} GB/s  error {row['relative error']:.1e} | {peers}"
    )


def missing() -> str | None:
    """What this machine lacks for the measurement, in one sentence."""
    from numbaconv.cuda import driver

    reason = driver.missing()
    return None if reason is None else f"nothing was measured: {reason}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether there is a GPU")
    parser.add_argument("--out", type=Path, help="folder of the JSON report")
    parser.add_argument("--only", default="", help="part of a layer's name")
    options = parser.parse_args(arguments)
    reason = missing()
    if reason is not None:
        print(reason)
        return 1
    if options.check:
        return 0
    try:
        import torch
    except ImportError:
        print("nothing was measured: events, graphs and the peer are torch's: pip install torch")
        return 1
    name = torch.cuda.get_device_name()
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "ceilings": ceilings()}
    print(name, report["ceilings"])
    report["rows"] = []
    for layer in LAYERS:
        for dtype, precision in KINDS:
            if options.only in layer.name:
                report["rows"].append(measure(layer, dtype, precision))
                print(line_of(report["rows"][-1]), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"gpu-{name.lower().replace(' ', '-')}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

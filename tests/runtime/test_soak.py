"""Very many calls: memory stays where it was."""

import sys

import pytest

# Allocators keep a little for themselves; 10^5 leaks of one small object are 5 MB and more.
ALLOWED_MEGABYTES = 4

SOAK = """
import gc, itertools, resource
import numpy as np
from numbaconv import Conv1D, conv1d

PAGE = resource.getpagesize()
def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE / 1e6

rng = np.random.default_rng(0)
GEOMETRIES = [(1, 1, 1), (1, 3, 5), (1, 40, 2), (1, 8, 40), (5, 1, 1), (2, 12, 20)]
STEPS = range(1, 4)
DTYPES = [np.float32, np.float64]
MODES = ["zeros", "reflect", "replicate", "circular"]
PADDINGS = [0, 2, (1, 3), "same", "causal", (-2, 1)]

def parameters():
    groups, depth, width = GEOMETRIES[rng.integers(len(GEOMETRIES))]
    stride, dilation, taps = (int(rng.choice(STEPS)) for _ in range(3))
    return (taps, groups * depth, groups * width), dict(
        stride=stride, dilation=dilation, num_groups=groups,
        padding=PADDINGS[rng.integers(len(PADDINGS))],
        padding_mode=MODES[rng.integers(len(MODES))],
        dtype=DTYPES[rng.integers(2)],
        permute=bool(rng.integers(2)),
        has_bias=bool(rng.integers(2)),
    )

def signal(channels, dtype, permute):
    batch, length = rng.integers(1, 3), rng.integers(12, 60)
    wide = np.ones((batch, 2 * length, channels + 3), dtype)
    views = [
        wide[:, :length, :channels].copy(), wide[:, ::2, :channels], wide[:, ::-2, 3:],
        wide.transpose(0, 2, 1)[:, 1:channels + 1, :length].copy().transpose(0, 2, 1),
    ]
    x = views[rng.integers(len(views))]
    return x.transpose(0, 2, 1) if permute else x

def compile_all():
    choices = itertools.product(GEOMETRIES, STEPS, STEPS, STEPS, DTYPES, (False, True), (12, 59))
    for (groups, depth, width), stride, dilation, taps, dtype, permute, length in choices:
        layer = Conv1D(
            taps, groups * depth, groups * width, stride=stride, dilation=dilation,
            num_groups=groups, padding="same", dtype=dtype, permute=permute,
        )
        shape = (1, length, groups * depth)
        layer(np.ones((shape[0], shape[2], shape[1]) if permute else shape, dtype))

def calls(count):
    done, layers = 0, []
    while done < count:
        if len(layers) < 20 or rng.random() < 0.02:
            shape, options = parameters()
            layers = [*layers[-19:], Conv1D(*shape, **options)]
        layer = layers[rng.integers(len(layers))]
        x = signal(layer.in_channels, layer.dtype, layer.permute)
        y = layer(x)
        kind = rng.integers(4)
        if kind == 0:
            layer(x, out=y)
        elif kind == 1:
            layer(x, out=y.transpose(2, 1, 0).copy().transpose(2, 1, 0))
        elif kind == 2:
            conv1d(
                x, layer.filter, layer.bias, stride=layer.stride, padding=layer.padding,
                dilation=layer.dilation, num_groups=layer.num_groups,
                padding_mode=layer.padding_mode, permute=layer.permute,
            )
        else:
            layer.filter = layer.filter
        done += 2

compile_all()  # compiled code stays
calls(30000)  # fills every bounded cache
sizes = [resident()]
for _ in range(5):
    calls(20000)
    sizes.append(resident())
print(sizes[-1] - sizes[0])
print(sizes)
"""

ERRORS = """
import gc, resource
import numpy as np
import numbaconv

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6

layer = numbaconv.Conv1D(3, 4, 8)
x, bad = np.ones((1, 20, 4), np.float32), np.ones((1, 20, 5), np.float32)
def errors(count):
    for _ in range(count):
        for call in (lambda: layer(bad), lambda: layer(x, out=bad), lambda: layer("x")):
            try:
                call()
            except (TypeError, ValueError):
                pass
errors(1000)
before = resident()
errors(20000)
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("code", [SOAK, ERRORS], ids=["calls", "errors"])
def test_memory_does_not_grow(python, code):
    grown, *sizes = python(code, timeout=300).splitlines()
    assert float(grown) < ALLOWED_MEGABYTES, f"{grown} MB more; {sizes}"

"""Run the scalar kernel's text in Numba's CUDA simulator: `NUMBA_ENABLE_CUDASIM=1 python -m ...`.

Addresses are those of NumPy arrays, and loads and stores go through ctypes.
"""

import ctypes
import os
import sys

import numpy as np
from hypothesis import HealthCheck, given, settings
from numba import cuda

from numbaconv.cuda.kernel import Device, Operand, Site, x_offset
from numbaconv.cuda.positions import source_position
from numbaconv.cuda.scalar import SCALAR
from numbaconv.problem import ConvProblem, Geometry
from tests import oracle
from tests.strategies import Case, cases

DEVICE = Device(0, "simulator", (8, 0), 1, 0)
MOST_PRODUCTS = 3000  # of one case: the simulator does about 30,000 in a second

# Borders of every kind, next to the drawn cases.
BORDERS = [
    Case(3, 2, 3, 5, padding=(4, 7), has_bias=True, batch=2),
    Case(2, 3, 5, 4, padding=(-4, 6), has_bias=True),
    Case(3, 4, 6, 5, padding=4, padding_mode="reflect"),
    Case(3, 4, 6, 5, padding=(5, 0), padding_mode="circular", num_groups=2),
    Case(3, 2, 2, 2, padding=9, padding_mode="replicate", permute=True),
    Case(5, 2, 4, 30, stride=3, dilation=4, padding="same", num_groups=2, dtype="float64"),
    Case(4, 6, 6, 9, padding="causal", num_groups=6, dtype="float16"),
    Case(3, 1, 2, 1, padding="same", x_layout="reversed", out_layout="reversed"),
    Case(7, 2, 1, 0, padding=9, has_bias=True),
    Case(3, 2, 1, 4, batch=0),
]


def at(address, dtype):
    """The element that lies at an address."""
    memory = (ctypes.c_char * dtype.itemsize).from_address(int(address))
    return np.frombuffer(memory, dtype)


def compiled(dtype):
    """The kernel for a dtype, as the simulator runs it."""
    tile = SCALAR.tile(ConvProblem(Geometry(1, 1, 1), 1, 1, dtype), None)
    wide = np.dtype(tile.storage.accumulator).type

    def load(address):
        return wide(at(address, dtype)[0])

    def store(address, number):
        at(address, dtype)[0] = number

    space = tile.namespace(cuda) | {"load": load, "store": store, "position": source_position}
    exec(tile.text(), space)
    return tile, cuda.jit(space["conv_scalar"])


def operand(array):
    return Operand(array.strides, array.itemsize)


def check(case, blocks=1, threads=2):
    """Compute a case of small integers and compare with the oracle, exactly."""
    case = case.but(filter_layout="contiguous")
    x, filter, bias = case.arrays()
    expected = oracle.convolve(x, filter, bias, **case.parameters)
    y = np.full(expected.shape, np.nan, x.dtype)
    if case.permute:
        x, y, filter = x.transpose(0, 2, 1), y.transpose(0, 2, 1), filter.transpose(2, 1, 0)
    g = Geometry(
        case.kernel_size, case.in_channels, case.out_channels, case.stride, case.padding,
        case.dilation, case.num_groups, case.padding_mode,
    )  # fmt: skip
    problem = ConvProblem(g, case.batch, case.length, x.dtype, has_bias=bias is not None)
    other = np.zeros(1, x.dtype) if bias is None else bias
    site = Site(DEVICE, *map(operand, (x, y, filter, other)))
    tile, kernel = compiled(x.dtype)
    values = SCALAR.launch_shape(problem, site, tile).values
    addresses = {"x": x.ctypes.data + x_offset(problem, site), "w": filter.ctypes.data}
    values |= addresses | {"bias": other.ctypes.data, "y": y.ctypes.data}
    if y.size:
        kernel[blocks, threads](*(values[name] for name in tile.parameters()))
    y = y.transpose(0, 2, 1) if case.permute else y
    np.testing.assert_array_equal(y, expected, err_msg=str(case))


def is_small(case):
    products = case.batch * case.length * case.kernel_size * case.in_channels
    return products * case.out_channels // case.num_groups <= MOST_PRODUCTS


def main(examples):
    """Check all borders, and drawn cases that the simulator can bear."""
    for case in BORDERS:
        check(case)
    check(Case(3, 2, 3, 20, padding=1), blocks=3, threads=4)
    checked = 0

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck),
        database=None,
    )  # fmt: skip
    @given(cases())
    def drawn(case):
        nonlocal checked
        plain = ("byte-swapped", "unaligned", "read-only")
        if is_small(case):
            checked += 1
            check(case.but(x_layout="contiguous" if case.x_layout in plain else case.x_layout))

    drawn()
    print(len(BORDERS) + 1 + checked)


if __name__ == "__main__":
    assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
    main(int(sys.argv[1]))

"""From Python into a macrokernel: in this thread, or spread over several.

Launchers call it by address and know no algorithm, so that direct and transformed convolution
share them. In this thread it is run by builtin functions in machine code, which may also do the
checks of a call: where little is to compute, those take longer in Python.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numba
import numpy as np
from numba.core import types

from .. import _jit, _threads
from ..interop import address_of
from ..plan import Array
from .builtin import MethodDef, address_of_array, builtin, define, give_up_gil, take_gil, truth
from .memory import address, call_address, record, stack_zeros
from .streaming import CallTables
from .tables import DESCR_KIND, ENTRY


def signature_of(dtype: np.dtype, integers: int = 7) -> types.Type:
    """The C signature of a macrokernel: its dtype (no value), then integers."""
    element = types.DType(types.float32 if dtype.itemsize == 4 else types.float64)
    return types.void(element, *[types.int64] * integers)


@_jit.inner(result=types.boolean)
def overlap(call, x, y):
    """Whether the memory that x and y span has a byte in common."""
    c = record(call, 0, "extent")
    return x + c.x_low < y + c.y_high and y + c.y_low < x + c.x_high


# NumPy's flags (`NPY_ARRAY_…`) of what is read, and of what is written.
PLAIN, WRITEABLE = 0x0001 | 0x0100, 0x0400  # C-contiguous and aligned


@_jit.inner(result=types.boolean)
def is_plain(array, entry, flags):
    """Whether a Python object is an ndarray of 3 dimensions with the entry's dtype, and flags."""
    a, e = record(array, 0, "ndarray"), record(entry, 0, "entry")
    if a.type != e.type or a.dimensions != 3 or a.flags & flags != flags:
        return False
    return record(a.descr, 0, "descr").kind == e.kind


@_jit.inner(result=types.boolean)
def fits(entry, x, y):
    """Whether x and y (Python objects) are plain arrays of the shapes that an entry is for."""
    e = record(entry, 0, "entry")
    if not (is_plain(x, entry, PLAIN) and is_plain(y, entry, PLAIN | WRITEABLE)):
        return False
    a = record(record(x, 0, "ndarray").shape, 0, "shape")
    b = record(record(y, 0, "ndarray").shape, 0, "shape")
    return (
        a.batch == e.x_batch and a.length == e.x_length and a.channels == e.x_channels
        and b.batch == e.y_batch and b.length == e.y_length and b.channels == e.y_channels
    )  # fmt: skip


def run(owner, arguments, count):
    """The builtin function that `serial_launcher` describes."""
    entry = address_of_array(owner)
    e, a = record(entry, 0, "entry"), record(arguments, 0, "arguments")
    if e.is_checked and not (count == 2 and fits(entry, a.x, a.y)):
        return truth(False)
    x, y, extra = address_of_array(a.x), address_of_array(a.y), 0
    if overlap(e.call, x, y):
        return truth(False)
    if count == 3:
        extra = address_of_array(a.extra)
    state = 0 if e.is_brief else give_up_gil()
    call_address(e.kernel, (0, e.call, x, y, 0, 1, stack_zeros(1), extra))
    if not e.is_brief:
        take_gil(state)
    return truth(True)


@functools.cache
def definition_of_run() -> MethodDef:
    """Compile `run`, once a process."""
    return define("run", run)


def look_for(x: Array, y: Array) -> tuple[int, ...]:
    """What makes an entry look whether it gets plain arrays like x and y, and no others."""
    kind = ctypes.c_int64.from_address(id(x.dtype) + DESCR_KIND).value
    return (1, id(np.ndarray), kind, *x.shape, *y.shape)


NO_LOOK = (0,) * 9


def serial_launcher(
    kernel: int,
    tables: CallTables,
    table: int,
    look: tuple[int, ...] = NO_LOOK,
    is_brief: bool = False,
) -> Callable[..., bool]:
    """A builtin function that runs a macrokernel in the calling thread.

    Parameters
    ----------
    kernel, table : int
        Addresses of the macrokernel and of its parameters, which is one of `tables`.
    tables : CallTables
        Kept as long as the function.
    look : tuple of int
        See `look_for`.
    is_brief : bool
        Whether it keeps the GIL: to give it up and take it again would take longer than others
        wait for it.

    Returns
    -------
    callable
        Of x, y and perhaps an array whose address is the macrokernel's last argument, all of them
        ndarrays with the strides that the table is for. It returns whether it ran: not where x and
        y may overlap, or are not what it looks for.
    """
    return builtin(definition_of_run(), np.array([(kernel, table, is_brief, *look)], ENTRY), tables)


@_jit.parallel_jit
def launch_parallel(kernel, call, x, y, workers, extra):
    """Run a macrokernel by `workers`, each in a thread, unless x and y may overlap.

    x and y are arrays or addresses. `extra` is the macrokernel's last argument: whether panels are
    divided, or the address of what to redo. Returns whether it ran.
    """
    x_address, y_address = address(x), address(y)
    if overlap(call, x_address, y_address):
        return False
    queue = stack_zeros(workers)
    for worker in numba.prange(workers):
        call_address(kernel, (0, call, x_address, y_address, worker, workers, queue, extra))
    return True


class Launcher:
    """Runs a macrokernel with the tables of one call.

    Parameters
    ----------
    kernel : int
        Address of the macrokernel.
    tables : CallTables
    """

    def __init__(self, kernel: int, tables: CallTables) -> None:
        self.kernel, self.tables = kernel, tables
        self._serial: dict[int, Callable[..., bool]] = {}  # by table; compiled when asked for

    def __call__(self, x: Array, y: Array, workers: int, extra: Array | int = 0) -> bool:
        """Compute y by `workers` threads; False, with nothing written, if x and y may overlap.

        `extra` is the macrokernel's last argument, or an array whose address is. One worker takes
        no notice of a number.
        """
        table = self.tables.address_for(y)
        if workers == 1 or not _threads.may_run_parallel():
            return self.serially(table, x, y, extra)
        number = extra if isinstance(extra, int) else address_of(extra)
        ran: bool = launch_parallel(self.kernel, table, *as_typed(x, y), workers, number)
        return ran

    def serially(self, table: int, x: Array, y: Array, extra: Array | int) -> bool:
        """The same in the calling thread, with one of the tables."""
        run = self._serial.get(table)
        if run is None:
            run = self._serial[table] = serial_launcher(self.kernel, self.tables, table)
        return run(x, y) if isinstance(extra, int) else run(x, y, extra)


def as_typed(x: Array, y: Array) -> tuple[Array | int, Array | int]:
    """x and y, or their addresses, for which a launcher is compiled.

    It reads the address of a plain C-contiguous array in 0.1 µs, Python takes 1 µs; other kinds of
    arrays would each compile a launcher.
    """
    return (x, y) if x.flags.carray and y.flags.carray else (address_of(x), address_of(y))


@_jit.jit
def launch_ranges(kernel, call, x, y, ranges):
    """Run `macrokernel.convolve_range` for each pair (first, last) of positions.

    x and y are arrays or addresses.
    """
    x_address, y_address = address(x), address(y)
    for i in range(ranges.shape[0]):
        call_address(kernel, (0, call, x_address, y_address, ranges[i, 0], ranges[i, 1]))

"""What child processes compute, and the numbers that must come out.

Inputs are small integers, so that every order of summation gives the same bits.
"""

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from numbaconv import Conv1D
from tests import oracle


class Work:
    """A layer, an input and the one right result."""

    def __init__(self, kernel_size, channels, length, dtype=np.float32, seed=0, **parameters):
        rng = np.random.default_rng(seed)
        shape = (kernel_size, channels // parameters.get("num_groups", 1), channels)
        self.layer = Conv1D(
            kernel_size, channels, channels, dtype, algorithm="direct", **parameters
        )
        self.layer.filter = rng.integers(-4, 5, shape).astype(dtype)
        self.x = rng.integers(-4, 5, (1, length, channels)).astype(dtype)
        self.expected = oracle.convolve(self.x, self.layer.filter, **parameters).astype(dtype)

    def is_right(self, factor=1, **options):
        y = self.layer(self.x, out=np.full_like(self.expected, np.nan), **options)
        return np.array_equal(y, factor * self.expected)


def small(seed=0):
    return Work(3, 16, 16, seed=seed)


def large(seed=0):
    """10 MFLOP: enough for several threads."""
    return Work(3, 64, 400, seed=seed)


def various():
    """Parallel work of several families, dtypes and divisions."""
    return [
        large(),
        Work(3, 64, 300, np.float64, padding="same"),
        Work(9, 128, 2000, num_groups=128, padding="causal"),
        Work(3, 60, 1200, num_groups=4, padding=30, padding_mode="reflect"),
        Work(3, 512, 9, padding="same"),
    ]


def print_result():
    """The bits of one small and one large result, to be compared between processes."""
    for work in (small(), large()):
        print(work.layer(work.x).tobytes().hex()[:200], work.is_right())


def hammer(works, rounds=30):
    """A thread for each work, all at once; every result must be right."""
    barrier = threading.Barrier(len(works))

    def one(work):
        barrier.wait()
        return sum(not work.is_right() for _ in range(rounds))

    with ThreadPoolExecutor(len(works)) as pool:
        wrong = list(pool.map(one, works))
    assert not any(wrong), f"wrong results in each thread: {wrong}"


def in_fork(function):
    """Run `function` in a forked child, which must leave by Python's own exit with status 0."""
    child = os.fork()
    if child == 0:
        function()
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the forked child ended with {status}"


def check(*works, **options):
    for work in works:
        assert work.is_right(**options), f"wrong result of {work.layer}"


def is_right(seed):
    """One result, for pools of processes."""
    return large(seed).is_right() and small(seed).is_right()


def long_call(seconds, threads=None):
    """A layer and an input that keep a processor busy for about so long."""
    layer = Conv1D(7, 256, 256, algorithm="direct", threads=threads)
    x = np.ones((1, 1000, 256), np.float32)
    layer(x)
    begin = time.perf_counter()
    layer(x)
    length = int(1000 * seconds / (time.perf_counter() - begin))
    return layer, np.ones((1, max(1000, length), 256), np.float32)

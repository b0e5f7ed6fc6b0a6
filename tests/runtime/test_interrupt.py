"""Ctrl-C during a long call."""

import os

import pytest

# A shell that starts the tests in the background has them ignore SIGINT.
LISTEN = "signal.signal(signal.SIGINT, signal.default_int_handler)"

INTERRUPT = f"""
import os, signal, threading, time
import numpy as np
from tests.runtime import work

{LISTEN}
layer, x = work.long_call(0.7, threads={{threads}})
expected = layer(x)
out = np.full_like(expected, np.nan)
sent = []
def interrupt():
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
begin = time.perf_counter()
threading.Timer(0.2, interrupt).start()
try:
    layer(x, out=out)
except KeyboardInterrupt:
    end = time.perf_counter()
else:
    raise AssertionError("nothing was raised")
assert begin < sent[0] < end
assert (out == expected).all(), "the kernel was left before its end"
assert (layer(x, out=out) == expected).all()
work.check(work.small(), work.large())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("threads", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interrupt_arrives_after_the_kernel(python, threads):
    python(INTERRUPT.format(threads=threads), NUMBA_NUM_THREADS="3")


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("layer", ["workqueue", "omp"])
@pytest.mark.slow
def test_interrupts_leave_no_lock_behind(python, layer):
    code = f"""
import os, signal, threading, time
from tests.runtime import work
{LISTEN}
layer, x = work.long_call(0.1)
caught = 0
for _ in range(10):
    timer = threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            layer(x)
    except KeyboardInterrupt:
        caught += 1
    timer.join()
    work.check(work.large())
assert caught == 10
work.hammer([work.large()] * 4)
"""
    python(code, NUMBA_NUM_THREADS="3", NUMBA_THREADING_LAYER=layer)


# Real signals at random moments of a compilation can crash llvmlite itself: interrupted after
# `LLVMPY_LinkModules`, it frees a module twice. So they come at known moments here.
MOMENTS = {
    "before a write": "_cache, 'write'",
    "before a rename": "os, 'replace'",
    "before a read": "_cache, 'read'",
    "between passes": "numba.core.lowering.Lower, 'lower'",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_compilation_can_be_repeated(python, moment, tmp_path):
    code = f"""
import os
import numba.core.lowering
from numbaconv import _cache
from tests.runtime import work

def interrupt_once(owner, name, calls=3):
    original = getattr(owner, name)
    def interrupted(*arguments):
        nonlocal calls
        calls -= 1
        if calls == 0:
            raise KeyboardInterrupt
        return original(*arguments)
    setattr(owner, name, interrupted)

item = work.small()
interrupt_once({MOMENTS[moment]})
try:
    item.layer(item.x)
except KeyboardInterrupt:
    print("interrupted")
work.check(item)
"""
    assert python(code, NUMBACONV_CACHE_DIR=tmp_path, NUMBA_OPT="0") == "interrupted\n"
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_kernel_that_cannot_be_serialised_still_runs(python, tmp_path):
    """Ctrl-C within LLVM's callback is swallowed there; the library is then without object code."""
    code = """
from numba.core.codegen import CPUCodeLibrary
from tests.runtime import work

def fail(self):
    raise RuntimeError(f"no compiled object yet for {self}")

CPUCodeLibrary._get_compiled_object = fail
work.check(work.small())
"""
    python(code, NUMBACONV_CACHE_DIR=tmp_path, NUMBA_OPT="0")
    assert not list(tmp_path.rglob("*.tmp"))

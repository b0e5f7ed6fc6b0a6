"""Processes that begin as a copy of one which already computes."""

import os
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_a_child_computes_and_so_does_its_parent(python, threading_layer):
    code = """
import numbaconv
from tests.runtime import work
items = [*work.various(), work.small()]
def child():
    assert numbaconv.get_num_threads() == 1
    work.check(*items)
work.check(*items)
for _ in range(3):
    work.in_fork(child)
    work.check(*items)
assert numbaconv.get_num_threads() == 3
"""
    python(code, **threading_layer)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity")
def test_a_process_held_on_one_core_forks_and_ends(python, threading_layer):
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from tests.runtime import work
item = work.large()
work.check(item)
work.in_fork(lambda: work.check(item))
work.check(item)
"""
    python(code, timeout=60, **threading_layer)


@pytest.mark.slow
def test_a_fork_before_the_first_call(python, threading_layer):
    code = """
from tests.runtime import work
item = work.large()
work.in_fork(lambda: work.check(item))
work.check(item)
"""
    python(code, **threading_layer)


@pytest.mark.slow
def test_a_child_compiles_what_its_parent_did_not(python, threading_layer, tmp_path):
    code = """
import numpy as np
from tests.runtime import work
item, new = work.large(), work.Work(3, 48, 400, np.float64)
work.check(item)
work.in_fork(lambda: work.check(item, new))
work.check(item, new)
"""
    python(code, NUMBACONV_CACHE_DIR=tmp_path, **threading_layer)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_grandchild_computes(python, threading_layer):
    code = """
from tests.runtime import work
item = work.large()
work.check(item)
def child():
    work.check(item)
    work.in_fork(lambda: work.check(item))
    work.check(item)
work.in_fork(child)
work.check(item)
"""
    python(code, **threading_layer)


@pytest.mark.slow
def test_threads_of_a_child(python, threading_layer):
    code = """
from tests.runtime import work
item = work.large()
work.check(item)
work.in_fork(lambda: work.hammer([item] * 4))
work.hammer([item] * 4)
"""
    python(code, **threading_layer)


def test_a_child_keeps_the_settings_of_its_parent(python):
    code = """
import numbaconv
from tests.runtime import work
def child():
    assert numbaconv.get_num_threads() == 1
    numbaconv.set_num_threads(3)
    work.check(work.large())
    assert numbaconv.get_num_threads() == 1
numbaconv.set_num_threads(2)
work.in_fork(child)
assert numbaconv.get_num_threads() == 2
"""
    python(code, NUMBA_NUM_THREADS="3")


def test_forks_while_another_thread_computes(python, threading_layer):
    code = """
import threading
from tests.runtime import work
item, stop = work.large(), threading.Event()
def compute():
    while not stop.is_set():
        work.check(item)
work.check(item)
thread = threading.Thread(target=compute)
thread.start()
try:
    for _ in range(4):
        work.in_fork(lambda: work.check(item))
        work.check(item)
finally:
    stop.set()
thread.join()
"""
    python(code, **threading_layer)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.1, 0.7, 1.5])
def test_a_fork_while_another_thread_compiles(python, delay):
    """The child must not inherit a lock that nobody there will release."""
    code = f"""
import threading, time
import numpy as np
from tests.runtime import work
items = [work.Work(3, c, 400, t) for c in (8, 24, 40) for t in (np.float32, np.float64)]
thread = threading.Thread(target=work.check, args=items)
thread.start()
time.sleep({delay})
assert thread.is_alive()
work.in_fork(lambda: work.check(items[-1], items[0]))
thread.join()
work.check(*items)
"""
    python(code, NUMBACONV_CACHE="0", NUMBA_NUM_THREADS="3")


def test_a_fork_while_another_thread_waits_to_compile(python):
    """Two threads hold and want the compiler lock when a third one forks."""
    code = """
import threading, time
import numpy as np
from tests.runtime import work
items = [work.Work(3, 8, 40, np.float64), work.Work(3, 8, 40, np.float32)]
threads = [threading.Thread(target=work.check, args=[item]) for item in items]
for thread in threads:
    thread.start()
time.sleep(0.2)
work.in_fork(lambda: work.check(items[0]))
for thread in threads:
    thread.join()
"""
    python(code, NUMBACONV_CACHE="0", NUMBA_OPT="0")


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_pools_of_processes(python, threading_layer, method):
    if sys.platform == "darwin" and method == "fork":
        pytest.skip("macOS frameworks do not survive a fork")
    code = f"""
import multiprocessing
from tests.runtime import work
work.check(work.large())
with multiprocessing.get_context({method!r}).Pool(2) as pool:
    assert all(pool.map(work.is_right, range(6)))
work.check(work.large())
"""
    python(code, **threading_layer)


@pytest.mark.slow
def test_pool_of_forkserver(python):
    code = """
import multiprocessing
from tests.runtime import work
with multiprocessing.get_context("forkserver").Pool(2) as pool:
    assert all(pool.map(work.is_right, range(4)))
"""
    python(code)


@pytest.mark.slow
def test_pool_of_joblib(python):
    pytest.importorskip("joblib")
    code = """
import joblib
from tests.runtime import work
work.check(work.large())
tasks = [joblib.delayed(work.is_right)(seed) for seed in range(4)]
for backend in ("loky", "threading"):
    assert all(joblib.Parallel(n_jobs=2, backend=backend)(tasks))
"""
    python(code, NUMBA_NUM_THREADS="3")


@pytest.mark.slow
def test_layers_travel_to_other_processes(python):
    code = """
import multiprocessing
from tests.runtime import work
item = work.large()
work.check(item)
with multiprocessing.get_context("spawn").Pool(1) as pool:
    y = pool.apply(item.layer, (item.x,))
assert (y == item.expected).all()
"""
    python(code, NUMBA_NUM_THREADS="3")

"""Threads: of ours, of the caller, of Numba's layers; each case in a process of its own."""

import importlib.metadata
import sys

import numpy as np
import pytest

import numbaconv
from numbaconv import Conv1D, conv1d
from tests.runtime import child
from tests.runtime.conftest import loaded_layer

MOST = numbaconv._threads.max_threads()


# --- which layer
@pytest.mark.skipif(sys.platform != "linux", reason="names of libraries differ")
@pytest.mark.parametrize("name", ["workqueue", "omp", "tbb"])
def test_each_layer_can_be_chosen(package, name):
    if name == "tbb":
        try:
            importlib.metadata.version("tbb")
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("tbb is not installed")
    assert loaded_layer(package, name) == name


# --- many callers
def test_the_work_is_shared_among_threads(python):
    code = """
from tests.runtime import work
for item in work.various():
    assert item.layer.explain(item.x).details["threads"].startswith(("2", "3")), item.layer
"""
    python(code, NUMBA_NUM_THREADS="3")


def test_threads_hammer_one_layer(python, threading_layer):
    code = "from tests.runtime import work; work.hammer([work.large()] * 8, rounds=100)"
    python(code, **threading_layer)


@pytest.mark.slow
def test_threads_hammer_different_layers(python, threading_layer):
    python("from tests.runtime import work; work.hammer(work.various() * 2)", **threading_layer)


@pytest.mark.slow
def test_threads_compile_at_once(python, threading_layer):
    code = "from tests.runtime import work; work.hammer(work.various() + [work.small()], rounds=2)"
    python(code, NUMBACONV_CACHE="0", **threading_layer)


def test_threads_call_while_weights_change(python, threading_layer):
    """A result belongs to the old filter or to the new one, never to both."""
    code = """
import threading, numpy as np
from tests.runtime import work
item = work.large()
filter, stop, wrong = item.layer.filter, threading.Event(), []
def call():
    while not stop.is_set():
        y = item.layer(item.x)
        if not any(np.array_equal(y, factor * item.expected) for factor in (1, 2)):
            wrong.append(y)
threads = [threading.Thread(target=call) for _ in range(3)]
for thread in threads:
    thread.start()
for turn in range(100):
    item.layer.filter = filter * (1 + turn % 2)
stop.set()
for thread in threads:
    thread.join()
assert not wrong
"""
    python(code, **threading_layer)


@pytest.mark.slow
def test_a_thread_that_outlives_the_main_thread(python, threading_layer):
    code = """
import threading
from tests.runtime import work
item = work.large()
def call():
    work.check(*[item] * 50)
    print("done")
threading.Thread(target=call).start()
"""
    assert python(code, **threading_layer) == "done\n"


# --- the user's own settings
def test_settings_of_numba_stay(python, threading_layer):
    code = """
import numba
from tests.runtime import work
item = work.large()
work.check(item)  # Numba alone does not find the TBB of a virtual environment
for mine in (2, 1, 3):
    numba.set_num_threads(mine)
    for threads in (None, 1, 2, 3):
        work.check(item, threads=threads)
        assert numba.get_num_threads() == mine
    numba.set_parallel_chunksize(7)
    work.check(item)
    assert numba.get_parallel_chunksize() == 7
    numba.set_parallel_chunksize(0)
"""
    python(code, **threading_layer)


def test_numbers_of_threads_of_torch_stay(python, threading_layer):
    pytest.importorskip("torch", exc_type=ImportError)
    code = """
import torch
from tests.runtime import work
torch.set_num_threads(2)
work.check(work.large())
assert torch.get_num_threads() == 2
"""
    python(code, **threading_layer)


@pytest.mark.slow
def test_parallel_code_of_the_user_in_between(python, threading_layer):
    code = """
import numba, numpy as np
from tests.runtime import work
@numba.njit(parallel=True)
def total(a):
    s = 0.0
    for i in numba.prange(a.size):
        s += a[i]
    return s
item, a = work.large(), np.ones(10000)
work.check(item)  # Numba alone does not find the TBB of a virtual environment
for _ in range(20):
    assert total(a) == a.size
    work.check(item)
"""
    python(code, **threading_layer)


# --- our settings
@pytest.fixture
def limit():
    yield numbaconv.set_num_threads
    numbaconv.set_num_threads(None)


def test_threads_are_set_and_read(limit):
    assert numbaconv.get_num_threads() == MOST
    limit(1)
    assert numbaconv.get_num_threads() == 1
    limit(np.int64(MOST))
    assert numbaconv.get_num_threads() == MOST
    limit(None)
    assert numbaconv.get_num_threads() == MOST


SETTERS = {
    "set_num_threads": numbaconv.set_num_threads,
    "Conv1D": lambda threads: Conv1D(3, 4, 4, threads=threads),
    "call": lambda threads: Conv1D(3, 4, 4)(np.ones((1, 9, 4), np.float32), threads=threads),
    "conv1d": lambda threads: conv1d(np.ones((1, 9, 4)), np.ones((3, 4, 4)), threads=threads),
}


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize(
    ("value", "error", "sentence"),
    [
        (0, ValueError, "threads must be an integer >= 1, got 0"),
        (-2, ValueError, "threads must be an integer >= 1, got -2"),
        (MOST + 1, ValueError, rf"threads must be at most {MOST} \(NUMBA_NUM_THREADS\), got"),
        (1.0, TypeError, "threads must be an integer >= 1, got 1.0"),
        ("2", TypeError, "threads must be an integer >= 1, got '2'"),
        (True, TypeError, "threads must be an integer >= 1, got True"),
    ],
)
def test_nonsense_is_refused(setter, value, error, sentence):
    with pytest.raises(error, match=f"^{sentence}"):
        SETTERS[setter](value)


def test_every_way_to_say_threads_gives_the_same_bits(python):
    code = """
import numpy as np, numbaconv
from tests.runtime import work
rng = np.random.default_rng(0)
for item in work.various():
    layer, x = item.layer, rng.standard_normal(item.x.shape).astype(item.x.dtype)
    g = dict(padding=layer.padding, num_groups=layer.num_groups, algorithm="direct",
             padding_mode=layer.padding_mode)
    results = [layer(x, threads=1)]
    for threads in (1, 2, 3, None):
        results.append(layer(x, threads=threads))
        results.append(numbaconv.conv1d(x, layer.filter, threads=threads, **g))
        other = numbaconv.Conv1D(layer.kernel_size, layer.in_channels, layer.out_channels,
                                 layer.dtype, threads=threads, **g)
        other.filter = layer.filter
        results.append(other(x))
        numbaconv.set_num_threads(threads)
        results += [layer(x), layer(x, threads=3)]
    assert len({y.tobytes() for y in results}) == 1, layer
"""
    python(code, NUMBA_NUM_THREADS="3")


@pytest.mark.slow
def test_explain_follows_the_limit(python):
    code = """
import numbaconv
from tests.runtime import work
item = work.large()
for threads in (1, 3):
    numbaconv.set_num_threads(threads)
    assert item.layer.explain(item.x).details["threads"].startswith(str(threads))
"""
    python(code, NUMBA_NUM_THREADS="3")


# --- the GIL
@pytest.mark.parametrize("threads", [1, None])
def test_other_threads_run_during_a_long_call(python, threads):
    code = f"""
import sys, threading, time
from tests.runtime import work
layer, x = work.long_call(0.5, threads={threads})
beats, stop = [], threading.Event()
def beat():
    while not stop.wait(0.01):
        beats.append(time.perf_counter())
thread = threading.Thread(target=beat)
thread.start()
begin = time.perf_counter()
layer(x)
end = time.perf_counter()
stop.set()
thread.join()
during = [t for t in beats if begin + 0.1 * (end - begin) < t < end - 0.1 * (end - begin)]
assert len(during) > 5, (len(during), end - begin)
"""
    python(code)


# --- no layer at all
@pytest.mark.parametrize("error", ["ValueError", "ImportError"])
def test_without_a_layer_calls_are_serial(python, error):
    code = f"""
import logging, io
log = io.StringIO()
logging.basicConfig(stream=log)
from numba.np.ufunc import parallel
def fail():
    raise {error}("No threading layer could be loaded.")
parallel._launch_threads = fail
from tests.runtime import work
work.hammer(work.various(), rounds=3)
assert log.getvalue().count("no threading layer, calls run on one core") >= 1
"""
    python(code, NUMBA_NUM_THREADS="3")


def test_an_unknown_layer_makes_calls_serial(package):
    code = "from tests.runtime import work; work.check(work.large())"
    done = child.run("-c", code, package=package, NUMBA_THREADING_LAYER="nonsense")
    assert done.status == 0 or "NUMBA_THREADING_LAYER" in done.err or "nonsense" in done.err


def test_one_core_starts_no_layer(python):
    code = """
from tests.runtime import work
work.check(*work.various())
from numba.np.ufunc import parallel
assert not parallel._is_initialized
"""
    python(code, NUMBA_NUM_THREADS="1")

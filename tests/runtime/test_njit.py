"""`conv1d` called from a user's own compiled functions."""

import inspect
import re

import numba
import numpy as np
import pytest
from numba.core.errors import NumbaError

from numbaconv import conv1d
from tests.runtime.child import edited_copy

# Groups, and input and output channels of a group: few, since each kind compiles a kernel.
GROUPS = ((1, 5, 7), (2, 3, 4), (4, 1, 1))
MODES = ("zeros", "reflect", "replicate", "circular")


@numba.njit
def compiled(x, filter, bias, stride, padding, dilation, num_groups, padding_mode, permute):
    return conv1d(
        x, filter, bias, stride=stride, padding=padding, dilation=dilation,
        num_groups=num_groups, padding_mode=padding_mode, permute=permute,
    )  # fmt: skip


@numba.njit
def compiled_into(x, filter, out):
    return conv1d(x, filter, padding="same", out=out, algorithm="direct", threads=1)


@numba.njit
def compiled_plainly(x, filter):
    return conv1d(x, filter)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def normal(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def assert_same_bits(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def test_the_overload_has_the_parameters_of_the_function():
    from numbaconv._overload import conv1d_overload

    ours, theirs = (inspect.signature(f).parameters for f in (conv1d, conv1d_overload))
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


def both_ways(x, filter, bias, *parameters):
    names = list(inspect.signature(compiled.py_func).parameters)[3:]
    expected = conv1d(x, filter, bias, **dict(zip(names, parameters, strict=True)))
    return compiled(x, filter, bias, *parameters), expected


# --- the same numbers
@pytest.mark.parametrize(
    "padding", ["same", (4, 1), slow(3), slow("valid"), slow((-2, 3))], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", slow("float64")])
def test_parameters(padding, dtype):
    """Random values of everything that the compiled function takes at run time."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        groups, depth, width = GROUPS[rng.integers(len(GROUPS))]
        stride, dilation, taps = rng.integers(1, 4, 3)
        x = normal(2, 40, groups * depth, dtype=dtype)
        filter = normal(taps, depth, groups * width, dtype=dtype)
        bias = normal(groups * width, dtype=dtype) if rng.random() < 0.5 else None
        permute = rng.random() < 0.5
        if permute:
            x, filter = x.transpose(0, 2, 1).copy(), filter.transpose(2, 1, 0).copy()
        mode = MODES[rng.integers(4)]
        parameters = (int(stride), padding, int(dilation), int(groups), mode, bool(permute))
        assert_same_bits(*both_ways(x, filter, bias, *parameters))


def test_defaults():
    x, filter = normal(1, 30, 5), normal(3, 5, 7)
    assert_same_bits(compiled_plainly(x, filter), conv1d(x, filter))


@pytest.mark.parametrize("length", [3, 3000])
def test_arguments_by_position_and_by_name(length):
    @numba.njit
    def by_name(f, x, b):
        return conv1d(bias=b, filter=f, x=x)

    x, filter, bias = normal(1, length, 64), normal(3, 64, 64), normal(64)
    assert_same_bits(by_name(filter, x, bias), conv1d(x, filter, bias))


LAYOUTS = {
    "fortran": np.asfortranarray,
    "reversed": lambda x: x[:, ::-1],
    "transposed": lambda x: x.transpose(0, 2, 1).copy().transpose(0, 2, 1),
    "stepped": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "broadcast": lambda x: np.broadcast_to(x[:, :1], x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_x(layout):
    x, filter = LAYOUTS[layout](normal(2, 30, 6)), normal(3, 6, 5)
    assert_same_bits(compiled_plainly(x, filter), conv1d(x, filter))


def test_read_only_arrays():
    x, filter = normal(2, 30, 6), normal(3, 6, 5)
    x.flags.writeable = filter.flags.writeable = False
    assert_same_bits(compiled_plainly(x, filter), conv1d(x, filter))


def test_an_empty_batch():
    y = compiled_plainly(np.empty((0, 9, 4), np.float32), normal(3, 4, 5))
    assert y.shape == (0, 7, 5)


# --- out
@pytest.mark.parametrize("layout", ["contiguous", "fortran", "reversed"])
def test_out_is_written_and_returned(layout):
    x, filter = normal(2, 300, 64), normal(3, 64, 64)
    out = np.full((2, 300, 64), np.nan, np.float32)
    out = LAYOUTS.get(layout, np.asarray)(out)
    y = compiled_into(x, filter, out)
    expected = conv1d(x, filter, padding="same", algorithm="direct")
    assert_same_bits(np.ascontiguousarray(out), expected)
    assert y.ctypes.data == out.ctypes.data and y.strides == out.strides


def test_out_may_be_none():
    x, filter = normal(2, 30, 6), normal(3, 6, 5)
    assert_same_bits(compiled_into(x, filter, None), conv1d(x, filter, padding="same"))


def test_out_may_be_the_input():
    x, filter = normal(2, 30, 6), normal(3, 6, 6)
    expected = conv1d(x, filter, padding="same")
    assert_same_bits(compiled_into(x, filter, x), expected)


# --- errors
BAD = {
    "stride": (0, 1, 1, 1, "zeros", False),
    "dilation": (1, 1, -3, 1, "zeros", False),
    "num_groups": (1, 1, 1, 4, "zeros", False),
    "padding_mode": (1, 1, 1, 1, "wrap", False),
    "too short": (1, -4, 9, 1, "zeros", False),
    "padding too wide": (1, 99, 1, 1, "reflect", False),
}


@pytest.mark.parametrize("bad", BAD)
def test_errors_are_the_same_sentences(bad):
    x, filter = normal(1, 20, 6), normal(3, 6, 5)
    names = list(inspect.signature(compiled.py_func).parameters)[3:]
    with pytest.raises(ValueError) as expected:
        conv1d(x, filter, **dict(zip(names, BAD[bad], strict=True)))
    with pytest.raises(ValueError, match=f"^{re.escape(str(expected.value))}$"):
        compiled(x, filter, None, *BAD[bad])


def test_errors_of_arrays_are_the_same_sentences():
    x, filter = normal(1, 20, 6), normal(3, 5, 5)
    for arrays in ((x, filter), (x, filter.astype(np.float64)), (x.astype(int), filter)):
        with pytest.raises((ValueError, TypeError)) as expected:
            conv1d(*arrays)
        with pytest.raises(expected.type, match=f"^{re.escape(str(expected.value))}$"):
            compiled_plainly(*arrays)


def test_a_wrong_out_is_refused_and_not_written():
    x, filter, out = normal(1, 20, 6), normal(3, 6, 5), np.zeros((1, 19, 5), np.float32)
    with pytest.raises(ValueError, match=r"^out must have shape \(1, 20, 5\), got \(1, 19, 5\)$"):
        compiled_into(x, filter, out)
    assert not out.any()


def test_an_error_can_be_caught_and_the_next_call_is_right():
    x, filter = normal(1, 20, 6), normal(3, 6, 5)
    for _ in range(20):
        with pytest.raises(ValueError, match=r"^x must have 6 channels"):
            compiled_plainly(normal(1, 20, 7), filter)
        assert_same_bits(compiled_plainly(x, filter), conv1d(x, filter))


@pytest.mark.parametrize("x", [np.ones((3, 4), np.float32), 3.0], ids=["matrix", "number"])
def test_what_is_no_signal_is_refused_when_compiling(x):
    with pytest.raises(NumbaError, match="conv1d: x must be an array of 3 dimensions"):
        compiled_plainly(x, normal(3, 4, 5))


# --- in parallel
PRANGE = """
import numba, numpy as np
from numbaconv import _threads, conv1d
from tests.runtime import work

@numba.njit(parallel=True)
def each(xs, filter, ys):
    for i in numba.prange(len(xs)):
        conv1d(xs[i], filter, out=ys[i])

item = work.large() if {is_large} else work.small()
work.check(item)
_threads.threading_layer()  # Numba alone does not find the TBB of a virtual environment
xs = np.stack([item.x] * 8)
ys = np.full((8, *item.expected.shape), np.nan, np.float32)
for _ in range(5):
    ys[:] = np.nan
    each(xs, item.layer.filter, ys)
    assert (ys == item.expected).all()
"""


@pytest.mark.parametrize("is_large", [slow(False), True], ids=["small", "large"])
def test_inside_prange(python, threading_layer, is_large):
    """Also work that would itself use threads: nested, or in this thread, but never a crash."""
    python(PRANGE.format(is_large=is_large), **threading_layer)


@pytest.mark.slow
def test_threads_that_call_one_compiled_function(python, threading_layer):
    code = """
import numba, threading
from numbaconv import conv1d
from tests.runtime import work

@numba.njit(nogil=True)
def call(x, filter):
    return conv1d(x, filter)

item, wrong = work.large(), []
def repeat():
    for _ in range(30):
        if not (call(item.x, item.layer.filter) == item.expected).all():
            wrong.append(1)
threads = [threading.Thread(target=repeat) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong
"""
    python(code, **threading_layer)


# --- kept on disk
MODULE = """
import numba
from numbaconv import conv1d

@numba.njit(cache=True)
def smooth(x, filter, out):
    conv1d(x, filter, padding="same", out=out)
    return conv1d(out, filter, padding="same")
"""
CALL = """
import sys
sys.path.insert(0, {place!r})
import numpy as np
import users_module
x, filter = np.ones((1, 20, 4), np.float32), np.ones((1, 4, 4), np.float32)
y = users_module.smooth(x, filter, np.empty_like(x))
assert (y == {expected}).all(), y.ravel()[0]
stats = users_module.smooth.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_a_function_kept_on_disk_runs_the_kernels_that_are_installed(package, python, tmp_path):
    """Numba's own cache cannot know that the package was edited in between."""
    (tmp_path / "users_module.py").write_text(MODULE)
    edited = edited_copy(package, tmp_path / "edited")
    places = {
        "NUMBA_CACHE_DIR": tmp_path / "numba",
        "NUMBACONV_CACHE_DIR": tmp_path / "cache",
        "NUMBA_OPT": "1",  # at 0 Numba refuses to keep functions that call back
    }
    once, twice = (CALL.format(place=str(tmp_path), expected=n) for n in (16, 64))
    assert python(once, **places) == "0 1\n"
    assert python(once, **places) == "1 0\n"
    assert python(twice, package=edited, **places) == "1 0\n"
    assert python(once, **places) == "1 0\n"

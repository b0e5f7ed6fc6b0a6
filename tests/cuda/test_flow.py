"""From a caller's array to a launch and back: kinds of arrays, streams, copies, errors."""

import gc
import sys
import types

import numpy as np
import pytest

import numbaconv
from numbaconv import Conv1D, conv1d, explain
from numbaconv.cuda import arrays, driver
from numbaconv.cuda.memory import DeviceArray
from tests import oracle
from tests.cuda.fake_driver import FakeArray

F32 = np.dtype(np.float32)


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


@pytest.fixture
def layer(fake):
    fake.reset()
    made = Conv1D(3, 16, 32, padding=1, has_bias=True)
    made.filter, made.bias = numbers(3, 16, 32), numbers(32, seed=1)
    return made


def expected(layer, x):
    return oracle.convolve(x, layer.filter, layer.bias, padding=1, permute=layer.permute)


# --- where x lives


def test_without_a_device_x_says_where(fake, layer):
    x = numbers(2, 9, 16)
    on_host, on_device = layer(x), layer(FakeArray(fake, x))
    assert type(on_host) is np.ndarray
    np.testing.assert_array_equal(on_host, expected(layer, x))
    np.testing.assert_array_equal(on_device.copy_to_host(), expected(layer, x))


def test_a_numpy_array_is_copied_in_and_the_answer_back(fake):
    fake.reset()
    made = Conv1D(3, 16, 32, padding=1, device="cuda", permute=True)
    x, out = numbers(2, 16, 9), np.full((2, 32, 9), np.nan, np.float32)
    wanted = oracle.convolve(x, made.filter, padding=1, permute=True)
    y = made(x)
    assert type(y) is np.ndarray and y.flags.c_contiguous
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    assert made(x, out=out) is out
    np.testing.assert_array_equal(out, y)


def test_cpu_with_a_cuda_array_is_an_error(fake):
    made = Conv1D(3, 16, 32, device="cpu")
    with pytest.raises(TypeError, match=r"x lies on a CUDA device.*copy it to the host"):
        made(FakeArray(fake, numbers(2, 9, 16)))


def test_the_device_must_be_that_of_the_layer(fake, monkeypatch):
    monkeypatch.setattr(fake, "device_of", lambda address: 1)
    monkeypatch.setattr(fake, "device", lambda ordinal: fake._device)
    made = Conv1D(3, 16, 32, device="cuda:0")
    with pytest.raises(ValueError, match="x lies on device 1, and the layer on 'cuda:0'"):
        made(FakeArray(fake, numbers(2, 9, 16)))


@pytest.mark.parametrize("device", ["cuda:7", "cuda:x"])
def test_devices_that_are_not_there(fake, device):
    with pytest.raises((RuntimeError, ValueError), match=f"device='?{device}|got '{device}'"):
        Conv1D(3, 16, 32, device=device)


# --- weights


def test_weights_move_once(fake, layer, monkeypatch):
    copies = []
    copy = fake.to_device
    monkeypatch.setattr(fake, "to_device", lambda *a: (copies.append(a[1].shape), copy(*a))[1])
    x = FakeArray(fake, numbers(2, 9, 16))
    copies.clear()
    layer(x), layer(x)
    assert sorted(copies) == [(3, 16, 32), (32,)]


def test_new_weights_move_again(fake, layer):
    x = numbers(1, 9, 16)
    there = FakeArray(fake, x)
    first = layer(there).copy_to_host()
    layer.filter = -layer.filter
    second = layer(there).copy_to_host()
    np.testing.assert_array_equal(second, expected(layer, x))
    assert not np.array_equal(first, second)


def test_device_memory_is_given_back(fake, layer):
    x = FakeArray(fake, numbers(1, 9, 16))
    before = len(fake.sizes)
    y = layer(x)
    assert len(fake.sizes) == before + 3  # filter, bias, y
    layer.filter = -layer.filter
    del y
    gc.collect()
    assert len(fake.sizes) == before


# --- a launch does nothing but launch


def test_a_repeated_call_allocates_copies_and_waits_for_nothing(fake, layer, monkeypatch):
    """So a CUDA graph can capture it."""
    x = FakeArray(fake, numbers(2, 9, 16))
    out = FakeArray(fake, np.full((2, 9, 32), np.nan, np.float32))
    layer(x, out=out)

    def forbidden(*arguments):
        raise AssertionError("not during a capture")

    for name in ("allocate", "free", "to_device", "to_host", "load", "allow_shared"):
        monkeypatch.setattr(fake, name, forbidden)
    assert layer(x, out=out) is out
    monkeypatch.undo()
    np.testing.assert_array_equal(out.read(), expected(layer, x.read()))


# --- libraries, by stand-ins that offer what the package uses of them


def stand_in(fake, monkeypatch, module, **extra):
    """A class of arrays that claims to come from `module`."""
    made = []

    class Array(FakeArray):
        def new_empty(self, shape):
            made.append(shape)
            return type(self)(fake, np.full(shape, np.nan, self._view.dtype))

    Array.__module__ = f"{module}.something"
    Array.device = types.SimpleNamespace(index=0, id=0)
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**extra))
    return Array, made


def test_torch(fake, layer, monkeypatch):
    streams = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=77)
    )
    kind, made = stand_in(fake, monkeypatch, "torch", cuda=streams)
    x = numbers(2, 9, 16)
    y = layer(kind(fake, x))
    assert type(y) is kind and made == [(2, 9, 32)]
    assert fake.launches[-1][-1] == 77
    np.testing.assert_array_equal(y.read(), expected(layer, x))


def test_cupy(fake, layer, monkeypatch):
    from contextlib import nullcontext

    cuda = types.SimpleNamespace(
        get_current_stream=lambda: types.SimpleNamespace(ptr=99), Device=nullcontext
    )
    kind, _ = stand_in(
        fake, monkeypatch, "cupy", cuda=cuda,
        empty=lambda shape, dtype: FakeArray(fake, np.full(shape, np.nan, dtype)),
    )  # fmt: skip
    x = numbers(2, 9, 16)
    y = layer(kind(fake, x))
    assert fake.launches[-1][-1] == 99
    np.testing.assert_array_equal(y.read(), expected(layer, x))


def test_jax(fake, layer, monkeypatch):
    def empty(shape, dtype, device):
        made = FakeArray(fake, np.full(shape, np.nan, dtype))
        made.block_until_ready = lambda: made
        return made

    kind, _ = stand_in(fake, monkeypatch, "jaxlib")
    monkeypatch.setitem(
        sys.modules, "jax", types.SimpleNamespace(numpy=types.SimpleNamespace(empty=empty))
    )
    x = numbers(2, 9, 16)
    there = kind(fake, x)
    there.block_until_ready = lambda: there
    np.testing.assert_array_equal(layer(there).read(), expected(layer, x))
    assert fake.synchronized == [0]  # JAX does not know on which stream we have written


def test_an_unknown_library_gets_an_array_that_others_can_read(fake, layer):
    x = FakeArray(fake, numbers(2, 9, 16))
    x.__cuda_array_interface__["stream"] = 55
    y = layer(x)
    assert type(y) is DeviceArray
    assert y.__cuda_array_interface__["shape"] == (2, 9, 32)
    assert y.__cuda_array_interface__["data"] == (y.address, False)
    assert y.__cuda_array_interface__["stream"] == 55
    assert fake.launches[-1][-1] == 55


def test_dlpack_strides_and_offset(fake):
    fake.reset()
    whole = numbers(4, 10, 20, dtype=np.float16)
    seen = FakeArray(fake, whole, whole[1:3, ::2, 3:19])
    view = arrays._view_of_dlpack(seen, "x", 0)
    assert view.shape == (2, 5, 16) and view.dtype == np.float16
    assert view.strides == whole[1:3, ::2, 3:19].strides
    assert view.address == seen.__cuda_array_interface__["data"][0]
    assert seen.dlpack_stream == 1  # the legacy default stream, as the protocol names it


def test_bfloat16_comes_by_dlpack(fake):
    import ml_dtypes

    fake.reset()
    x, filter = numbers(1, 9, 16, dtype=ml_dtypes.bfloat16), numbers(3, 16, 16)
    y = conv1d(FakeArray(fake, x), filter.astype(ml_dtypes.bfloat16))
    assert y.dtype == ml_dtypes.bfloat16
    wide = oracle.convolve(x.astype(float), filter.astype(float)).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(y.copy_to_host(), wide)


# --- errors


@pytest.mark.parametrize(
    ("x", "out", "error", "words"),
    [
        (np.zeros((9, 16), F32), None, ValueError, r"x must have 3 dimensions \(N, L, C_in\)"),
        (np.zeros((1, 9, 15), F32), None, ValueError, "x must have 16 channels"),
        (np.zeros((1, 9, 16)), None, TypeError, "x has dtype float64 but"),
        (np.zeros((1, 9, 16), F32), np.zeros((1, 9, 31), F32), ValueError, "out must have shape"),
        (np.zeros((1, 9, 16), F32), np.zeros((1, 9, 32)), TypeError, "out has dtype float64"),
        (np.zeros((0, 0, 16), F32), None, ValueError, "x is too short"),
    ],
)
def test_arguments_that_do_not_fit(fake, layer, x, out, error, words):
    if x.shape[1] == 0:
        layer = Conv1D(3, 16, 32)
    out = None if out is None else FakeArray(fake, out)
    with pytest.raises(error, match=words):
        layer(FakeArray(fake, x), out=out)
    assert not fake.launches


def test_out_that_cannot_be_written_to(fake, layer):
    x = FakeArray(fake, numbers(1, 9, 16))
    with pytest.raises(TypeError, match="out must lie on the CUDA device of x, got ndarray"):
        layer(x, out=np.zeros((1, 9, 32), F32))
    out = np.zeros((1, 9, 32), F32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        layer(x, out=FakeArray(fake, out))


def test_out_that_overlaps_x(fake):
    same = Conv1D(3, 16, 16, padding=1)
    x = FakeArray(fake, numbers(1, 9, 16))
    with pytest.raises(ValueError, match=r"out overlaps x.*pass another array"):
        same(x, out=x)


def test_filters_on_the_device(fake):
    fake.reset()
    x, filter, bias = numbers(1, 9, 16), numbers(32, 16, 3), numbers(32)
    there = [FakeArray(fake, a) for a in (x.transpose(0, 2, 1).copy(), filter, bias)]
    wanted = oracle.convolve(x.transpose(0, 2, 1), filter, bias, permute=True)
    np.testing.assert_array_equal(conv1d(*there, permute=True).copy_to_host(), wanted)
    np.testing.assert_array_equal(
        conv1d(there[0], filter, bias, permute=True).copy_to_host(), wanted
    )
    with pytest.raises(TypeError, match="filter has dtype float64"):
        conv1d(there[0], filter.astype(float), permute=True)
    with pytest.raises(TypeError, match="filter lies on a CUDA device"):
        conv1d(x, there[1])


@pytest.mark.parametrize("call", ["layer", "conv1d", "explain", "device"])
def test_what_to_install_is_said_in_one_sentence(fake, monkeypatch, call):
    x = FakeArray(fake, numbers(1, 9, 16))
    calls = {
        "layer": lambda: Conv1D(3, 16, 32)(x),
        "conv1d": lambda: conv1d(x, numbers(3, 16, 32)),
        "explain": lambda: explain(Conv1D(3, 16, 32), x),
        "device": lambda: Conv1D(3, 16, 32, device="cuda"),
    }
    monkeypatch.setattr(driver.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install 'numbaconv\[cu13\]'") as error:
        calls[call]()
    assert "\n" not in str(error.value) and "device='cpu'" in str(error.value)


def test_no_driver(monkeypatch):
    monkeypatch.setattr(driver, "_driver", None)
    monkeypatch.setattr(driver, "LIBRARY", "libcuda-that-is-not-there.so")
    with pytest.raises(RuntimeError, match="no NVIDIA driver was found"):
        driver.driver()


def test_warmup_compiles_for_the_device(fake):
    fake.reset()
    for permute in (False, True):
        numbaconv.warmup(Conv1D(3, 16, 32, np.float16, device="cuda", permute=permute))
    assert len(fake.launches) == 2


def test_explain_names_kernels_and_reasons(fake, layer):
    explanation = layer.explain(FakeArray(fake, numbers(1, 9, 16)))
    assert explanation.kernel == "ffma"
    reasons = dict(explanation.declined)
    assert "tf32" in reasons["mma"] and "one input channel" in reasons["depthwise"]
    assert "interpreter" in explanation.details["device"]

"""Kernels compiled once a session, and a fake driver that interprets them."""

import functools
import os
from importlib.util import find_spec

import pytest

if find_spec("numba_cuda") is None:  # it is in the dependency group `cuda`, for Linux
    collect_ignore_glob = ["*.py"]
else:
    from numbaconv import _cache
    from numbaconv.cuda import compiler, driver, execute
    from numbaconv.cuda.compiler import Architecture, Image
    from tests.cuda.fake_driver import FakeDriver


@functools.cache
def ptx_of(tile):
    """(entry, PTX) of a tile for the oldest architecture that has it.

    Kept where kernels are, so that processes of a session share what takes them half their time.
    """
    oldest = Architecture(9, 0, "a") if tile.HOPPER_ONLY else Architecture(8, 0)
    key = f"ptx {tile!r} {oldest.name} {compiler._toolkit()}".encode()
    kept = _cache.kept("ptx", key, lambda: "\0".join(compiler.ptx(tile, oldest)).encode())
    entry, text = kept.decode().split("\0")
    return entry, text


def interpreted(tile, architecture):
    """What `compiler.image` returns, with PTX in the place of machine code."""
    entry, text = ptx_of(tile)
    return Image(entry, text.encode())


@pytest.fixture(scope="session")
def session_driver():
    return FakeDriver()


@pytest.fixture(scope="module")
def fake(session_driver):
    """CUDA for the package, without a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_driver", session_driver)
        patch.setattr(compiler, "image", interpreted)
        session_driver.reset()
        yield session_driver
    execute.plan_for.cache_clear()


@pytest.fixture
def hopper(monkeypatch):
    """As `gpu`, for one test: a device of compute capability 9.0."""
    if is_on_hardware():
        if driver.driver().device(0).capability != (9, 0):
            pytest.skip("the GPU is no Hopper")
        yield Hardware()
        return
    made = FakeDriver((9, 0), 227 << 10)
    monkeypatch.setattr(driver, "_driver", made)
    monkeypatch.setattr(compiler, "image", interpreted)
    execute.plan_for.cache_clear()
    yield made
    execute.plan_for.cache_clear()


def is_on_hardware():
    """Whether `make gpu` runs the tests."""
    return os.environ.get("NUMBACONV_TEST_DEVICE") == "cuda"


class Hardware:
    """The real driver, as arrays of tests use it."""

    def __init__(self):
        self.driver = driver.driver()

    def reset(self):
        pass

    def __getattr__(self, name):
        def on_the_device(*arguments):
            with self.driver.current(0):
                return getattr(self.driver, name)(*arguments)

        return on_the_device


@pytest.fixture(scope="module")
def gpu(request):
    """The fake driver; with NUMBACONV_TEST_DEVICE=cuda, as `make gpu` sets it, a real GPU."""
    if is_on_hardware():
        return Hardware()
    return request.getfixturevalue("fake")

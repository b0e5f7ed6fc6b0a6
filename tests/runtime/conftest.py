"""Fixtures of the suites that watch whole processes."""

import functools
import shutil

import pytest

from tests.runtime import child

RUN = "from tests.runtime import work; work.check(work.small(), work.large())"


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A folder with a copy of the package, which nobody edits while tests compare processes."""
    folder = tmp_path_factory.mktemp("package")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(child.ROOT / "numbaconv", folder / "numbaconv", ignore=ignored)
    return folder


@pytest.fixture(scope="session")
def filled(package, tmp_path_factory):
    """A cache that one process has filled; for reading."""
    folder = tmp_path_factory.mktemp("filled")
    child.succeed(child.run("-c", RUN, package=package, NUMBACONV_CACHE_DIR=folder))
    return folder


@pytest.fixture
def python(package, filled):
    """Run code that must succeed, by default on the copy and with the filled cache."""

    def run(code, timeout=120, **options):
        options = {"package": package, "NUMBACONV_CACHE_DIR": filled, **options}
        return child.succeed(child.run("-c", code, timeout=timeout, **options))

    return run


@functools.cache
def loaded_layer(package, name):
    """The layer that Numba really loads when it is told to use `name`."""
    code = "from numbaconv import _threads; print(_threads.threading_layer())"
    return child.run("-c", code, package=package, NUMBA_THREADING_LAYER=name).out.strip()


@pytest.fixture(params=["omp", "workqueue", "tbb"])
def threading_layer(request, package):
    """The environment that forces one threading layer, and three threads on any machine."""
    if loaded_layer(package, request.param) != request.param:
        pytest.skip(f"{request.param} cannot be loaded here")
    return {"NUMBA_THREADING_LAYER": request.param, "NUMBA_NUM_THREADS": "3"}

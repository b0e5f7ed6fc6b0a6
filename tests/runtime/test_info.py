"""`python -m numbaconv info`."""

import importlib.metadata
import platform
import re

import numpy
import pytest

import numbaconv
from tests.runtime import child


@pytest.fixture(scope="module")
def info(package, filled):
    """Run the command; return its lines by name."""

    def run(**options):
        options = {"package": package, "NUMBACONV_CACHE_DIR": filled, **options}
        lines = child.succeed(child.run("-m", "numbaconv", "info", **options)).splitlines()
        return {line[:16].strip(): line[17:] for line in lines}

    return run


@pytest.fixture(scope="module")
def facts(info):
    return info(NUMBA_NUM_THREADS="2")


def test_versions(facts):
    assert facts["numbaconv"] == numbaconv.__version__
    assert platform.python_version() in facts["python"]
    assert facts["numpy"] == numpy.__version__
    for package in ("numba", "llvmlite"):
        assert facts[package] == importlib.metadata.version(package)


def test_processor(facts):
    assert re.search(r"\S.*, \d+ core", facts["processor"])
    assert re.match(
        r"(avx512|avx2|avx|sse|neon), \d+ registers of \d+ bits", facts["instruction set"]
    )
    assert re.fullmatch(r"L1 \d+ KiB, L2 \d+ KiB, last \d+ KiB", facts["caches"])
    assert re.fullmatch(r"\d+x\d+(, \d+x\d+)*", facts["float32 tiles"])


def test_threads(info, threading_layer):
    facts = info(**threading_layer)
    assert facts["threading layer"] == threading_layer["NUMBA_THREADING_LAYER"]
    assert facts["threads"] == "3"


def test_cache(facts, filled):
    files = list(filled.rglob("*.bin"))
    size = sum(file.stat().st_size for file in files) >> 10
    (folder,) = filled.iterdir()
    assert facts["kernel cache"] == f"{folder} ({len(files)} kernels, {size} KiB)"


def test_cache_that_is_off_or_has_no_place(info):
    assert info(NUMBACONV_CACHE="0")["kernel cache"] == "off"
    assert "no writable place" in info(NUMBACONV_CACHE_DIR="/dev/null/cache")["kernel cache"]


def test_environment_and_cuda(facts):
    assert re.search(r"compute capability|not installed|driver", facts["cuda"])
    assert "NUMBA_NUM_THREADS=2" in facts["environment"]
    assert "NUMBACONV_CACHE_DIR=" in facts["environment"]


@pytest.mark.slow
def test_another_processor(info):
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the processor is an x86-64")
    facts = info(NUMBA_CPU_NAME="nehalem", NUMBA_CPU_FEATURES="+sse,+sse2,+popcnt")
    assert facts["instruction set"] == "sse, 16 registers of 128 bits"


def test_without_a_compiler(info):
    assert "NUMBA_DISABLE_JIT" in info(NUMBA_DISABLE_JIT="1")["kernels"]


@pytest.mark.parametrize("arguments", [(), ("nonsense",)], ids=str)
def test_wrong_arguments(package, arguments):
    done = child.run("-m", "numbaconv", *arguments, package=package)
    assert done.status == 2
    assert "usage: python -m numbaconv" in done.err
    assert not done.out


def test_help(package):
    done = child.run("-m", "numbaconv", "--help", package=package)
    assert done.status == 0
    assert "info" in done.out


@pytest.mark.slow
def test_info_compiles_nothing(info, tmp_path):
    info(NUMBACONV_CACHE_DIR=tmp_path)
    assert not list(tmp_path.rglob("*.bin"))

"""Kernels for processors that this machine only contains: each in a process of its own."""

import platform
import sys

import pytest

from numbaconv.cpu import target

SSE = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt"
AVX = f"{SSE},+avx"
AVX2 = f"{AVX},+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+movbe"
PROCESSORS = {
    "sse": {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": SSE},
    "avx": {"NUMBA_CPU_NAME": "sandybridge", "NUMBA_CPU_FEATURES": AVX},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2},
}
SAMPLE = "tests.conformance.isa_sample"


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the processors are x86-64"
)
@pytest.mark.parametrize("isa", PROCESSORS)
def test_older_processors(isa, run_module):
    if target.host().vector_bytes < target.ISAS[isa].vector_bytes:
        pytest.skip(f"this machine has no {isa}")
    run_module(SAMPLE, isa, **PROCESSORS[isa])


def test_without_a_compiler(run_module):
    run_module(SAMPLE, "reference", NUMBA_DISABLE_JIT="1")


@pytest.mark.parametrize("threads", ["1", "3"])
def test_numbers_of_threads(threads, run_module):
    run_module(SAMPLE, target.host().isa, "always-parallel", NUMBA_NUM_THREADS=threads)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc"
)
def test_scratch_memory_has_room(run_module):
    """Windows are allocated in compiled code: there malloc itself looks for writes past the end.

    It also fills fresh memory with 3.4e38, where it would often hold an earlier result.
    """
    checks = {
        "LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "128",
    }  # fmt: skip
    run_module(SAMPLE, target.host().isa, **checks)

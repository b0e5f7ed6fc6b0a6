"""`python -m numbaconv info`: what a bug report needs to say."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import numpy as np

from . import __version__, _cache, _jit, _threads, dispatch

PACKAGES = ("numba", "llvmlite", "numpy", "numba-cuda", "tbb", "intel-openmp")


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cache_state() -> str:
    """Where compiled kernels are kept, and how much there is."""
    folder = _cache.folder()
    if folder is None:
        return "off" if not _cache.is_enabled() else "none: no writable place"
    files = list(folder.glob("*.bin"))
    return f"{folder} ({len(files)} kernels, {sum(f.stat().st_size for f in files) >> 10} KiB)"


def cpu_facts() -> dict[str, str]:
    """The processor as the kernels see it."""
    if _jit.is_disabled():
        return {"kernels": "reference only, NUMBA_DISABLE_JIT is set"}
    target = dispatch.cpu_target()
    lanes = target.lanes(np.dtype(np.float32))
    tiles = [f"{rows}x{v * lanes}" for v, rows in enumerate(target.tile_rows, start=1)]
    return {
        "instruction set": f"{target.isa}, {target.registers} registers of "
        f"{8 * target.vector_bytes} bits{', FMA' if target.fma else ''}",
        "float32 tiles": ", ".join(tiles),
        "caches": f"L1 {target.l1 >> 10} KiB, L2 {target.l2 >> 10} KiB, "
        f"last {target.last_cache >> 10} KiB",
        "threading layer": str(_threads.threading_layer()),
    }


def cuda_state() -> str:
    """The first device, or what CUDA lacks here."""
    from .cuda import driver

    missing = driver.missing()
    if missing is not None:
        return missing
    device = driver.driver().device(0)
    major, minor = device.capability
    return f"{device.name}, compute capability {major}.{minor}"


def facts() -> dict[str, str]:
    """Everything that `info` prints."""
    prefixes = ("NUMBACONV_", "NUMBA_")
    variables = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(prefixes))
    return {
        "numbaconv": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "processor": f"{processor()}, {os.cpu_count()} core(s)",
        **cpu_facts(),
        "threads": str(_threads.get_num_threads()),
        "kernel cache": cache_state(),
        "cuda": cuda_state(),
        **{package: version(package) for package in PACKAGES},
        "environment": ", ".join(variables) or "nothing set",
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m numbaconv", description=__doc__)
    parser.add_argument("command", choices=["info"], help="print what a bug report needs")
    parser.parse_args(arguments)
    for name, value in facts().items():
        print(f"{name:16} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Make one virtual environment for each peer: `python -m benchmarks.peers.install [NAME …]`.

A and B are timed in one process, so every environment also gets what numbaconv itself needs;
numbaconv and the benchmarks are taken from this checkout. An environment that is complete is
left alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".peers"

# tbb: the threading layer that the library itself is tested with. scipy: the reference.
COMMON = ("numba>=0.61", "numpy>=1.26", "scipy>=1.11", "tbb")

# torch is pinned to a version whose wheel holds no CUDA.
PEERS: dict[str, tuple[str, ...]] = {
    "numpy": (),
    "torch": ("torch==2.13.0",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino",),
    "jax": ("jax",),
    "tensorflow": ("tensorflow-cpu",),
    "max": ("max",),
}

# A package that would drag torch's CUDA build in fails to install instead.
CONSTRAINTS = "torch==2.13.0\n"


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, made or not."""
    folder = ENVIRONMENTS / name
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def wanted(name: str) -> str:
    """What an environment holds, written into it once it is complete."""
    return "\n".join((*COMMON, *PEERS[name])) + "\n"


def is_complete(name: str) -> bool:
    stamp = ENVIRONMENTS / name / "installed"
    return stamp.is_file() and stamp.read_text() == wanted(name)


def install(name: str) -> None:
    """Make the environment of one peer, from nothing if it is not complete."""
    folder = ENVIRONMENTS / name
    venv.create(folder, clear=True, with_pip=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(CONSTRAINTS)
    pip = [str(python_of(name)), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    packages = [*COMMON, *PEERS[name]]
    subprocess.run([*pip, "install", "--constraint", str(constraints), *packages], check=True)
    (folder / "installed").write_text(wanted(name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Install the peers that are named, all by default; report what failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PEERS))
    names = parser.parse_args(arguments).names or list(PEERS)
    if unknown := sorted(set(names) - set(PEERS)):
        parser.error(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    failed = 0
    for name in names:
        if is_complete(name):
            print(f"{name}: already there")
            continue
        try:
            install(name)
            print(f"{name}: installed")
        except (subprocess.CalledProcessError, OSError) as error:
            failed += 1
            print(f"{name}: not installed, {error}", file=sys.stderr)
    return 1 if failed == len(names) else 0


if __name__ == "__main__":
    sys.exit(main())

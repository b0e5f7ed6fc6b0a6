"""From a tile to machine code for one architecture, kept on disk by the rule of `_cache`."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

from .. import _cache
from .kernel import ADDRESSES, Tile

logger = logging.getLogger(__name__)

_lock = threading.Lock()


class Architecture(NamedTuple):
    """A compute capability, with the letter "a" for instructions of this one alone."""

    major: int
    minor: int
    suffix: str = ""

    @property
    def name(self) -> str:
        return f"sm_{self.major}{self.minor}{self.suffix}"

    def numba(self) -> tuple[Any, ...]:
        """As numba-cuda writes it."""
        return tuple(part for part in self if part != "")


class Image(NamedTuple):
    """A compiled kernel: the name of its entry, and a cubin."""

    entry: str
    code: bytes


def for_capability(capability: tuple[int, int]) -> Architecture:
    """The architecture to compile for: with Hopper's own instructions on Hopper."""
    return Architecture(*capability, "a" if capability == (9, 0) else "")


def image(tile: Tile, architecture: Architecture) -> Image:
    """Load the machine code of `tile`, or compile and keep it."""

    def make() -> bytes:
        made = _compile(tile, architecture)
        return made.entry.encode() + b"\0" + made.code

    key = f"cuda {tile!r} {architecture.name} {_toolkit()}".encode()
    entry, _, code = _cache.kept("cuda", key, make).partition(b"\0")
    return Image(entry.decode(), code)


@functools.cache
def _toolkit() -> str:
    """Versions, besides those in the folder's digest, that shape machine code."""
    names = ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink", "cuda-core", "cuda-bindings")
    found = []
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # a toolkit of the system, say
            found.append(f"{name} none")
    return ", ".join(found)


def _compile(tile: Tile, architecture: Architecture) -> Image:
    logger.debug("compiling %s for %s", tile.name, architecture.name)
    library, entry = _library(tile, architecture, link=True)
    return Image(entry, library.get_cubin(cc=architecture.numba()).code)


def ptx(tile: Tile, architecture: Architecture) -> tuple[str, str]:
    """The name of the entry and the PTX of `tile`, which tests assemble and interpret."""
    library, entry = _library(tile, architecture, link=False)
    return entry, library.get_asm_str(cc=architecture.numba())


def _library(tile: Tile, architecture: Architecture, link: bool) -> tuple[Any, str]:
    """What numba-cuda does for a kernel at its first launch, for a given architecture.

    With `link` the code passes through link-time optimisation, as numba-cuda does by default;
    without, it can be had as PTX.
    """
    from . import frontend

    types = frontend.types
    function = tile.function()
    arguments = (types.int64,) * (len(ADDRESSES) + len(tile.LONG)) + (types.int32,) * len(
        tile.SHORT
    )
    with _lock, _without_device(architecture), warnings.catch_warnings():
        warnings.simplefilter("ignore", frontend.NumbaPerformanceWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # numba-cuda 0.30 with NumPy 2.5
        compiled = frontend.compile_cuda(
            function, types.void, arguments, nvvm_options={"fastmath": False, "opt": 3},
            cc=architecture.numba(), lto=link,
        )  # fmt: skip
        library, entry = compiled.library, compiled.fndesc.llvm_func_name
        kernel = library.get_function(entry)
        library._entry_name = entry
        frontend.kernel_fixup(kernel, False)
        frontend.nvvm.set_launch_bounds(kernel, (tile.threads, tile.min_blocks))
        if link:
            library.get_cubin(cc=architecture.numba())
        else:
            library.get_asm_str(cc=architecture.numba())
    return library, entry


@contextmanager
def _without_device(architecture: Architecture) -> Iterator[None]:
    """Device functions ask for the current device's capability: answer with the target's."""
    from .frontend import dispatcher

    asked: Callable[[], Any] = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(
        compute_capability=(architecture.major, architecture.minor)
    )
    try:
        yield
    finally:
        dispatcher.get_current_device = asked

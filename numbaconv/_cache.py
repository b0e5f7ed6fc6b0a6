"""Where compiled kernels are kept between processes.

One folder for each digest of everything that shapes machine code: the package's sources,
the versions of numba, llvmlite, numpy and Python, the processor, and Numba's settings. So
an edit of any source file, the microkernel's included, never meets old machine code
(Numba's own cache looks at the file of the compiled function alone).

One file for each function and signature. It is written to a temporary name and renamed, so
that readers see a whole file or none; it begins with a checksum over its key and content,
so that a truncated or swapped file is noticed and compiled again. There is no index and no
lock: processes that fill the cache at once write the same things.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.resources
import logging
import os
import pickle
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "NUMBACONV_CACHE_DIR"
SWITCH_VARIABLE = "NUMBACONV_CACHE"

MAGIC = b"numbaconv cache 1\n"
DIGEST_LETTERS = 24
CHECKSUM_BYTES = hashlib.sha256().digest_size

# Folders that no process has used for so long are removed, as are the temporary files of
# writers that were killed.
KEEP_FOLDER_SECONDS = 30 * 86400
KEEP_TEMPORARY_SECONDS = 86400

# Numba's settings that do not shape machine code, by how their names in `numba.config` begin; those
# of CUDA change when `numba.cuda` is imported, and its kernels have a key of their own.
HARMLESS = (
    "NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS", "CACHE_DIR", "THREADING_LAYER",
    "DEBUG_CACHE", "COLOR_SCHEME", "RUNNING_UNDER_PROFILER", "CUDA_",
)  # fmt: skip


def is_enabled() -> bool:
    """Whether NUMBACONV_CACHE allows a cache: "1" (the default) or "0"."""
    value = os.environ.get(SWITCH_VARIABLE, "1")
    if value not in ("0", "1"):
        raise ValueError(f"{SWITCH_VARIABLE} must be 0 or 1, got {value!r}")
    return value == "1"


def root() -> Path:
    """The folder of all digests: NUMBACONV_CACHE_DIR, or the user's cache folder."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    if given is not None:
        path = Path(given).expanduser()
        if not given.strip() or (path.exists() and not path.is_dir()):
            raise ValueError(f"{DIRECTORY_VARIABLE} must name a folder, got {given!r}")
        return path
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "numbaconv"


def _sources(folder: Any) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            for name, text in _sources(entry):
                yield f"{entry.name}/{name}", text
        elif entry.name.endswith(".py"):
            yield entry.name, entry.read_bytes()


def _surroundings() -> tuple[Any, ...]:
    """Everything but the sources that shapes machine code or its pickle."""
    import llvmlite
    import numba
    import numpy
    from numba.core import config
    from numba.core.registry import cpu_target

    # From the environment, a file of settings, or assigned.
    settings = [
        (name, repr(getattr(config, name)))
        for name in sorted(vars(config))
        if name.isupper() and not name.startswith(HARMLESS)
    ]
    return (
        numba.__version__, llvmlite.__version__, numpy.__version__,
        sys.version, object.__basicsize__,  # the head of objects differs between builds of Python
        platform.machine(), cpu_target.target_context.codegen().magic_tuple(), settings,
    )  # fmt: skip


@functools.cache
def digest() -> str:
    """Name the sources and surroundings of this process."""
    state = hashlib.sha256(repr(_surroundings()).encode())
    for name, text in _sources(importlib.resources.files(__package__)):
        state.update(f"\0{name}\0{len(text)}\0".encode() + text)
    return state.hexdigest()[:DIGEST_LETTERS]


@functools.cache
def folder() -> Path | None:
    """This process's folder, made and marked as used, or None where there can be none."""
    if not is_enabled():
        return None
    try:
        path = root() / digest()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # no home, read-only, full
        logger.info("compiled kernels are not kept: %s", error)
        return None
    with contextlib.suppress(OSError):  # a filled cache may lie on a read-only disk
        os.utime(path)
        prune(path)
    return path


def is_kernel_folder(path: Path) -> bool:
    """Whether a folder is named as a digest and holds nothing but what this module writes."""
    try:
        return bool(re.fullmatch(f"[0-9a-f]{{{DIGEST_LETTERS}}}", path.name)) and all(
            entry.suffix in (".bin", ".tmp") for entry in path.iterdir()
        )
    except OSError:  # not a folder, or gone
        return False


def prune(used: Path) -> None:
    """Remove other digests' folders and forgotten temporary files, once they are old."""
    now = time.time()

    def is_older(path: Path, seconds: float) -> bool:
        try:
            return now - path.stat().st_mtime > seconds
        except OSError:  # another process was faster
            return False

    for other in used.parent.iterdir():
        if other == used or not is_kernel_folder(other):
            continue
        if is_older(other, KEEP_FOLDER_SECONDS):
            shutil.rmtree(other, ignore_errors=True)
    for temporary in used.glob("*.tmp"):
        if is_older(temporary, KEEP_TEMPORARY_SECONDS):
            temporary.unlink(missing_ok=True)


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.sha256(b"%d\0%b%b" % (len(key), key, payload)).digest()


def read(path: Path, key: bytes) -> bytes | None:
    """The payload of an entry, or None if it is missing, damaged or another's."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    begin = len(MAGIC) + CHECKSUM_BYTES
    payload = content[begin:]
    if content[:begin] != MAGIC + _checksum(key, payload):
        logger.warning("%s is damaged and will be written again", path)
        return None
    return payload


def write(path: Path, key: bytes, payload: bytes) -> None:
    """Write an entry so that no reader ever sees a part of it; a failure is only logged."""
    try:
        handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + _checksum(key, payload) + payload)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        logger.info("%s was not kept: %s", path, error)


def entry_name(prefix: str, key: bytes) -> str:
    """The file of the entry of a key."""
    return f"{prefix}-{hashlib.sha256(key).hexdigest()[:20]}.bin"


def kept(prefix: str, key: bytes, make: Callable[[], bytes]) -> bytes:
    """The payload of the entry of a key, made and written if it is not there."""
    place = folder()
    if place is None:
        return make()
    path = place / entry_name(prefix, key)
    payload = read(path, key)
    if not payload:
        payload = make()
        write(path, key, payload)
    return payload


class KernelCache:
    """The cache of one function, in the form that Numba's dispatchers and callbacks expect."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"

    @property
    def cache_path(self) -> str | None:
        path = folder()
        return None if path is None else str(path)

    def _entry(self, signature: Any) -> tuple[Path, bytes] | None:
        path = folder()
        if path is None:
            return None
        key = f"{self._name}{signature}".encode()
        short = self._name.rpartition(".")[2]
        return path / entry_name(short, key), key

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return a compiled function, or None to have it compiled."""
        from numba.core.compiler import CompileResult

        entry = self._entry(signature)
        payload = entry and read(*entry)
        if not payload:
            return None
        # Numba's registries must know every type before a pickle names one.
        target_context.refresh()
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception as error:  # whatever a foreign pickle may raise: compile instead
            logger.warning("%s cannot be used: %s", entry[0] if entry else "", error)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compiled function, if there is a place and it can be kept."""
        from numba.core.serialize import dumps

        entry = self._entry(signature)
        if entry is not None and not result.library.has_dynamic_globals:
            try:
                payload = dumps(result._reduce())
            except Exception as error:  # the kernel runs all the same
                logger.warning("%s cannot be kept: %s", entry[0], error)
                return
            write(*entry, payload)

    def enable(self) -> None:
        """Numba's interface; NUMBACONV_CACHE decides."""

    disable = flush = enable

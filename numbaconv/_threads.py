"""Who may run in parallel, and with how many threads.

Numba's threading layers have manners of their own: workqueue ends the process when two
threads enter it; GNU OpenMP kills a forked child that uses it after its parent did; a TBB
from pip is not on the loader's path. Nothing else in the package needs to know.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

from .problem import as_integer

logger = logging.getLogger(__name__)


class _State:
    """What the process knows of threads; replaced in a forked child."""

    def __init__(self, is_forked: bool = False) -> None:
        self.is_forked = is_forked
        self.limit: int | None = None


_state = _State()


def _after_fork_in_child() -> None:
    """A child starts with free locks, and computes serially under every layer."""
    global _state
    limit = _state.limit
    _state = _State(is_forked=True)
    _state.limit = limit


def _keep_tbb() -> None:
    """Let a process exit without taking down TBB.

    Numba's module does that when it is freed, and waits for workers: forever in a parent that
    has forked while it was held on one core, and once in a child, whose workers are its
    parent's. With a reference more, the module is never freed.
    """
    module = sys.modules.get("numba.np.ufunc.tbbpool")
    if module is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(module))


if hasattr(os, "register_at_fork"):
    # A fork waits for a compilation in another thread, or for an import that holds this lock too:
    # the child would inherit what they have locked.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
    os.register_at_fork(after_in_child=_after_fork_in_child)


def max_threads() -> int:
    """NUMBA_NUM_THREADS, by default all cores.

    Read from Numba's configuration: `numba.get_num_threads()` would reset torch's count.
    """
    return int(config.NUMBA_NUM_THREADS)


def as_threads(value: Any) -> int:
    """Return `value` as a number of threads, or say what is wrong with it."""
    threads = as_integer(value, "threads", minimum=1)
    if threads > max_threads():
        raise ValueError(
            f"threads must be at most {max_threads()} (NUMBA_NUM_THREADS), got {threads}"
        )
    return threads


def set_num_threads(threads: int | None) -> None:
    """Set how many threads a call may use where it does not say so itself.

    Parameters
    ----------
    threads : int or None
        From 1 to NUMBA_NUM_THREADS (by default the number of cores); None for as many as
        that allows. Numba's own `set_num_threads` is neither read nor changed.

    Raises
    ------
    TypeError, ValueError
        If `threads` is not such a number.

    Examples
    --------
    >>> import numbaconv
    >>> numbaconv.set_num_threads(1)
    >>> numbaconv.get_num_threads()
    1
    >>> numbaconv.set_num_threads(None)
    """
    _state.limit = None if threads is None else as_threads(threads)


def get_num_threads() -> int:
    """Return how many threads a call may use where it does not say so itself.

    Returns
    -------
    int
        What `set_num_threads` set, by default NUMBA_NUM_THREADS; 1 in a forked child.
    """
    return allowed(None)


def allowed(threads: int | None) -> int:
    """Threads that a call that asks for `threads` gets."""
    if _state.is_forked:
        return 1
    return threads or _state.limit or max_threads()


@functools.cache
@global_compiler_lock
def threading_layer() -> str | None:
    """Start Numba's threads and name their layer; None if no layer can be loaded."""
    from numba.np.ufunc import parallel

    if str(config.THREADING_LAYER).lower() in ("default", "tbb", "safe", "threadsafe", "forksafe"):
        _load_tbb()
    try:
        parallel._launch_threads()
    except (ValueError, ImportError) as error:
        logger.warning("no threading layer, calls run on one core: %s", error)
        return None
    _keep_tbb()
    return str(parallel.threading_layer())


def _load_tbb() -> None:
    """Load the TBB of a virtual environment, so that Numba's look-up by name finds it."""
    names = {
        "linux": "lib/libtbb.so.12",
        "darwin": "lib/libtbb.12.dylib",
        "win32": "Library/bin/tbb12.dll",
    }
    path = Path(sys.prefix, names.get(sys.platform, ""))
    if path.is_file():
        try:
            ctypes.CDLL(str(path), getattr(ctypes, "RTLD_GLOBAL", 0))
        except OSError as error:
            logger.info("%s cannot be loaded: %s", path, error)


def may_run_parallel() -> bool:
    """Whether the layer can be entered: there is one, and it does not end the process."""
    layer = threading_layer()
    return layer is not None and (layer != "workqueue" or is_alone())


def is_alone() -> bool:
    """Whether this is the only Python thread, the main one.

    Any other may be inside a parallel region, our own or one of the user's, and the
    workqueue layer ends the process when a second one is entered.
    """
    return threading.active_count() == 1 and threading.current_thread() is threading.main_thread()

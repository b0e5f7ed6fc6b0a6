"""Python code in a process of its own, with its own environment and an end in any case."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# What the suite itself runs under must not leak into what is tested.
PREFIXES = ("NUMBA", "XDG_CACHE_HOME")
# Python 3.12 warns of a fork beside other threads; here that is the point.
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")


@dataclass(frozen=True)
class Done:
    """How a child ended; a negative status is the signal that killed it."""

    status: int
    out: str
    err: str


def environment_of(package, changes):
    """This process's environment for a child; `package` is the folder that holds numbaconv."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
    environment["PYTHONPATH"] = os.pathsep.join([str(package), str(ROOT)])
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = str(value)
    return environment


def start(*arguments, package=ROOT, **environment):
    """Start Python with these arguments; a variable of value None is removed."""
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *WARNINGS, *map(str, arguments)],
        cwd=package,
        env=environment_of(package, environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=os.name == "posix",
    )


def signal_group(process, number):
    """Signal a child and its own children, which would keep the pipes open."""
    with contextlib.suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.kill()


def finish(process, timeout=120):
    """Wait for a child; one that hangs says where, and fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        signal_group(process, signal.SIGABRT)  # faulthandler prints every thread's stack
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
        signal_group(process, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    return Done(process.returncode, out, err)


def run(*arguments, timeout=120, **options):
    return finish(start(*arguments, **options), timeout)


def succeed(done):
    """Return what a child printed, if it ended well."""
    assert done.status == 0, f"exit status {done.status}\n{done.out}\n{done.err}"
    return done.out


# The emitters' multiply-add then adds the product twice: without a bias, y doubles.
EDIT = """

_single = VectorBuilder.fma
VectorBuilder.fma = lambda self, a, b, c: _single(self, a, b, _single(self, a, b, c))
"""


def edited_copy(package, copy, name="cpu/vector.py", addition=EDIT):
    """Copy the package, and add text to one of its files."""
    shutil.copytree(package, copy)
    with (copy / "numbaconv" / name).open("a") as file:
        file.write(addition)
    return copy

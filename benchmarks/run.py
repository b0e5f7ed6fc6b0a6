"""Measure numbaconv against its peers on the public list of layers.

    python -m benchmarks.run [--peers torch,onnxruntime] [--layers tiny,fir_101]
                             [--threads 1,2] [--seconds 0.15] --out FOLDER

Every peer has a child process of its own, with the interpreter that `make peers` made for it,
in which numbaconv and the peer take turns. Each result has to pass one gate before it is timed.
A layer or a way that ends or hangs its child is recorded with the reason, and a new child goes
on behind it. One JSON file for each peer and number of threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from numbaconv.__main__ import processor
from numbaconv.cpu.target import host

from .peers import base
from .peers.gate import reference
from .peers.install import PEERS, ROOT, is_complete, python_of
from .problems import KERNEL_SIZES, PROBLEMS, named

KNOWN = tuple(problem.name for problem in (*PROBLEMS, *KERNEL_SIZES))

# Seconds until a child has imported its libraries and started their threads.
START_LIMIT = 120.0


@dataclass(frozen=True)
class Settings:
    """What every child is told."""

    seconds: float
    data: Path


@dataclass
class Progression:
    """What is known of one peer at one number of threads, while children come and go."""

    peer: str
    threads: int
    waiting: list[str]
    records: dict[str, Any] = field(default_factory=dict)
    avoided: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    threading_layer: str | None = None
    trying: tuple[str, str] | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Note what a child says."""
        if event["event"] == "ready":
            self.versions, self.threading_layer = event["versions"], event["threading_layer"]
        elif event["event"] == "trying":
            self.trying = event["layer"], event["way"]
        else:
            self.finish(event["layer"], event["record"])

    def finish(self, layer: str, record: dict[str, Any]) -> None:
        faults = self.avoided.get(layer, {})
        record.setdefault("ways", {}).update(
            {way: dict(status="failed", reason=reason) for way, reason in faults.items()}
        )
        self.records[layer] = record
        self.waiting.remove(layer)
        self.trying = None

    def blame(self, reason: str) -> None:
        """A child is gone: leave the way out that it was trying, or else the layer."""
        if self.trying is None:
            # It never got so far: there is no use in more children.
            for layer in list(self.waiting):
                self.finish(layer, dict(status="failed", reason=reason))
            return
        layer, way = self.trying
        if way:
            self.avoided.setdefault(layer, {})[way] = reason
        else:
            self.finish(layer, dict(status="failed", reason=reason))
        self.trying = None


# --- children


def environment(peer: Any, threads: int) -> dict[str, str]:
    """Equal threads for all, by each library's own variables."""
    ours = {"PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": str(threads)}
    return {**os.environ, "PYTHONWARNINGS": "ignore", **ours, **peer.environment(threads)}


def on_cores(threads: int) -> list[str]:
    """A command that holds a child on as many cores as it has threads, where there is one."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    code = f"import os, sys; os.sched_setaffinity(0, {cores}); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code]


def command(state: Progression, settings: Settings) -> list[str]:
    return [
        *on_cores(state.threads),
        str(python_of(state.peer)), "-m", "benchmarks.peers.measure", state.peer,
        "--layers", *state.waiting, "--threads", str(state.threads),
        "--seconds", str(settings.seconds), "--data", str(settings.data),
        "--avoid", json.dumps(state.avoided),
    ]  # fmt: skip


def lines(stream: IO[str]) -> queue.Queue[str | None]:
    """The lines of a stream as they come, then None."""
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        with stream:
            for line in stream:
                found.put(line)
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def run_child(state: Progression, settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield what one child says until it has ended; blame what ended it too early."""
    peer = importlib.import_module(f"benchmarks.peers.{state.peer}_peer")
    limit = getattr(peer, "LIMIT", base.LIMIT)
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        child = subprocess.Popen(
            command(state, settings), cwd=ROOT, env=environment(peer, state.threads),
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        said, patience, reason = lines(child.stdout), START_LIMIT, None
        try:
            while (line := said.get(timeout=patience)) is not None:
                patience = limit
                yield json.loads(line)
        except queue.Empty:
            reason = f"no result after {patience:.0f} s"
        finally:
            child.kill()
            child.wait()
        if state.waiting:
            state.blame(reason or ended(child.returncode, errors))


def ended(status: int, errors: IO[str]) -> str:
    """Why a child ended: its signal, or the last line it wrote."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    errors.seek(0)
    last = [line.strip() for line in errors if line.strip()][-1:]
    return f"exit status {status}: {last[0][:200] if last else 'no message'}"


def measure(state: Progression, settings: Settings, tell: Any) -> None:
    """Children until no layer is left."""
    if not is_complete(state.peer):
        state.blame("not installed: make peers")
    while state.waiting:
        for event in run_child(state, settings):
            state.take(event)
            tell(state, event)


# --- data and results


def write_data(folder: Path, name: str) -> None:
    """x and w in float32 and y in float64, the same for all children."""
    problem = named(name)
    x, w = problem.arrays()
    for part, array in (("x", x), ("w", w), ("y", reference(problem, x, w))):
        np.save(folder / f"{name}.{part}.npy", array)


def machine() -> dict[str, Any]:
    target = host()
    return dict(
        cpu=processor(), cores=os.cpu_count(), system=sys.platform, isa=target.isa,
        l1=target.l1, l2=target.l2, last_cache=target.last_cache,
    )  # fmt: skip


def write_result(out: Path, state: Progression, settings: Settings) -> Path:
    found = dict(
        peer=state.peer, threads=state.threads, seconds=settings.seconds, machine=machine(),
        versions=state.versions, threading_layer=state.threading_layer,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        layers={name: state.records[name] for name in KNOWN if name in state.records},
    )  # fmt: skip
    for name, record in found["layers"].items():
        record.setdefault("problem", dataclasses.asdict(named(name)))
    path = out / f"{state.peer}-{state.threads}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = ",".join(p.name for p in PROBLEMS)
    parser.add_argument("--peers", type=words, default=list(PEERS), help=",".join(PEERS))
    parser.add_argument("--layers", type=words, default=words(every), help=every)
    parser.add_argument("--threads", type=words, default=["1", str(os.cpu_count())])
    parser.add_argument("--seconds", type=float, default=0.15, help="for each way of a layer")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.peers) - set(PEERS)):
        parser.error(f"no such peer: {', '.join(unknown)}")
    if unknown := sorted(set(options.layers) - set(KNOWN)):
        parser.error(f"no such layer: {', '.join(unknown)}")
    options.threads = sorted({int(threads) for threads in options.threads})
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    jobs = [(threads, peer) for threads in options.threads for peer in options.peers]
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, TimeElapsedColumn(), console=console) as bar,
    ):
        settings = Settings(options.seconds, Path(folder))
        task = bar.add_task("data", total=len(options.layers) * (len(jobs) + 1))
        for name in options.layers:
            write_data(settings.data, name)
            bar.advance(task)
        for done, (threads, peer) in enumerate(jobs, start=1):

            def tell(state: Progression, event: dict[str, Any], done: int = done) -> None:
                finished = done * len(options.layers) + len(state.records)
                shown = f"{state.peer}, {state.threads} threads: {event.get('layer', 'start')}"
                bar.update(task, completed=finished, description=shown)

            state = Progression(peer, threads, list(options.layers))
            measure(state, settings, tell)
            console.print(write_result(options.out, state, settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())

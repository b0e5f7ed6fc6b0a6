"""The cost model of `algorithm="auto"`: measure, merge, fit, check.

    python -m benchmarks.transform_costs measure [--seconds S]
    python -m benchmarks.transform_costs merge FILE FILE ... [--core NAME]
    python -m benchmarks.transform_costs fit [--core NAME]
    python -m benchmarks.transform_costs check [--core NAME]

`measure` times layers on one core, direct summation beside transforms in turn, and keeps the
seconds in `costs`, in a file named as the kind of core. `merge` makes that file of several, copies
of it from one run each, since single runs on a busy machine differ. `fit` finds the
nanoseconds of each count by non-negative least squares of relative errors and writes them into
the package. `check` says what the choice
costs over the best one that was measured, on the layers that `fit` has not seen and on the
public list. Both also work for a core that was measured elsewhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from rich.progress import track

from numbaconv import Conv1D
from numbaconv.cpu.target import ISAS, Target
from numbaconv.cpu.transform import cost
from numbaconv.cpu.transform.folding import Folding
from numbaconv.cpu.transform.methods import METHODS
from numbaconv.cpu.transform.plan import TransformPlan
from numbaconv.cpu.transform.scheme import Scheme, spectrum_size
from numbaconv.dispatch import cpu_target, make_plan
from numbaconv.interop import empty_output
from numbaconv.problem import ConvProblem, Geometry

from .problems import PROBLEMS

DATA = Path(__file__).parent / "costs"
COSTS = Path(cost.__file__).parent / "costs"

# Layers after the public list: a third is for `check`, the others for `fit`.
RANDOM_LAYERS, LARGE_LAYERS, FILTERS, CHANNEL_FIRST = 600, 75, 60, 150
CHECKED_EVERY = 3
MOST_FLOPS, MOST_LARGE_FLOPS = 1.2e9, 8e9
MOST_SPECTRUM = 64e6
ROUNDS, LEAST_SECONDS = 7, 0.02

Layer = dict[str, Any]
TIMED = ("kernel", "seconds", "preparation")


def public_layers() -> list[Layer]:
    """The public list, long inputs cut."""
    layers = []
    for p in PROBLEMS:
        batch, length = p.batch, p.length
        while p.flops * batch * length / (p.batch * p.length) > MOST_LARGE_FLOPS:
            batch, length = (batch // 2, length) if batch > 1 else (batch, length // 2)
        layers.append(
            dict(
                name=p.name, batch=batch, length=length, in_channels=p.in_channels,
                out_channels=p.out_channels, kernel_size=p.kernel_size, stride=p.stride,
                dilation=p.dilation, num_groups=p.groups, padding=list(p.padding), bits=32,
            )
        )  # fmt: skip
    return layers


def random_layers(
    count: int = RANDOM_LAYERS, seed: int = 2024, name: str = "random", layout: str = "NLC"
) -> Iterator[Layer]:
    """Layers of all sizes that a transform could serve, always the same."""
    rng = np.random.default_rng(seed)

    def size(low: float, high: float) -> int:
        return round(math.exp(rng.uniform(math.log(low), math.log(high))))

    made = 0
    while made < count:
        groups = int(rng.choice([1, 1, 1, 1, 1, 2, 4, 8, 16]))
        inputs, outputs = size(2, 400), size(4, 400)
        if rng.random() < 0.6:
            inputs, outputs = (max(8, round(c / 8) * 8) for c in (inputs, outputs))
        if rng.random() < 0.08:
            groups = inputs = outputs = 1
        inputs, outputs = (-(-c // groups) * groups for c in (inputs, outputs))
        layer = dict(
            name=f"{name} {made}", batch=int(rng.choice([1, 1, 2, 8])), length=size(30, 20000),
            in_channels=inputs, out_channels=outputs,
            kernel_size=size(2, 60 if inputs > 1 else 2000),
            stride=int(rng.choice([1, 1, 1, 1, 2, 3])), dilation=int(rng.choice([1, 1, 1, 2, 5])),
            num_groups=groups, padding="same", bits=int(rng.choice([32, 32, 32, 64])),
            layout=layout,
        )  # fmt: skip
        problem = problem_of(layer)
        if 2e5 < problem.flops < MOST_FLOPS and untransformed_bytes(problem) < 100e6:
            made += 1
            yield layer


def large_layers() -> Iterator[Layer]:
    """Layers whose spectra and planes exceed the second cache, always the same."""
    rng = np.random.default_rng(2025)
    made = 0
    while made < LARGE_LAYERS:
        inputs, outputs = (int(rng.choice([64, 96, 128, 192, 256, 384, 512])) for _ in range(2))
        groups = int(rng.choice([1, 1, 1, 4]))
        layer = dict(
            name=f"random large {made}", batch=int(rng.choice([1, 4])),
            length=int(rng.integers(300, 16000)), in_channels=inputs, out_channels=outputs,
            kernel_size=int(rng.choice([3, 3, 5, 7, 9, 11, 15, 25, 41])), stride=1,
            dilation=int(rng.choice([1, 1, 3])), num_groups=groups, padding="same", bits=32,
        )  # fmt: skip
        if MOST_FLOPS < problem_of(layer).flops < MOST_LARGE_FLOPS:
            made += 1
            yield layer


def filters() -> Iterator[Layer]:
    """Signals of one channel, always the same."""
    rng = np.random.default_rng(2026)
    for i in range(FILTERS):
        length, taps = (round(math.exp(rng.uniform(*range_))) for range_ in ((6, 13), (2.5, 7.5)))
        layer = dict(
            name=f"random filter {i}", batch=int(rng.choice([1, 1, 4])), length=length,
            in_channels=1, out_channels=1, kernel_size=taps, stride=1, dilation=1, num_groups=1,
            padding="same", bits=32,
        )  # fmt: skip
        if problem_of(layer).flops < MOST_FLOPS:
            yield layer


def problem_of(layer: Layer, algorithm: Any = "direct") -> ConvProblem:
    """The problem as its layer says it, not thinned: it is measured, fitted and checked as such."""
    padding = layer["padding"]
    geometry = Geometry(
        layer["kernel_size"], layer["in_channels"], layer["out_channels"], layer["stride"],
        padding if isinstance(padding, str) else tuple(padding), layer["dilation"],
        layer["num_groups"],
    )  # fmt: skip
    dtype = np.dtype(f"f{layer['bits'] // 8}")
    return ConvProblem(
        geometry, layer["batch"], layer["length"], dtype, algorithm=algorithm,
        layout=layer.get("layout", "NLC"),
    )  # fmt: skip


def untransformed_bytes(problem: ConvProblem) -> int:
    """Of the filter, were it transformed whole: a limit on what is tried."""
    return 8 * problem.geometry.reduction * problem.geometry.out_channels


def candidates(problem: ConvProblem, target: Target) -> list[tuple[Scheme, Folding]]:
    """Those that are not hopeless, by the model as it is.

    Large spectra of hopeless ones would push all the others out of the last cache.
    """
    found = {c: cost.estimate(problem, target, *c) for c in all_candidates(problem)}
    found = {c: e for c, e in found.items() if spectrum_bytes(problem, *c) < MOST_SPECTRUM}
    best = sorted(found, key=found.__getitem__)[:7]
    return [c for c in best if found[c] < 2.5 * found[best[0]]]


def spectrum_bytes(problem: ConvProblem, scheme: Scheme, folding: Folding) -> int:
    columns = max(folding.columns, 16)
    size = folding.groups * spectrum_size(scheme, folding.depth, columns)
    return size * problem.dtype.itemsize


def label(scheme: Scheme, folding: Folding) -> str:
    return scheme.name + (f" x{folding.row_positions}" if folding.row_positions > 1 else "")


def interleaved(calls: list[Callable[[], Any]]) -> list[float]:
    """The fastest of several rounds of each, in turn, each warmed up by a call before it.

    Other machines on the same processor empty its caches within a few milliseconds.
    """
    best = [math.inf] * len(calls)
    begin, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or (
        time.perf_counter() - begin < LEAST_SECONDS * len(calls) and rounds < 50
    ):
        for i, call in enumerate(calls):
            call()
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
        rounds += 1
        if time.perf_counter() - begin > 1:
            break
    return best


def measure(layer: Layer, target: Target) -> Layer:
    """Seconds of direct summation and of each candidate."""
    problem = problem_of(layer)
    g = problem.geometry
    owner = Conv1D(
        g.kernel_size, g.in_channels, g.out_channels, problem.dtype, stride=g.stride,
        padding=layer["padding"] if isinstance(layer["padding"], str) else tuple(layer["padding"]),
        dilation=g.dilation, num_groups=g.num_groups, rng=0,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x = rng.standard_normal((layer["batch"], layer["length"], g.in_channels)).astype(problem.dtype)
    n, l_out, channels = problem.out_shape
    if problem.layout == "NCL":  # y as a layer makes it
        x = x.transpose(0, 2, 1).copy().transpose(0, 2, 1)
        y = empty_output((n, channels, l_out), problem.dtype).transpose(0, 2, 1)
    else:
        y = empty_output((n, l_out, channels), problem.dtype)
    plans = [make_plan(problem, owner._weights)]
    labels, preparations = ["direct"], [0.0]
    for scheme, folding in candidates(problem, target):
        TransformPlan(problem, owner._weights, target, scheme, folding)  # compiles
        owner._weights._packed.clear()
        start = time.perf_counter()
        plans.append(TransformPlan(problem, owner._weights, target, scheme, folding))
        preparations.append(time.perf_counter() - start)
        labels.append(label(scheme, folding))
    bound = [plan.bind(x.strides, y.strides) for plan in plans]
    seconds = interleaved([lambda call=call: call(x, y, 1) for call in bound])
    return {
        **layer,
        "kernel": cost.direct_counts(problem, target)[0],
        "seconds": dict(zip(labels, seconds, strict=True)),
        "preparation": dict(zip(labels, preparations, strict=True)),
    }


# --- merging
def merged(runs: list[Layer]) -> Layer:
    """One layer as several runs measured it: medians of how its algorithms compare.

    A run is slower than another by one factor for all algorithms, that of what all runs have; the
    level is that of the fastest. Runs count in which the kernel that sums directly is that of most.
    """
    kernel = statistics.mode(run["kernel"] for run in runs)
    runs = [run for run in runs if run["kernel"] == kernel]
    shared = set.intersection(*(set(run["seconds"]) for run in runs))
    levels = [np.mean([math.log(run["seconds"][name]) for name in shared]) for run in runs]
    found: dict[str, list[float]] = defaultdict(list)
    for run, level in zip(runs, levels, strict=True):
        for name, seconds in run["seconds"].items():
            found[name].append(math.log(seconds) - level)
    return {
        **runs[0],
        "seconds": {
            name: rounded(math.exp(min(levels) + np.median(logs))) for name, logs in found.items()
        },
        "preparation": {
            name: min(run["preparation"][name] for run in runs if name in run["preparation"])
            for name in found
        },
    }


def rounded(seconds: float) -> float:
    return float(f"{seconds:.6g}")


def merge(files: list[Path]) -> tuple[Any, list[Layer]]:
    """The target and the layers of several files, of the layers that all of them have."""
    runs = [json.loads(file.read_text()) for file in files]
    if any(run["target"] != runs[0]["target"] for run in runs):
        raise SystemExit("merge: the files are of different targets")
    by_name = [{layer["name"]: layer for layer in run["layers"]} for run in runs]
    names = [name for name in by_name[0] if all(name in layers for layers in by_name)]
    return runs[0]["target"], [merged([layers[name] for layers in by_name]) for name in names]


# --- fitting
def rows_of(
    measured: list[Layer], target: Target
) -> dict[str, list[tuple[dict[str, float], float]]]:
    """(counts, nanoseconds) for each kind of kernel."""
    rows: dict[str, list[tuple[dict[str, float], float]]] = defaultdict(list)
    for layer in measured:
        problem = problem_of(layer)
        name, counts = cost.direct_counts(problem, target)
        if name == layer["kernel"]:  # not one that was measured before there was a better one
            rows[cost.key_of(name, problem)].append((counts, 1e9 * layer["seconds"]["direct"]))
        for scheme, folding in all_candidates(problem):
            seconds = layer["seconds"].get(label(scheme, folding))
            if seconds is None:
                continue
            blocking = cost.transform_blocking(problem, target, scheme, folding, 1)
            counts = cost.transform_counts(blocking)
            rows[cost.key_of("transform", problem)].append((counts, 1e9 * seconds))
            elements = {"elements": float(blocking.group_weights * folding.groups)}
            preparation = layer["preparation"][label(scheme, folding)]
            rows["filter"].append((elements, 1e9 * preparation))
    return rows


def all_candidates(problem: ConvProblem) -> list[tuple[Scheme, Folding]]:
    return [c for method in METHODS for c in method.fitting(problem.geometry)]


def fitted(rows: list[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Non-negative nanoseconds of each count that minimise the relative errors."""
    from scipy.optimize import nnls

    names = sorted({name for counts, _ in rows for name, count in counts.items() if count})
    matrix = np.array([[counts.get(name, 0) / t for name in names] for counts, t in rows])
    scale = matrix.max(axis=0)
    weights = np.ones(len(rows))
    for _ in range(ROUNDS):  # towards the least sum of absolute errors: a few times are disturbed
        solution, _ = nnls(matrix / scale * weights[:, None], weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(matrix / scale @ solution - 1), 0.03))
    return {
        name: float(f"{value:.4g}")
        for name, value in zip(names, solution / scale, strict=True)
        if value > 0
    }


def fit(measured: list[Layer], target: Target, core: str) -> None:
    for_fit = [m for i, m in enumerate(measured) if not is_checked(i, m)]
    # Few layers are enough for a kernel of which few are measured; none for what has none.
    all_rows = rows_of(for_fit, target)
    kinds = {kind: fitted(rows) for kind, rows in all_rows.items() if len(rows) >= 8}
    (COSTS / f"{core}.json").write_text(json.dumps(kinds, indent=1, sort_keys=True) + "\n")
    cost.costs.cache_clear()
    for kind, rows in all_rows.items():
        if kind in kinds:
            ratios = [cost.total(kinds[kind], counts) / t for counts, t in rows]
            shown = " ".join(f"{q:.2f}" for q in np.quantile(ratios, [0.05, 0.5, 0.95]))
            print(f"{kind:24} {len(rows):5} measurements, estimate/measured {shown}")


def is_checked(index: int, layer: Layer) -> bool:
    """Whether a layer is kept from `fit`."""
    return not layer["name"].startswith("random") or index % CHECKED_EVERY == 0


# --- checking
def chosen_label(problem: ConvProblem, target: Target) -> str:
    """What `auto` takes."""
    for method in METHODS:
        if method.declines(problem, target) is None:
            return label(*cost.best(problem, target, method.candidates(problem)))
    return "direct"


def check(measured: list[Layer], target: Target) -> None:
    """Print what the choice costs over the best that was measured, and where it is far off."""
    over: dict[str, list[float]] = defaultdict(list)
    for i, layer in enumerate(measured):
        if not is_checked(i, layer):
            continue
        problem = problem_of(layer, "auto")
        if cost.direct_counts(problem, target)[0] != layer["kernel"]:
            continue
        allowed = {"direct"} | {label(*c) for method in METHODS for c in method.candidates(problem)}
        seconds = {k: s for k, s in layer["seconds"].items() if k in allowed}
        choice = chosen_label(problem, target)
        fastest = min(seconds, key=lambda k: seconds[k])
        # A transform that was not even tried has no time: count what direct costs.
        ratio = seconds.get(choice, seconds["direct"]) / seconds[fastest]
        kind = "random layers" if layer["name"].startswith("random") else "public list"
        kind = "channel-first" if problem.layout == "NCL" else kind
        over[kind].append(ratio)
        over["both"].append(ratio)
        if ratio > 1.1:
            shown = {k: v for k, v in layer.items() if k not in TIMED}
            print(f"{ratio:.2f} {choice} rather than {fastest}: {shown}")
    for kind, ratios in over.items():
        quantiles = " ".join(f"{q:.3f}" for q in np.quantile(ratios, [0.5, 0.9, 0.95, 1]))
        print(f"{kind}: {len(ratios)} layers, choice/best 50, 90, 95, 100 %: {quantiles}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transform_costs")
    parser.add_argument("step", choices=["measure", "merge", "fit", "check"])
    parser.add_argument("files", type=Path, nargs="*", help="to merge")
    parser.add_argument("--core", help="as its file is named; that of this machine")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after")
    arguments = parser.parse_args()
    if bool(arguments.files) != (arguments.step == "merge"):
        parser.error("merge takes files, the other steps take none")
    if arguments.step == "merge":
        target_of_all, layers = merge(arguments.files)
        write(arguments.core or target_of_all["core"], target_of_all, layers)
        return
    numba.config.NUMBA_NUM_THREADS = 1  # layers are measured on one core, so estimates are of one
    core = arguments.core or cpu_target().core
    data = file_of(core)
    found = json.loads(data.read_text()) if data.exists() else {}
    measured: list[Layer] = found.get("layers", [])
    if arguments.step == "measure":
        measure_all(measured, cpu_target(), arguments.seconds)
        write(core, dataclasses.asdict(cpu_target()), measured)
        return
    known = found["target"]
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
    target = dataclasses.replace(ISAS[known["isa"]], **known)
    if arguments.step == "fit":
        fit(measured, target, core)
    else:
        check(measured, target)


def file_of(core: str) -> Path:
    """Where the measurements of a kind of core are."""
    return DATA / f"{core}.json"


def write(core: str, target: Any, layers: list[Layer]) -> None:
    """Write the measurements of a kind of core, a line for each layer."""
    lines = ",\n".join(map(json.dumps, layers))
    file_of(core).write_text(f'{{"target": {json.dumps(target)},\n"layers": [\n{lines}\n]}}\n')


def measure_all(measured: list[Layer], target: Target, seconds: float) -> None:
    """Add what is not yet known, in the order of the layers, until time is over."""
    begin, known = time.perf_counter(), {layer["name"] for layer in measured}
    channel_first = random_layers(CHANNEL_FIRST, 2027, "random channel-first", "NCL")
    layers = [*public_layers(), *random_layers(), *large_layers(), *filters(), *channel_first]
    for layer in track(layers, "layers"):
        if layer["name"] not in known:
            measured.append(measure(layer, target))
        if time.perf_counter() - begin > seconds:
            break
    order = {layer["name"]: i for i, layer in enumerate(layers)}
    measured.sort(key=lambda layer: order.get(layer["name"], len(order)))


if __name__ == "__main__":
    main()

"""Turn the results of `benchmarks.run` into tables and drawings.

    python -m benchmarks.report FOLDER [--readme README.md]

Reads every JSON file of the folder and writes report.md, a roofline and a bar chart beside
them; `--readme` replaces what stands between the two marks `bench:begin` and `bench:end`.
Ratios compare times that were taken in one process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .marked import rewrite
from .peers.base import ALGORITHMS, DISTURBED, OUR_WAYS, our_way
from .problems import Problem

# The kernels whose work is not that of the definition.
METHODS = ("winograd", "fft")

CEILING = (
    "The ceiling is the smaller of two: multiply-adds from registers in the half millisecond "
    "behind the layer, before the clock that it ran at has changed; and copy bandwidth at the "
    "layer's footprint times its operations a byte."
)

# Seconds below which it is the call that takes the time.
BRIEF = 5e-6

WayRecord = dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """One layer as numbaconv by one algorithm and one peer computed it in turns, in one process."""

    peer: str
    algorithm: str
    record: dict[str, Any]

    @property
    def problem(self) -> Problem:
        fields = self.record["problem"]
        return Problem(**{**fields, "padding": tuple(fields["padding"])})

    @property
    def ways(self) -> dict[str, WayRecord]:
        return self.record.get("ways", {})

    def ours(self, preallocated: bool = True) -> float | None:
        """Seconds of numbaconv, None if its result was not right."""
        found = self.ways.get(our_way(self.algorithm, preallocated), {})
        return found["seconds"] if found.get("status") == "ok" else None

    def best(self, accept: Callable[[WayRecord], bool]) -> float | None:
        """Seconds of the peer's best right way among those accepted."""
        times = [
            way["seconds"] for way in self.peer_ways() if way["status"] == "ok" and accept(way)
        ]
        return min(times, default=None)

    def ratio(self, accept: Callable[[WayRecord], bool], preallocated: bool = True) -> float | None:
        """The peer's time over ours; above one, numbaconv is faster."""
        peer, own = self.best(accept), self.ours(preallocated)
        return None if peer is None or own is None else peer / own

    def peak(self) -> float | None:
        """Multiply-add peak at the clock that our layer left; where that is unknown, alone."""
        own = self.ways.get(our_way(self.algorithm, True), {})
        return own.get("fma_peak", self.peak_alone())

    def peak_alone(self) -> float | None:
        """Multiply-add peak of a processor that does nothing else."""
        return self.record.get("fma_peak")

    def ceiling(self) -> float | None:
        """Operations a second that multiply-adds or memory allow, as measured beside it."""
        peak = self.peak()
        if peak is None:
            return None
        return min(peak, self.record["copy_bandwidth"] * self.problem.intensity)

    def is_wrong(self) -> bool:
        return any(way["status"] == "wrong" for way in self.peer_ways())

    def peer_ways(self) -> list[WayRecord]:
        return [way for name, way in self.ways.items() if name not in OUR_WAYS]


def any_way(way: WayRecord) -> bool:
    return True


def is_nlc(way: WayRecord) -> bool:
    return way["layout"] == "nlc"


def is_new_nlc(way: WayRecord) -> bool:
    return way["layout"] == "nlc" and not way["preallocated"]


@dataclass(frozen=True)
class Row:
    """One layer by one algorithm at one number of threads, against all peers."""

    name: str
    algorithm: str
    contests: tuple[Contest, ...]

    @property
    def problem(self) -> Problem:
        return self.contests[0].problem

    @property
    def kernel(self) -> str:
        found = (c.record["kernels"][c.algorithm] for c in self.contests if "kernels" in c.record)
        return next(found, "–")

    def seconds(self) -> float | None:
        """Ours with out=, the median over the processes."""
        return median(c.ours() for c in self.contests)

    def rate(self) -> float | None:
        seconds = self.seconds()
        return None if seconds is None else self.problem.flops / seconds

    def share(self, top: Callable[[Contest], float | None] = Contest.ceiling) -> float | None:
        """Ours over the ceiling of the same process, the median over the processes."""
        flops = self.problem.flops
        pairs = [(c.ours(), top(c)) for c in self.contests]
        return median(flops / own / most if own and most else None for own, most in pairs)

    def ceiling(self) -> float | None:
        return median(c.ceiling() for c in self.contests)

    def is_bound_by_memory(self) -> bool:
        peak = median(c.peak() for c in self.contests)
        return peak is not None and (self.ceiling() or peak) < peak

    def rival(
        self, accept: Callable[[WayRecord], bool] = any_way, preallocated: bool = True
    ) -> tuple[float, Contest] | None:
        """The smallest ratio, and the contest in which it was seen."""
        ratios = [(c.ratio(accept, preallocated), c) for c in self.contests]
        found = [(ratio, c) for ratio, c in ratios if ratio is not None]
        return min(found, key=lambda pair: pair[0], default=None)


@dataclass(frozen=True)
class Results:
    """All files of a folder."""

    files: tuple[dict[str, Any], ...]

    @property
    def threads(self) -> list[int]:
        return sorted({file["threads"] for file in self.files})

    def peers(self) -> list[str]:
        return list(dict.fromkeys(file["peer"] for file in self.files))

    def rows(self, threads: int, algorithm: str) -> list[Row]:
        contests: dict[str, list[Contest]] = {}
        for file in self.files:
            if file["threads"] == threads:
                for name, record in file["layers"].items():
                    contest = Contest(file["peer"], algorithm, record)
                    contests.setdefault(name, []).append(contest)
        return [Row(name, algorithm, tuple(found)) for name, found in contests.items()]


def read(folder: Path) -> Results:
    """Every result in a folder: files that have a peer and layers."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return Results(tuple(file for file in found if "peer" in file and "layers" in file))


def median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values))) if values else math.nan


# --- Markdown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def time_text(seconds: float | None) -> str:
    if seconds is None:
        return "✗"
    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def rate_text(problem: Problem, seconds: float | None) -> str:
    return "–" if seconds is None else f"{problem.flops / seconds / 1e9:.3g}"


def times_text(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def share_text(row: Row) -> str:
    share = row.share()
    if share is None:
        return "–"
    return f"{percent(share)} {'memory' if row.is_bound_by_memory() else 'FMA'}"


def own_cells(row: Row) -> list[str]:
    seconds = row.seconds()
    return [row.name, time_text(seconds), rate_text(row.problem, seconds), share_text(row)]


def rival_cells(row: Row) -> list[str]:
    """Who is best, how much slower it is, and the same among N-L-C callers."""
    cells = []
    for accept in (any_way, is_nlc):
        rival = row.rival(accept)
        cells += ["–", "–"] if rival is None else [rival[1].peer, times_text(rival[0])]
    return cells


def short_table(direct: Sequence[Row], auto: Sequence[Row]) -> list[str]:
    """Both algorithms side by side; who is best, and its time over ours, is said of `auto`."""
    head = [
        "layer", "direct", "GF/s", "of the ceiling", "to the best peer",
        "auto", "GF/s", "best peer", "its time", "best on N-L-C", "its time",
    ]  # fmt: skip
    cells = []
    for row, other in zip(direct, auto, strict=True):
        rival = row.rival()
        own = [*own_cells(row), times_text(rival and rival[0])]
        cells.append([*own, *own_cells(other)[1:3], *rival_cells(other)])
    return table(head, cells)


def peer_cell(row: Row, peer: str) -> str:
    """GF/s of a peer's best right way, and of its best on N-L-C arrays."""
    for contest in row.contests:
        if contest.peer == peer:
            best, nlc = contest.best(any_way), contest.best(is_nlc)
            if best is None:
                return "✗ wrong" if contest.is_wrong() else "–"
            return f"{rate_text(row.problem, best)} / {rate_text(row.problem, nlc)}"
    return ""


def full_table(rows: Sequence[Row]) -> list[str]:
    peers = list(dict.fromkeys(c.peer for row in rows for c in row.contests))
    own = ["layer", "kernel", "time", "GF/s", "of the ceiling", "of FMA alone"]
    head = [*own, *peers, "to the best"]
    cells = []
    for row in rows:
        name, *own = own_cells(row)
        rival = row.rival()
        found = [peer_cell(row, peer) for peer in peers]
        alone = percent(row.share(Contest.peak_alone))
        cells.append([name, row.kernel, *own, alone, *found, times_text(rival and rival[0])])
    return table(head, cells)


def ratios(
    rows: Sequence[Row], accept: Callable[[WayRecord], bool] = any_way, preallocated: bool = True
) -> list[float]:
    rivals = [row.rival(accept, preallocated) for row in rows]
    return [rival[0] for rival in rivals if rival is not None]


def summary(results: Results) -> list[str]:
    """For each number of threads and algorithm: the means, and how many layers are slower."""
    kinds = [(any_way, True), (is_nlc, True), (is_new_nlc, False)]
    head = [
        "cores", "algorithm", "layers", "any layout", "N-L-C", "N-L-C, new outputs",
        "slower layers",
    ]  # fmt: skip
    cells = []
    for threads, algorithm in itertools.product(results.threads, ALGORITHMS):
        rows = results.rows(threads, algorithm)
        means = [geometric_mean(ratios(rows, *kind)) for kind in kinds]
        slower = sum(ratio < 1 for ratio in ratios(rows))
        shown = [times_text(mean) for mean in means]
        cells.append([str(threads), algorithm, str(len(rows)), *shown, str(slower)])
    text = (
        "The best right peer's time over ours, layer by layer, geometric mean "
        "(ours and the peer's best way; the peer on N-L-C arrays; both returning new arrays):"
    )
    return [text, "", *table(head, cells)]


def slower_lines(rows: Sequence[Row]) -> list[str]:
    """The layers on which a peer is faster, worst first."""
    rivals = [(row.rival(), row) for row in rows]
    slower = sorted(
        (rival[0], row.name, rival[1].peer) for rival, row in rivals if rival and rival[0] < 1
    )
    algorithm = rows[0].algorithm
    if not slower:
        return [f"By {algorithm!r}, no layer is slower than the best peer."]
    named = ", ".join(f"{name} ({peer} {ratio:.3g}×)" for ratio, name, peer in slower)
    return [f"By {algorithm!r}, slower than the best peer: {named}."]


def ceiling_line(rows: Sequence[Row]) -> str:
    """How far there is to go: the mean if no time were lost but that of the shortest calls."""
    possible = []
    for row in rows:
        rival, share, seconds = row.rival(), row.share(), row.seconds()
        if rival is not None and share is not None and seconds is not None:
            possible.append(rival[0] if seconds < BRIEF else rival[0] / share)
    return (
        f"Were {rows[0].algorithm!r} at the ceiling in every layer of {BRIEF * 1e6:g} µs or more, "
        f"the mean would be {times_text(geometric_mean(possible))}."
    )


def fault_lines(results: Results) -> list[str]:
    """Every result that is wrong, and everything that did not run, with its reason."""
    lines = []
    for file in results.files:
        for layer, record in file["layers"].items():
            where = f"{file['peer']}, {file['threads']} threads, {layer}"
            if record.get("status") == "failed":
                lines.append(f"* {where}: failed: {record['reason']}")
            for name, way in record.get("ways", {}).items():
                if way["status"] in ("wrong", "failed"):
                    lines.append(f"* {where}, {name}: {way['status']}: {way['reason']}")
    return lines or ["None."]


def disturbed_lines(results: Results) -> list[str]:
    shares = [
        record.get("disturbance") or 0.0
        for file in results.files
        for record in file["layers"].values()
    ]
    disturbed = [share for share in shares if share > DISTURBED]
    if not disturbed:
        return []
    return [
        f"**Disturbed:** in {len(disturbed)} of {len(shares)} measurements other processes took "
        f"more than {DISTURBED:.0%} of the cores, up to {max(disturbed):.0%}."
    ]


def machine_line(results: Results) -> str:
    """What was measured, on what, and when."""
    file = results.files[0]
    machine, dates = file["machine"], sorted(found["date"][:10] for found in results.files)
    versions: dict[str, str] = {}
    for found in results.files:
        versions |= found["versions"]
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    caches = ", ".join(f"{machine[key] >> 10} KiB" for key in ("l1", "l2", "last_cache"))
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}, caches {caches}; {when}; "
        f"float32, warm. {shown}."
    )


def drawing_lines(results: Results, folder: str) -> list[str]:
    lines = []
    for threads in results.threads[-1:]:
        lines += [f"![Ratio to the best peer]({folder}{bars_name(threads)})", ""]
        lines += [f"![Roofline]({folder}{roofline_name(threads)})", ""]
    return lines


def readme_part(results: Results, folder: str) -> str:
    """What the README says: the means, one table of all cores, the drawings."""
    threads = results.threads[-1]
    direct, auto = (results.rows(threads, algorithm) for algorithm in ALGORITHMS)
    lines = [machine_line(results), "", *disturbed_lines(results), "", *summary(results), ""]
    lines += [f"{count(threads)}, out=:", "", *short_table(direct, auto), ""]
    lines += [*slower_lines(direct), *slower_lines(auto), ceiling_line(direct), ""]
    lines += [*drawing_lines(results, folder), CEILING, ""]
    lines += [f"All peers, and shares of the FMA peak alone: [report]({folder}report.md)."]
    return "\n".join(lines)


def count(threads: int) -> str:
    return "One core" if threads == 1 else f"{threads} cores"


def full_report(results: Results) -> str:
    """Everything, with faults and reasons."""
    lines = ["# numbaconv against its peers", "", machine_line(results), ""]
    lines += [*disturbed_lines(results), "", *summary(results), ""]
    lines += [
        "Peers in GF/s: best right way in any layout / best on N-L-C arrays. " + CEILING
        + " Multiply-adds alone run at a higher clock; the column behind it is the share of those.",
        "",
    ]  # fmt: skip
    for threads, algorithm in itertools.product(results.threads, ALGORITHMS):
        rows = results.rows(threads, algorithm)
        lines += [f"## {count(threads)}, {algorithm}", "", *full_table(rows), ""]
        lines += [*slower_lines(rows), *[ceiling_line(rows)] * (algorithm == "direct"), ""]
    lines += [*drawing_lines(results, ""), "## Wrong or not run", "", *fault_lines(results)]
    return "\n".join(lines) + "\n"


# --- drawings


def bars_name(threads: int) -> str:
    return f"ratio-{threads}.png"


def roofline_name(threads: int) -> str:
    return f"roofline-{threads}.png"


def draw_bars(direct: Sequence[Row], auto: Sequence[Row], threads: int, path: Path) -> None:
    """The best peer's time over ours, one bar a layer: `auto`, with a mark for `direct`."""
    from matplotlib.figure import Figure

    found = [(rival[0], row.name, rival[1].peer) for row in auto if (rival := row.rival())]
    found.sort()
    marks = {row.name: rival[0] for row in direct if (rival := row.rival())}
    figure = Figure(figsize=(8, 0.26 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots()
    values = [ratio for ratio, _, _ in found]
    colours = ["tab:red" if ratio < 1 else "tab:blue" for ratio in values]
    axes.barh([name for _, name, _ in found], [v - 1 for v in values], left=1, color=colours)
    axes.set_xscale("log", base=2)
    axes.set_xlim(min([0.5, *values]) / 1.3, max([2.0, *values]) * 2.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    for place, (ratio, name, peer) in enumerate(found):
        axes.text(max(ratio, 1) * 1.03, place, f"{ratio:.2f}× {peer}", va="center", fontsize=8)
        if name in marks:
            axes.plot([marks[name]], [place], marker="|", color="black")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(y=0.01)
    axes.set_xlabel(
        f"time of the best right peer over numbaconv's, {count(threads).lower()}; "
        "bars: auto, strokes: direct"
    )
    figure.savefig(path, dpi=110)


def draw_roofline(direct: Sequence[Row], auto: Sequence[Row], threads: int, path: Path) -> None:
    """Each layer under the ceiling that was measured beside it; transforms go beyond."""
    from matplotlib.figure import Figure

    shown = [row for row in direct if row.rate() and row.ceiling()]
    shown.sort(key=lambda row: row.problem.intensity)
    rates = {row.name: row.rate() for row in auto if row.kernel in METHODS}
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(shown, start=1):
        x, y, top = row.problem.intensity, row.rate() / 1e9, row.ceiling() / 1e9
        axes.plot([x, x], [y, top], color="0.8", linewidth=1, zorder=1)
        axes.plot([x], [top], marker="_", color="0.4", zorder=2)
        axes.plot([x], [y], marker="o", color="tab:blue", markersize=4, zorder=3)
        axes.annotate(number, (x, y), fontsize=7, xytext=(3, -7), textcoords="offset points")
        if rate := rates.get(row.name):
            axes.plot([x], [rate / 1e9], marker="^", color="tab:orange", markersize=4, zorder=3)
    names = "\n".join(f"{number:2d}  {row.name}" for number, row in enumerate(shown, start=1))
    axes.text(1.02, 1.0, names, va="top", fontsize=8, transform=axes.transAxes)
    peak = median(c.peak_alone() for row in shown for c in row.contests)
    if peak is not None:
        axes.axhline(peak / 1e9, color="black", linewidth=0.8, linestyle="--")
        right = axes.get_yaxis_transform()
        axes.text(0.01, peak / 1e9, "FMA peak alone", va="bottom", fontsize=8, transform=right)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte of x, w and y")
    axes.set_ylabel(
        f"GF/s, {count(threads).lower()}; dots: direct, triangles: transforms, "
        "dashes: the layer's own ceiling"
    )
    figure.savefig(path, dpi=110)


# --- command line


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the JSON files; report.md goes there")
    parser.add_argument("--readme", type=Path, help="file whose marked part is replaced")
    options = parser.parse_args(arguments)
    results = read(options.folder)
    if not results.files:
        parser.error(f"no results in {options.folder}; run benchmarks.run first")
    for threads in results.threads:
        rows = [results.rows(threads, algorithm) for algorithm in ALGORITHMS]
        draw_bars(*rows, threads, options.folder / bars_name(threads))
        draw_roofline(*rows, threads, options.folder / roofline_name(threads))
    (options.folder / "report.md").write_text(full_report(results))
    if options.readme is not None:
        path = os.path.relpath(options.folder, options.readme.resolve().parent)
        part = readme_part(results, Path(path).as_posix() + "/")
        rewrite(options.readme, "bench", part)
    print(full_report(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tables and drawings from a small result written by hand."""

import dataclasses
import json
import math

import pytest

from benchmarks import report
from benchmarks.marked import marks, replaced
from benchmarks.problems import named

MACHINE = dict(cpu="A CPU", cores=2, system="linux", isa="avx512", l1=1 << 15, l2=1 << 20,
               last_cache=1 << 25)  # fmt: skip


def way(seconds, layout="nlc", preallocated=False):
    return dict(
        layout=layout, preallocated=preallocated, status="ok", seconds=seconds,
        lower=seconds, upper=seconds, rounds=9, calls=1,
    )  # fmt: skip


def wrong(reason="error 1e+30 of max|y|"):
    return dict(layout="nlc", preallocated=False, status="wrong", reason=reason)


def record(name, ours, ways, disturbance=0.0):
    return dict(
        problem=dataclasses.asdict(named(name)), kernels=dict(direct="dense", auto="winograd"),
        fma_peak=2e11, copy_bandwidth=1e10, disturbance=disturbance,
        ways={
            "numbaconv direct, out=": way(ours, preallocated=True),
            "numbaconv direct": way(2 * ours),
            "numbaconv auto, out=": way(ours / 4, preallocated=True),
            "numbaconv auto": way(ours / 2),
            **ways,
        },
    )  # fmt: skip


def file(peer, layers, threads=2):
    return dict(
        peer=peer, threads=threads, seconds=0.2, machine=MACHINE,
        versions={peer: "1.0"}, date="2026-01-02T03:04:05+00:00", layers=layers,
    )  # fmt: skip


def test_the_ceiling_is_that_of_the_clock_the_layer_ran_at():
    found = record("pointwise_512", 0.01, {})
    contest = report.Contest("none", "direct", found)
    assert contest.peak() == contest.peak_alone() == 2e11
    found["ways"]["numbaconv direct, out="]["fma_peak"] = 1.6e11
    assert contest.peak() == contest.ceiling() == 1.6e11
    assert contest.peak_alone() == 2e11
    assert report.Contest("none", "auto", found).peak() == 2e11
    found["copy_bandwidth"] = 1e8
    assert contest.ceiling() == 1e8 * contest.problem.intensity < 1.6e11


@pytest.fixture
def folder(tmp_path):
    fast = file("fast", {
        "tiny": record("tiny", 2e-6, {"own": way(1e-6, "own"), "nlc": way(8e-6)}),
        "pointwise_512": record("pointwise_512", 0.01, {"nlc": way(0.04), "odd": wrong()}),
    })  # fmt: skip
    liar = file("liar", {
        "tiny": record("tiny", 2e-6, {"nlc": way(4e-6)}),
        "pointwise_512": record("pointwise_512", 0.01, {"nlc": wrong()}, disturbance=0.5),
    })  # fmt: skip
    gone = file("gone", {"tiny": dict(status="failed", reason="not installed: make peers",
                                      problem=dataclasses.asdict(named("tiny")))})  # fmt: skip
    for found in (fast, liar, gone):
        (tmp_path / f"{found['peer']}-2.json").write_text(json.dumps(found))
    (tmp_path / "other.json").write_text("{}")
    return tmp_path


def row(folder, name, algorithm="direct"):
    rows = report.read(folder).rows(2, algorithm)
    return next(row for row in rows if row.name == name)


def test_ratios_are_taken_in_one_process_and_the_smallest_counts(folder):
    ratio, contest = row(folder, "tiny").rival()
    assert (ratio, contest.peer) == (0.5, "fast")
    ratio, contest = row(folder, "tiny").rival(report.is_nlc)
    assert (ratio, contest.peer) == (2.0, "liar")
    ratio, contest = row(folder, "tiny", "auto").rival()
    assert (ratio, contest.peer) == (2.0, "fast")


def test_a_wrong_result_is_never_the_best(folder):
    ratio, contest = row(folder, "pointwise_512").rival()
    assert (ratio, contest.peer) == (4.0, "fast")
    assert report.peer_cell(row(folder, "pointwise_512"), "liar") == "✗ wrong"
    assert report.peer_cell(row(folder, "tiny"), "gone") == "–"


def test_shares_are_of_the_ceiling_that_binds(folder):
    wide, tiny = row(folder, "pointwise_512"), row(folder, "tiny")
    assert wide.share() == pytest.approx(named("pointwise_512").flops / 0.01 / 2e11)
    assert not wide.is_bound_by_memory()
    assert tiny.is_bound_by_memory()
    assert tiny.ceiling() == pytest.approx(1e10 * named("tiny").intensity)


def test_our_own_wrong_result_is_no_time(folder):
    spoiled = row(folder, "tiny")
    for contest in spoiled.contests:
        if contest.ways:
            contest.ways["numbaconv direct, out="].update(
                status="wrong", reason="error 1 of max|y|"
            )
    assert spoiled.seconds() is None
    assert spoiled.rival() is None
    assert report.own_cells(spoiled)[1:] == ["✗", "–", "–"]


def test_the_mean_is_geometric(folder):
    direct, auto = (report.read(folder).rows(2, name) for name in ("direct", "auto"))
    assert report.geometric_mean(report.ratios(direct)) == pytest.approx(math.sqrt(0.5 * 4))
    assert report.geometric_mean(report.ratios(auto)) == pytest.approx(math.sqrt(2 * 16))
    assert report.slower_lines(direct) == [
        "By 'direct', slower than the best peer: tiny (fast 0.5×)."
    ]
    assert report.slower_lines(auto) == ["By 'auto', no layer is slower than the best peer."]


def test_the_mean_at_the_ceiling_leaves_out_what_the_call_takes(folder):
    rows = report.read(folder).rows(2, "direct")
    wide = 4 / row(folder, "pointwise_512").share()
    assert f"the mean would be {math.sqrt(0.5 * wide):.2f}×" in report.ceiling_line(rows)


def test_everything_is_written(folder, capsys):
    readme = folder / "README.md"
    begin, end = marks("bench")
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    assert report.main([str(folder), "--readme", str(readme)]) == 0
    text = (folder / "report.md").read_text()
    assert text == capsys.readouterr().out.rstrip("\n") + "\n"
    assert "A CPU, 2 cores, avx512" in text
    assert "* liar, 2 threads, pointwise_512, nlc: wrong: error 1e+30 of max|y|" in text
    assert "* gone, 2 threads, tiny: failed: not installed: make peers" in text
    assert "in 1 of 5 measurements other processes took more than 5%" in text
    for name in ("ratio-2.png", "roofline-2.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    shown = readme.read_text()
    assert shown.startswith(f"before\n{begin}\n")
    assert shown.endswith(f"{end}\nafter\n")
    assert "old" not in shown
    assert "| tiny | 2 µs |" in shown
    assert "| 500 ns |" in shown or "| 0.5 µs |" in shown


def test_the_readme_part_is_replaced_again_and_again():
    begin, end = marks("bench")
    once = replaced(f"a{begin}x{end}b", "bench", "part")
    assert once == f"a{begin}\npart\n{end}b"
    assert replaced(once, "bench", "part") == once
    assert replaced("no marks", "bench", "part") == "no marks"


def test_tables_have_equal_rows(folder):
    direct, auto = (report.read(folder).rows(2, name) for name in ("direct", "auto"))
    for lines in (report.short_table(direct, auto), report.full_table(auto)):
        assert len({line.count("|") for line in lines}) == 1


def test_an_empty_folder_is_told_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit):
        report.main([str(tmp_path)])
    assert "run benchmarks.run first" in capsys.readouterr().err

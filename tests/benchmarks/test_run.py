"""The parent: children that crash or hang cost a way or a layer, never the run."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.peers import install

CHILD = """
import json, os, sys, time
layers = sys.argv[sys.argv.index("--layers") + 1 : sys.argv.index("--threads")]
avoided = json.loads(sys.argv[sys.argv.index("--avoid") + 1])
def say(**event): print(json.dumps(event), flush=True)
say(event="ready", versions={"child": "1"}, threading_layer="none")
for layer in layers:
    for way in ("steady", "bad"):
        if way in avoided.get(layer, {}):
            continue
        say(event="trying", layer=layer, way=way)
        if way == "bad" and layer == "tiny":
            os.abort()
        if way == "bad" and layer == "fir_101":
            time.sleep(60)
    say(event="trying", layer=layer, way="")
    if layer == "mamba_dw4":
        sys.exit("out of luck")
    say(event="done", layer=layer, record={"ways": {"steady": {"status": "ok"}}})
"""


@pytest.fixture
def settings(tmp_path):
    return run.Settings(0.01, tmp_path)


@pytest.fixture
def child(tmp_path, monkeypatch):
    """A peer whose child misbehaves; returns its final state and what it was told."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    genuine = run.command

    def command(state, settings):
        told = genuine(state, settings)
        return [sys.executable, str(script), *told[told.index("--layers") :]]

    monkeypatch.setattr(run, "command", command)
    monkeypatch.setattr(run, "is_complete", lambda name: True)
    monkeypatch.setattr(run.base, "LIMIT", 1.5)


def test_a_crash_and_a_hang_cost_a_way_and_an_exit_costs_a_layer(child, settings):
    layers = ["tiny", "fir_101", "mamba_dw4", "streaming_step"]
    state = run.Progression("torch", 1, list(layers))
    run.measure(state, settings, lambda state, event: None)
    assert list(state.records) == layers
    assert state.versions == {"child": "1"}
    tiny, fir, mamba, last = (state.records[layer] for layer in layers)
    assert tiny["ways"]["steady"]["status"] == "ok"
    assert tiny["ways"]["bad"] == dict(status="failed", reason="ended by SIGABRT")
    assert fir["ways"]["bad"] == dict(status="failed", reason="no result after 2 s")
    assert mamba["status"] == "failed"
    assert mamba["reason"] == "exit status 1: out of luck"
    assert list(last["ways"]) == ["steady"]


def test_a_peer_that_is_missing_is_recorded(monkeypatch, tmp_path, settings):
    monkeypatch.setattr(run, "is_complete", lambda name: False)
    state = run.Progression("jax", 2, ["tiny", "fir_101"])
    run.measure(state, settings, lambda state, event: None)
    path = run.write_result(tmp_path, state, settings)
    found = json.loads(path.read_text())
    assert path.name == "jax-2.json"
    assert found["layers"]["tiny"]["reason"] == "not installed: make peers"
    assert found["layers"]["fir_101"]["problem"]["kernel_size"] == 101
    assert found["machine"]["cores"]
    assert found["date"]


def test_a_child_that_never_starts_ends_its_peer(settings):
    state = run.Progression("jax", 1, ["tiny", "fir_101"])
    state.blame("exit status 1: No module named jax")
    assert not state.waiting
    assert {record["status"] for record in state.records.values()} == {"failed"}


def test_data_is_written_for_children(tmp_path):
    run.write_data(tmp_path, "tiny")
    assert {path.name for path in tmp_path.iterdir()} == {
        "tiny.x.npy", "tiny.w.npy", "tiny.y.npy"
    }  # fmt: skip


@pytest.mark.parametrize("arguments", ["--peers nobody", "--layers nothing", "--algorithm fast"])
def test_unknown_words_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        run.parse([*arguments.split(), "--out", "x"])
    assert arguments.split()[1] in capsys.readouterr().err


def test_peers_can_be_named_where_they_are_not_installed():
    import importlib

    for name in install.PEERS:
        peer = importlib.import_module(f"benchmarks.peers.{name}_peer")
        assert peer.WAYS
        assert len({way.name for way in peer.WAYS}) == len(peer.WAYS)
        assert {way.layout for way in peer.WAYS} <= {"own", "nlc"}
        assert all(value for value in peer.environment(2).values() if value != "")
        assert Path(peer.__file__).stem == f"{name}_peer"


def test_plain_torch_is_never_installed():
    requirements = [word for words in install.PEERS.values() for word in words]
    assert [word for word in requirements if word.startswith("torch")] == ["torch==2.13.0"]
    assert install.CONSTRAINTS == "torch==2.13.0\n"

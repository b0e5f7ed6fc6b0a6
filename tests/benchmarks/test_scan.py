"""Random layers: drawn alike from one seed, within bounds, and never a time for wrong values."""

from __future__ import annotations

import sys

import numpy as np

from benchmarks import scan
from benchmarks.dense import Peak


def test_a_seed_stands_for_its_layers():
    first, again, other = (list(scan.layers(seed, 30, 1 << 20, 4)) for seed in (1, 1, 2))
    assert first == again != other
    for layer in first:
        assert 4 * layer.elements <= 1 << 20
        assert scan.FLOPS[0] < layer.flops < scan.FLOPS[1]
        x = np.zeros((layer.batch, layer.length, layer.in_channels), np.float32)
        layer.build("float32", 1, False).explain(x)


def test_both_orders_of_axes_are_timed(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.dense.BURST", 1e-3)
    monkeypatch.setattr(sys, "argv", ["scan", "--layers", "2", "--mib", "0.2"])
    scan.main()
    shown = capsys.readouterr().out
    assert "2 layers, 0 wrong; seed 0, float32, 1 thread(s)" in shown
    assert "geometric mean" in shown


def test_wrong_values_are_no_time(monkeypatch):
    monkeypatch.setattr("benchmarks.dense.BURST", 1e-3)
    monkeypatch.setattr(scan, "check", lambda *_: (1.0, False))
    (layer,) = scan.layers(0, 1, 1 << 18, 4)
    result = scan.measure(layer, "float32", 1, Peak(1))
    assert not result.is_right
    cells = [list(column.cells) for column in scan.table("", [result]).columns]
    assert cells[2:6] == [["wrong"]] * 4

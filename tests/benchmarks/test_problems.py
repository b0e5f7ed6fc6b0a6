"""The public list is what it says, and its sums are those of the definition."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.problems import PROBLEMS, Problem, named
from numbaconv.problem import Geometry

SHARED = Path(__file__).parents[3] / "shared" / "shapes.json"
FIELDS = ["batch", "length", "in_channels", "out_channels", "kernel_size", "stride", "dilation",
          "groups"]  # fmt: skip


def test_every_layer_has_a_name_of_its_own_and_a_source():
    assert len({p.name for p in PROBLEMS}) == len(PROBLEMS) == 33
    assert all(p.source for p in PROBLEMS)


@pytest.mark.skipif(not SHARED.is_file(), reason="the list it was copied from is not here")
def test_the_list_is_that_of_the_shared_shapes_and_two_more():
    shapes = json.loads(SHARED.read_text())
    for shape, problem in zip(shapes, PROBLEMS, strict=False):
        assert shape["id"] == problem.name
        assert shape["source"] == problem.source
        assert tuple(shape["padding"]) == problem.padding
        assert [shape[field] for field in FIELDS] == [getattr(problem, field) for field in FIELDS]
    assert [p.name for p in PROBLEMS[len(shapes) :]] == ["grouped_k16_g16", "fir_1023"]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_lengths_are_those_of_the_library(problem):
    p = problem
    geometry = Geometry(
        p.kernel_size, p.in_channels, p.out_channels, p.stride, p.padding, p.dilation, p.groups
    )
    assert p.w_shape == geometry.filter_shape
    assert p.length_out > 0


def test_operations_bytes_and_intensity():
    p = Problem("a", "b", 2, 10, 4, 6, 3, stride=2, groups=2, padding=(1, 0))
    assert p.length_out == 5
    assert p.flops == 2 * (2 * 5 * 6) * (3 * 2)
    assert p.bytes_read == 4 * (2 * 10 * 4 + 3 * 2 * 6)
    assert p.bytes_written == 4 * 2 * 5 * 6
    assert p.intensity == p.flops / (p.bytes_read + p.bytes_written)


def test_data_repeats_and_is_scaled():
    x, w = named("tiny").arrays()
    again = named("tiny").arrays()
    assert np.array_equal(x, again[0])
    assert np.array_equal(w, again[1])
    assert x.dtype == w.dtype == np.float32
    assert abs(w).max() < 5 / np.sqrt(3 * 16)


def test_a_name_that_is_not_there_is_told_what_is():
    with pytest.raises(KeyError, match="no layer 'tinny'; there are max_doc_example, "):
        named("tinny")

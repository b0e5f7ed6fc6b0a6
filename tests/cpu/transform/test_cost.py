"""The cost model: what it counts, and that every measured core has its prices."""

import dataclasses

import numpy as np
import pytest

from numbaconv.cpu.target import ISAS
from numbaconv.cpu.transform import blocking, cost
from numbaconv.cpu.transform.folding import fold
from numbaconv.cpu.transform.methods import METHODS
from numbaconv.cpu.transform.scheme import RealFFT, Winograd
from numbaconv.problem import ConvProblem, Geometry

CORES = {"znver4": "avx512", "sapphirerapids": "avx512", "znver3": "avx2"}


def target_of(core):
    return dataclasses.replace(ISAS[CORES[core]], core=core)


@pytest.mark.parametrize(
    "rows, vectors, one_unit, two_units",
    [(6, 4, 24, 24), (10, 1, 10, 11), (1, 4, 4, 8), (1, 1, 4, 8), (3, 2, 6, 8)],
)
def test_slots_of_a_step(rows, vectors, one_unit, two_units):
    """Multiply-adds, else loads at two a cycle, else four cycles of latency."""
    assert cost.slots(rows, vectors, 1) == one_unit
    assert cost.slots(rows, vectors, 2) == two_units


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("kind", ["transform", "dense", "sliding", "grouped", "planar"])
def test_every_core_has_prices(core, bits, kind):
    problem = ConvProblem(Geometry(3, 64, 64), 1, 1000, np.dtype(f"f{bits // 8}"))
    prices = cost.prices(kind, problem, target_of(core))
    assert prices and all(price > 0 for price in prices.values())


@pytest.mark.parametrize("core", CORES)
def test_a_tile_is_counted_with_the_rows_that_it_has(core):
    """Two tiles are two rows of each GEMM, not those of a whole register tile."""
    geometry = Geometry(12, 285, 21)
    problem = ConvProblem(geometry, 2, 64, np.dtype(np.float32))
    target = target_of(core)
    sizes = blocking.transform_blocking(problem, target, RealFFT(64, True), fold(geometry), 1)
    counts = cost.transform_counts(sizes)
    assert sizes.total_tiles == 2
    vectors = (2,) if CORES[core] == "avx512" else (2, 1)  # of 21 columns
    slots = sum(cost.slots(2, v, target.fma_units) for v in vectors)
    assert counts["gemm_slots"] == 95 * 285 * slots


@pytest.mark.parametrize("core", CORES)
def test_of_nearly_equal_schemes_the_one_with_the_smallest_spectrum_is_taken(core, monkeypatch):
    geometry = Geometry(3, 64, 64, padding=(1, 1))
    problem, target = ConvProblem(geometry, 1, 1000, np.dtype(np.float32)), target_of(core)
    small, large = (Winograd(2, 3), fold(geometry)), (RealFFT(64, True), fold(geometry))
    near, far = (1.02, 1.04) if core == "znver3" else (1.04, 1.06)
    for times, taken in (((near, 1.0), small), ((far, 1.0), large), ((1.0, near), small)):
        known = dict(zip((small, large), times, strict=True))
        monkeypatch.setattr(
            cost, "estimate", lambda _, __, *candidate, known=known: known[candidate]
        )
        assert cost.best.__wrapped__(problem, target, (small, large)) == taken


@pytest.mark.parametrize("core", CORES)
def test_wide_layers_are_transformed_and_tiny_ones_are_not(core):
    for geometry, length, is_transformed in (
        (Geometry(7, 256, 256, padding=(3, 3)), 8192, True),
        (Geometry(3, 4, 4, padding=(1, 1)), 100, False),
    ):
        problem = ConvProblem(geometry, 1, length, np.dtype(np.float32), algorithm="auto")
        declined = [method.declines(problem, target_of(core)) for method in METHODS]
        assert (None in declined) == is_transformed

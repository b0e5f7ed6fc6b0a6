"""The row loop that all panel kernels share, against what the cost model takes it for."""

from __future__ import annotations

import numpy as np
import pytest
from llvmlite import ir

from numbaconv.cpu.microkernel import INTEGERS, POINTERS, Emitter, Tile
from numbaconv.cpu.transform.cost import tile_rows
from numbaconv.cpu.vector import i64
from tests.cpu.test_vector import run


class Recorder(Emitter):
    """Writes how many rows each tile has, at the first of them."""

    family = "recorder"

    def emit(self):
        self.cover_rows(lambda rows, x, y: self.v.ir.store(ir.FloatType()(float(rows)), y))


@pytest.mark.parametrize("most", [1, 2, 5, 14])
def test_rows_are_cut_as_the_cost_model_counts_them(most):
    tile = Tile("recorder", 32, 8, most, vectors=1, masked=False, fma=True)
    for rows in range(1, 5 * most):
        y = np.zeros(rows, np.float32)

        def emit(v, y, rows=rows):
            numbers = dict.fromkeys(INTEGERS, 1) | {"rows": rows}
            arguments = [y] * len(POINTERS) + [i64(numbers[name]) for name in INTEGERS]
            Recorder(v.ir, tile, arguments).emit()

        run(emit, 32, 8, y)
        assert y[y > 0].tolist() == tile_rows(rows, most)

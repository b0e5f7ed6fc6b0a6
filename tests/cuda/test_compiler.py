"""What numba-cuda needs mended."""

import os
import subprocess
import sys
import warnings

import pytest

WITHOUT_ROW_STACK = """
import numpy as np
if "row_stack" in vars(np):
    del np.row_stack  # as in NumPy 2.5
from numbaconv.cuda import compiler
from numbaconv.cuda.scalar import ScalarTile
from numbaconv.cuda.storage import F32
entry, ptx = compiler.ptx(ScalarTile(F32), compiler.Architecture(9, 0, "a"))
assert ".target sm_90a" in ptx and entry in ptx
print("compiled")
"""


def python(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, env=os.environ
    )


def test_it_compiles_where_numpy_has_no_row_stack():
    done = python(WITHOUT_ROW_STACK, "-W", "error")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "compiled\n"


def test_its_import_warns_of_nothing():
    done = python("import numbaconv.cuda.instructions", "-W", "error")
    assert done.returncode == 0, done.stderr


def test_compilation_leaves_no_trace_in_numba_cuda():
    """It answers for the device that is asked for, and only while it compiles."""
    from numbaconv.cuda import compiler
    from numbaconv.cuda.frontend import dispatcher

    before = dispatcher.get_current_device
    with pytest.raises(ZeroDivisionError), compiler._without_device(compiler.Architecture(8, 6)):
        assert dispatcher.get_current_device().compute_capability == (8, 6)
        raise ZeroDivisionError
    assert dispatcher.get_current_device is before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiler._toolkit()

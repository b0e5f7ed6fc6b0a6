"""The scalar kernel's text in Numba's CUDA simulator, over cases of the conformance suite."""

import pytest


@pytest.mark.parametrize("examples", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_the_scalar_kernel_in_the_simulator(run_module, examples):
    checked = run_module("tests.cuda.simulate", str(examples), NUMBA_ENABLE_CUDASIM="1")
    assert int(checked.split()[-1]) > examples // 5

"""A compact conformance run for a child process: `python -m tests.conformance.isa_sample avx2`.

It first asserts that kernels are generated for that instruction set ("reference": that
nothing is compiled).
"""

import sys
from contextlib import nullcontext

import numpy as np
from hypothesis import HealthCheck, given, settings

from numbaconv import Conv1D, explain
from numbaconv.cpu import target
from tests.conformance.comparison import always_parallel, assert_exact, assert_within_bound, l2_of
from tests.conformance.digest import normal
from tests.strategies import Case, cases

always_alike = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@always_alike
@given(cases())
def drawn_problems_are_exact(case):
    assert_exact(case)


@always_alike
@given(cases())
def drawn_problems_hold_the_bound(case):
    assert_within_bound(case, normal)


@always_alike
@given(cases())
def small_caches_are_exact(case):
    with l2_of(4 << 10):
        assert_exact(case)


def every_tile_is_exact():
    for dtype in ("float32", "float64"):
        for channels in range(1, 71):
            dense = Case(3, 5, channels, 29, padding=1, has_bias=True, dtype=dtype)
            assert_exact(dense)
            assert_exact(dense.but(in_channels=channels, num_groups=channels))
            assert_exact(dense.but(length=3, permute=True, out_layout="contiguous"))
            assert_exact(dense.but(in_channels=channels, out_channels=1))
            assert_exact(dense.but(in_channels=channels, out_channels=3))
            assert_exact(Case(channels, 1, 1, 300, batch=2, padding="same", dtype=dtype))
            steps = Case(7, 9, channels, 2, stride=2, dilation=2, padding="same", dtype=dtype)
            assert_exact(steps)
            assert_exact(steps.but(in_channels=channels, num_groups=channels))
        for channels in range(2, 9):
            few = Case(18, channels, channels, 150, padding="same", dtype=dtype)
            few = few.but(num_groups=channels)
            for dilation in (1, 2, 16):
                assert_exact(few.but(dilation=dilation))
                assert_exact(few.but(dilation=dilation, permute=True))
        # More taps of a phase than lanes; phases of one tap, and of taps apart.
        of_single = ((3, 2, 1), (9, 4, 3)) if dtype == "float32" else ()
        for kernel_size, stride, dilation in ((40, 3, 1), *of_single):
            phases = Case(kernel_size, 1, 1, 500, stride=stride, dilation=dilation, padding="same")
            for channels in ((1, 1, 1), (2, 2, 2), (3, 5, 1), (18, 3, 1)):
                inputs, outputs, groups = channels
                case = phases.but(in_channels=inputs, out_channels=outputs, num_groups=groups)
                assert_exact(case.but(dtype=dtype))
                assert_exact(case.but(dtype=dtype, permute=True, padding_mode="reflect"))
        for length in range(1, 41):
            for channels in (4, 15, 20, 40):
                assert_exact(Case(3, 5, channels, length, padding="same", dtype=dtype))


def main():
    wanted, *options = sys.argv[1:]
    if wanted == "reference":
        assert explain(Conv1D(3, 4, 5), np.zeros((1, 9, 4), np.float32)).kernel == "reference"
    else:
        assert target.host().isa == wanted, target.host()
    with always_parallel() if "always-parallel" in options else nullcontext():
        every_tile_is_exact()
        drawn_problems_are_exact()
        drawn_problems_hold_the_bound()
        if wanted != "reference":
            small_caches_are_exact()


if __name__ == "__main__":
    main()

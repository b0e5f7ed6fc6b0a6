"""The reader of assembly, on assembly written for it."""

import re

import pytest

from tests.codegen.reader import (
    SCALAR_ARITHMETIC,
    arithmetic,
    bytes_stored,
    innermost_loops,
    most_on_a_path,
    outermost_loops,
    touches_vectors,
)

NESTED = """
f:
    xorl %eax, %eax
.LBB0_1:
    xorl %ecx, %ecx
    jmp .LBB0_3
.LBB0_2:            # out of line
    addl $1, %eax
    cmpl $9, %eax
    jne .LBB0_1
    retq
.LBB0_3:
    vmulps %zmm0, %zmm1, %zmm2
    addl $1, %ecx
    cmpl $9, %ecx
    jne .LBB0_3
    jmp .LBB0_2
"""

BRANCHES = """
f:
    vaddps %ymm0, %ymm1, %ymm2
    je .LBB0_2
    vaddps %ymm0, %ymm1, %ymm2
    vaddps %ymm0, %ymm1, %ymm2
    jmp .LBB0_3
.LBB0_2:
    vaddps %ymm0, %ymm1, %ymm2
.LBB0_3:
    vmulps %ymm0, %ymm1, %ymm2
    jne .LBB0_3
    retq
"""


def test_reader_finds_the_inner_one_of_two_nested_loops():
    (loop,) = innermost_loops(NESTED)
    assert loop[0] == "vmulps %zmm0, %zmm1, %zmm2"
    assert len(loop) == 4


def test_reader_finds_the_outer_one_of_two_nested_loops():
    (loop,) = outermost_loops(NESTED)
    assert loop[0] == "xorl %ecx, %ecx"
    assert len(loop) == 10


def test_reader_takes_one_side_of_a_branch_and_a_loop_once():
    assert most_on_a_path(BRANCHES, lambda line: line.startswith("vaddps")) == 3
    assert most_on_a_path(BRANCHES, lambda line: line.startswith("v")) == 4


def test_reader_sees_a_spill():
    assert touches_vectors("vmovups %zmm26, 240(%rsp)")
    assert touches_vectors("stp q14, q18, [sp, #16]")
    assert not touches_vectors("movq -104(%rsp), %r13")
    assert not touches_vectors("ldr x14, [sp, #128]")


@pytest.mark.parametrize(
    "isa, line, size",
    [
        ("avx512", "vmovupd %zmm1, 8(%rdx,%rcx) {%k1}", 64),
        ("avx512", "vmovups %zmm1, (%rsp)", 0),
        ("avx512", "vmovups (%rdx,%rcx), %zmm1", 0),
        ("avx2", "vmaskmovps %ymm1, %ymm0, (%rdx)", 32),
        ("avx2", "vmaskmovps (%rdx), %ymm0, %ymm1", 0),
        ("avx", "vextractf128 $1, %ymm7, 16(%rdx)", 16),
        ("avx", "vextractf128 $1, %ymm7, %xmm6", 0),
        ("sse", "movapd %xmm1, %xmm2", 0),
        ("sse", "movhpd %xmm1, 8(%rdx)", 8),
        ("sse", "extractps $3, %xmm5, 12(%r15)", 4),
        ("neon", "stp q1, q2, [x1]", 32),
        ("neon", "st1 { v17.s }[1], [x23]", 4),
        ("neon", "str d17, [sp, #8]", 0),
        ("neon", "str x17, [x23]", 0),
    ],
)
def test_reader_knows_how_much_a_store_writes(isa, line, size):
    assert bytes_stored(isa, line) == size


def test_reader_tells_vectors_from_scalars():
    assert re.match(arithmetic("avx2", 32), "vfnmsub213ps (%rdi), %ymm1, %ymm2")
    assert re.match(arithmetic("neon", 64), "fmls v1.2d, v2.2d, v3.2d")
    assert not re.match(arithmetic("avx2", 64), "vaddsd %xmm1, %xmm2, %xmm3")
    assert not re.match(arithmetic("neon", 32), "fadd s1, s2, s3")
    assert re.match(SCALAR_ARITHMETIC, "vaddsd %xmm1, %xmm2, %xmm3")
    assert re.match(SCALAR_ARITHMETIC, "fadd s1, s2, s3")
    assert not re.match(SCALAR_ARITHMETIC, "fadd v1.4s, v2.4s, v3.4s")

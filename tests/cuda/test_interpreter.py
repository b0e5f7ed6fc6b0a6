"""The interpreter itself: it computes as PTX says, and notices what must not happen."""

import numpy as np
import pytest

from numbaconv.cuda.dense import FFMA, mma_tiles
from numbaconv.cuda.kernel import Device, Operand, Site
from numbaconv.problem import ConvProblem, Geometry
from tests.cuda.conftest import ptx_of
from tests.cuda.ptx.block import launch
from tests.cuda.ptx.memory import GlobalMemory
from tests.cuda.ptx.program import InterpreterError, Program

DEVICE = Device(0, "interpreter", (8, 0), 4, 163 << 10)


def run_text(body, *arrays, threads=32, declarations=""):
    """Run PTX statements on arrays whose addresses are in %rd1, %rd2, ...; return the last."""
    names = [f"p{i}" for i in range(len(arrays))]
    parameters = ", ".join(f".param .u64 {name}" for name in names)
    loads = "".join(f"ld.param.u64 %rd{i + 1}, [{name}];" for i, name in enumerate(names))
    thread = "mov.u32 %r1, %tid.x; mul.wide.u32 %rd9, %r1, 4;"
    program = Program(
        f"{declarations}\n.visible .entry kernel({parameters}) {{ {loads}{thread}{body} ret; }}"
    )
    memory = GlobalMemory(1 << 16)
    addresses = [memory.allocate(array.nbytes) for array in arrays]
    for address, array in zip(addresses, arrays, strict=True):
        memory.write(address, array.view(np.uint8))
    launch(program, memory, addresses, (1, 1, 1), threads, 0)
    return memory.read(addresses[-1], arrays[-1].nbytes).view(arrays[-1].dtype)


def words(numbers=None):
    return np.zeros(32, np.uint32) if numbers is None else np.array(numbers)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("mad.lo.s32 %r2, %r1, -3, 7;", lambda t: 7 - 3 * t),
        ("sub.s32 %r3, %r1, 9; div.s32 %r2, %r3, 4;", lambda t: np.trunc((t - 9) / 4)),
        ("sub.s32 %r3, %r1, 9; rem.s32 %r2, %r3, 4;", lambda t: np.fmod(t - 9, 4)),
        ("sub.s32 %r3, %r1, 9; shr.s32 %r2, %r3, 2;", lambda t: (t - 9) >> 2),
        ("shl.b32 %r2, %r1, 31;", lambda t: t << 31),
        ("setp.lt.s32 %p1, %r1, 5; selp.b32 %r2, 1, -1, %p1;", lambda t: np.where(t < 5, 1, -1)),
        ("bfe.u32 %r2, %r1, 1, 3;", lambda t: (t >> 1) & 7),
        ("bfi.b32 %r2, %r1, -1, 4, 28;", lambda t: (t << 4) | 15),
        ("not.b32 %r2, %r1;", lambda t: ~t),
        ("min.s32 %r2, %r1, 4; xor.b32 %r2, %r2, 1;", lambda t: np.minimum(t, 4) ^ 1),
    ],
)
def test_integer_arithmetic(body, expected):
    got = run_text(f"{body} add.s64 %rd8, %rd1, %rd9; st.global.b32 [%rd8], %r2;", words())
    thread = np.arange(32, dtype=np.int64)
    np.testing.assert_array_equal(got, np.asarray(expected(thread), np.int64).astype(np.uint32))


def test_threads_that_part_meet_again():
    body = """
        mov.b32 %r2, 0;
        LOOP: setp.ge.s32 %p1, %r2, %r1; @%p1 bra DONE;
        add.s32 %r2, %r2, 1; bra.uni LOOP;
        DONE: mul.lo.s32 %r2, %r2, 2; add.s64 %rd8, %rd1, %rd9; st.global.b32 [%rd8], %r2;"""
    np.testing.assert_array_equal(run_text(body, words()), 2 * np.arange(32))


@pytest.mark.parametrize("number", [1.0, -2.7182818, 65519.0, 1e-7, np.inf, np.nan, 0.1])
def test_conversions(number):
    import ml_dtypes

    x = np.full(32, number, np.float32)
    load = "add.s64 %rd8, %rd1, %rd9; ld.global.b32 %f1, [%rd8]; add.s64 %rd8, %rd2, %rd9;"
    for kind, dtype in (("f16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        body = f"{load} cvt.rn.{kind}x2.f32 %r2, %f1, %f1; st.global.b32 [%rd8], %r2;"
        got = run_text(body, x, words()).view(dtype).astype(np.float64)
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(got, np.repeat(x.astype(dtype), 2).astype(np.float64))


SHARED = ".shared .align 16 .b8 room[256];"
PLACE = "mov.u32 %r3, room; shl.b32 %r4, %r1, 2; add.s32 %r3, %r3, %r4;"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("ld.global.b32 %r2, [%rd1+128];", "outside of every array"),
        ("st.global.b32 [%rd1+-4], %r1;", "outside of every array"),
        ("ld.global.b32 %r2, [%rd1+2];", "misaligned"),
        (f"{PLACE} ld.shared.b32 %r2, [%r3];", "nobody has written"),
        (f"{PLACE} st.shared.b32 [%r3+256], %r1;", "out of bounds"),
        ("mov.u32 %r3, room; st.shared.b32 [%r3], %r1;", "two warps write"),
        (
            f"{PLACE} st.shared.b32 [%r3], %r1; xor.b32 %r3, %r3, 128; ld.shared.b32 %r2, [%r3];",
            "race",
        ),
        ("LOOP: bra.uni LOOP;", "does not end"),
        ("brev.b32 %r2, %r1;", "not modelled"),
    ],
)
def test_faults_are_noticed(body, fault, monkeypatch):
    monkeypatch.setattr("tests.cuda.ptx.block.STEP_LIMIT", 1000)
    with pytest.raises(InterpreterError, match=fault):
        run_text(body, words(), threads=64, declarations=SHARED)


def test_a_barrier_ends_a_race():
    body = (
        f"{PLACE} st.shared.b32 [%r3], %r1; bar.sync 0; xor.b32 %r3, %r3, 128;"
        "ld.shared.b32 %r2, [%r3]; add.s64 %rd8, %rd1, %rd9; st.global.b32 [%rd8], %r2;"
    )
    declarations = ".shared .align 1024 .b8 room[256];"
    got = run_text(body, np.zeros(64, np.uint32), threads=64, declarations=declarations)
    np.testing.assert_array_equal(got, np.arange(64) ^ 32)


# --- faults planted in a kernel that ships


def run_dense(tile, family_values, mutate=lambda text: text, shared_less=0, length=80):
    """Run one block of a dense tile on random numbers, its PTX changed by `mutate`."""
    g = Geometry(3, 128, 64, padding=1)
    problem = ConvProblem(g, 1, length, np.dtype(np.float32))
    operands = [Operand((4 * length * c, 4 * c, 4), 16) for c in (128, 64)]
    site = Site(DEVICE, *operands, Operand((128 * 64 * 4, 64 * 4, 4), 16), Operand((4,), 16))
    shape = family_values.launch_shape(problem, site, tile)
    memory = GlobalMemory()
    rng = np.random.default_rng(0)
    addresses = []
    for size in (length * 128, 3 * 128 * 64, 64, length * 64):
        addresses.append(memory.allocate(4 * size))
        memory.write(addresses[-1], rng.standard_normal(size).astype(np.float32).view(np.uint8))
    values = addresses + [shape.values[name] for name in tile.parameters()[4:]]
    program = Program(mutate(ptx_of(tile)[1]))
    launch(program, memory, values, (1, 1, 1), tile.threads, shape.shared - shared_less)


TILE = mma_tiles("tf32", 16)[1]


def test_the_kernel_as_it_ships_has_no_fault():
    run_dense(TILE, FFMA)


@pytest.mark.parametrize(
    ("mutate", "fault"),
    [
        (lambda text: text.replace("bar.sync", "//bar.sync"), "race"),
        (lambda text: text.replace("wait_group 2", "wait_group 3"), "nobody has written"),
        (lambda text: text.replace("cp.async.commit_group", "//"), "nobody has written"),
    ],
)
def test_planted_faults_are_found(mutate, fault):
    with pytest.raises(InterpreterError, match=fault):
        run_dense(TILE, FFMA, mutate)


def test_too_little_shared_memory_is_found():
    with pytest.raises(InterpreterError, match="out of bounds"):
        run_dense(TILE, FFMA, shared_less=16)

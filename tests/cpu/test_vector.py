"""The vector layer, compiled by LLVM for this processor and run on arrays."""

from __future__ import annotations

import ctypes

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from numbaconv.cpu.target import host
from numbaconv.cpu.transposition import (
    emit_transpose,
    emit_unzip,
    emit_zip,
    load_columns,
    part_lanes,
)
from numbaconv.cpu.vector import VectorBuilder, i64, void

WIDTHS = [(32, 4), (32, 8), (32, 16), (64, 2), (64, 4), (64, 8)]


def native():
    """A new machine for each engine, which comes to own it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True
    )


def run(emit, bits, lanes, *arrays, fma=False):
    """Compile `emit(v, *pointers)` into a function of so many arrays, and call it."""
    element = ir.FloatType() if bits == 32 else ir.DoubleType()
    module = ir.Module()
    module.triple = llvm.get_default_triple()
    pointers = [element.as_pointer()] * len(arrays)
    function = ir.Function(module, ir.FunctionType(void, pointers), "run")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(VectorBuilder(builder, bits, lanes, fma), *function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    with llvm.create_mcjit_compiler(parsed, native()) as engine:
        engine.finalize_object()
        address = engine.get_function_address("run")
        prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays))
        prototype(address)(*[array.ctypes.data for array in arrays])


def dtype_of(bits):
    return np.float32 if bits == 32 else np.float64


def numbers(count, bits, first=1):
    return np.arange(first, first + count, dtype=dtype_of(bits))


each_width = pytest.mark.parametrize("bits, lanes", WIDTHS)


# --- memory


@each_width
def test_load_and_store_need_element_alignment_only(bits, lanes):
    x, y = numbers(lanes + 3, bits), np.zeros(lanes + 3, dtype_of(bits))
    run(lambda v, x, y: v.store(v.load(v.at(x, 1)), v.at(y, 2)), bits, lanes, x, y)
    assert y.tolist() == [0, 0, *range(2, lanes + 2), 0]


@each_width
def test_masked_store_writes_its_lanes_only(bits, lanes):
    for count in range(lanes + 1):
        x, y = numbers(lanes, bits), np.full(lanes, -1, dtype_of(bits))
        run(
            lambda v, x, y, n=count: v.masked_store([(v.load(x), y)], v.first_lanes(i64(n))),
            bits, lanes, x, y,
        )  # fmt: skip
        assert y.tolist() == [*range(1, count + 1), *[-1] * (lanes - count)]


@each_width
def test_masked_load_gives_zeros_beyond_its_lanes(bits, lanes):
    for count in range(lanes + 1):
        x, y = np.full(lanes, np.nan, dtype_of(bits)), np.full(lanes, -1, dtype_of(bits))
        x[:count] = range(1, count + 1)
        run(
            lambda v, x, y, n=count: v.store(v.masked_load(x, v.first_lanes(i64(n))), y),
            bits, lanes, x, y,
        )  # fmt: skip
        assert y.tolist() == [*range(1, count + 1), *[0] * (lanes - count)]


@each_width
def test_rows_are_a_stride_apart(bits, lanes):
    x, y = numbers(4 * lanes + 30, bits), np.zeros(3 * lanes, dtype_of(bits))

    def emit(v, x, y):
        for m, row in enumerate(v.rows(x, i64(7), 3)):
            v.store(v.load(row), v.at(y, m * lanes))

    run(emit, bits, lanes, x, y)
    np.testing.assert_array_equal(y.reshape(3, lanes), [x[7 * m :][:lanes] for m in range(3)])


# --- values


@each_width
def test_broadcast_fills_all_lanes(bits, lanes):
    x, y = numbers(3, bits), np.zeros(lanes, dtype_of(bits))
    run(lambda v, x, y: v.store(v.broadcast(v.ir.load(v.at(x, 2))), y), bits, lanes, x, y)
    assert y.tolist() == [3.0] * lanes


@each_width
@pytest.mark.parametrize("fma", [False, True])
def test_multiply_add_is_fused_only_where_asked(bits, lanes, fma):
    """(1+ε)² - (1+2ε) is ε² exactly, and 0 if the product is rounded."""
    if fma and not host().fma:
        pytest.skip("llvm.fma would call a library")
    dtype = dtype_of(bits)
    eps = np.finfo(dtype).eps
    a, c = np.full(lanes, 1 + eps, dtype), np.full(lanes, -(1 + 2 * eps), dtype)
    y = np.full(lanes, np.nan, dtype)
    run(
        lambda v, a, c, y: v.store(v.fma(v.load(a), v.load(a), v.load(c)), y),
        bits, lanes, a, c, y, fma=fma,
    )  # fmt: skip
    assert (y == (eps * eps if fma else 0)).all()


@each_width
def test_totals_adds_up_each_vector_into_its_lane(bits, lanes):
    for count in range(1, lanes + 1):
        x, y = numbers(count * lanes, bits), np.full(lanes, -1, dtype_of(bits))

        def emit(v, x, y, count=count):
            vectors = [v.load(v.at(x, i * lanes)) for i in range(count)]
            v.store(v.totals(vectors), y)

        run(emit, bits, lanes, x, y)
        np.testing.assert_array_equal(y[:count], x.reshape(count, lanes).sum(axis=1))
        assert (y[count:] == 0).all()


@each_width
def test_the_tree_of_a_total_does_not_depend_on_its_place(bits, lanes):
    """An output's bits must not depend on the row at which it sits in a tile."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(lanes) * 10.0 ** rng.integers(-6, 7, lanes)
    x = np.tile(vector, lanes).astype(dtype_of(bits))
    y = np.zeros(lanes, dtype_of(bits))

    def emit(v, x, y):
        v.store(v.totals([v.load(v.at(x, i * lanes)) for i in range(lanes)]), y)

    run(emit, bits, lanes, x, y)
    assert len({value.tobytes() for value in y}) == 1


def transpose_rows(v, x, row):
    return emit_transpose(v, [v.load(v.at(x, r * row)) for r in range(v.lanes)])


def transpose_as_loaded(v, x, row):
    parts = range(0, v.lanes, part_lanes(v.bits))
    return [column for c in parts for column in load_columns(v, v.at(x, c), i64(row))]


@each_width
@pytest.mark.parametrize("transpose", [transpose_rows, transpose_as_loaded])
def test_transposition_of_a_square(transpose, bits, lanes):
    x = numbers(lanes * lanes, bits)
    y = np.zeros_like(x)

    def emit(v, x, y):
        for c, column in enumerate(transpose(v, x, lanes)):
            v.store(column, v.at(y, c * lanes))

    run(emit, bits, lanes, x, y)
    np.testing.assert_array_equal(y.reshape(lanes, lanes), x.reshape(lanes, lanes).T)


@pytest.mark.parametrize("bits, lanes", WIDTHS)
@pytest.mark.parametrize("planes", [1, 2, 4, 8])
def test_zip_puts_elements_of_planes_side_by_side(bits, lanes, planes):
    x = np.arange(planes * lanes, dtype=f"f{bits // 8}")
    zipped, back = np.zeros_like(x), np.zeros_like(x)

    def emit(v, x, zipped, back):
        together = emit_zip(v, [v.load(v.at(x, c * lanes)) for c in range(planes)])
        for target, vectors in ((zipped, together), (back, emit_unzip(v, together))):
            for i, vector in enumerate(vectors):
                v.store(vector, v.at(target, i * lanes))

    run(emit, bits, lanes, x, zipped, back)
    np.testing.assert_array_equal(zipped, x.reshape(planes, lanes).T.ravel())
    np.testing.assert_array_equal(back, x)


# --- control


@pytest.mark.parametrize("start, stop, step", [(0, 0, 1), (0, 5, 1), (2, 9, 3), (5, 2, 1)])
def test_a_loop_is_a_range(start, stop, step):
    y = np.zeros(6)

    def emit(v, y):
        """Count turns and sum indices in the two carried values."""

        def body(i, carried):
            turns, total = carried
            index = v.broadcast(v.ir.sitofp(i, v.element))
            return [v.ir.fadd(turns, one), v.ir.fadd(total, index)]

        one = v.broadcast(ir.Constant(v.element, 1.0))
        turns, total = v.loop(i64(start), i64(stop), step, [v.zero(), v.zero()], body)
        v.store(turns, y)
        v.store(total, v.at(y, 2))

    run(emit, 64, 2, y)
    expected = range(start, stop, step)
    assert y[0] == y[1] == len(expected)
    assert y[2] == y[3] == sum(expected)


@pytest.mark.parametrize("flag", [0, 1])
def test_choose_emits_both_branches_and_takes_one(flag):
    x, y = np.array([float(flag), 10.0, 20.0, 0.0]), np.zeros(4)

    def emit(v, x, y):
        condition = v.ir.fcmp_ordered("!=", v.ir.load(x), ir.Constant(v.element, 0.0))
        ten, twenty = (v.broadcast(v.ir.load(v.at(x, i))) for i in (1, 2))
        for j, value in enumerate(
            v.choose(condition, lambda: [ten, twenty], lambda: [twenty, ten])
        ):
            v.store(value, v.at(y, 2 * j))

    run(emit, 64, 2, x, y)
    assert y.tolist() == ([10.0, 10.0, 20.0, 20.0] if flag else [20.0, 20.0, 10.0, 10.0])


def test_an_intrinsic_is_declared_once():
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(void, []), "f")
    v = VectorBuilder(ir.IRBuilder(function.append_basic_block()), 32, 4, fma=True)
    for _ in range(3):
        v.fma(v.zero(), v.zero(), v.zero())
    assert str(module).count("declare") == 1

"""The assembly of every shipped tile, for every instruction set, read without running it."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from numbaconv.cpu.dense import cut_channels, unroll_of
from numbaconv.cpu.families import FAMILIES, standalone_module
from numbaconv.cpu.microkernel import Tile
from numbaconv.cpu.target import ISAS
from numbaconv.problem import ConvProblem, Geometry

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

# A processor of each instruction set, as LLVM names it.
PROCESSORS = {
    "avx512": (X86, "skylake-avx512"),
    "avx2": (X86, "haswell"),
    "avx": (X86, "sandybridge"),
    "sse": (X86, "nehalem"),
    "neon": (ARM, "neoverse-n1"),
}

# Vector registers as operands, and the instructions that multiply and that add.
REGISTERS = {"avx512": "%zmm", "avx2": "%ymm", "avx": "%ymm", "sse": "%xmm", "neon": r"\.(4s|2d)"}
FUSED = {"avx512": r"vfmadd\d+p", "avx2": r"vfmadd\d+p", "neon": r"fmla\b"}
MULTIPLY = {"neon": r"fmul\b"}
ADD = {"neon": r"fadd\b"}


# --- every tile that blocking can ask for


# (C_in/G, C_out/G): depthwise, channel multipliers, and groups that share a vector.
SMALL_GROUPS = ((1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (2, 4), (4, 4), (8, 8))


def shapes(lanes: int) -> Iterator[tuple[int, int, int, int]]:
    """(C_in, C_out, groups, dilation) that between them need every kind of tile."""
    for channels in range(1, 71):
        for inputs, dilation in ((3, 1), (12, 1), (8000, 1), (1, 2)):  # short, plain, long, one
            yield inputs, channels, 1, dilation
    for dilation in (1, 2):
        yield 1, 1, 1, dilation
        for inputs in (3 * lanes, 3 * lanes - 1):
            for outputs in range(1, lanes // 2 + 1):
                yield inputs, outputs, 1, dilation
        for depth, outputs in SMALL_GROUPS:
            for groups in (64, 65):
                yield groups * depth, groups * outputs, groups, dilation


@functools.cache
def shipped_tiles(isa: str) -> tuple[Tile, ...]:
    target, tiles = ISAS[isa], {}
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        for inputs, outputs, groups, dilation in shapes(target.lanes(dtype)):
            for layout, stride in (("NLC", 1), ("NCL", 1), ("NCL", 2)):
                geometry = Geometry(
                    3, inputs, outputs, stride=stride, dilation=dilation, num_groups=groups
                )
                problem = ConvProblem(geometry, 1, 300, dtype, layout=layout)
                for family in FAMILIES:
                    if family.declines(problem, target) is None:
                        for panel in family.panels(problem, target):
                            tiles[panel.tile] = None
        for columns in range(1, 71):  # of a transform, whose spectrum does not stay near
            for depth in (24, 8000):
                gemm = ConvProblem(Geometry(1, depth, columns), 1, 1, dtype)
                for panel in cut_channels(
                    gemm, target, first=0, channels=columns, x_offset=0, column=0, sharing=8
                ):
                    tiles[panel.tile] = None
    return tuple(tiles)


@functools.cache
def representative_tiles(isa: str) -> set[Tile]:
    """The widest whole tile of each family in float32, on the two common processors."""
    whole = [t for t in shipped_tiles(isa) if t.bits == 32 and not t.masked]
    widest = {t.family: t for t in sorted(whole, key=lambda t: (t.width, t.name))}
    return set(widest.values()) if isa in ("avx512", "avx2") else set()


def parameters(*families: str) -> list[Any]:
    return [
        pytest.param(
            isa, tile, id=f"{isa}-{tile.name}",
            marks=[] if tile in representative_tiles(isa) else pytest.mark.slow,
        )
        for isa in ISAS
        for tile in shipped_tiles(isa)
        if tile.family in families
    ]  # fmt: skip


DENSE = parameters("dense")
OTHERS = parameters("sliced", "narrow", "fir", "planar")
TILES = DENSE + OTHERS


# --- compiling


@functools.cache
def initialize_llvm() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@functools.cache
def assembly(isa: str, tile: Tile) -> str:
    """Compile a tile as Numba does: function passes, cheap module passes, all passes at -O3."""
    initialize_llvm()
    triple, cpu = PROCESSORS[isa]
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, opt=3, reloc="static" if triple == X86 else "default", codemodel="jitdefault"
    )
    module = llvm.parse_assembly(str(standalone_module(tile, triple)))
    module.verify()
    module.data_layout = str(machine.target_data)
    run_passes_of_numba(module, machine)
    return machine.emit_assembly(module)


def run_passes_of_numba(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """The order of `numba.core.codegen.CPUCodeLibrary._optimize_final_module`."""
    full, cheap = pass_builder(machine, 3), pass_builder(machine, 0)
    functions = full.getFunctionPassManager()
    for function in module.functions:
        functions.run(function, full)
    first = cheap.getModulePassManager()
    first.add_loop_rotate_pass()
    first.add_instruction_combine_pass()
    first.add_jump_threading_pass()
    first.run(module, cheap)
    full.getModulePassManager().run(module, full)


def pass_builder(machine: llvm.TargetMachine, level: int) -> llvm.PassBuilder:
    options = llvm.create_pipeline_tuning_options()
    options.speed_level = level
    options.loop_vectorization = level == 3
    options.slp_vectorization = False
    return llvm.create_pass_builder(machine, options)


# --- reading


@dataclass
class Block:
    """Instructions that run one after another, and the labels of what may come next."""

    label: str
    instructions: list[str] = field(default_factory=list)
    successors: set[str] = field(default_factory=set)


BRANCH = re.compile(r"(?P<always>jmpq?|b|br|retq?|ret)$|(j\w+|b\.\w+|cbn?z|tbn?z)$")


def basic_blocks(text: str) -> dict[str, Block]:
    """Cut the assembly of one function at labels and branches."""
    lines = [re.split(r"#(?![\d-])|//", line)[0].strip() for line in text.splitlines()]
    table = {  # where an indirect jump may go
        label
        for line in lines
        if re.match(r"\.(quad|long|word|hword|byte|xword)\s", line)
        for label in re.findall(r"\.LBB\d+_\d+", line)
    }
    blocks = {"entry": Block("entry")}
    current: Block | None = blocks["entry"]

    def begin(label: str, follows: bool) -> Block:
        if follows and current is not None:
            current.successors.add(label)
        blocks[label] = Block(label)
        return blocks[label]

    for number, line in enumerate(lines):
        if label := re.fullmatch(r"([\w.$]+):", line):
            current = begin(label[1], follows=True)
            continue
        if not line or line.startswith(".") or current is None:
            continue
        current.instructions.append(line)
        branch = BRANCH.match(line.split()[0])
        if branch is None:
            continue
        target = re.split(r"[\s,]+", line)[-1]
        if re.match(r"\.LBB", target):
            current.successors.add(target)
        elif not line.startswith("ret"):
            current.successors |= table
        current = None if branch["always"] else begin(f"line{number}", follows=True)
    return blocks


def dominators(blocks: dict[str, Block]) -> dict[str, set[str]]:
    """For each reachable block, the blocks through which every path to it leads."""
    before: dict[str, set[str]] = {}
    reachable, waiting = {"entry"}, ["entry"]
    while waiting:
        label = waiting.pop()
        for successor in blocks[label].successors:
            before.setdefault(successor, set()).add(label)
            if successor not in reachable:
                reachable.add(successor)
                waiting.append(successor)
    order = [label for label in blocks if label in reachable]
    found = {label: set(order) for label in order}
    found["entry"] = {"entry"}
    changed = True
    while changed:
        changed = False
        for label in order[1:]:
            new = set.intersection(*(found[b] for b in before[label])) | {label}
            changed |= new != found[label]
            found[label] = new
    return found


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions of each natural loop that holds no other."""
    blocks = basic_blocks(text)
    over = dominators(blocks)
    before: dict[str, set[str]] = {label: set() for label in over}
    for label in over:
        for successor in blocks[label].successors:
            before[successor].add(label)
    bodies: dict[str, set[str]] = {}
    for label in over:
        for head in blocks[label].successors & over[label]:
            body, waiting = bodies.setdefault(head, {head}), [label]
            while waiting:
                member = waiting.pop()
                if member not in body:
                    body.add(member)
                    waiting += before[member]
    return [
        [line for label in blocks if label in body for line in blocks[label].instructions]
        for head, body in bodies.items()
        if not any(other in body for other in bodies if other != head)
    ]


def count(pattern: str, instructions: list[str]) -> int:
    return sum(bool(re.match(pattern, line)) for line in instructions)


def products(isa: str, tile: Tile, instructions: list[str]) -> tuple[int, int, int]:
    """(fused multiply-adds, multiplications, additions) on whole vectors of the element."""
    letter, register = "s" if tile.bits == 32 else "d", REGISTERS[isa]
    if isa == "neon":
        register = r"\.4s" if tile.bits == 32 else r"\.2d"
        letter = ""
    v = "" if isa == "sse" else "v"
    fused = FUSED.get(isa, r"v?fn?m(add|sub)\d+p") + letter
    multiply = MULTIPLY.get(isa, f"{v}mulp") + letter
    add = ADD.get(isa, f"{v}addp") + letter
    return tuple(count(f"{name}.*{register}", instructions) for name in (fused, multiply, add))


def reduction_loops(isa: str, tile: Tile) -> list[list[str]]:
    """The innermost loops in which chains grow."""
    loops = innermost_loops(assembly(isa, tile))
    return [loop for loop in loops if max(products(isa, tile, loop)) > 0]


def stack_accesses(isa: str, tile: Tile, loop: list[str]) -> list[str]:
    frame = r"|\(%rbp" if re.search(r"mov\w*\s+%rsp, %rbp", assembly(isa, tile)) else ""
    pattern = r"\[sp\b" if isa == "neon" else rf"\(%rsp{frame}"
    return [line for line in loop if re.search(pattern, line)]


def touches_vectors(line: str) -> bool:
    return re.search(r"%[xyz]mm|\b[qdsv]\d+\b", line) is not None


# --- the reader itself


def test_reader_finds_the_inner_one_of_two_nested_loops():
    text = """
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
    (loop,) = innermost_loops(text)
    assert loop[0] == "vmulps %zmm0, %zmm1, %zmm2"
    assert len(loop) == 4


def test_reader_sees_a_spill():
    assert touches_vectors("vmovups %zmm26, 240(%rsp)")
    assert touches_vectors("stp q14, q18, [sp, #16]")
    assert not touches_vectors("movq -104(%rsp), %r13")
    assert not touches_vectors("ldr x14, [sp, #128]")


def products_of_a_tap(tile: Tile) -> int:
    """Multiply-adds of whole vectors that one tap of the full tile takes."""
    if tile.family == "fir":
        return tile.rows // tile.lanes
    if tile.family == "planar":
        return tile.rows // tile.lanes * tile.variant[0]
    depth = tile.variant[1] if tile.family == "sliced" else 1
    return tile.rows * tile.vectors * depth


def full_tile_loops(isa: str, tile: Tile) -> list[list[str]]:
    """The loops of the full tile over its largest block of taps.

    No others have as many products, but for tiles of fewer rows that LLVM unrolled.
    """
    step, found = products_of_a_tap(tile), {}
    for loop in reduction_loops(isa, tile):
        count = max(products(isa, tile, loop))
        if count % step == 0:
            found.setdefault(count, []).append(loop)
    return found[max(found)] if found else []


# --- what the tiles promise


@pytest.mark.parametrize("isa, tile", DENSE)
def test_inner_loop_of_the_full_dense_tile_is_unrolled_multiply_adds(isa, tile):
    loops = full_tile_loops(isa, tile)
    wanted = unroll_of(tile) * tile.rows * tile.vectors
    assert len(loops) == 1 or unroll_of(tile) == 1  # one step: a small tile may have as many
    for loop in loops:
        found = products(isa, tile, loop)
        steps = 2 if unroll_of(tile) == 1 and max(found) == 2 * wanted else 1  # LLVM's choice
        count = steps * wanted
        assert found == ((count, 0, 0) if tile.fma else (0, count, count))


@pytest.mark.parametrize("isa, tile", OTHERS)
def test_a_loop_of_the_full_tile_takes_whole_taps(isa, tile):
    """A block of taps, which LLVM may unroll: one multiply-add for each vector of y and tap."""
    loops = full_tile_loops(isa, tile)
    assert loops
    for loop in loops:
        fused, multiplications, additions = products(isa, tile, loop)
        if tile.fma:
            assert multiplications == additions == 0
        else:
            assert fused == 0
            assert multiplications == additions


@pytest.mark.parametrize("isa, tile", TILES)
def test_no_multiply_add_of_the_reduction_is_scalar(isa, tile):
    scalar = r"v?(mul|add|fn?madd\d+)s[sd]\b|f(mul|add|madd)\s+[sd]\d"
    found = [line for loop in reduction_loops(isa, tile) for line in loop if re.match(scalar, line)]
    assert found == []


@pytest.mark.parametrize("isa, tile", TILES)
def test_kernel_calls_nothing(isa, tile):
    calls = re.findall(r"^\s*(?:callq?|blr?)\s.*$", assembly(isa, tile), re.MULTILINE)
    assert calls == []


@pytest.mark.parametrize("isa, tile", TILES)
def test_the_loop_of_the_full_tile_never_touches_the_stack(isa, tile):
    """Neither sums nor addresses: a spill of a sum is in its chain, at 5 cycles a time."""
    found = [
        line for loop in full_tile_loops(isa, tile) for line in stack_accesses(isa, tile, loop)
    ]
    assert found == []


@pytest.mark.parametrize("isa, tile", TILES)
def test_no_loop_spills_a_vector(isa, tile):
    """Tiles of fewer rows and what is left over by blocks of taps or channels included."""
    spills = [
        line
        for loop in reduction_loops(isa, tile)
        for line in stack_accesses(isa, tile, loop)
        if touches_vectors(line)
    ]
    assert spills == []


@pytest.mark.parametrize("isa, tile", TILES)
def test_the_loop_of_the_full_tile_has_one_branch(isa, tile):
    """Known: without masked loads a partial last vector of x costs a branch for each lane."""
    if tile.masked and tile.family != "dense" and isa in ("sse", "neon"):
        pytest.skip(f"{isa} has no masked loads")
    for loop in full_tile_loops(isa, tile):
        branches = [line for line in loop if BRANCH.match(line.split()[0])]
        assert len(branches) == 1


STREAMING_STORES = {
    "avx512": r"vmovntp[sd]\s+%zmm", "avx2": r"vmovntp[sd]\s+%ymm", "avx": r"vmovntp[sd]\s+%ymm",
    "sse": r"movntp[sd]\s+%xmm", "neon": r"stnp\s",
}  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("family", ["dense", "sliced"])
def test_a_streaming_tile_stores_past_the_caches_and_waits(isa, family):
    tile = next(
        t for t in shipped_tiles(isa) if t.family == family and t.bits == 32 and not t.masked
    )
    text = assembly(isa, dataclasses.replace(tile, streams=True))
    stores = re.findall(rf"^\s*{STREAMING_STORES[isa]}", text, re.MULTILINE)
    whole = REGISTERS[isa].strip("%")
    regular = [
        line for line in text.splitlines()
        if isa != "neon" and re.match(rf"\s*v?movu?a?p[sd]\s+%{whole}\d+, [^%]*\((?!%rsp)", line)
    ]  # fmt: skip
    assert len(stores) >= (tile.rows * tile.vectors // (2 if isa == "neon" else 1))
    assert regular == []
    assert re.search(r"\bdmb\b" if isa == "neon" else r"\bmfence\b|lock\w*\s", text)


@pytest.mark.parametrize("isa", ISAS)
def test_every_family_ships_tiles(isa):
    assert {tile.family for tile in shipped_tiles(isa)} == {
        "dense",
        "sliced",
        "narrow",
        "fir",
        "planar",
    }

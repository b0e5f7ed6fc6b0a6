"""Compiles kernels as Numba does, for any processor, and reads their assembly."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import llvmlite.binding as llvm
from llvmlite import ir

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

SCALAR_ARITHMETIC = (
    r"v?(mul|add|sub|div|fn?m(add|sub)\d+)s[sd]\b"
    r"|f(mul|nmul|add|sub|div|madd|msub|nmadd|nmsub)\s+[hsd]\d"
)


# --- compiling


@functools.cache
def initialize_llvm() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def compiled(isa: str, module: ir.Module) -> str:
    """Compile as Numba does: function passes, cheap module passes, all passes at -O3."""
    initialize_llvm()
    triple, cpu = PROCESSORS[isa]
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, opt=3, reloc="static" if triple == X86 else "default", codemodel="jitdefault"
    )
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    parsed.data_layout = str(machine.target_data)
    run_passes_of_numba(parsed, machine)
    return machine.emit_assembly(parsed)


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


def natural_loops(blocks: dict[str, Block]) -> dict[str, set[str]]:
    """The labels of each loop, by that of its head."""
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
    return bodies


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions of each natural loop that holds no other."""
    blocks = basic_blocks(text)
    bodies = natural_loops(blocks)
    return [
        instructions_of(blocks, body)
        for head, body in bodies.items()
        if not any(other in body for other in bodies if other != head)
    ]


def outermost_loops(text: str) -> list[list[str]]:
    """The instructions of each natural loop that no other holds."""
    blocks = basic_blocks(text)
    bodies = natural_loops(blocks)
    return [
        instructions_of(blocks, body)
        for head, body in bodies.items()
        if not any(head in bodies[other] for other in bodies if other != head)
    ]


def instructions_of(blocks: dict[str, Block], labels: set[str]) -> list[str]:
    return [line for label in blocks if label in labels for line in blocks[label].instructions]


def postorder(blocks: dict[str, Block]) -> list[str]:
    """Reachable labels, each after all that follow it but on the way back of a loop."""
    found, order = {"entry"}, []
    path = [("entry", iter(sorted(blocks["entry"].successors)))]
    while path:
        label, successors = path[-1]
        following = next((s for s in successors if s not in found), None)
        if following is None:
            order.append(label)
            path.pop()
        else:
            found.add(following)
            path.append((following, iter(sorted(blocks[following].successors))))
    return order


def most_on_a_path(text: str, weight: Callable[[str], int]) -> int:
    """The largest sum of weights of instructions on a way through that takes each loop once.

    LLVM copies what follows a branch into both of its sides, so that a sum over all of the
    text would be of more than ever runs.
    """
    blocks, most = basic_blocks(text), {}
    for label in postorder(blocks):
        following = [most[s] for s in blocks[label].successors if s in most]
        most[label] = sum(map(weight, blocks[label].instructions)) + max(following, default=0)
    return most["entry"]


def count(pattern: str, instructions: list[str]) -> int:
    return sum(bool(re.match(pattern, line)) for line in instructions)


def operand(isa: str, bits: int) -> tuple[str, str]:
    """How a name ends for this element, and whole vectors of it as operands."""
    if isa == "neon":
        return "", r"\.4s" if bits == 32 else r"\.2d"
    return "s" if bits == 32 else "d", REGISTERS[isa]


def products(isa: str, bits: int, instructions: list[str]) -> tuple[int, int, int]:
    """(fused multiply-adds, multiplications, additions) on whole vectors of the element."""
    letter, register = operand(isa, bits)
    v = "" if isa == "sse" else "v"
    fused = FUSED.get(isa, r"v?fn?m(add|sub)\d+p") + letter
    multiply = MULTIPLY.get(isa, f"{v}mulp") + letter
    add = ADD.get(isa, f"{v}addp") + letter
    return tuple(count(f"{name}.*{register}", instructions) for name in (fused, multiply, add))


def arithmetic(isa: str, bits: int) -> str:
    """Matches each product, sum, difference and fused pair of whole vectors of the element."""
    letter, register = operand(isa, bits)
    if isa == "neon":
        return rf"f(mla|mls|mul|add|sub)\s.*{register}"
    return rf"v?(fn?m(add|sub)\d+|mul|add|sub)p{letter}\s.*{register}"


def sign_flips(isa: str, bits: int) -> str:
    """Matches a change of sign: an exclusive or with -0, as zeros are made in %xmm."""
    letter, register = operand(isa, bits)
    return rf"fneg\s.*{register}" if isa == "neon" else rf"vxorp{letter}\s.*{register}"


def calls(text: str) -> list[str]:
    return re.findall(r"^\s*(?:callq?|blr?)\s.*$", text, re.MULTILINE)


def stack_accesses(isa: str, text: str, loop: list[str]) -> list[str]:
    """What of `loop` reads or writes the stack, in the function `text`."""
    frame = r"|\(%rbp" if re.search(r"mov\w*\s+%rsp, %rbp", text) else ""
    pattern = r"\[sp\b" if isa == "neon" else rf"\(%rsp{frame}"
    return [line for line in loop if re.search(pattern, line)]


def touches_vectors(line: str) -> bool:
    return re.search(r"%[xyz]mm|\b[qdsv]\d+\b", line) is not None


# Bytes that one instruction writes to memory, by its name and the register in it.
X86_STORES = {
    r"v?(movu?a?p[sd]|movdq[ua]|maskmovp[sd])\s.*%zmm\d+, [^%]*\(": 64,
    r"v?(movu?a?p[sd]|movdq[ua]|maskmovp[sd])\s.*%ymm\d+, [^%]*\(": 32,
    r"v?(movu?a?p[sd]|movdq[ua]|maskmovp[sd])\s.*%xmm\d+, [^%]*\(|vextractf128\s.*, [^%]*\(": 16,
    r"v?mov(sd|[hl]p[sd])\s+%xmm\d+, [^%]*\(": 8,
    r"v?(movss\s+|extractps\s.*)%xmm\d+, [^%]*\(": 4,
}
ARM_STORES = {
    r"stp\s+q": 32,
    r"stu?r\s+q|stp\s+d": 16,
    r"stu?r\s+d|st1\s.*\.d|stp\s+s": 8,
    r"stu?r\s+s|st1\s.*\.s": 4,
}


def bytes_stored(isa: str, line: str) -> int:
    """Bytes of vectors, whole or in part, that an instruction writes, but to the stack."""
    if re.search(r"\(%rsp|\[sp\b", line):
        return 0
    table = ARM_STORES if isa == "neon" else X86_STORES
    return next((size for pattern, size in table.items() if re.match(pattern, line)), 0)

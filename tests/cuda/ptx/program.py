"""PTX text, decoded once: parameters, shared arrays, instructions, labels."""

import re
from dataclasses import dataclass


class InterpreterError(Exception):
    """A kernel did what it must not do, or what is not modelled."""


@dataclass(frozen=True)
class Instruction:
    """One statement: `@guard opcode operands;`."""

    opcode: str
    parts: tuple[str, ...]
    operands: tuple[str, ...]
    guard: tuple[str, bool] | None  # (register, whether it is negated)
    text: str

    @property
    def name(self):
        return self.parts[0]

    @property
    def type(self):
        return self.parts[-1]


def decode(statement):
    guard, rest = None, statement
    matched = re.match(r"@(!?)(%?\w+)\s+(.*)", statement)
    if matched:
        guard, rest = (matched[2], matched[1] == "!"), matched[3]
    opcode, _, operands = rest.partition(" ")
    operands = re.sub(r"\s*,\s*", ",", operands.strip())
    found = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,]+", operands)
    return Instruction(
        opcode, tuple(opcode.split(".")), tuple(f.strip() for f in found if f.strip()), guard,
        statement,
    )  # fmt: skip


def body_of(ptx, begin):
    """The text between the brace before `begin` and the one that closes it."""
    depth, end = 1, begin
    while depth:
        depth += {"{": 1, "}": -1}.get(ptx[end], 0)
        end += 1
    return ptx[begin : end - 1]


class Program:
    """The entry of a PTX module.

    Attributes
    ----------
    parameters : list of (type, name)
    shared : dict
        Offset of each shared array.
    static_shared : int
        Bytes before dynamic shared memory.
    code : list of Instruction
    labels : dict
    widths : dict
        Bits of registers that inline assembly declares; others tell by their names.
    """

    def __init__(self, ptx):
        ptx = re.sub(r"//[^\n]*", "", ptx)
        head = re.search(r"\.visible\s+\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", ptx, re.S)
        self.name = head[1]
        self.parameters = re.findall(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)", head[2])
        self._place_shared(ptx)
        self.code, self.labels, self.widths = [], {}, {}
        body = re.sub(r"([$\w]+):(?!:)", r"\1: ;", body_of(ptx, head.end()))
        for statement in body.split(";"):
            self._add(" ".join(statement.split()))

    def _place_shared(self, ptx):
        self.shared, offset = {}, 0
        static = r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\]"
        dynamic = r"\.extern\s+\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[\]"
        for alignment, name, size in re.findall(static, ptx):
            offset = -(-offset // int(alignment)) * int(alignment)
            self.shared[name] = offset
            offset += int(size)
        self.static_shared = offset
        for alignment, name in re.findall(dynamic, ptx):
            self.shared[name] = -(-offset // int(alignment)) * int(alignment)

    def _add(self, statement):
        while statement.startswith("}"):
            statement = statement[1:].strip()
        if statement.startswith("{ .reg"):
            statement = statement[1:].strip()
        if statement.startswith(".reg") and "%" not in statement:
            kind, names = statement.split(None, 2)[1:]
            width = 1 if kind == ".pred" else int(re.sub(r"\D", "", kind))
            self.widths.update(dict.fromkeys(map(str.strip, names.split(",")), width))
        if not statement or statement.startswith((".reg", ".loc", ".pragma")):
            return
        if statement.endswith(":"):
            self.labels[statement[:-1].strip()] = len(self.code)
            return
        self.code.append(decode(statement))

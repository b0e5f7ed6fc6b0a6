"""What README.md says is so: its code runs, and its tables are those of the library."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from numbaconv import Conv1D, dispatch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title):
    """The text below one heading."""
    return re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


def rows_of(text):
    """The cells of all table rows in `text`, without headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set(row[0]) <= set("-")]


def test_code_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert blocks
    names = {}
    for block in blocks:  # each goes on where the one before it ended
        exec(compile(block, "README.md", "exec"), names)
    assert re.search("^kernel: (winograd|dense)$", capsys.readouterr().out, re.M)


def test_every_parameter_is_listed_with_its_default():
    listed = {}
    for row in rows_of(section("Parameters")):
        listed.setdefault(row[0].strip("`"), row[1].strip("`"))  # later tables explain values
    parameters = inspect.signature(Conv1D).parameters.values()
    names = [parameter.name for parameter in parameters]
    assert [name for name in listed if name in names] == names
    for parameter in parameters:
        default = parameter.default
        if default is parameter.empty:
            wanted = ""
        elif default is np.float32:
            wanted = "float32"
        else:
            wanted = repr(default).replace("'", '"')
        assert listed[parameter.name] == wanted, parameter.name


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_are_as_drawn(mode):
    drawn = next(row[1] for row in rows_of(section("Parameters")) if row[0] == f'`"{mode}"`')
    show = Conv1D(1, 1, 1, padding=2, padding_mode=mode)
    show.filter = np.ones((1, 1, 1), np.float32)
    padded = show(np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1)).ravel()
    assert " ".join("0abcd"[int(value)] for value in padded) == drawn.strip("`")


def test_kernels_are_listed_in_their_order():
    listed = [row[0].strip("`") for row in rows_of(section("How it works"))]
    names = [kernel.name for kernel in dispatch.cpu_kernels()]
    assert listed == ["kernel", *names]


def test_files_exist():
    tree = re.search(r"^```\nnumbaconv/\n(.*?)^```", README, re.M | re.S)[1]
    files = re.findall(r"\b\w+\.py\b|\bcpu/", tree)
    assert len(files) > 8
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    for path in [ROOT / "numbaconv" / file for file in files] + [ROOT / link for link in links]:
        assert path.exists(), path


def test_own_environment_variables_are_listed():
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "numbaconv").rglob("*.py"))
    used = set(re.findall(r"\bNUMBACONV_[A-Z]\w*", sources))
    listed = {row[0].strip("`") for row in rows_of(section("Environment variables"))}
    assert used
    assert used <= listed


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", pages, re.M))
    assert {"demo", "test", "bench"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_declared_versions_are_those_of_the_package():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = {row[0]: row[1] for row in rows_of(section("What is supported, and what has been run"))}

    def least(package):
        return re.search(rf'"{package}>=([\d.]+)"', project)[1]

    python = re.search(r'requires-python = ">=([\d.]+)"', project)[1]
    assert table["Python"] == f"{python} and later"
    assert table["NumPy"] == f"{least('numpy')} and later"
    assert table["numba, llvmlite"] == f"{least('numba')}, {least('llvmlite')} and later"

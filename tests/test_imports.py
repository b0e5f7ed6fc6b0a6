"""What an import does and does not do, each in a fresh interpreter."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "numbaconv"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
# Two modules open the door to numba-cuda, which is optional.
COMPILING = {f"numbaconv.cuda.{name}" for name in ("frontend", "hopper", "instructions")}
IMPORTABLE = [name for name in MODULES if find_spec("numba_cuda") or name not in COMPILING]
RUNTIME = {"numba", "numpy", "llvmlite"}
# Asked for by name and used only where they are installed.
OPTIONAL = {"tqdm", "ml_dtypes"}
HEAVY = ("scipy", "matplotlib", "torch", "pandas", "jax", "tqdm", "pytest", "hypothesis")


def python(code, **environment):
    """Run `code` in a fresh interpreter, with warnings as errors, and parse what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- what an import costs


IMPORT_AND_LOOK = """
import json, sys
import numba
import numba.core.event
before = set(sys.modules)
with numba.core.event.install_recorder("numba:compile") as compiled:
    import numbaconv
    from numba.core.dispatcher import Dispatcher
    with_signatures = [
        f"{module.__name__}.{name}"
        for module in list(sys.modules.values())
        if module.__name__.startswith("numbaconv")
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher) and value.signatures
    ]
print(json.dumps({
    "compiled": len(compiled.buffer),
    "with_signatures": with_signatures,
    "new": sorted(set(sys.modules) - before),
    "threads": sys.modules["numba"].np.ufunc.parallel._is_initialized,
}))
"""


@pytest.fixture(scope="module")
def imported():
    return python(IMPORT_AND_LOOK)


def test_an_import_compiles_nothing(imported):
    assert imported["compiled"] == 0
    assert imported["with_signatures"] == []


def test_an_import_starts_no_threads(imported):
    assert imported["threads"] is False


def test_an_import_loads_no_cuda(imported):
    assert [name for name in imported["new"] if "cuda" in name.lower()] == []


def test_an_import_loads_nothing_heavy(imported):
    loaded = {name.partition(".")[0] for name in imported["new"]}  # Numba itself loads SciPy
    assert loaded.isdisjoint(HEAVY)


def test_making_a_layer_compiles_nothing():
    code = """
import json, numba.core.event, numpy as np
with numba.core.event.install_recorder("numba:compile") as compiled:
    import numbaconv
    numbaconv.Conv1D(3, 4, 8, has_bias=True).state_dict()
print(json.dumps(len(compiled.buffer)))
"""
    assert python(code) == 0


def test_an_import_writes_no_file(tmp_path):
    code = "import json, numbaconv; print(json.dumps(True))"
    python(code, NUMBACONV_CACHE_DIR=str(tmp_path / "cache"))
    assert list(tmp_path.iterdir()) == []


def test_an_import_leaves_numpy_as_it_was():
    code = """
import json, numpy as np, warnings
before = np.geterr(), np.get_printoptions(), list(warnings.filters)
import numbaconv
after = np.geterr(), np.get_printoptions(), list(warnings.filters)
print(json.dumps([before[0] == after[0], before[1] == after[1], len(before[2]) - len(after[2])]))
"""
    same_errors, same_printing, _ = python(code)
    assert same_errors
    assert same_printing


# --- every module on its own

IMPORT_EACH_ALONE = """
import importlib, json, os, sys, traceback
import numba, numpy  # what they load is loaded once, before the children
failed = {}
for name in sys.argv[1:]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            importlib.import_module(name)
            message = ""
        except BaseException:
            message = traceback.format_exc()
        os.write(writer, message.encode()[-3000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read().decode()
    os.waitpid(child, 0)
    if message:
        failed[name] = message
print(json.dumps(failed))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_each_module_can_be_the_first_to_be_imported():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EACH_ALONE, *IMPORTABLE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_there_are_modules_to_import():
    assert {"numbaconv", "numbaconv.layer", "numbaconv.cpu.macrokernel"} <= set(MODULES)


# --- what the sources import


def imports_of(path):
    """(top-level package, whether it is imported with the module) of each import."""
    tree = ast.parse(path.read_text())
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            yield name.partition(".")[0], node not in inner


@pytest.mark.parametrize("name", MODULES)
def test_runtime_dependencies_are_three(name):
    base = ROOT.joinpath(*name.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    for package, is_eager in imports_of(path):
        if package in sys.stdlib_module_names:
            continue
        assert package in RUNTIME | OPTIONAL, package
        assert package in RUNTIME or not is_eager, f"{package} is imported with the module"


PURE = ["problem.py", "interop.py", "weights.py", "plan.py", "functional.py", "layer.py",
        "reference.py", "dispatch.py"]  # fmt: skip


@pytest.mark.parametrize("name", PURE)
def test_modules_above_the_kernels_know_nothing_of_numba(name):
    packages = {package for package, _ in imports_of(PACKAGE / name)}
    assert packages.isdisjoint({"numba", "llvmlite"})


def test_only_one_module_compiles():
    """`_jit` knows the options; everyone else asks it."""
    for path in PACKAGE.rglob("*.py"):
        calls = [
            ast.unparse(node)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        ]
        compiling = {"numba.njit", "numba.jit", "numba.cfunc", "numba.vectorize"} & set(calls)
        assert not compiling or path.name == "_jit.py", (path.name, compiling)


def test_the_package_declares_what_it_imports():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {line.split(">")[0].strip() for line in project["dependencies"]}
    used = {
        package
        for path in PACKAGE.rglob("*.py")
        for package, is_eager in imports_of(path)
        if is_eager and package not in sys.stdlib_module_names
    }
    assert declared == used == RUNTIME

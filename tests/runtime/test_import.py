"""A fresh `import numbaconv` compiles, writes and loads nothing that is not needed."""

import json

import pytest

from tests.runtime import child

ABSENT = [
    "cupy", "hypothesis", "joblib", "matplotlib", "numba.cuda", "numba_cuda", "pandas",
    "pytest", "rich", "torch", "tqdm",
]  # fmt: skip
LOOK = """
import json, os, sys
import numba
loaded_by_numba = set(sys.modules)
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    import numbaconv
from numba.core.dispatcher import Dispatcher
mine = [module for name, module in sys.modules.items() if name.startswith("numbaconv")]
compiled_functions = [
    name
    for module in mine
    for name, value in vars(module).items()
    if isinstance(value, Dispatcher) and value.signatures
]
print(json.dumps({
    "events": len(compiled.buffer),
    "compiled": compiled_functions,
    "added": sorted(set(sys.modules) - loaded_by_numba),
    "all": sorted(sys.modules),
    "layer_is_started": numba.np.ufunc.parallel._is_initialized,
    "threads_by_environment": os.environ.get("NUMBA_NUM_THREADS"),
}))
"""


@pytest.fixture(scope="module")
def looked(package, tmp_path_factory):
    cache = tmp_path_factory.mktemp("import") / "cache"
    seen = json.loads(
        child.succeed(child.run("-c", LOOK, package=package, NUMBACONV_CACHE_DIR=cache))
    )
    return {**seen, "cache_exists": cache.exists()}


def test_nothing_is_compiled(looked):
    assert looked["events"] == 0
    assert looked["compiled"] == []


def test_no_file_appears_in_the_cache(looked):
    assert not looked["cache_exists"]


def test_no_threads_are_started(looked):
    assert not looked["layer_is_started"]


@pytest.mark.parametrize("name", ABSENT)
def test_a_module_stays_out(looked, name):
    assert name not in looked["all"]


def test_scipy_comes_with_numba_or_not_at_all(looked):
    """`import numba` itself loads scipy where it is installed."""
    assert not [name for name in looked["added"] if name.partition(".")[0] == "scipy"]


def test_nothing_of_cuda_is_imported(looked):
    found = {name for name in looked["all"] if "cuda" in name.lower()}
    # Where numba-cuda is installed, Python itself loads this at its start, by a .pth file.
    assert found <= {"_numba_cuda_redirector"}

"""What users may rely on, word by word: a change here is a change for them."""

from __future__ import annotations

import inspect
import re
from importlib import resources

import pytest

import numbaconv
from numbaconv import Conv1D

PUBLIC = [
    "Conv1D",
    "ConvProblem",
    "Explanation",
    "Geometry",
    "conv1d",
    "explain",
    "get_num_threads",
    "set_num_threads",
    "warmup",
]

SIGNATURES = {
    Conv1D.__init__: (
        "(self, kernel_size: 'int', in_channels: 'int', out_channels: 'int', "
        "dtype: 'Any' = <class 'numpy.float32'>, stride: 'int' = 1, padding: 'Padding' = 0, "
        "dilation: 'int' = 1, num_groups: 'int' = 1, device: 'str | None' = None, "
        "has_bias: 'bool' = False, permute: 'bool' = False, name: 'str | None' = None, *, "
        "padding_mode: 'PaddingMode' = 'zeros', algorithm: 'Algorithm' = 'auto', "
        "rng: 'Any' = None, threads: 'int | None' = None, "
        "precision: 'Precision' = 'exact') -> 'None'"
    ),
    Conv1D.__call__: (
        "(self, x: 'Any', out: 'Any' = None, *, threads: 'int | None' = None) -> 'Any'"
    ),
    Conv1D.load_state_dict: ("(self, state: 'Mapping[str, Any]', strict: 'bool' = True) -> 'None'"),
    Conv1D.state_dict: "(self) -> 'dict[str, Array]'",
    Conv1D.explain: "(self, x: 'Any') -> 'Explanation'",
    numbaconv.conv1d: (
        "(x: 'Any', filter: 'Any', bias: 'Any' = None, *, stride: 'int' = 1, "
        "padding: 'Padding' = 0, dilation: 'int' = 1, num_groups: 'int' = 1, "
        "padding_mode: 'PaddingMode' = 'zeros', permute: 'bool' = False, "
        "out: 'Any' = None, algorithm: 'Algorithm' = 'auto', "
        "threads: 'int | None' = None, precision: 'Precision' = 'exact') -> 'Any'"
    ),
    numbaconv.explain: "(layer: 'Conv1D', x: 'Any') -> 'Explanation'",
    numbaconv.set_num_threads: "(threads: 'int | None') -> 'None'",
    numbaconv.get_num_threads: "() -> 'int'",
    numbaconv.warmup: "(*what: 'Any', progress: 'bool | None' = None) -> 'None'",
}

ATTRIBUTES = [
    "algorithm",
    "bias",
    "device",
    "dilation",
    "dtype",
    "explain",
    "filter",
    "has_bias",
    "in_channels",
    "kernel_size",
    "load_state_dict",
    "name",
    "num_groups",
    "out_channels",
    "padding",
    "padding_mode",
    "permute",
    "precision",
    "state_dict",
    "stride",
    "threads",
]


def test_public_names():
    assert sorted(numbaconv.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(numbaconv, name).__name__ == name


def test_star_import_gives_the_public_names():
    names = {}
    exec("from numbaconv import *", names)
    del names["__builtins__"]
    assert sorted(names) == PUBLIC


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_signatures(function):
    assert str(inspect.signature(function)) == SIGNATURES[function]


def test_attributes_of_a_layer():
    layer = Conv1D(3, 4, 8)
    assert [name for name in dir(layer) if not name.startswith("_")] == ATTRIBUTES


def test_version_is_a_release_number():
    assert re.fullmatch(r"\d+\.\d+\.\d+", numbaconv.__version__)


def test_types_are_shipped():
    assert resources.files(numbaconv).joinpath("py.typed").is_file()


# --- docstrings


def sections(document):
    """Name and text of each numpydoc section."""
    lines = inspect.cleandoc(document).splitlines()
    marks = [i for i, line in enumerate(lines[1:]) if re.fullmatch("-{3,}", line)]
    ends = [*marks[1:], len(lines)]
    return {
        lines[mark]: "\n".join(lines[mark + 2 : end]) for mark, end in zip(marks, ends, strict=True)
    }


def documented_names(text):
    """Names in front of the colon of a Parameters section."""
    heads = re.findall(r"^(\S[^:\n]*?)(?: :.*)?$", text, re.MULTILINE)
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


CALLABLES = {
    "Conv1D": Conv1D,
    "Conv1D.__call__": Conv1D.__call__,
    "Conv1D.load_state_dict": Conv1D.load_state_dict,
    "conv1d": numbaconv.conv1d,
    "explain": numbaconv.explain,
    "set_num_threads": numbaconv.set_num_threads,
    "warmup": numbaconv.warmup,
}


@pytest.mark.parametrize("name", CALLABLES)
def test_every_parameter_is_documented_in_order(name):
    function = CALLABLES[name]
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    documented = documented_names(sections(function.__doc__)["Parameters"])
    assert sorted(documented) == sorted(parameters)


@pytest.mark.parametrize("name", ["Conv1D.__call__", "conv1d", "explain"] + ["get_num_threads"])
def test_results_are_documented(name):
    function = CALLABLES.get(name) or getattr(numbaconv, name)
    assert "Returns" in sections(function.__doc__)


@pytest.mark.parametrize(
    "name", ["Conv1D", "Conv1D.__call__", "Conv1D.load_state_dict", "conv1d", "set_num_threads"]
)
def test_errors_are_documented(name):
    assert re.search(r"\b\w+Error\b", sections(CALLABLES[name].__doc__)["Raises"])


@pytest.mark.parametrize("name", ["Conv1D", "conv1d", "explain", "set_num_threads", "warmup"])
def test_examples_run_by_doctest(name):
    assert ">>>" in sections(CALLABLES[name].__doc__)["Examples"]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_begins_with_one_sentence(name):
    first = inspect.getdoc(getattr(numbaconv, name)).splitlines()[0]
    assert first[0].isupper()
    assert first.endswith(".")
    assert len(first) <= 100


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_have_a_docstring(name):
    if name != "name":  # an instance attribute
        assert inspect.getdoc(getattr(Conv1D, name))


def test_attributes_of_problems_and_explanations_are_documented():
    assert "Attributes" in sections(numbaconv.ConvProblem.__doc__)
    assert "Attributes" in sections(numbaconv.Explanation.__doc__)
    assert "Attributes" in sections(Conv1D.__doc__)

"""What `warmup` compiles, and that nothing is left for the calls that follow."""

import re

import numpy as np
import pytest

import numbaconv
from numbaconv import Conv1D
from tests.runtime import child

# Counts the kernels that calls add to the cache after a warm-up.
COUNT = """
import numpy as np
from pathlib import Path
import numbaconv
from numbaconv import Conv1D, _cache, dispatch, warmup

def files():
    folder = _cache.folder()
    return {path.name for path in folder.glob("*")}

def assert_warm(calls):
    before = files()
    assert before, "nothing was compiled"
    calls()
    assert files() == before, f"a call compiled {sorted(files() - before)}"
"""
LAYERS = {
    "wide": "Conv1D(3, 64, 64, padding='same', has_bias=True)",
    "double, permuted": "Conv1D(5, 20, 70, 'float64', stride=2, permute=True)",
    "small groups": "Conv1D(3, 32, 32, num_groups=8)",
    "depthwise": "Conv1D(4, 40, 40, num_groups=40)",
    "interleaved": "Conv1D(17, 4, 4, num_groups=4, padding='causal', permute=True)",
    "signals": "Conv1D(4, 40, 40, num_groups=40, padding='causal', permute=True)",
    "fir": "Conv1D(31, 1, 1, padding='same')",
    "narrow": "Conv1D(3, 64, 2, padding='same', padding_mode='reflect')",
    "in steps": "Conv1D(2, 24, 40, stride=2, dilation=2, padding='same')",
}
CALLS = """
layer = {layer}
warmup(layer)
def shape(length, batch=1):
    c = layer.in_channels
    return (batch, c, length) if layer.permute else (batch, length, c)
def zeros(*args):
    return np.zeros(shape(*args), layer.dtype)
"""


@pytest.fixture
def assert_warm(python, tmp_path):
    def check(layer, calls):
        code = f"{COUNT}{CALLS.format(layer=LAYERS[layer])}\nassert_warm(lambda: [{calls}])"
        python(code, NUMBACONV_CACHE_DIR=tmp_path, NUMBA_NUM_THREADS="3", NUMBA_OPT="1")

    return check


def some_layers(*names):
    """The first of these layers, and the others in the slow part."""
    first, *others = names
    others = [pytest.param(name, marks=pytest.mark.slow) for name in others]
    return pytest.mark.parametrize("layer", [first, *others])


@some_layers(
    "wide",
    "double, permuted",
    "small groups",
    "interleaved",
    "signals",
    "fir",
    "narrow",
    "in steps",
)
def test_nothing_is_left_for_small_calls(assert_warm, layer):
    """Whatever the length and the strides of x, and with or without out."""
    assert_warm(
        layer,
        "layer(zeros(40)), layer(zeros(12, 3)), layer(zeros(30)[::-1]), "
        "layer(np.asfortranarray(zeros(15, 2))), layer(zeros(30), out=layer(zeros(30)) + 1)",
    )


def test_nothing_is_left_for_calls_that_transform(assert_warm):
    """At some lengths this layer takes a Winograd tile, at others not."""
    assert_warm("wide", "layer(zeros(67)), layer(zeros(300)), layer(zeros(1000))")


@pytest.mark.parametrize(
    "padding", [dict(padding=16, padding_mode="reflect"), dict(padding=-5)], ids=str
)
def test_layers_that_need_long_inputs(padding):
    numbaconv.warmup(Conv1D(3, 4, 8, **padding), progress=False)


@some_layers("wide", "double, permuted", "depthwise", "signals")
def test_nothing_is_left_for_large_calls(assert_warm, layer):
    """Which several threads share."""
    assert_warm(layer, "layer(zeros(60000)), layer(zeros(60000)[::-1])")


@pytest.mark.slow
def test_a_dtype_stands_for_its_layers(python, tmp_path):
    code = f"""{COUNT}
warmup(np.float32)
def calls():
    for channels in (1, 4, 15, 16, 17, 31, 40, 64, 100, 128):
        for inputs, groups in ((20, 1), (channels, channels)):
            layer = Conv1D(5, inputs, channels, num_groups=groups, algorithm="direct")
            layer(np.zeros((1, 100, inputs), np.float32))
    Conv1D(3, 64, 64, algorithm="direct")(np.zeros((1, 1000, 64), np.float32))
    wide = 4 * dispatch.cpu_target().lanes(np.dtype(np.float32))
    Conv1D(3, wide, wide, algorithm="winograd")(np.zeros((1, 1000, wide), np.float32))
assert_warm(calls)
"""
    python(code, NUMBACONV_CACHE_DIR=tmp_path, NUMBA_NUM_THREADS="3", NUMBA_OPT="1")


@pytest.mark.slow
def test_nothing_stands_for_both_dtypes(python, tmp_path):
    code = f"""{COUNT}
warmup()
def calls():
    for dtype in (np.float32, np.float64):
        for layer in (Conv1D(3, 20, 33, dtype), Conv1D(5, 24, 24, dtype, num_groups=24)):
            layer(np.zeros((1, 100, layer.in_channels), dtype))
        Conv1D(3, 64, 64, dtype, algorithm="direct")(np.zeros((1, 1000, 64), dtype))
assert_warm(calls)
"""
    python(code, NUMBACONV_CACHE_DIR=tmp_path, NUMBA_NUM_THREADS="3", NUMBA_OPT="1")


@pytest.mark.slow
def test_every_kind_of_layer_after_warmup_of_a_dtype(python, tmp_path):
    """The docstring promises the common kernels, no strided ones of few output channels."""
    common = [layer for layer in LAYERS.values() if not re.search("float64|stride|permute", layer)]
    layers = ", ".join(common)
    layers = layers.replace(")", ", algorithm='direct')")
    code = f"""{COUNT}
warmup(np.float32)
def calls():
    for layer in ({layers}):
        layer(np.zeros((1, 100, layer.in_channels), np.float32))
assert_warm(calls)
"""
    python(code, NUMBACONV_CACHE_DIR=tmp_path, NUMBA_OPT="1")


def test_warm_layers_keep_their_weights_and_work():
    layer = Conv1D(3, 4, 8, has_bias=True, rng=0)
    before = {name: value.copy() for name, value in layer.state_dict().items()}
    numbaconv.warmup(layer)
    for name, value in layer.state_dict().items():
        assert np.array_equal(value, before[name])


def test_layers_and_dtypes_may_be_mixed():
    numbaconv.warmup(Conv1D(3, 4, 8), Conv1D(3, 4, 8, permute=True), progress=False)


@pytest.mark.parametrize(
    "nonsense", ["nonsense", 3, None, np.int32, np.float16, np.complex64, [1, 2], Conv1D], ids=str
)
def test_nonsense_is_refused(nonsense):
    sentence = re.escape(
        f"warmup takes layers and the dtypes float32 and float64, each as an argument of its own, "
        f"got {nonsense!r}"
    )
    with pytest.raises(TypeError, match=f"^{sentence}$"):
        numbaconv.warmup(nonsense)


def test_nonsense_is_refused_before_anything_is_compiled(python, tmp_path):
    code = """
import numbaconv
try:
    numbaconv.warmup(numbaconv.Conv1D(3, 4, 8), "nonsense")
except TypeError:
    print("refused")
"""
    assert python(code, NUMBACONV_CACHE_DIR=tmp_path) == "refused\n"
    assert not list(tmp_path.rglob("*.bin"))


# --- progress
PROGRESS = "import numbaconv; numbaconv.warmup(numbaconv.Conv1D(3, 16, 16){})"


@pytest.mark.parametrize("option", ["", ", progress=False"])
def test_no_bar_away_from_a_terminal(package, filled, option):
    done = child.run("-c", PROGRESS.format(option), package=package, NUMBACONV_CACHE_DIR=filled)
    assert done.status == 0
    assert done.out == done.err == ""


def test_a_bar_on_request(package, filled):
    pytest.importorskip("tqdm")
    done = child.run(
        "-c", PROGRESS.format(", progress=True"), package=package, NUMBACONV_CACHE_DIR=filled
    )
    assert done.status == 0, done.err
    assert "numbaconv: compiling" in done.err
    assert done.out == ""


def test_a_bar_without_tqdm_is_no_error(python):
    code = "import sys; sys.modules['tqdm'] = sys.modules['tqdm.auto'] = None\n"
    python(code + PROGRESS.format(", progress=True"))


def test_without_a_compiler_there_is_nothing_to_do(python, tmp_path):
    code = "import numbaconv; numbaconv.warmup(); numbaconv.warmup(numbaconv.Conv1D(3, 4, 4))"
    python(code, NUMBA_DISABLE_JIT="1", NUMBACONV_CACHE_DIR=tmp_path)
    assert not list(tmp_path.iterdir())

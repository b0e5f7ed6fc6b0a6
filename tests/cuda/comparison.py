"""Run a case through the layer and the function on the fake device, and compare."""

import numpy as np

from numbaconv import Conv1D, conv1d
from tests import oracle
from tests.cuda.fake_driver import FakeArray
from tests.strategies import laid_out, whole_memory


def dtype_named(name):
    """A dtype by name, bfloat16 too."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def arrays_of(case, numbers, name):
    """x, filter and bias of a case as arrays of a dtype that may be narrow."""
    plain = case.but(dtype="float64", x_layout="contiguous", filter_layout="contiguous")
    x, filter, bias = (
        None if array is None else array.astype(dtype_named(name))
        for array in plain.arrays(numbers)
    )
    return [laid_out(x, case.x_layout), filter, bias]


def layer_of(case, filter, bias, **more):
    layer = Conv1D(
        case.kernel_size, case.in_channels, case.out_channels, filter.dtype,
        has_bias=bias is not None, device="cuda", **case.parameters, **more,
    )  # fmt: skip
    layer.filter = filter
    if bias is not None:
        layer.bias = bias
    return layer


def on_device(driver, array):
    """The array on the device, with the strides and the surroundings it has on the host."""
    return FakeArray(driver, whole_memory(array), array)


def expected_of(case, arrays):
    """What the definition gives in float64."""
    wide = [None if array is None else array.astype(np.float64) for array in arrays]
    return oracle.convolve(*wide, **case.parameters)


def results(driver, case, arrays, shape, ways, **more):
    """(way, y) for a NumPy array, and for arrays on the device with a fresh y and with `out`."""
    x, filter, bias = arrays
    layer = layer_of(case, filter, bias, **more)
    if "host" in ways:
        yield "host", layer(x)
    if "device" in ways:
        y = layer(on_device(driver, x))
        assert y.shape == shape and y.dtype == x.dtype
        yield "device", y.copy_to_host()
    if "conv1d" not in ways:
        return
    there = on_device(driver, np.full(shape, np.nan, x.dtype))
    weights = [None if w is None else on_device(driver, w) for w in (filter, bias)]
    assert conv1d(on_device(driver, x), *weights, out=there, **case.parameters, **more) is there
    yield "conv1d", there.read()


def assert_exact(driver, case, numbers, name="float32", ways=("host", "device", "conv1d"), **more):
    """Small integers give the oracle's numbers, rounded once to the dtype of y."""
    driver.reset()
    arrays = arrays_of(case, numbers, name)
    expected = expected_of(case, arrays).astype(arrays[0].dtype).astype(np.float64)
    for way, y in results(driver, case, arrays, expected.shape, ways, **more):
        assert y.shape == expected.shape, f"{way} {case}"
        np.testing.assert_array_equal(y.astype(np.float64), expected, f"{way} {name} {case}")


def kernel_of(case, name="float32", **more):
    """The name of the kernel that a contiguous x gets."""
    arrays = arrays_of(case, lambda rng, shape: np.zeros(shape), name)
    return layer_of(case, *arrays[1:], **more).explain(arrays[0]).kernel

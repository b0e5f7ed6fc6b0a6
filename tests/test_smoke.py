"""Placeholder until the suite lands: the layer agrees with its definition."""

import numpy as np

from numbaconv import Conv1D, reference


def test_layer_agrees_with_the_definition():
    layer = Conv1D(3, 64, 128, padding=(2, 0), has_bias=True, rng=0)
    x = np.random.default_rng(0).standard_normal((2, 100, 64)).astype(np.float32)
    expected = reference.convolve(layer._problem(2, 100), x, layer.filter, layer.bias)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)

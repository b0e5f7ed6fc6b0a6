"""1-D convolution for NumPy arrays, channel-last, compiled by Numba.

>>> import numpy as np
>>> from numbaconv import Conv1D
>>> conv = Conv1D(kernel_size=3, in_channels=64, out_channels=128, padding="causal")
>>> conv(np.zeros((2, 1000, 64), np.float32)).shape
(2, 1000, 128)
"""

from . import _overload as _overload
from ._threads import get_num_threads, set_num_threads
from ._warmup import warmup
from .dispatch import Explanation
from .functional import conv1d
from .layer import Conv1D, explain
from .problem import ConvProblem, Geometry

__version__ = "0.1.0"

__all__ = [
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

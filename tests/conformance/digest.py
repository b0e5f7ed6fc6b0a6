"""Print one hash of each output of a fixed set of layers: `python -m tests.conformance.digest`.

The suite compares what processes with different numbers of threads print.
"""

import hashlib

import numpy as np

from tests.conformance.comparison import make_layer
from tests.strategies import Case


def normal(rng, shape):
    return rng.standard_normal(shape)


CASES = (
    Case(3, 64, 70, 301, batch=3, padding="same", has_bias=True),
    Case(3, 64, 70, 301, batch=3, padding="same", dtype="float64", permute=True),
    Case(5, 33, 64, 2001, padding=(30, 7), dilation=3, stride=2),
    Case(9, 70, 70, 2000, padding="causal", num_groups=70, padding_mode="replicate"),
    Case(3, 60, 120, 301, batch=2, padding=30, num_groups=4, padding_mode="reflect"),
    Case(3, 400, 800, 9, padding="same"),
    Case(3, 400, 800, 9, padding="same", permute=True, batch=2, dtype="float64"),
    Case(5, 3000, 65, 30, padding="same", has_bias=True),
)


def main():
    for case in CASES:
        x, filter, bias = case.arrays(normal)
        layer = make_layer(case, filter, bias)
        y = layer(x)
        for _ in range(5):  # threads that have run before are faster, and meet in other ways
            y[...] = np.nan
            print(hashlib.sha256(layer(x, out=y).tobytes()).hexdigest())


if __name__ == "__main__":
    main()

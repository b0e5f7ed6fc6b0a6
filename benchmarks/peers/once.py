"""Run one layer once in a peer's environment: python -m benchmarks.peers.once PEER IN.npz OUT.npy

IN.npz holds x, w and the sizes of the problem; OUT.npy gets y, channel-last.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

import numpy as np

from ..problems import Problem
from .base import Layer


def main(peer: str, source: str, target: str) -> None:
    module = importlib.import_module(f"benchmarks.peers.{peer}_peer")
    os.environ.update(module.environment(1))
    module.start(1)
    with np.load(source) as data:
        problem = Problem(**json.loads(str(data["problem"])))
        layer = Layer(problem, data["x"], data["w"], 1)
    prepared = module.WAYS[0].prepare(layer)
    np.save(target, prepared.result(prepared.run()))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Grouped convolution: the dense tiles, group by group.

Lanes beyond C_out/G stay idle, so groups narrower than a vector are correct but slow.
"""

from __future__ import annotations

from ..problem import ConvProblem
from ..weights import Weights
from .panel_plan import PanelPlan
from .target import Target

name = "grouped"


def declines(problem: ConvProblem, target: Target) -> str | None:
    if problem.geometry.num_groups == 1:
        return "num_groups=1: there is one group"
    return None


def plan(problem: ConvProblem, weights: Weights, target: Target) -> PanelPlan:
    return PanelPlan(problem, weights, target, "dense")

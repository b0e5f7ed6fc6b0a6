"""Dense convolution: every output channel sees every input channel."""

from __future__ import annotations

from ..problem import ConvProblem
from ..weights import Weights
from .panel_plan import PanelPlan
from .target import Target

name = "dense"


def declines(problem: ConvProblem, target: Target) -> str | None:
    if problem.geometry.num_groups > 1:
        return f"num_groups={problem.geometry.num_groups}: output channels see different inputs"
    return None


def plan(problem: ConvProblem, weights: Weights, target: Target) -> PanelPlan:
    return PanelPlan(problem, weights, target, "dense")

"""Depthwise convolution: each output channel sees the input channel of its own number."""

from __future__ import annotations

from ..problem import ConvProblem
from ..weights import Weights
from .panel_plan import PanelPlan
from .target import Target

name = "depthwise"


def declines(problem: ConvProblem, target: Target) -> str | None:
    g = problem.geometry
    if g.group_in_channels > 1 or g.num_groups == 1:
        return f"C_in/G={g.group_in_channels} with {g.num_groups} group(s): channels are summed"
    if g.group_out_channels > 1:
        return f"channel multiplier {g.group_out_channels}: lanes of x and y do not match"
    return None


def plan(problem: ConvProblem, weights: Weights, target: Target) -> PanelPlan:
    return PanelPlan(problem, weights, target, "depthwise")

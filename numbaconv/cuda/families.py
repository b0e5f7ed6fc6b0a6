"""All families of CUDA kernels, in the order of preference."""

from __future__ import annotations

from .dense import FFMA, MMA, TMA, WGMMA
from .depthwise import DEPTHWISE
from .kernel import Family
from .resident import RESIDENT
from .scalar import SCALAR

FAMILIES: tuple[Family, ...] = (DEPTHWISE, RESIDENT, TMA, WGMMA, MMA, FFMA, SCALAR)

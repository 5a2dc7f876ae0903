"""State-space layers. All have `state_shape`, `initial`, `forward` (a window) and `step`, called alike.

`forward` returns outputs, the last state and the states after the steps that `keep` asks for.
"""

from worldmodels.ssm.block import Stack
from worldmodels.ssm.lru import LRU
from worldmodels.ssm.mamba2 import Mamba2
from worldmodels.ssm.s4 import S4
from worldmodels.ssm.s4d import S4D
from worldmodels.ssm.s5 import S5
from worldmodels.ssm.scan import linear_recurrence

LAYERS = {"s5": S5, "s4d": S4D, "s4": S4, "lru": LRU, "mamba2": Mamba2}
"""Layers that `s4wm.layer` may name; the block `s4wm.<name>` of the configuration goes to the constructor."""

__all__ = ["LAYERS", "LRU", "S4", "S4D", "S5", "Mamba2", "Stack", "linear_recurrence"]

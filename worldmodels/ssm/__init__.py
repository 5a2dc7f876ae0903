"""State-space layers (`layer.py` says what one is), and the stack of them that S4WM's memory is."""

from worldmodels.ssm.diagonal import LRU, S5
from worldmodels.ssm.layer import Layer
from worldmodels.ssm.mamba2 import Mamba2
from worldmodels.ssm.s4 import S4
from worldmodels.ssm.s4d import S4D
from worldmodels.ssm.selective_lru import SelectiveLRU
from worldmodels.ssm.stack import Stack

LAYERS: dict[str, type[Layer]] = {
    "s5": S5,
    "s4d": S4D,
    "s4": S4,
    "lru": LRU,
    "mamba2": Mamba2,
    "selective_lru": SelectiveLRU,
}
"""Layers that `s4wm.layer` may name; the block `s4wm.<name>` of the configuration goes to the constructor."""

__all__ = ["LAYERS", "LRU", "S4", "S4D", "S5", "Layer", "Mamba2", "SelectiveLRU", "Stack"]

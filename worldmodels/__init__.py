"""World models: the table of backbones, and how one is made from its configuration block."""

from __future__ import annotations

from collections.abc import Mapping

from worldmodels.base import Backbone, Rollout, State
from worldmodels.rssm import RSSM
from worldmodels.s4wm import S4WM
from worldmodels.tssm import TSSM
from worldmodels.world_model import WorldModel

BACKBONES: dict[str, type[Backbone]] = {"s4wm": S4WM, "rssm": RSSM, "tssm": TSSM}
"""A backbone is one class here and one block of the same name in `configs/defaults.yaml`."""


def make_backbone(kind: str, options: Mapping[str, object], embed_size: int, action_size: int) -> Backbone:
    """The backbone `kind` with its options; a ValueError names the known ones if there is no such kind."""
    if kind not in BACKBONES:
        raise ValueError(
            f"no backbone is called {kind!r}; the table in worldmodels/__init__.py has {', '.join(BACKBONES)}"
        )
    return BACKBONES[kind](embed_size=embed_size, action_size=action_size, **options)


__all__ = ["BACKBONES", "Backbone", "Rollout", "State", "WorldModel", "make_backbone"]

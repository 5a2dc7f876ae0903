"""World models: the table of backbones, and how one is made from its configuration block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldmodels.base import Backbone, Rollout, State
from worldmodels.latent import make_latent
from worldmodels.rssm import RSSM
from worldmodels.s4wm import S4WM
from worldmodels.tssm import TSSM
from worldmodels.world_model import WorldModel

BACKBONES: dict[str, type[Backbone]] = {"s4wm": S4WM, "rssm": RSSM, "tssm": TSSM}
"""A model is one class here and one block of the same name in `configs/defaults.yaml`."""


def model_of(name: str) -> str:
    """The model of a backbone, which is called `<model>` or `<model>_<variant>`: s4wm_s4 is an s4wm.

    Raises:
        ValueError: there is no such model; names those there are.
    """
    model = name.split("_")[0]
    if model not in BACKBONES:
        raise ValueError(
            f"backbone {name!r}: there is no model {model!r}; the table in worldmodels/__init__.py has "
            f"{', '.join(BACKBONES)}"
        )
    return model


def make_backbone(model: str, options: Mapping[str, Any], embed_size: int, action_size: int) -> Backbone:
    """A backbone of the class `BACKBONES[model]` with its options; E and A.

    `stoch`, `classes` and `unimix` among them describe the latent; the others go to the constructor.
    """
    rest = dict(options)
    latent = make_latent(rest.pop("stoch"), rest.pop("classes"), rest.pop("unimix"))
    return BACKBONES[model](embed_size=embed_size, action_size=action_size, latent=latent, **rest)


__all__ = ["BACKBONES", "Backbone", "Rollout", "State", "WorldModel", "make_backbone", "model_of"]

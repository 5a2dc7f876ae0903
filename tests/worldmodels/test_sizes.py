"""The presets of configs/sizes.yaml compare like with like."""

import pytest
import torch

import configs
from worldmodels import make_backbone
from worldmodels.ssm import LAYERS


def parameters(preset: str, backbone: str) -> int:
    config = configs.load(backbone=backbone, presets=[preset])
    torch.manual_seed(0)
    made = make_backbone(config.kind, config[config.kind], embed_size=config.encoder.units, action_size=4)
    return sum(parameter.numel() for parameter in made.parameters())


def test_every_layer_has_a_backbone() -> None:
    chosen = [configs.load(backbone=name) for name in configs.backbones()]
    assert {config.s4wm.layer for config in chosen if config.kind == "s4wm"} == set(LAYERS)


@pytest.mark.parametrize("preset", [name for name in configs.presets() if name != "debug"])
def test_backbones_of_a_preset_have_about_as_many_parameters(preset: str) -> None:
    """Within 10 % of S4WM's."""
    sizes = {name: parameters(preset, name) for name in configs.backbones()}
    assert {name: size for name, size in sizes.items() if abs(size / sizes["s4wm"] - 1) > 0.1} == {}

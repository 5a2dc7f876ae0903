"""The presets of configs/sizes.yaml compare like with like."""

import pytest
import torch

import configs
from worldmodels import make_backbone
from worldmodels.ssm import LAYERS


def parameters(preset: str, backbone: str, layer: str) -> int:
    config = configs.load(backbone=backbone, presets=[preset], overrides={"s4wm.layer": layer})
    torch.manual_seed(0)
    made = make_backbone(config.kind, config[config.kind], embed_size=config.encoder.units, action_size=4)
    return sum(parameter.numel() for parameter in made.parameters())


@pytest.mark.parametrize("preset", [name for name in configs.presets() if name != "debug"])
def test_backbones_of_a_preset_have_about_as_many_parameters(preset: str) -> None:
    """Within 10 % of S4WM with S5: the RSSM, TSSM-XL, and S4WM with every other layer."""
    sizes = {layer: parameters(preset, "s4wm", layer) for layer in LAYERS}
    sizes |= {name: parameters(preset, name, "s5") for name in ("rssm", "tssm")}
    assert {name: size for name, size in sizes.items() if abs(size / sizes["s5"] - 1) > 0.1} == {}

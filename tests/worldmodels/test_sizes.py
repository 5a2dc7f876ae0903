"""The presets of configs/sizes.yaml compare like with like."""

import functools

import pytest

import configs
import worldmodels
from tests.worldmodels.contract import backbone_of


@functools.cache
def made(preset: str, backbone: str) -> tuple[int, int, str]:
    """Parameters, numbers that the policy reads, and S4WM's choice of them."""
    config = configs.load(backbone=backbone, presets=[preset])
    model = backbone_of(config, embed_size=config.encoder.units, action_size=4)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, model.policy_size, getattr(model, "policy_view", "")


@pytest.mark.parametrize("preset", [name for name in configs.presets() if name != "debug"])
def test_backbones_of_a_preset_have_about_as_many_parameters(preset: str) -> None:
    """Within 10 % of S4WM's."""
    sizes = {name: made(preset, name)[0] for name in configs.backbones()}
    assert {name: size for name, size in sizes.items() if abs(size / sizes["s4wm"] - 1) > 0.1} == {}


@pytest.mark.parametrize("preset", ["12m", "25m", "50m"])
@pytest.mark.parametrize("backbone", configs.backbones())
def test_a_large_size_means_the_same_after_another_preset(preset: str, backbone: str) -> None:
    """The paper's experiments on a GPU have the presets offline and 12m: no small size is left."""
    alone = configs.load(backbone=backbone, presets=[preset]).flat()
    after = configs.load(backbone=backbone, presets=["offline", preset]).flat()
    changed = [key for key in after if after[key] != alone[key]]
    parts = {"encoder", "decoder", "heads", *worldmodels.BACKBONES}
    behaviour = {f"actor_critic.{size}" for size in ("units", "layers", "bins")}
    assert [key for key in changed if key.split(".")[0] in parts or key in behaviour] == []


@pytest.mark.parametrize("preset", configs.presets())
def test_what_actors_read_stays_in_proportion(preset: str) -> None:
    """S4's states at 12m are 215,000 numbers: the networks that read them would dwarf the world model."""
    assert {name for name in configs.backbones() if made(preset, name)[1] >= 10_000} == set()


def test_auto_shows_states_up_to_a_number() -> None:
    views = {(size, name): made(size, name)[2] for size in ("small", "12m") for name in ("s4wm", "s4wm_s4")}
    assert views.pop(("12m", "s4wm_s4")) == "output" and set(views.values()) == {"full"}

"""Every registered backbone, with every state-space layer, keeps the contract of worldmodels/base.py."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import configs
from tests.worldmodels import contract
from tests.worldmodels.contract import Case, model_in
from worldmodels import BACKBONES, make_backbone, model_of
from worldmodels.base import reset_rows, reset_state
from worldmodels.latent import MODE, Categorical
from worldmodels.ssm import LAYERS

NAMED = {name: Case(name) for name in configs.backbones()}
MODELS = {name: model_in(case.config()) for name, case in NAMED.items()}
S4WMS = {NAMED[name].config().s4wm.layer: name for name in reversed(NAMED) if MODELS[name] == "s4wm"}
CASES = {
    **{name: case for name, case in NAMED.items() if MODELS[name] == "s4wm"},
    **{f"{name}-output": Case(name, {"s4wm.policy_input": "output"}) for name in S4WMS.values()},
    **{
        f"{name}-prior": Case(name, {"s4wm.policy_input": "output", "s4wm.prior_input": "full"})
        for name in (S4WMS["s5"], S4WMS["s4d"], S4WMS["mamba2"], "s4wm_hybrid")
    },
    **{model: Case(model) for model in MODELS.values()},
    "rssm-unnormed": Case("rssm", {"rssm.feature_norm": False}),
    "rssm-gaussian": Case("rssm", {"rssm.classes": 0}),
    "tssm-longer": Case("tssm", {"tssm.memory": 40, "tssm.layers": 3}),
    "s4wm-gaussian": Case("s4wm", {"s4wm.classes": 0}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_every_model_and_every_layer_has_a_name_and_so_a_case() -> None:
    assert set(MODELS.values()) == set(BACKBONES), "give the new model a block in configs/backbones.yaml"
    assert set(S4WMS) == set(LAYERS), "give the new layer a block in configs/backbones.yaml"


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(check, case: Case) -> None:
    check(case)


@pytest.mark.parametrize("check", contract.FLOAT32, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract_in_float32(check, case: Case) -> None:
    check(replace(case, dtype=torch.float32))


def test_imagination_moves_the_memory_as_observation_does(case: Case) -> None:
    """Only the latent differs: the posterior's sample when observing, the prior's when imagining."""
    backbone = case.make()
    inputs = contract.make_inputs(case, backbone)
    inputs.is_first[:] = False
    first = inputs.window(0, 1)
    rollout = first.observe(backbone)
    observed = rollout.last
    imagined, feature = backbone.imagine_step(inputs.state, inputs.action[:, 0], inputs.noise[:, 0])
    for key in observed:
        if key != "latent":
            contract.close(case, imagined[key], observed[key], key)
    expected = backbone.latent.sample(rollout.prior[:, 0], inputs.noise[:, 0])
    assert torch.equal(imagined["latent"], expected)
    assert not torch.equal(imagined["latent"], observed["latent"])
    assert not torch.equal(feature, rollout.features[:, 0])


def test_the_mode_is_the_most_probable_latent(case: Case) -> None:
    """Where nothing is drawn, filtering and imagining a step take the most probable class, or the mean."""
    backbone = case.make()
    inputs = contract.make_inputs(case, backbone)
    first = inputs.window(0, 1)
    rollout = first.observe(backbone)
    rows = first.embed[:, 0], first.action[:, 0], first.is_first[:, 0]
    observed, _ = backbone.observe_step(inputs.state, *rows, MODE)
    imagined, _ = backbone.imagine_step(
        reset_state(rows[2], inputs.state), reset_rows(rows[2], rows[1]), MODE
    )
    for state, given in ((observed, rollout.posterior[:, 0]), (imagined, rollout.prior[:, 0])):
        if isinstance(backbone.latent, Categorical):
            mode = F.one_hot(given.argmax(-1), given.shape[-1]).to(given.dtype)
            assert (given.amax(-1) < 1).all(), "a sample could not have been another one"
        else:
            mode = given[..., :1]
        contract.close(case, state["latent"], mode, "the mode")


@pytest.mark.parametrize("layer", ["s4d", "s4"])
def test_prepared_imagination_has_no_states(layer: str) -> None:
    """Nothing as large as the layers' states is left; one step too many is a clear error."""
    case = CASES[f"{S4WMS[layer]}-output"]
    backbone = case.make()
    inputs = contract.make_inputs(case, backbone)
    state = backbone.prepare_imagination(inputs.state, 2)
    assert state.keys() == {"latent", "output", "response0", "response1", "taps0", "taps1"}
    for t in range(2):
        state, _ = backbone.imagine_step(state, inputs.action[:, t])
    with pytest.raises(ValueError, match="prepared for 2 steps"):
        backbone.imagine_step(state, inputs.action[:, 2])
    for reads in ({"s4wm.policy_input": "full"}, {"s4wm.policy_input": "output", "s4wm.prior_input": "full"}):
        full = Case(S4WMS[layer], reads).make()
        assert full.prepare_imagination(inputs.state, 2) == inputs.state


@pytest.mark.parametrize("layer", LAYERS)
def test_what_the_policy_sees_of_s4wm(layer: str) -> None:
    """output (h, z), hidden (z, layer states of mean 0 and deviation 1), full (all three)."""
    views, sizes = {}, {}
    for view in ("output", "hidden", "full"):
        case = Case(S4WMS[layer], {"s4wm.policy_input": view})
        backbone = case.make()
        state = contract.make_inputs(case, backbone).state
        views[view], sizes[view] = backbone.policy_input(state), backbone.policy_size
    layers = state["memory"].shape[1]
    memory, latent = state["memory"].flatten(2), state["latent"].flatten(1)
    assert views["output"].equal(torch.cat([state["output"], latent], -1))
    assert views["full"].equal(torch.cat([state["output"], views["hidden"]], -1))
    normal = views["hidden"][:, latent.shape[1] :].unflatten(-1, (layers, -1))
    assert views["hidden"][:, : latent.shape[1]].equal(latent)
    torch.testing.assert_close(normal.mean(-1), torch.zeros_like(normal[..., 0]), atol=1e-6, rtol=0)
    scale = (memory.var(-1, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(normal * scale[..., None] + memory.mean(-1, keepdim=True), memory)
    assert sizes == {view: value.shape[-1] for view, value in views.items()}
    assert sizes["full"] == sizes["output"] + memory[0].numel() == sizes["hidden"] + state["output"].shape[1]


@pytest.mark.parametrize("layer", LAYERS)
def test_what_the_prior_sees_of_s4wm(layer: str) -> None:
    """With `full` a state that h does not show changes what is foreseen; with `output` it does not."""
    for reads in ("output", "full"):
        case = Case(S4WMS[layer], {"s4wm.prior_input": reads})
        backbone = case.make()
        state = contract.make_inputs(case, backbone).state
        moved = state | {"memory": torch.randn_like(state["memory"])}
        assert backbone.prior(state).equal(backbone.prior(moved)) == (reads == "output")


@pytest.mark.parametrize("normed", [True, False])
def test_what_the_rssm_shows_of_its_recurrent_state(normed: bool) -> None:
    """With `feature_norm` even a small h has unit size beside the one-hot latent; without it h is bare."""
    case = Case("rssm", {"rssm.feature_norm": normed})
    backbone = case.make()
    state = contract.make_inputs(case, backbone).state
    state["deter"] *= 0.1 / state["deter"].square().mean().sqrt()
    deter, latent = backbone.policy_input(state).split(
        [state["deter"].shape[1], state["latent"][0].numel()], 1
    )
    assert latent.equal(state["latent"].flatten(1))
    if normed:
        torch.testing.assert_close(deter.square().mean(1), torch.ones_like(deter[:, 0]), atol=0.05, rtol=0)
    else:
        assert deter.equal(state["deter"])


@pytest.mark.parametrize(
    ("model", "key", "value", "said"),
    [
        ("rssm", "blocks", 3, "rssm.deter 16 must be divisible by rssm.blocks 3"),
        ("tssm", "heads", 3, "tssm.width 16 must be divisible by twice tssm.heads 3"),
        ("s4wm", "mlp_every", 3, "s4wm.layers 2 must be divisible by s4wm.mlp_every 3"),
        ("s4wm", "attention", {"layers": 3, "heads": 2}, "attention.layers 3 must be at most s4wm.layers 2"),
        (
            "s4wm",
            "attention",
            {"layers": 1, "heads": 3},
            "16 must be divisible by twice s4wm.attention.heads 3",
        ),
    ],
)
def test_options_that_contradict_each_other_are_named(model: str, key: str, value: Any, said: str) -> None:
    options = {**Case(model).config()[model], key: value}
    with pytest.raises(ValueError, match=said):
        make_backbone(model, options, embed_size=2, action_size=2)


def test_the_model_of_a_name() -> None:
    assert [model_of(name) for name in ("s4wm", "s4wm_s4", "rssm_tbtt")] == ["s4wm", "s4wm", "rssm"]
    for name in ("s5", "s4", "s4wmx_s4", "", "_s4wm"):
        with pytest.raises(ValueError, match=f"'{name}'.* has s4wm, rssm, tssm"):
            model_of(name)


@pytest.mark.gpu
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract_on_a_gpu(check, case: Case) -> None:
    check(replace(case, device="cuda"))


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(case: Case) -> None:
    """The same weights and inputs, window and steps, in float64."""
    backbone = case.make()
    inputs = contract.make_inputs(case, backbone)
    with torch.no_grad():
        expected, (states, _) = inputs.observe(backbone), contract.steps_of(backbone, inputs)
        backbone.cuda()
        there = contract.Inputs(
            {key: leaf.cuda() for key, leaf in inputs.state.items()},
            *(leaf.cuda() for leaf in (inputs.embed, inputs.action, inputs.is_first, inputs.noise)),
        )
        actual, (actual_states, _) = there.observe(backbone), contract.steps_of(backbone, there)
    for name in ("features", "policy", "posterior", "prior"):
        contract.close(case, getattr(actual, name).cpu(), getattr(expected, name), name)
    for key, leaf in states[-1].items():
        contract.close(case, actual_states[-1][key].cpu(), leaf, key)

"""Which parameters decay, warm-up, clipping."""

import pytest
import torch
from torch import nn

from agent.optim import Optimiser
from configs import load
from worldmodels import make_backbone
from worldmodels.nets import BlockLinear
from worldmodels.ssm import LAYERS, S5


def make(modules: list[nn.Module], **changes: float) -> Optimiser:
    options = {"lr": 0.1, "ssm_lr": 0.01, "beta2": 0.999, "eps": 1e-8}
    options |= {"weight_decay": 0.5, "clip": 1.0, "warmup": 0}
    return Optimiser(modules, **{**options, **changes})  # type: ignore[arg-type]


def test_only_matrices_decay_and_dynamics_have_their_own_rate() -> None:
    """With gradients of zero, an update shows the decay alone."""
    modules = nn.ModuleDict({"ssm": S5(4, 4), "blocks": BlockLinear(4, 4, 2), "linear": nn.Linear(4, 4)})
    for parameter in modules.parameters():
        nn.init.ones_(parameter)
    optimiser = make([modules])
    optimiser.step(sum((0 * parameter).sum() for parameter in modules.parameters()))
    decayed = {name for name, parameter in modules.named_parameters() if (parameter != 1).any()}
    assert decayed == {"ssm.c", "blocks.weight", "linear.weight"}
    rates = {id(p): group["lr"] for group in optimiser.adam.param_groups for p in group["params"]}
    for name, parameter in modules.named_parameters():
        slow = name in ("ssm.log_decay", "ssm.frequency", "ssm.log_dt", "ssm.b")
        assert rates[id(parameter)] == (0.01 if slow else 0.1), name


def test_it_is_torch_s_adamw() -> None:
    """Decay is decoupled: weights shrink by rate times decay, however large the gradient; biases do not."""
    torch.manual_seed(0)
    layer, twin = nn.Linear(4, 3), nn.Linear(4, 3)
    twin.load_state_dict(layer.state_dict())
    ours = make([layer], clip=float("inf"))
    groups = {"params": [twin.weight], "weight_decay": 0.5}, {"params": [twin.bias], "weight_decay": 0.0}
    theirs = torch.optim.AdamW(groups, lr=0.1)
    for _ in range(5):
        inputs = torch.randn(8, 4)
        ours.step(layer(inputs).square().sum())
        theirs.zero_grad()
        twin(inputs).square().sum().backward()
        theirs.step()
    torch.testing.assert_close(layer.weight, twin.weight)
    torch.testing.assert_close(layer.bias, twin.bias)


@pytest.mark.parametrize(("beta2", "most"), [(0.999, 32), (0.99, 10)])
def test_how_far_one_gradient_beyond_all_before_moves_a_weight(beta2: float, most: float) -> None:
    """In rates, with gradients of zero before and after it; after 6,000 updates Adam corrects no more."""
    layer = nn.Linear(1, 1, bias=False)
    optimiser = make([layer], beta2=beta2, clip=float("inf"), weight_decay=0.0, lr=1e-3)
    start = layer.weight.item()
    for number in range(6200):
        optimiser.step(layer.weight.sum() * (1e6 if number == 6000 else 0))
    assert abs(layer.weight.item() - start) / 1e-3 == pytest.approx(most, rel=0.1)


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_names_as_its_dynamics_is_trained_so(name: str) -> None:
    options = load(backbone="s4wm", presets=["debug"]).s4wm[name]
    layer = LAYERS[name](16, **{key: value for key, value in options.items() if key != "width"})
    groups = make([nn.Sequential(layer)]).adam.param_groups
    slow = {id(p) for group in groups if group["lr"] == 0.01 for p in group["params"]}
    assert slow == {id(getattr(layer, parameter)) for parameter in layer.DYNAMICS}
    assert all(group["weight_decay"] == 0 for group in groups if group["lr"] == 0.01)


def test_the_rate_rises_over_the_warm_up() -> None:
    layer = nn.Linear(1, 1, bias=False)
    optimiser = make([layer], warmup=4, weight_decay=0.0)
    moves = []
    for _ in range(6):
        before = layer.weight.detach().clone()
        optimiser.step(layer.weight.sum())
        moves.append((layer.weight - before).abs().item())
    assert moves == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rel=1e-4)


def test_the_norm_returned_is_the_one_before_clipping() -> None:
    layer = nn.Linear(2, 1, bias=False)
    norm = make([layer]).step(layer.weight @ torch.tensor([30.0, 40.0]))
    assert norm.item() == pytest.approx(50)
    assert layer.weight.grad is not None and layer.weight.grad.norm().item() == pytest.approx(1, rel=1e-4)


def test_biases_of_any_rank_and_name_do_not_decay() -> None:
    config = load(backbone="tssm", presets=["debug"])
    agent = make_backbone("tssm", config.tssm, embed_size=8, action_size=2)
    optimiser = make([agent])
    groups = optimiser.adam.param_groups
    decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    named = [name for name, parameter in agent.named_parameters() if id(parameter) in decaying]
    assert named and not [name for name in named if name.endswith("bias")]


def test_an_infinite_norm_clips_nothing() -> None:
    layer = nn.Linear(4, 4)
    make([layer], clip=float("inf")).step(1e6 * layer.weight.sum())
    assert (layer.weight.grad == 1e6).all()

"""Which parameters decay, warm-up, clipping; what Muon does to matrices."""

import copy

import pytest
import torch
from torch import nn

from agent.optim import Muon, Optimiser
from configs import load
from worldmodels import make_backbone
from worldmodels.nets import BlockLinear
from worldmodels.ssm import LAYERS, S4D, S5


def make(module: nn.Module, **changes: float | str) -> Optimiser:
    options = {"lr": 0.1, "ssm_lr": 0.01, "beta2": 0.999, "eps": 1e-8}
    options |= {"weight_decay": 0.5, "clip": 1.0, "warmup": 0}
    return Optimiser(module, **{**options, **changes})  # type: ignore[arg-type]


def twins(inputs: int, outputs: int, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """Two layers of the same weights."""
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias)
    return layer, copy.deepcopy(layer)


def test_only_matrices_decay_and_dynamics_have_their_own_rate() -> None:
    """With gradients of zero, an update shows the decay alone."""
    modules = nn.ModuleDict({"ssm": S5(4, 4), "blocks": BlockLinear(4, 4, 2), "linear": nn.Linear(4, 4)})
    for parameter in modules.parameters():
        nn.init.ones_(parameter)
    optimiser = make(modules)
    optimiser.step(sum((0 * parameter).sum() for parameter in modules.parameters()))
    decayed = {name for name, parameter in modules.named_parameters() if (parameter != 1).any()}
    assert decayed == {"ssm.c", "blocks.weight", "linear.weight"}
    groups = optimiser.steppers["adam"].param_groups
    rates = {id(p): group["rate"] for group in groups for p in group["params"]}
    for name, parameter in modules.named_parameters():
        slow = name in ("ssm.log_decay", "ssm.frequency", "ssm.log_dt", "ssm.b")
        assert rates[id(parameter)] == (0.01 if slow else 0.1), name


def test_it_is_torch_s_adamw() -> None:
    """Decay is decoupled: weights shrink by rate times decay, however large the gradient; biases do not."""
    layer, twin = twins(4, 3)
    ours = make(layer, clip=float("inf"))
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
    optimiser = make(layer, beta2=beta2, clip=float("inf"), weight_decay=0.0, lr=1e-3)
    start = layer.weight.item()
    for number in range(6200):
        optimiser.step(layer.weight.sum() * (1e6 if number == 6000 else 0))
    assert abs(layer.weight.item() - start) / 1e-3 == pytest.approx(most, rel=0.1)


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_names_as_its_dynamics_is_trained_so(name: str) -> None:
    options = load(backbone="s4wm", presets=["debug"]).s4wm[name]
    layer = LAYERS[name](16, **{key: value for key, value in options.items() if key != "width"})
    groups = make(nn.Sequential(layer)).steppers["adam"].param_groups
    slow = {id(p) for group in groups if group["rate"] == 0.01 for p in group["params"]}
    assert slow == {id(getattr(layer, parameter)) for parameter in layer.DYNAMICS}
    assert all(group["weight_decay"] == 0 for group in groups if group["rate"] == 0.01)


def test_the_rate_rises_over_the_warm_up() -> None:
    layer = nn.Linear(1, 1, bias=False)
    optimiser = make(layer, warmup=4, weight_decay=0.0)
    moves = []
    for _ in range(6):
        before = layer.weight.detach().clone()
        optimiser.step(layer.weight.sum())
        moves.append((layer.weight - before).abs().item())
    assert moves == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1], rel=1e-4)


def test_the_rates_fall_to_0_over_the_cooldown() -> None:
    """Of Adam and of Muon; they rise again where a run turns out to be longer."""
    layer = nn.Linear(1, 1)
    optimiser = make(layer, matrices="muon", cooldown=0.5, weight_decay=0.0)
    moves = []
    for optimiser.left in (1.0, 0.6, 0.5, 0.25, 0.0, 0.5):
        before = layer.weight.detach().clone(), layer.bias.detach().clone()
        optimiser.step(layer.weight.sum() + layer.bias.sum())
        moves.append([(now - old).abs().item() for now, old in zip(layer.parameters(), before, strict=True)])
        assert moves[-1][1] == pytest.approx(0.1 * optimiser.share, abs=1e-6)
    by_adam = torch.tensor(moves)[:, 1]
    torch.testing.assert_close(by_adam, torch.tensor([0.1, 0.1, 0.1, 0.05, 0.0, 0.1]))
    by_muon = torch.tensor(moves)[:, 0]
    torch.testing.assert_close(by_muon / by_muon[0], by_adam / by_adam[0])


def test_the_norm_returned_is_the_one_before_clipping() -> None:
    layer = nn.Linear(2, 1, bias=False)
    norm = make(layer).step(layer.weight @ torch.tensor([30.0, 40.0]))
    assert norm.item() == pytest.approx(50)
    assert layer.weight.grad is not None and layer.weight.grad.norm().item() == pytest.approx(1, rel=1e-4)


def test_biases_of_any_rank_and_name_do_not_decay() -> None:
    config = load(backbone="tssm", presets=["debug"])
    agent = make_backbone("tssm", config.tssm, embed_size=8, action_size=2)
    optimiser = make(agent)
    groups = optimiser.steppers["adam"].param_groups
    decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    named = [name for name, parameter in agent.named_parameters() if id(parameter) in decaying]
    assert named and not [name for name in named if name.endswith("bias")]


def test_an_infinite_norm_clips_nothing() -> None:
    layer = nn.Linear(4, 4)
    make(layer, clip=float("inf")).step(1e6 * layer.weight.sum())
    assert (layer.weight.grad == 1e6).all()


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32), (1, 8)])
def test_muon_keeps_the_singular_vectors_and_makes_their_values_alike(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, min(shape)))[0] for size in shape)
    values = torch.logspace(0, -2, min(shape))
    made = Muon.orthogonal(torch.stack([left @ values.diag() @ right.T, torch.zeros(shape)]))
    assert not made[1].any()
    there = left.T @ made[0] @ right
    assert (there.diagonal() > 0.65).all() and (there.diagonal() < 1.25).all()
    torch.testing.assert_close(there, there.diagonal().diag(), atol=2e-2, rtol=0)


def test_a_step_of_muon_is_as_large_as_one_of_adam() -> None:
    """Of matrices, stacks and kernels, in root mean square: 0.2 rates. Biases are Adam's: one rate."""
    torch.manual_seed(0)
    modules = nn.ModuleList(
        [nn.Linear(64, 16), nn.Linear(16, 64), BlockLinear(32, 64, 4), nn.Conv2d(3, 8, 4), nn.Conv2d(3, 8, 4)]
    )
    optimiser = make(modules, matrices="muon", weight_decay=0.0)
    weights = [module.weight for module in modules]
    before = [weight.detach().clone() for weight in weights]
    biases = modules[0].bias.detach().clone()
    optimiser.step(sum((torch.randn_like(p) * p).sum() for p in modules.parameters()))
    for old, weight in zip(before, weights, strict=True):
        assert float((weight - old).detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.1, rel=0.2)
    moved = (modules[0].bias.detach() - biases).abs()
    assert moved.tolist() == pytest.approx([0.1] * 16, rel=1e-3)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
def test_muon_agrees_with_torch_s_own_on_one_matrix() -> None:
    """Torch has it from 2.9 on, for single matrices, its iteration in bfloat16."""
    layer, twin = twins(24, 12, bias=False)
    start = layer.weight.detach().clone()
    ours = make(layer, matrices="muon", clip=float("inf"))
    theirs = torch.optim.Muon(
        [twin.weight], lr=0.1, weight_decay=0.5, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(5):
        inputs = torch.randn(8, 24)
        ours.step(layer(inputs).square().sum())
        theirs.zero_grad()
        twin(inputs).square().sum().backward()
        theirs.step()
    assert (layer.weight - twin.weight).norm() < 0.1 * (layer.weight - start).norm()


def test_muon_steps_maps_and_adam_the_rest() -> None:
    modules = nn.ModuleDict({"ssm": S5(4, 4), "s4d": S4D(4, 4), "blocks": BlockLinear(4, 4, 2)})
    groups = make(modules, matrices="muon").steppers["muon"].param_groups
    taken = {id(p) for group in groups for p in group["params"]}
    assert {name for name, p in modules.named_parameters() if id(p) in taken} == {"ssm.c", "blocks.weight"}


def test_its_means_are_kept_with_a_checkpoint() -> None:
    (layer, twin), inputs = twins(4, 3), torch.randn(8, 4)
    first = make(layer, matrices="muon")
    first.step(layer(inputs).square().sum())
    twin.load_state_dict(layer.state_dict())
    second = make(twin, matrices="muon")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, optimiser in ((layer, first), (twin, second)):
        optimiser.step(model(inputs).square().sum())
    assert torch.equal(layer.weight, twin.weight)

"""The world model around the backbone: its losses by name, what its heads read, and that it never waits."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

import configs
from tests.worldmodels.contract import backbone_of
from tests.worldmodels.spaces import SPACES, observations
from worldmodels import BACKBONES, WorldModel
from worldmodels.base import Counted


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> spaces.Dict:
    return spaces.Dict(SPACES[request.param])


def make_batch(space: spaces.Dict, rows: int = 3, steps: int = 8, actions: int = 2) -> dict[str, Tensor]:
    batch = {f"obs/{key}": value for key, value in observations(space, rows, steps).items()}
    torch.manual_seed(0)
    is_first = torch.rand(rows, steps) < 0.25
    is_last = torch.cat([is_first[:, 1:], torch.zeros(rows, 1, dtype=torch.bool)], 1)
    return batch | {
        "action": torch.rand(rows, steps, actions),
        "reward": torch.randn(rows, steps),
        "is_first": is_first,
        "is_last": is_last,
        "is_terminal": is_last & (torch.rand(rows, steps) < 0.5),
    }


def make_model(space: spaces.Dict, backbone: str = "s4wm", **changed: Mapping[str, Any]) -> WorldModel:
    """A world model of the preset `debug`, with options of some groups changed."""
    config = configs.load(backbone=backbone, presets=["debug"])
    torch.manual_seed(0)
    blocks = {name: dict(config[name]) | dict(changed.get(name, {})) for name in ("kl", "recall", "heads")}
    config = configs.override(
        config, {f"s4wm.{key}": value for key, value in changed.get("s4wm", {}).items()}
    )
    return WorldModel(
        space,
        lambda embed_size: backbone_of(config, embed_size, action_size=2),
        encoder=config.encoder,
        decoder=config.decoder,
        **blocks,
        action_size=2,
    )


def test_the_heads_see_the_action_that_led_to_a_step() -> None:
    """Scaled to the norm of policy inputs; none where an episode begins, and none without the option."""
    model = make_model(spaces.Dict(SPACES["vector"]))
    size = model.backbone.policy_size
    inputs = model.head_input(torch.zeros(2, size), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(inputs.norm(dim=-1), torch.tensor([size**0.5, 0.0]))
    seen: list[Tensor] = []
    model.trunk.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    batch = make_batch(spaces.Dict(SPACES["vector"]), 3, 8, 2)
    batch["is_first"][1, 4] = True
    model.loss(batch, model.backbone.initial(3))
    (given,) = seen
    action = given[..., size:] / size**0.5
    assert not action[1, 4].any() and batch["action"][1, 4].all()
    torch.testing.assert_close(action[~batch["is_first"]], batch["action"][~batch["is_first"]])
    blind = make_model(spaces.Dict(SPACES["vector"]), heads={"action": False})
    assert blind.head_input(inputs[:, :size], inputs[:, size:]).shape == (2, size)


@pytest.mark.parametrize("length", [0, 5, 10_000])
def test_a_policy_input_is_mapped_to_what_the_heads_read(length: int) -> None:
    """To `heads.inputs` numbers where it is longer; the gradients of both reach the states through them."""
    space = spaces.Dict(SPACES["vector"])
    model, batch = make_model(space, heads={"inputs": length}), make_batch(space, 3, 8, 2)
    size = model.backbone.policy_size
    assert size > 5
    assert model.trunk[0].in_features == (5 if length == 5 else size) + 2, "with the action"
    with torch.no_grad():
        model.reward.net[0].weight.normal_()  # it begins at 0, and lets nothing through
    embed = torch.randn(3, 8, model.encoder.output_size)
    state = model.backbone.initial(3)
    policy = model.backbone.observe(state, embed, batch["action"], batch["is_first"]).policy
    policy.retain_grad()
    reward, continues = model.outcomes(policy, batch["action"])
    assert (reward.shape, continues.shape) == ((3, 8, len(model.reward.bins)), (3, 8))
    for outcome in (reward, continues):
        policy.grad = None
        outcome.square().sum().backward(retain_graph=True)
        assert policy.grad is not None and policy.grad.abs().sum((0, 1)).min() > 0


def test_heads_that_multiply_find_a_reward_that_is_a_product_sooner() -> None:
    """The reward asks whether the action is the bit at a place that is given, too: in as many updates."""
    losses = {}
    for product in (True, False):
        torch.manual_seed(0)
        model = make_model(spaces.Dict(SPACES["vector"]), heads={"product": product, "units": 64})
        size, found = model.backbone.policy_size, []
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(400):
            bits, place = torch.randint(2, (64, 4)), torch.randint(4, (64,))
            action = torch.randint(2, (64,))
            told = torch.cat([2.0 * bits - 1, 2 * F.one_hot(place, 4)], 1)
            reward = torch.where(bits.gather(1, place[:, None])[:, 0] == action, 1.0, -1.0)
            logits, _ = model.outcomes(F.pad(told, (0, size - 8)), F.one_hot(action, 2).float())
            loss = model.reward.loss(logits, reward).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.item())
        losses[product] = sum(found[-50:]) / 50
    assert losses[True] < 0.8 * losses[False], losses
    assert (model.gate is None) == (not product)
    assert make_model(spaces.Dict(SPACES["vector"]), heads={"action": False}).gate is None


def test_first_rows_may_have_no_losses() -> None:
    """The losses are then those of the other rows: an episode's first frame is not even decoded."""
    space = spaces.Dict(SPACES["vector"])
    batch, recall = make_batch(space), {"scale": 0.0}
    totals = []
    for first in (True, False):
        model = make_model(space, kl={"first": first, "free_nats": 0.0}, recall=recall)
        torch.manual_seed(1)
        loss, rollout, metrics = model.loss(batch, model.backbone.initial(3))
        dynamics, _ = model.backbone.kl_losses(rollout)
        kept = torch.ones_like(dynamics) if first else (~batch["is_first"]).float()
        torch.testing.assert_close(metrics["dynamics"], model.dynamics_scale * (dynamics * kept).mean())
        totals.append(loss.item())
    assert batch["is_first"].any() and totals[1] < totals[0]
    batch["is_first"][:] = True
    assert model.loss(batch, model.backbone.initial(3))[0] == 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_losses_by_name(space: spaces.Dict, backbone: str) -> None:
    model, batch = make_model(space, backbone), make_batch(space)
    keep = torch.tensor([[0, 4], [1, 2], [7, 7]])
    loss, rollout, metrics = model.loss(batch, model.backbone.initial(3), keep)
    names = {f"decoder/{key}" for key in space} | {"reward", "continue", "dynamics", "representation"}
    others = {"recall", "kl", "kl_first", "reward_sign_accuracy"}
    assert names | others == metrics.keys()
    torch.testing.assert_close(loss, sum(metrics[name] for name in names | {"recall"}))
    some = [*metrics.pop("kl_first"), *metrics.pop("reward_sign_accuracy")]
    numbers = [*metrics.values(), *some]
    assert all(value.shape == () and not value.requires_grad for value in numbers)
    assert all(leaf.shape[:2] == (3, 2) for leaf in rollout.kept.values())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def test_free_nats_and_scales() -> None:
    space = spaces.Dict(SPACES["vector"])
    batch = make_batch(space)
    measured = {}
    for free_nats, reward_scale in ((0.0, 1.0), (1000.0, 7.0)):
        model = make_model(
            space,
            kl={"free_nats": free_nats, "dynamics": 0.5, "representation": 0.2},
            heads={"reward_scale": reward_scale},
        )
        torch.manual_seed(1)
        _, _, measured[free_nats] = model.loss(batch, model.backbone.initial(3))
    free, capped = measured[0.0], measured[1000.0]
    torch.testing.assert_close(free["dynamics"], 0.5 * free["kl"])
    torch.testing.assert_close(free["representation"], 0.2 * free["kl"])
    assert capped["dynamics"] == 500 and capped["representation"] == 200
    torch.testing.assert_close(capped["kl"], free["kl"])
    torch.testing.assert_close(capped["reward"], 7 * free["reward"])
    assert 0 < free["kl"] < 1000


def test_reward_sign_accuracy_counts_rewards_that_are_not_zero() -> None:
    space = spaces.Dict(SPACES["vector"])
    model, batch = make_model(space), make_batch(space)
    batch["reward"][:] = 0
    assert model.loss(batch, model.backbone.initial(3))[2]["reward_sign_accuracy"] == (0, 0)
    value, mask = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, False], [True, False]])
    assert Counted.where(value, mask) == (4, 2)


def test_without_recall() -> None:
    space = spaces.Dict(SPACES["vector"])
    model = make_model(space, recall={"scale": 0.0})
    assert model.recall is None
    _, _, metrics = model.loss(make_batch(space), model.backbone.initial(3))
    assert "recall" not in metrics


def test_under_autocast_losses_are_float32(space: spaces.Dict) -> None:
    model, batch = make_model(space), make_batch(space)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _, metrics = model.loss(batch, model.backbone.initial(3))
    loss.backward()
    assert all(torch.as_tensor(value).isfinite().all() for value in metrics.values())
    assert all(value.dtype == torch.float32 for value in metrics.values() if isinstance(value, torch.Tensor))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("backbone", configs.backbones())
def test_an_update_waits_for_the_device_at_most_once(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the device `meta` have no values: whatever reads one fails, but for the copy counted here.

    Layers that compute a window in chunks read its resets, once for all of them, forward and backward.
    """
    model = make_model(spaces.Dict(SPACES["mix"]), backbone, s4wm={"layers": 4, "policy_input": "output"})
    batch, keep = make_batch(spaces.Dict(SPACES["mix"]), 3, 70), torch.randint(70, (3, 4))
    read, is_first = [], batch["is_first"]

    def to_the_cpu(x: Tensor) -> Tensor:
        read.append(x.shape)
        assert x.shape == (3, 74), "neither the resets nor the steps to keep"
        return torch.cat([is_first, keep], 1)

    monkeypatch.setattr(Tensor, "cpu", to_the_cpu)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # it does not know `meta`
    batch = {key: value.to("meta") for key, value in batch.items()}
    model.to("meta")
    loss, rollout, _ = model.loss(batch, model.backbone.initial(3), keep.to("meta"))
    loss.backward()
    assert len(read) <= 1
    assert all(leaf.shape[:2] == keep.shape for leaf in rollout.kept.values())


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", BACKBONES)
def test_losses_on_a_gpu(backbone: str) -> None:
    """The same embedding, and every loss and gradient finite."""
    space = spaces.Dict(SPACES["mix"])
    model, batch = make_model(space, backbone, recall={"scale": 0.0}), make_batch(space)
    embed = model.encoder({key[4:]: value for key, value in batch.items() if key.startswith("obs/")})
    there = {key: value.cuda() for key, value in batch.items()}
    model.cuda()
    again = model.encoder({key[4:]: value for key, value in there.items() if key.startswith("obs/")})
    torch.testing.assert_close(again.cpu(), embed, rtol=1e-3, atol=1e-3)
    loss, _, metrics = model.loss(there, model.backbone.initial(3))
    loss.backward()
    assert all(value.isfinite() for value in metrics.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

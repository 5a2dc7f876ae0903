"""Everything around the backbone: encoder and decoder for any mix, losses by name, the recall loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

import configs
from envs.wrappers import OneHot
from worldmodels import BACKBONES, WorldModel, make_backbone
from worldmodels.base import Backbone, Rollout
from worldmodels.heads import symlog
from worldmodels.latent import Categorical
from worldmodels.world_model import Counted, Decoder, Encoder, Recall, is_image, steps_left

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
OTHER = spaces.Box(-1, 1, (2,), np.float32)
SPACES = {
    "vector": {"vector": VECTOR},
    "vectors": {"position": VECTOR, "clock": OTHER},
    "image": {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)},
    "gray": {"image": spaces.Box(0, 255, (84, 84, 1), np.uint8)},
    "small": {"image": spaces.Box(0, 255, (7, 7, 3), np.uint8)},
    "not square": {"image": spaces.Box(0, 255, (40, 24, 3), np.uint8)},
    "two images": {
        "left": spaces.Box(0, 255, (16, 16, 3), np.uint8),
        "right": spaces.Box(0, 255, (40, 40, 1), np.uint8),
    },
    "mix": {"camera": spaces.Box(0, 255, (20, 16, 3), np.uint8), "clock": OTHER, "position": VECTOR},
}


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> spaces.Dict:
    return spaces.Dict(SPACES[request.param])


def observations(space: spaces.Dict, *lead: int, seed: int = 0) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)
    return {
        key: torch.as_tensor(
            random.integers(0, 256, (*lead, *leaf.shape), np.uint8)
            if is_image(leaf)
            else random.normal(size=(*lead, *leaf.shape)).astype(np.float32)
        )
        for key, leaf in space.items()
    }


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
    config = configs.load(backbone=backbone, presets=["debug"])
    torch.manual_seed(0)
    blocks = {name: dict(config[name]) | dict(changed.get(name, {})) for name in ("kl", "recall", "heads")}
    return WorldModel(
        space,
        lambda embed_size: make_backbone(config.kind, config[config.kind], embed_size, action_size=2),
        encoder=config.encoder,
        decoder=config.decoder,
        **blocks,
        action_size=2,
    )


@pytest.mark.parametrize("lead", [(2,), (2, 3)])
def test_any_mix_of_observations(space: spaces.Dict, lead: tuple[int, ...]) -> None:
    """Encoder and decoder agree on shapes; every observation is used, and images end up in [0, 1]."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(space, 2, 8, 1), Decoder(10, space, 2, 8, 1, steps=0)
    obs = observations(space, *lead)
    embed = encoder(obs)
    assert embed.shape == (*lead, encoder.output_size)
    for key in obs:
        other = obs | {key: observations(space, *lead, seed=1)[key]}
        assert not torch.equal(encoder(other), embed), f"{key} is not seen"
    feature = torch.randn(*lead, 10)
    means, losses = decoder(feature), decoder.losses(feature, obs)
    assert means.keys() == losses.keys() == obs.keys()
    for key, mean in means.items():
        assert mean.shape == obs[key].shape and losses[key].shape == lead
        target = obs[key].float() / 255 if is_image(space[key]) else symlog(obs[key])
        torch.testing.assert_close(losses[key], (mean - target).square().flatten(len(lead)).sum(-1))
    for key, value in decoder.observations(feature).items():
        if is_image(space[key]):
            assert value.min() >= 0 and value.max() <= 1
        else:
            torch.testing.assert_close(symlog(value), means[key])


def test_the_heads_see_the_action_that_led_to_a_step() -> None:
    """Scaled to the norm of policy inputs; none where an episode begins, and none without the option."""
    model = make_model(spaces.Dict(SPACES["vector"]))
    size = model.backbone.policy_size
    inputs = model.head_input(torch.zeros(2, size), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(inputs.norm(dim=-1), torch.tensor([size**0.5, 0.0]))
    seen: list[Tensor] = []
    for head in (model.reward, model.continues):
        head.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    batch = make_batch(spaces.Dict(SPACES["vector"]), 3, 8, 2)
    batch["is_first"][1, 4] = True
    model.loss(batch, model.backbone.initial(3))
    for given in seen:
        action = given[..., size:] / size**0.5
        assert not action[1, 4].any() and batch["action"][1, 4].all()
        torch.testing.assert_close(action[~batch["is_first"]], batch["action"][~batch["is_first"]])
    blind = make_model(spaces.Dict(SPACES["vector"]), heads={"action": False})
    assert blind.head_input(inputs[:, :size], inputs[:, size:]).shape == (2, size)


@pytest.mark.parametrize("length", [0, 5, 10_000])
def test_a_policy_input_is_mapped_to_what_the_heads_read(length: int) -> None:
    """To `heads.inputs` numbers where it is longer; the reward's gradient reaches the states through them."""
    space = spaces.Dict(SPACES["vector"])
    model = make_model(space, heads={"inputs": length})
    size = model.backbone.policy_size
    assert model.head_input(torch.randn(2, size), torch.zeros(2, 2)).shape == (
        2,
        (5 if length == 5 else size) + 2,
    )
    assert size > 5
    batch = make_batch(space, 3, 8, 2)
    rollout = model.backbone.observe(
        model.backbone.initial(3),
        torch.randn(3, 8, model.encoder.output_size),
        batch["action"],
        batch["is_first"],
    )
    rollout.policy.retain_grad()
    model.head_input(rollout.policy, batch["action"]).square().sum().backward()
    assert rollout.policy.grad is not None and rollout.policy.grad.abs().sum((0, 1)).min() > 0


@pytest.mark.parametrize("sizes", [(4,), (3, 3), (2, 4)], ids=str)
def test_one_hot_codes_are_decoded_by_cross_entropy(sizes: tuple[int, ...]) -> None:
    """As the door marks them: the loss is that of torch, summed over codes; predictions are probabilities."""
    space = spaces.Dict(seen=OneHot(sizes))
    torch.manual_seed(0)
    decoder = Decoder(10, space, 2, 8, 1, steps=0)
    feature = torch.randn(5, 7, 10)
    targets = [torch.randint(size, (5, 7)) for size in sizes]
    obs = {"seen": torch.cat([F.one_hot(t, s).float() for t, s in zip(targets, sizes, strict=True)], -1)}
    logits = decoder(feature)["seen"].split(sizes, -1)
    expected = sum(
        F.cross_entropy(part.flatten(0, 1), target.flatten(), reduction="none").view(5, 7)
        for part, target in zip(logits, targets, strict=True)
    )
    torch.testing.assert_close(decoder.losses(feature, obs)["seen"], expected)
    shown = decoder.observations(feature)["seen"].split(sizes, -1)
    for probabilities, part in zip(shown, logits, strict=True):
        torch.testing.assert_close(probabilities, part.softmax(-1))


def test_the_scale_of_vectors_weighs_squared_errors_alone() -> None:
    space = spaces.Dict({**SPACES["mix"], "seen": OneHot((3,))})
    obs = {**observations(space, 2, 3), "seen": F.one_hot(torch.randint(3, (2, 3)), 3).float()}
    torch.manual_seed(0)
    plain = Decoder(10, space, 2, 8, 1, steps=0)
    scaled = Decoder(10, space, 2, 8, 1, steps=0, vector_scale=10.0)
    scaled.load_state_dict(plain.state_dict())
    feature = torch.randn(2, 3, 10)
    expected, found = plain.losses(feature, obs), scaled.losses(feature, obs)
    for key, leaf in space.items():
        squared = not is_image(leaf) and key != "seen"
        torch.testing.assert_close(found[key], (10 if squared else 1) * expected[key])
        assert not squared or found[key].min() > 0
    with pytest.raises(ValueError, match="decoder.vector_scale must be above 0, got 0"):
        Decoder(10, space, 2, 8, 1, steps=0, vector_scale=0.0)


def test_images_of_some_steps_stand_for_all() -> None:
    """Vectors are decoded at every step; the images' mean loss is right on average, for any window."""
    space = spaces.Dict(SPACES["mix"])
    torch.manual_seed(0)
    decoder, obs, feature = (
        Decoder(10, space, 2, 8, 1, steps=2),
        observations(space, 3, 6),
        torch.randn(3, 6, 10),
    )
    feature[:, 1] *= 30  # steps are far from alike
    with torch.no_grad():
        every = decoder.losses(feature, obs)
        drawn = [
            decoder.sampled_losses(feature, obs, decoder.choose(3, 6, feature.device)) for _ in range(1000)
        ]
    for key, value in every.items():
        if is_image(space[key]):
            assert drawn[0][key].shape == (3, 2)
            assert all(torch.isin(value_drawn[key], value).all() for value_drawn in drawn[:5])
            means = torch.stack([losses[key].mean() for losses in drawn])
            error = means.std() / len(drawn) ** 0.5
            assert error > 0 and (means.mean() - value.mean()).abs() < 4 * error
        else:
            assert torch.equal(drawn[0][key], value)
    decoder.steps = 6
    assert decoder.choose(3, 6, feature.device) is None
    assert all(
        torch.equal(got, every[key]) for key, got in decoder.sampled_losses(feature, obs, None).items()
    )
    with pytest.raises(ValueError, match="decoder.steps must be a number of steps, or 0 .* got -1"):
        Decoder(10, space, 2, 8, 1, steps=-1)


def test_steps_are_encoded_alike_one_by_one(space: spaces.Dict) -> None:
    encoder = Encoder(space, 2, 8, 1)
    obs = observations(space, 2, 3)
    for t in range(3):
        single = encoder({key: value[:, t] for key, value in obs.items()})
        torch.testing.assert_close(single, encoder(obs)[:, t])


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
    for free_nats in (0.0, 1000.0):
        model = make_model(space, kl={"free_nats": free_nats, "dynamics": 0.5, "representation": 0.2})
        torch.manual_seed(1)
        _, _, measured[free_nats] = model.loss(batch, model.backbone.initial(3))
    free, capped = measured[0.0], measured[1000.0]
    torch.testing.assert_close(free["dynamics"], 0.5 * free["kl"])
    torch.testing.assert_close(free["representation"], 0.2 * free["kl"])
    assert capped["dynamics"] == 500 and capped["representation"] == 200
    torch.testing.assert_close(capped["kl"], free["kl"])
    assert 0 < free["kl"] < 1000


def test_reward_sign_accuracy_counts_rewards_that_are_not_zero() -> None:
    space = spaces.Dict(SPACES["vector"])
    model, batch = make_model(space), make_batch(space)
    batch["reward"][:] = 0
    assert model.loss(batch, model.backbone.initial(3))[2]["reward_sign_accuracy"] == (0, 0)
    value, chosen = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, False], [True, False]])
    assert Counted.where(value, chosen) == (4, 2)


def foreseen(features: Tensor, prior: Tensor) -> Tensor:
    """Of a backbone with features `[B, T, F]` and a categorical prior `[B, T, S, K]`."""
    backbone = Backbone()
    backbone.latent = Categorical(*prior.shape[-2:], unimix=0.0)
    return backbone.foreseen(Rollout(features, features, prior, prior, {}, {}))


def test_surprise_is_what_the_prior_did_not_foresee() -> None:
    """A latent that is decoded surprises where the prior has another; one that is ignored never does."""
    space = spaces.Dict(SPACES["vector"])
    torch.manual_seed(0)
    decoder, obs = Decoder(6, space, 2, 8, 1, steps=0), observations(space, 1, 4)
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    latent = first.repeat(1, 4, 2, 1)  # two groups; h has two numbers
    prior = latent.clone()
    prior[0, 1, 0] = second
    prior[0, 2, 1] = second
    features = torch.cat([torch.ones(1, 4, 2), latent.flatten(-2)], -1).requires_grad_()
    with torch.no_grad():
        decoder.mlp[0].weight[:, 4:] = 0  # type: ignore[index,union-attr]  # the second group is noise to it
    decoded = decoder.sampled_losses(features, obs, None)
    surprise = decoder.surprise(foreseen(features, prior), obs, decoded, None)
    other = features.detach().clone()
    other[0, 1, 2:4] = second
    expected = decoder.losses(other, obs)["vector"] - decoded["vector"]
    torch.testing.assert_close(surprise, expected)
    assert not surprise.requires_grad
    assert surprise[0, 1].abs() > 1e-3 and not surprise[0, [0, 2, 3]].any()


def test_surprise_of_images_of_some_steps() -> None:
    """Where images are not decoded, what surprises are the vectors."""
    space = spaces.Dict(SPACES["mix"])
    torch.manual_seed(0)
    decoder, obs = Decoder(4, space, 2, 8, 1, steps=2), observations(space, 3, 6)
    h = torch.randn(3, 6, 2)
    features, other = (
        torch.cat([h, torch.tensor(latent).expand(3, 6, 2)], -1) for latent in ([1.0, 0.0], [0.0, 1.0])
    )
    prior = torch.tensor([0.0, 1.0]).expand(3, 6, 1, 2)
    chosen = torch.tensor([[0, 5], [1, 2], [3, 1]])
    with torch.no_grad():
        decoded = decoder.sampled_losses(features, obs, chosen)
        surprise = decoder.surprise(foreseen(features, prior), obs, decoded, chosen)
        worse = {
            key: value - decoder.losses(features, obs)[key]
            for key, value in decoder.losses(other, obs).items()
        }
    shown = torch.zeros(3, 6, dtype=torch.bool).scatter(1, chosen, True)
    vectors = torch.stack([value for key, value in worse.items() if not is_image(space[key])]).sum(0)
    every = torch.stack(list(worse.values())).sum(0)
    torch.testing.assert_close(surprise, torch.where(shown, every, vectors))
    assert not torch.isclose(every, vectors).any()


def ask(is_first: Tensor, surprise: Tensor, positions: int = 4000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ask a recall network: losses `[n]`, and the row, the step asked from and the step asked for."""
    torch.manual_seed(0)
    rows, steps = is_first.shape
    space = spaces.Dict(where=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    recall = Recall(3, space, positions, {"depth": 1, "units": 4, "layers": 1, "steps": 0})
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(steps), indexing="ij"), -1).float()
    features = torch.cat([grid, torch.ones(rows, steps, 1)], -1).requires_grad_()
    seen: list[tuple[Tensor, Mapping[str, Tensor]]] = []
    of_pairs = recall.decoder.losses
    recall.decoder.losses = lambda inputs, obs: seen.append((inputs, obs)) or of_pairs(inputs, obs)  # type: ignore
    losses = recall(features, surprise, is_first, {"where": grid})
    losses.sum().backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())
    ((inputs, obs),) = seen
    row, now, past = inputs[:, 0], inputs[:, 1], obs["where"][:, 1]
    assert torch.equal(obs["where"][:, 0], row), "another row is asked for"
    assert torch.equal(inputs[:, 3:], Recall._lag(recall, now - past)), "it is told another lag"
    return losses.detach(), row.long(), now.long(), past.long()


def test_recall_stays_inside_the_episode() -> None:
    """Every pair of steps of the same episode is asked, the earlier for the later, and no other."""
    is_first = torch.zeros(3, 9, dtype=torch.bool)
    is_first[0, 0] = is_first[1, 4] = is_first[1, 5] = is_first[2, 8] = True
    losses, row, now, past = ask(is_first, torch.ones(3, 9))
    assert (losses > 0).all()
    episode = is_first.cumsum(1)
    pairs = {
        (b, t, s) for b in range(3) for t in range(9) for s in range(t) if episode[b, s] == episode[b, t]
    }
    assert set(zip(row.tolist(), now.tolist(), past.tolist(), strict=True)) == pairs


def test_recall_asks_for_what_surprised() -> None:
    """In proportion to it; what the prior foresaw better than the posterior is not asked."""
    is_first = torch.zeros(1, 8, dtype=torch.bool)
    surprise = torch.tensor([[9.0, 0.0, -1.0, 5.0, 0.0, 0.0, 0.0, 0.0]])
    _, _, _, past = ask(is_first, surprise)
    drawn = past.bincount(minlength=8) / len(past)
    torch.testing.assert_close(drawn, surprise[0].clamp(min=0) / 14, atol=0.03, rtol=0)


def test_recall_asks_for_it_soon_and_late() -> None:
    """A lag k of n has the probability log((k + 1) / k) / log(n + 1): its logarithm is uniform."""
    surprise = torch.zeros(1, 65)
    surprise[0, 1] = 9.0
    _, _, now, past = ask(torch.zeros(1, 65, dtype=torch.bool), surprise, positions=20_000)
    lag = (now - past)[past == 1]
    drawn = lag.bincount(minlength=64)[1:] / len(lag)
    whole = torch.arange(1.0, 64.0)
    torch.testing.assert_close(drawn, ((whole + 1) / whole).log() / np.log(64.0), atol=0.01, rtol=0)


def test_recall_where_no_step_has_an_earlier_one() -> None:
    losses, *_ = ask(torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 5))
    assert not losses.any()


def test_steps_left() -> None:
    is_first = torch.tensor([[0, 0, 1, 0, 0], [1, 1, 0, 0, 1]]).bool()
    assert steps_left(is_first).tolist() == [[1, 0, 2, 1, 0], [0, 2, 1, 0, 0]]


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, -1e-6])
def test_recall_leaves_it_to_others_to_find_a_loss_that_is_wrong(spoilt: float) -> None:
    """Drawing a step does not fail on it: the loss that is not finite is named by the agent's metrics."""
    surprise = torch.ones(2, 6)
    surprise[0, 1] = spoilt
    surprise[1] = spoilt
    _, row, _, past = ask(torch.zeros(2, 6, dtype=torch.bool), surprise)
    assert not ((row == 1) | (past == 1)).any()


def test_recall_knows_the_lag() -> None:
    space = spaces.Dict(SPACES["vector"])
    recall = Recall(3, space, 4, {"depth": 1, "units": 4, "layers": 1, "steps": 0})
    code = recall._lag(torch.arange(0.0, 257.0))
    assert code.shape == (257, 1 + 2 * Recall.FREQUENCIES)
    assert code.abs().max() < 1.5
    assert (torch.cdist(code, code) + torch.eye(257)).min() > 1e-2


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

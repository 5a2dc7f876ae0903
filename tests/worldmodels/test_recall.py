"""The recall loss: which steps are asked for what, and what counts as not foreseen."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from tests.worldmodels.spaces import SPACES, observations
from worldmodels.base import Backbone, Rollout
from worldmodels.encoder_decoder import Decoder
from worldmodels.latent import Categorical
from worldmodels.recall import Recall, excess_loss, lag_features, steps_left


def ask(is_first: Tensor, weight: Tensor, positions: int = 4000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ask a recall network: losses `[n]`, and the row, the step asked from and the step asked for."""
    torch.manual_seed(0)
    rows, steps = is_first.shape
    space = spaces.Dict(where=spaces.Box(-np.inf, np.inf, (2,), np.float32))
    recall = Recall(3, space, positions, {"depth": 1, "units": 4, "layers": 1})
    grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(steps), indexing="ij"), -1).float()
    features = torch.cat([grid, torch.ones(rows, steps, 1)], -1).requires_grad_()
    seen: list[tuple[Tensor, Mapping[str, Tensor]]] = []
    of_pairs = recall.decoder.losses
    recall.decoder.losses = lambda inputs, obs: seen.append((inputs, obs)) or of_pairs(inputs, obs)  # type: ignore
    losses = recall(features, weight, is_first, {"where": grid})
    losses.sum().backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())
    ((inputs, obs),) = seen
    row, now, past = inputs[:, 0], inputs[:, 1], obs["where"][:, 1]
    assert torch.equal(obs["where"][:, 0], row), "another row is asked for"
    assert torch.equal(inputs[:, 3:], lag_features(now - past)), "it is told another lag"
    return losses.detach(), row.long(), now.long(), past.long()


def test_it_stays_inside_the_episode() -> None:
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


def test_a_step_is_asked_for_in_proportion_to_its_weight() -> None:
    """And not at all where it is not positive: the prior foresaw it as well as the posterior knows it."""
    is_first = torch.zeros(1, 8, dtype=torch.bool)
    weight = torch.tensor([[9.0, 0.0, -1.0, 5.0, 0.0, 0.0, 0.0, 0.0]])
    _, _, _, past = ask(is_first, weight)
    drawn = past.bincount(minlength=8) / len(past)
    torch.testing.assert_close(drawn, weight[0].clamp(min=0) / 14, atol=0.03, rtol=0)


def test_it_asks_soon_and_late() -> None:
    """A lag k of n has the probability log((k + 1) / k) / log(n + 1): its logarithm is uniform."""
    weight = torch.zeros(1, 65)
    weight[0, 1] = 9.0
    _, _, now, past = ask(torch.zeros(1, 65, dtype=torch.bool), weight, positions=20_000)
    lag = (now - past)[past == 1]
    drawn = lag.bincount(minlength=64)[1:] / len(lag)
    whole = torch.arange(1.0, 64.0)
    torch.testing.assert_close(drawn, ((whole + 1) / whole).log() / np.log(64.0), atol=0.01, rtol=0)


def test_where_no_step_has_an_earlier_one() -> None:
    losses, *_ = ask(torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 5))
    assert not losses.any()


def test_steps_left() -> None:
    is_first = torch.tensor([[0, 0, 1, 0, 0], [1, 1, 0, 0, 1]]).bool()
    assert steps_left(is_first).tolist() == [[1, 0, 2, 1, 0], [0, 2, 1, 0, 0]]


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, -1e-6])
def test_it_leaves_it_to_others_to_find_a_loss_that_is_wrong(spoilt: float) -> None:
    """Drawing a step does not fail on it: the loss that is not finite is named by the agent's metrics."""
    weight = torch.ones(2, 6)
    weight[0, 1] = spoilt
    weight[1] = spoilt
    _, row, _, past = ask(torch.zeros(2, 6, dtype=torch.bool), weight)
    assert not ((row == 1) | (past == 1)).any()


def test_lags_are_told_apart() -> None:
    code = lag_features(torch.arange(0.0, 257.0))
    assert code.abs().max() < 1.5
    assert (torch.cdist(code, code) + torch.eye(257)).min() > 1e-2


def test_what_the_prior_did_not_foresee_weighs() -> None:
    """A latent that is decoded counts where the prior has another; one that is ignored never does."""
    space = spaces.Dict(SPACES["vector"])
    torch.manual_seed(0)
    decoder, obs = Decoder(6, space, 2, 8, 1), observations(space, 1, 4)
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    latent = first.repeat(1, 4, 2, 1)  # two groups; h has two numbers
    prior = latent.clone()
    prior[0, 1, 0] = second
    prior[0, 2, 1] = second
    features = torch.cat([torch.ones(1, 4, 2), latent.flatten(-2)], -1).requires_grad_()
    with torch.no_grad():
        decoder.mlp[0].weight[:, 4:] = 0  # type: ignore[index,union-attr]  # the second group is noise to it
    backbone = Backbone()
    backbone.latent = Categorical(2, 2, unimix=0.0)
    of_prior = backbone.prior_features(Rollout(features, features, prior, prior, {}, {}))
    decoded = decoder.losses(features, obs)
    excess = excess_loss(decoder, of_prior, decoded, obs, most=4)
    other = features.detach().clone()
    other[0, 1, 2:4] = second
    expected = decoder.losses(other, obs)["vector"] - decoded["vector"]
    torch.testing.assert_close(excess, expected)
    assert not excess.requires_grad
    assert excess[0, 1].abs() > 1e-3 and not excess[0, [0, 2, 3]].any()


def test_of_many_steps_some_are_measured() -> None:
    """Others at each call, with the weight that they have among all; the rest have none."""
    space = spaces.Dict(SPACES["image"])
    torch.manual_seed(0)
    decoder, obs = Decoder(6, space, 2, 8, 1), observations(space, 2, 8)
    decoded = decoder.losses(torch.randn(2, 8, 6), obs)
    prior = torch.randn(2, 8, 6)
    whole = excess_loss(decoder, prior, decoded, obs, most=16)
    parts = [excess_loss(decoder, prior, decoded, obs, most=5) for _ in range(40)]
    assert all(int(part.count_nonzero()) == 5 for part in parts)
    for part in parts:
        torch.testing.assert_close(part, torch.where(part != 0, whole, 0))
    assert bool((torch.stack(parts) != 0).any(0).all())

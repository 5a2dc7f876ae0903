"""The bonus is for what an ensemble has not learned, and reaches dreams and returns alone."""

import copy

import pytest
import torch
import torch.nn.functional as F

from agent.exploration import Ensemble
from tests.agent.test_agent import ACTIONS, SPACE, assert_same, make, make_batch
from worldmodels.latent import Categorical, Gaussian, Latent

EXPLORE = {"explore__networks": 3, "explore__scale": 0.5}


@pytest.mark.parametrize("latent", [Categorical(3, 4, 0.01), Gaussian(3)], ids=["one-hot", "Gaussian"])
def test_what_was_seen_often_brings_no_bonus_and_what_was_not_does(latent: Latent) -> None:
    """After action 0 the latent follows from the policy input, as seen; action 1 was never taken."""
    torch.manual_seed(0)
    ensemble = Ensemble(4, 2, 1.0, latent, 5, 1.0, 32, 1)
    optimiser = torch.optim.Adam(ensemble.parameters(), 1e-2)
    action = F.one_hot(torch.zeros(64, 2, dtype=torch.int64), 2).float()
    is_first = torch.zeros(64, 2, dtype=torch.bool)
    truth = 3 * torch.randn(4, latent.outputs)
    for _ in range(300):
        policy = torch.randn(64, 2, 4)
        posterior = latent.distribution(policy.roll(1, 1) @ truth)
        loss = ensemble.loss(policy, action, posterior, is_first)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        known, new = (ensemble.bonus(policy[:, 0], F.one_hot(torch.tensor([a] * 64), 2)) for a in (0, 1))
    assert known.shape == (64,) and (known >= 0).all()
    assert new.mean() > 3 * known.mean()


def test_first_rows_are_not_foreseen() -> None:
    latent = Categorical(3, 4, 0.01)
    ensemble = Ensemble(4, 2, 1.0, latent, 2, 1.0, 8, 1)
    policy, action, posterior = (
        torch.randn(2, 3, 4),
        torch.randn(2, 3, 2),
        latent.distribution(torch.randn(2, 3, 12)),
    )
    is_first = torch.tensor([[True, True, False], [True, False, True]])
    losses = []
    for other in (0.0, 5.0):
        changed = policy.clone()
        changed[0, 0] += other  # both lead to first rows
        changed[1, 1] += other
        losses.append(ensemble.loss(changed, action, posterior, is_first))
    torch.testing.assert_close(*losses)
    assert losses[0] > 0


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("backbone", ["s4wm", "rssm"])
def test_an_agent_with_an_ensemble_goes_on_bit_for_bit(backbone: str, action: str) -> None:
    """The world model learns as without; actor and critic learn from other rewards."""
    agent, other, without = (make(backbone, action=action, **changed) for changed in (EXPLORE, EXPLORE, {}))
    for one in (agent, without):
        for seed in range(2):
            one.update(make_batch(one, SPACE, seed=seed))
    assert_same(agent.model.state_dict(), without.model.state_dict())
    critics = agent.actor_critic.critic.state_dict(), without.actor_critic.critic.state_dict()
    assert not all(torch.equal(critics[0][key], critics[1][key]) for key in critics[0])

    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for one in (agent, other):
        one.metrics()
        one.update(make_batch(one, SPACE, seed=5))
    assert_same(agent.state_dict(), other.state_dict())
    metrics = agent.metrics()
    assert metrics["train/bonus"] > 0 and metrics["train/ensemble"] > 0
    batch = make_batch(agent, SPACE, seed=6)
    batch["is_first"][:] = True  # what follows from nothing is in no mean
    agent.update(batch)
    assert not {"train/bonus", "train/ensemble"} & agent.metrics().keys()
    assert "ensemble" not in agent.state_dict(learning=False)


def test_the_dynamics_pass_through_the_ensemble_and_leave_it_alone() -> None:
    """With a gradient through the model only its own loss moves it, as with the score function."""
    after = []
    for gradient in ("reinforce", "dynamics"):
        agent = make("s4wm", action="box", actor_critic__gradient=gradient, **EXPLORE)
        agent.update(make_batch(agent, SPACE, seed=0))
        assert agent.ensemble is not None
        after.append(agent.ensemble.state_dict())
    assert_same(*after)

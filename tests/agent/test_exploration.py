"""The bonus is for what is not known, and reaches the actor alone."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from agent.actor_critic import Critic
from agent.exploration import Disagreement, Explorer, Guesses, Surprise
from agent.imagination import Trajectory
from tests.agent.test_agent import ACTIONS, SPACE, assert_same, make, make_batch
from worldmodels.heads import TwoHotHead
from worldmodels.latent import Categorical, Gaussian, Latent

BONUSES = ("surprise", "disagreement")
EXPLORE = {"explore__networks": 3, "explore__scale": 0.5}


def sizes(count: int = 2, units: int = 8) -> dict[str, Any]:
    return {"inputs": 4, "action_size": 2, "action_norm": 1.0, "count": count, "units": units, "layers": 1}


def learn(guesses: Guesses, action: torch.Tensor, follows: Callable[[torch.Tensor], tuple]) -> torch.Tensor:
    """Fit to what `follows` from policy inputs, after the actions `[64, 2]`; returns the last inputs."""
    optimiser = torch.optim.Adam(guesses.parameters(), 1e-2)
    for _ in range(300):
        policy = torch.randn(64, 4)
        loss = guesses.loss(policy, action, *follows(policy)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy


@pytest.mark.parametrize("latent", [Categorical(3, 4, 0.01), Gaussian(3)], ids=["one-hot", "Gaussian"])
def test_what_was_seen_often_brings_no_disagreement_and_what_was_not_does(latent: Latent) -> None:
    """After action 0 the latent follows from the policy input, as seen; action 1 was never taken."""
    torch.manual_seed(0)
    guesses = Disagreement(latent, **sizes(5, 32))
    truth = 3 * torch.randn(4, latent.outputs)
    policy = learn(guesses, one_hot(0), lambda policy: (latent.distribution(policy @ truth),) * 2)
    with torch.no_grad():
        known, new = (guesses.bonus(policy, one_hot(action)) for action in (0, 1))
    assert known.shape == (64,) and (known >= 0).all()
    assert new.mean() > 3 * known.mean()


def test_the_surprise_that_is_expected_is_the_mean_of_what_followed() -> None:
    """Action 0 shows, where the first input is positive, by chance one of two facts that were not known."""
    torch.manual_seed(0)
    latent = Categorical(1, 2, 0.01)
    guesses = Surprise(latent, 0.5, **sizes(2, 32))
    action = torch.eye(2).repeat(32, 1)

    def follows(policy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        prior = torch.tensor([[0.8, 0.2]]).expand(64, 1, 2)
        shown = (policy[:, 0] > 0) & (action[:, 0] > 0)
        return torch.where(
            shown[:, None, None], F.one_hot(torch.randint(2, (64, 1)), 2).float(), prior
        ), prior

    learn(guesses, action, follows)
    policy = torch.tensor([[1.5, 0, 0, 0], [-1.5, 0, 0, 0]])
    with torch.no_grad():
        after = {action: guesses.bonus(policy, one_hot(action)[:2]) for action in (0, 1)}
    expected = 0.5 * (-math.log(0.2) - 0.5)  # -log(0.8) is below the free nats
    torch.testing.assert_close(after[0], torch.tensor([expected, 0.0]), atol=0.2, rtol=0)
    torch.testing.assert_close(after[1], torch.zeros(2), atol=0.2, rtol=0)


def one_hot(action: int) -> torch.Tensor:
    return F.one_hot(torch.full((64,), action), 2).float()


@pytest.mark.parametrize("bonus", BONUSES)
def test_first_rows_are_not_foreseen(bonus: str) -> None:
    latent = Categorical(3, 4, 0.01)
    explorer = Explorer(
        Surprise(latent, 0.0, **sizes()) if bonus == "surprise" else Disagreement(latent, **sizes()),
        TwoHotHead(4, 8, 1, 31),
        scale=1.0,
        share=1.0,
        discount=0.9,
        lam=0.9,
        slow_rate=0.1,
        slow_regulariser=1.0,
    )
    is_first = torch.tensor([[True, True, False], [True, False, True]])
    policy, action = torch.randn(2, 3, 4), torch.randn(2, 3, 2)
    posterior, prior = latent.distribution(torch.randn(2, 2, 3, 12))
    losses = []
    for other in (0.0, 5.0):
        changed, begun = policy.clone(), posterior.clone()
        for row, step in ((0, 0), (1, 1)):  # both lead to first rows
            changed[row, step] += other
            begun[row, step + 1] = begun[row, step + 1].roll(1) if other else begun[row, step + 1]
        loss, told = explorer.of_window(changed, action, begun, prior, is_first)
        losses.append(loss)
        assert told["bonus_guess"].number == 2
    torch.testing.assert_close(*losses)
    assert losses[0] > 0


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("bonus", BONUSES)
@pytest.mark.parametrize("backbone", ["s4wm", "rssm"])
def test_an_agent_that_explores_goes_on_bit_for_bit(backbone: str, bonus: str, action: str) -> None:
    """World model and the critic of rewards learn as without, from the same dreams; the actor does not."""
    explore = EXPLORE | {"explore__bonus": bonus}
    agent, other, without = (make(backbone, action=action, **changed) for changed in (explore, explore, {}))
    for one in (agent, without):
        one.update(make_batch(one, SPACE, seed=0))
    assert_same(agent.model.state_dict(), without.model.state_dict())
    assert_same(agent.actor_critic.critic.state_dict(), without.actor_critic.critic.state_dict())
    actors = agent.actor_critic.actor.state_dict(), without.actor_critic.actor.state_dict()
    assert not all(torch.equal(actors[0][key], actors[1][key]) for key in actors[0])

    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    for one in (agent, other):
        one.metrics()
        one.update(make_batch(one, SPACE, seed=5))
    assert_same(agent.state_dict(), other.state_dict())
    metrics = agent.metrics()
    assert metrics["train/bonus"] != 0 and metrics["train/bonus_guess"] > 0
    batch = make_batch(agent, SPACE, seed=6)
    batch["is_first"][:] = True  # what follows from nothing is in no mean
    agent.update(batch)
    assert "train/bonus_guess" not in agent.metrics()
    assert "explorer" not in agent.state_dict(learning=False)


@pytest.mark.parametrize("action", ACTIONS)
def test_the_bonus_fades_and_then_nothing_of_it_is_left(action: str) -> None:
    """Its weight falls to 0 over `share` of a run; from there on an update is that of an agent without."""
    agent, without = make(action=action, explore__share=0.5, **EXPLORE), make(action=action)
    assert agent.explorer is not None
    for left, weight in ((1.0, 0.5), (0.75, 0.25), (0.5, 0.0), (0.2, 0.0)):
        agent.explorer.left = left
        assert agent.explorer.weight == pytest.approx(weight)
    before = copy.deepcopy(agent.explorer.state_dict())
    for one in (agent, without):
        one.update(make_batch(one, SPACE, seed=0), left=0.4)
    assert_same(agent.explorer.state_dict(), before)
    assert_same(agent.actor_critic.state_dict(), without.actor_critic.state_dict())
    assert "train/bonus" not in agent.metrics()
    forever = make(action=action, explore__share=float("inf"), **EXPLORE)
    assert forever.explorer is not None
    forever.explorer.left = 0.0
    assert forever.explorer.weight == 0.5


def test_the_end_of_an_episode_is_no_loss_to_the_bonus() -> None:
    """Its value goes on there from the mean value; that of rewards ends."""
    torch.manual_seed(0)
    returns = {}
    for endless in (False, True):
        network = TwoHotHead(3, 8, 1, 31)
        critic = Critic(network, 0.9, 1.0, 0.1, 1.0, endless=endless)
        dream = Trajectory(
            policy=torch.zeros(3, 4, 3), action=torch.zeros(2, 4, 2), outputs=torch.zeros(2, 4, 2)
        )
        critic.critic.mean = lambda logits: torch.full(logits.shape[:-1], 5.0)  # type: ignore[method-assign]
        alive = torch.ones(3, 4)
        alive[1] = 0  # the first action ends it
        _, gain, _, metrics = critic.of_dream(dream, torch.ones(3, 4), alive, through=False)
        returns[endless] = 5 + gain[0] * metrics["return_scale"]
    torch.testing.assert_close(returns[False], torch.ones(4))
    torch.testing.assert_close(returns[True], torch.full((4,), 1 + 0.9 * 5.0))


def test_the_dynamics_pass_through_what_guesses_and_leave_it_alone() -> None:
    """With a gradient through the model only its own loss moves it, as with the score function."""
    after = []
    for gradient in ("reinforce", "dynamics"):
        agent = make("s4wm", action="box", actor_critic__gradient=gradient, **EXPLORE)
        agent.update(make_batch(agent, SPACE, seed=0))
        assert agent.explorer is not None
        after.append(agent.explorer.guesses.state_dict())
    assert_same(*after)

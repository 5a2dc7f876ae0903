"""Lambda-returns by hand, what an end and a time limit mean, and what actor and critic learn from a dream."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from agent.actions import ActionCodec
from agent.actor_critic import ActorCritic, ReturnScale, lambda_returns
from agent.imagination import Trajectory


def rows(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_lambda_returns_by_hand() -> None:
    """Discount 0.5, lambda 0.8, everything alive.

    R2 = 4 + 0.5 * 8 = 8
    R1 = 3 + 0.5 * (0.2 * 6 + 0.8 * 8) = 6.8
    R0 = 2 + 0.5 * (0.2 * 10 + 0.8 * 6.8) = 5.72
    """
    returns = lambda_returns(
        reward=rows(99, 2, 3, 4),
        alive=rows(1, 1, 1, 1),
        last=rows(0, 0, 0, 0).bool(),
        value=rows(77, 10, 6, 8),
        discount=0.5,
        lam=0.8,
    )
    torch.testing.assert_close(returns, rows(5.72, 6.8, 8))


def test_an_end_is_worth_its_reward() -> None:
    """Row 2 is terminal: its value and everything after it count for nothing.

    R1 = 3, R0 = 2 + 0.5 * (0.2 * 10 + 0.8 * 3) = 4.2; R2 belongs to no episode and is not used.
    """
    returns = lambda_returns(
        reward=rows(99, 2, 3, 1e6),
        alive=rows(1, 1, 0, 1),
        last=rows(0, 0, 1, 0).bool(),
        value=rows(77, 10, 1e6, 1e6),
        discount=0.5,
        lam=0.8,
    )
    torch.testing.assert_close(returns[:, :2], rows(4.2, 3))


def test_a_time_limit_stands_for_the_future() -> None:
    """Row 2 is the last, but alive: its value stands for the future, nothing of the next episode does.

    R1 = 3 + 0.5 * 6 = 6, R0 = 2 + 0.5 * (0.2 * 10 + 0.8 * 6) = 5.4.
    """
    returns = [
        lambda_returns(
            reward=rows(99, 2, 3, *other[:2]),
            alive=rows(1, 1, 1, 1, 1),
            last=rows(0, 0, 1, 0, 0).bool(),
            value=rows(77, 10, 6, *other[2:]),
            discount=0.5,
            lam=0.8,
        )
        for other in ((0, 0, 0, 0), (1e6, -1e5, 1e7, -1e9))
    ]
    for of_one in returns:
        torch.testing.assert_close(of_one[:, :2], rows(5.4, 6))


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_two_ends_of_lambda(lam: float) -> None:
    """lambda 0 is one reward and a value; lambda 1 is all rewards and the last value."""
    torch.manual_seed(0)
    reward, value = torch.randn(3, 6), torch.randn(3, 6)
    zeros = torch.zeros(3, 6)
    returns = lambda_returns(reward, zeros + 1, zeros.bool(), value, 0.9, lam)
    expected = reward[:, 1:] + 0.9 * value[:, 1:]
    if lam:
        expected = torch.stack(
            [
                sum(0.9 ** (k - t - 1) * reward[:, k] for k in range(t + 1, 6)) + 0.9 ** (5 - t) * value[:, 5]
                for t in range(5)
            ],
            1,
        )
    torch.testing.assert_close(returns, expected)


def test_half_alive_halves_the_future() -> None:
    """R1 = 3 + 0.5 * 0.5 * 8 = 5, R0 = 2 + 0.5 * (0.2 * 6 + 0.8 * 5) = 4.6."""
    returns = lambda_returns(
        rows(0, 2, 3), rows(1, 1, 0.5), rows(0, 0, 0).bool(), rows(0, 6, 8), discount=0.5, lam=0.8
    )
    torch.testing.assert_close(returns, rows(4.6, 5))


def test_return_scale() -> None:
    """The 5th to 95th percentile, averaged over updates without a bias to 0; at least 1."""
    scale = ReturnScale(decay=0.9)
    returns = torch.linspace(0, 100, 101)
    assert scale.update(returns) == pytest.approx(90, rel=1e-4)
    assert scale.update(returns.reshape(1, 101)) == pytest.approx(90, rel=1e-4)
    # weights 0.09 + 0.081 of two updates at 90, then 0.1 at 900: (0.171 * 90 + 0.1 * 900) / 0.271
    assert scale.update(10 * returns) == pytest.approx((0.171 * 90 + 0.1 * 900) / 0.271, rel=1e-4)
    assert ReturnScale().update(torch.linspace(0, 0.1, 50)) == 1
    assert ReturnScale().update(torch.full((2, 3), -7.0)) == 1
    again = ReturnScale(decay=0.9)
    again.load_state_dict(scale.state_dict())
    assert again.update(returns) == scale.update(returns)


def make(space: spaces.Space | None = None, **changed: Any) -> ActorCritic:
    torch.manual_seed(0)
    codec = ActionCodec(space or spaces.Discrete(2), unimix=0.01, min_std=0.1, max_std=1.0)
    options: dict[str, Any] = {
        "units": 16,
        "layers": 1,
        "bins": 31,
        "resolution": 1.0,
        "discount": 0.9,
        "lam": 0.95,
        "gradient": "reinforce",
        "entropy": 0.0,
        "slow_rate": 0.25,
        "slow_regulariser": 1.0,
        "replay_value": 0.3,
    }
    return ActorCritic(4, codec, **options | changed)


def dream_of(agent: ActorCritic, count: int = 6, horizon: int = 3) -> Trajectory:
    torch.manual_seed(1)
    inputs = torch.randn(horizon + 1, count, 4)
    return Trajectory(inputs, *agent.sample(inputs[:-1]))


def test_nothing_counts_after_a_certain_end() -> None:
    """Rewards, features and actions after a position that is surely terminal change neither loss."""
    agent = make(entropy=0.1)
    dream, other = dream_of(agent), dream_of(agent)
    alive = torch.ones(4, 6)
    alive[2] = 0
    reward = torch.randn(4, 6)
    spoilt = reward.clone()
    spoilt[3] = 50
    other.policy[3] += 5
    other.action[2] = other.action[2].flip(-1)
    losses = []
    for trajectory, rewards in ((dream, reward), (other, spoilt)):
        agent.scale = ReturnScale(decay=0.0, floor=1e2)  # the percentiles do look at all returns
        losses.append(agent.loss(trajectory, rewards, alive)[:2])
    # Position 2 is the terminal state itself; what the actor does there has no weight.
    torch.testing.assert_close(losses[0], losses[1])


def test_a_start_that_is_terminal_teaches_nothing() -> None:
    agent = make(entropy=0.1)
    dream = dream_of(agent)
    actor, critic, _ = agent.loss(dream, torch.randn(4, 6), torch.zeros(4, 6))
    assert actor == 0 and critic == 0


def test_weights_by_hand() -> None:
    """A position counts by discount and survival since the start: 1, 0.9 * 0.5, 0.9 * 0.5 * 0.9."""
    agent = make(entropy=1.0)
    dream = dream_of(agent, count=1)
    alive = torch.tensor([[1.0, 0.5, 1.0, 1.0]]).t()
    reward = torch.zeros(4, 1)
    agent.scale = ReturnScale(floor=1e9)  # leaves the entropy alone
    actor, _, metrics = agent.loss(dream, reward, alive)
    entropy = agent.policy(dream.policy[:-1]).entropy()[:, 0]
    expected = -(torch.tensor([1.0, 0.45, 0.405]) * entropy).mean()
    torch.testing.assert_close(actor, expected)
    torch.testing.assert_close(metrics["entropy"], entropy.mean())


def test_only_the_actor_learns_from_the_actor_s_loss() -> None:
    agent = make()
    dream = dream_of(agent)
    actor, critic, metrics = agent.loss(dream, torch.randn(4, 6), torch.ones(4, 6))
    parts = {"actor": actor, "critic": critic}
    for part, loss in parts.items():
        for trained in ("actor", "critic"):
            parameters = list(getattr(agent, trained).parameters())
            found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
            assert any(gradient is not None for gradient in found) == (part == trained)
    assert not any(parameter.requires_grad for parameter in agent.slow_critic.parameters())
    assert all(not metric.requires_grad and metric.shape == () for metric in metrics.values())


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), spaces.Box(-1, 1, (2,))])
def test_the_policy_moves_towards_what_paid(space: spaces.Space, gradient: str) -> None:
    """A bandit: one action is rewarded, and after some updates the policy takes it."""
    agent = make(space, gradient=gradient)
    optimiser = torch.optim.Adam(agent.actor.parameters(), 0.02)
    features = torch.zeros(2, 256, 4)
    space.seed(3)
    best = torch.as_tensor(np.stack([space.sample()]))
    target = agent.codec.encode(best).clamp(-0.5, 0.5)
    for seed in range(60):
        torch.manual_seed(seed)
        action, outputs = agent.sample(features[:1])
        reward = F.pad(-(action - target).square().sum(-1), (0, 0, 1, 0))
        actor, _, _ = agent.loss(Trajectory(features, action, outputs), reward, torch.ones(2, 256))
        optimiser.zero_grad()
        actor.backward()
        optimiser.step()
    mode = agent.policy(features[0, :1]).mode()
    if isinstance(space, spaces.Box):
        torch.testing.assert_close(mode, target, atol=0.15, rtol=0)
    else:
        assert torch.equal(mode, agent.codec.encode(best))


def test_the_gradient_through_the_dynamics_by_hand() -> None:
    """Two steps; position 1 sees the action of 0, rewards are the actions, the critic gives V.

    R1 = a1 + 0.9 V2, R0 = a0 + 0.9 (0.05 V1 + 0.95 R1), weights 1 and 0.9; all of it divided by the scale.
    """
    agent = make(spaces.Box(-1, 1, (1,)), gradient="dynamics")
    scale = 1e12  # above any value
    agent.scale = ReturnScale(floor=scale)
    with torch.no_grad():  # else all values are 0
        for parameter in agent.critic.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    start = torch.randn(5, 4)
    policy, drawn = [start], []
    for _ in range(2):
        drawn.append(agent.sample(policy[-1]))
        policy.append(start + drawn[-1][0])
    dream = Trajectory(torch.stack(policy), *map(torch.stack, zip(*drawn, strict=True)))
    reward = F.pad(dream.action[..., 0], (0, 0, 1, 0))
    actor, _, _ = agent.loss(dream, reward, torch.ones(3, 5))
    value = agent.critic.mean(agent.critic(dream.policy))
    r1 = reward[2] + 0.9 * value[2]
    r0 = reward[1] + 0.9 * (0.05 * value[1] + 0.95 * r1)
    parameters = list(agent.actor.parameters())
    actual = torch.autograd.grad(scale * actor, parameters, retain_graph=True)
    expected = torch.autograd.grad(-(r0 + 0.9 * r1).mean() / 2, parameters)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * max(g.abs().max() for g in expected))


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([3, 2])])
def test_the_score_function_s_gradient_by_hand(space: spaces.Space) -> None:
    """Of a second run of the network on the dream: its first one, which drew the actions, is taken up."""
    agent = make(space, entropy=0.1)
    with torch.no_grad():
        drawn = agent.sample(torch.randn(4, 6, 4))
        assert drawn[1].requires_grad and not drawn[0].requires_grad
    dream, reward, alive = dream_of(agent), torch.randn(4, 6), torch.rand(4, 6)
    actor, _, metrics = agent.loss(dream, reward, alive)
    with torch.no_grad():
        value = agent.critic.mean(agent.critic(dream.policy))
        later = [value[3]]
        for t in (3, 2, 1):
            later.append(reward[t] + 0.9 * alive[t] * (0.05 * value[t] + 0.95 * later[-1]))
        advantage = (torch.stack(later[:0:-1]) - value[:3]) / metrics["return_scale"]
        weight = torch.stack([alive[0], 0.9 * alive[0] * alive[1], 0.81 * alive[0] * alive[1] * alive[2]])
    policy = agent.policy(dream.policy[:3])
    gain = policy.log_prob(dream.action) * advantage + 0.1 * policy.entropy()
    parameters = list(agent.actor.parameters())
    actual = torch.autograd.grad(actor, parameters)
    torch.testing.assert_close(actual, torch.autograd.grad(-(weight * gain).mean(), parameters))


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
def test_which_gradient(space: spaces.Space) -> None:
    assert make(space, gradient="auto").through_dynamics == isinstance(space, spaces.Box)


def test_slow_critic() -> None:
    """It starts as the critic, moves a quarter of the way at each update, and is never trained."""
    agent = make()
    dream = dream_of(agent)
    torch.testing.assert_close(list(agent.slow_critic.parameters()), list(agent.critic.parameters()))
    before = [parameter.clone() for parameter in agent.slow_critic.parameters()]
    optimiser = torch.optim.SGD(agent.critic.parameters(), 1.0)
    agent.loss(dream, torch.randn(4, 6), torch.ones(4, 6))[1].backward()
    optimiser.step()
    agent.update_slow_critic()
    for slow, old, new in zip(agent.slow_critic.parameters(), before, agent.critic.parameters(), strict=True):
        torch.testing.assert_close(slow.data, 0.75 * old + 0.25 * new.data)
    assert any(not new.equal(old) for new, old in zip(agent.critic.parameters(), before, strict=True))


def test_the_critic_s_loss_by_hand() -> None:
    """Cross-entropies to the returns of all dreams, and to the slow critic in one dream of four."""
    agent = make(slow_regulariser=0.5)
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    dream, reward = dream_of(agent, count=9, horizon=2), torch.randn(3, 9)
    _, actual, _ = agent.loss(dream, reward, torch.ones(3, 9))
    with torch.no_grad():
        logits = agent.critic(dream.policy)
        value, slow = agent.critic.mean(logits), agent.slow_critic.mean(agent.slow_critic(dream.policy))
        r1 = reward[2] + 0.9 * value[2]
        r0 = reward[1] + 0.9 * (0.05 * value[1] + 0.95 * r1)
        targets = torch.stack([r0, r1]), slow[:2]
        to_return, to_slow = (agent.critic.loss(logits[:2], target) for target in targets)
        weight = torch.tensor([[1.0], [0.9]])
        few = (weight * to_slow)[:, [0, 4, 8]]
    torch.testing.assert_close(actual.detach(), (weight * to_return).mean() + 0.5 * few.mean())


def test_replayed_returns_do_not_cross_an_episode() -> None:
    """Row 2 of the first sequence ends its episode: it has no return, and the one after lends nothing."""
    agent = make()
    with torch.no_grad():  # else all values are 0
        for parameter in agent.critic.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        agent.slow_critic.load_state_dict(agent.critic.state_dict())
    torch.manual_seed(2)
    policy, reward = torch.randn(2, 6, 4), torch.randn(2, 6)
    last = torch.zeros(2, 6, dtype=torch.bool)
    last[0, 2] = True
    nothing = torch.zeros_like(last)
    # Only the first episode's own rows get a loss if the rest is masked out by being last.
    only = last.clone()
    only[0, 3:], only[1] = True, True
    base = agent.replay_loss(policy, reward, nothing, only)
    other, paid = policy.clone(), reward.clone()
    other[0, 3:] += 1
    paid[0, 3:] += 100
    torch.testing.assert_close(agent.replay_loss(other, paid, nothing, only), base)
    # The value of the last row counts under a time limit, not at an end.
    moved = policy.clone()
    moved[0, 2] += 2
    assert agent.replay_loss(moved, reward, nothing, only) != base
    at_end = agent.replay_loss(policy, reward, last, only)
    assert at_end != base
    torch.testing.assert_close(agent.replay_loss(moved, reward, last, only), at_end)


def test_nothing_of_the_next_episode_is_learned_from() -> None:
    """Rewards and values after a last row, NaN included, reach no return, no loss and no gradient."""
    nan = torch.nan
    returns = lambda_returns(
        reward=rows(0, 1, nan, nan),
        alive=rows(1, 1, 1, nan),
        last=rows(0, 1, 0, 0).bool(),
        value=rows(0, 8, nan, nan),
        discount=0.5,
        lam=0.8,
    )
    assert returns[0, 0] == 1 + 0.5 * 8
    agent = make()
    policy, last = torch.randn(1, 4, agent.actor[0].in_features), torch.tensor([[False, True, False, True]])
    reward = rows(0, 1, nan, 0).float()
    loss = agent.replay_loss(policy[:, :3], reward[:, :3], torch.zeros(1, 3, dtype=torch.bool), last[:, :3])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in agent.critic.parameters() if p.grad is not None)


def test_replay_loss_by_hand() -> None:
    """Three rows, the last is a time limit: cross-entropies to two returns and to the slow critic."""
    agent = make(slow_regulariser=0.5)
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    torch.manual_seed(2)
    policy, reward = torch.randn(1, 3, 4), torch.tensor([[9.0, 2.0, 3.0]])
    last = torch.tensor([[False, False, True]])
    with torch.no_grad():
        value = agent.critic.mean(agent.critic(policy))[0]
        r1 = 3 + 0.9 * value[2]
        r0 = 2 + 0.9 * (0.05 * value[1] + 0.95 * r1)
        logits = agent.critic(policy)[0]
        slow = agent.slow_critic.mean(agent.slow_critic(policy))[0]
        targets = torch.stack([r0, r1]), slow[:2]
        losses = [agent.critic.loss(logits[:2], target) for target in targets]
        expected = (losses[0] + 0.5 * losses[1]).mean()
    actual = agent.replay_loss(policy, reward, torch.zeros_like(last), last)
    torch.testing.assert_close(actual.detach(), expected)

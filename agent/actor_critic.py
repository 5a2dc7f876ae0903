"""Actor and critic of DreamerV3, learned from imagined trajectories and, for the critic, from replay."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from agent.actions import ActionCodec, BoundedNormal, Categoricals
from agent.imagination import Trajectory
from worldmodels import ranks
from worldmodels.heads import TwoHotHead
from worldmodels.nets import MLP, frozen

SLOW_EVERY = 4
"""The slow critic predicts one dream in so many: a mean over fewer, for a term that only has to hold back."""


def lambda_returns(
    reward: Tensor, alive: Tensor, last: Tensor, value: Tensor, discount: float, lam: float
) -> Tensor:
    """Lambda-returns of positions 0 .. T - 2, `[N, T - 1]` (DreamerV3, eq. 7).

    R_t = reward_{t+1} + discount alive_{t+1} ((1 - lam) value_{t+1} + lam R_{t+1}), but where row t + 1 is
    the last of its episode or of the window, the return is bootstrapped from value_{t+1} alone, and nothing
    of the next episode leaks in.

    Args:
        reward, alive, value: `[N, T]`, each what ARRIVED with row t. `alive` is the probability that the
            state is not terminal, so a terminal row contributes its reward and no value.
        last: `[N, T]` bool; a time limit is last but alive.
        discount: factor per step.
        lam: lambda.
    """
    future, mix = value[:, -1], value.new_full((), lam)
    returns = []
    for t in range(reward.shape[1] - 1, 0, -1):
        # Selected, not multiplied by 0: what follows may belong to another episode, and be NaN.
        ahead = torch.where(last[:, t], value[:, t], torch.lerp(value[:, t], future, mix))
        future = reward[:, t] + discount * alive[:, t] * ahead
        returns.append(future)
    return torch.stack(returns[::-1], 1)


class ReturnScale(nn.Module):
    """Range of the returns: 5th to 95th percentile, averaged over updates, at least 1 (eq. 11, 12)."""

    low: Tensor
    high: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.99, floor: float = 1.0) -> None:
        super().__init__()
        self.decay, self.floor = decay, floor
        for name in ("low", "high", "weight"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Update with a batch of returns, of all ranks; return the scale `[]` that divides advantages."""
        low, high = torch.quantile(
            ranks.gathered(returns.flatten()), returns.new_tensor([0.05, 0.95])
        ).unbind()
        self.low.lerp_(low, 1 - self.decay)
        self.high.lerp_(high, 1 - self.decay)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)
        return ((self.high - self.low) / self.weight).clamp(min=self.floor)


class Critic(nn.Module):
    """Value over the policy input, learned from dreams and from replayed returns (DreamerV3).

    Args:
        critic: the network.
        discount: 1 - 1 / effective horizon.
        lam: lambda of the returns.
        slow_rate: how far the slow critic moves towards the critic at each update.
        slow_regulariser: weight of the critic's cross-entropy to the slow critic's prediction.
        floor: smallest range of the returns that advantages are divided by.
        endless: take the end of an episode for the beginning of another, worth the mean value.
    """

    def __init__(
        self,
        critic: TwoHotHead,
        discount: float,
        lam: float,
        slow_rate: float,
        slow_regulariser: float,
        floor: float = 1.0,
        endless: bool = False,
    ) -> None:
        super().__init__()
        self.critic = critic
        self.slow_critic = copy.deepcopy(critic).requires_grad_(False)
        self.scale = ReturnScale(floor=floor)
        self.discount, self.lam, self.endless = discount, lam, endless
        self.slow_rate, self.slow_regulariser = slow_rate, slow_regulariser

    def of_dream(
        self, dream: Trajectory, reward: Tensor, alive: Tensor, through: bool
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """The critic's loss, a scalar, advantages and weights of the actions `[H, N]`, and metrics.

        Args:
            dream: N trajectories of horizon H.
            reward: `[H + 1, N]`, predicted for each position; the first is not used.
            alive: `[H + 1, N]`, probability that the position is not terminal; the first comes from replay.
            through: whether the advantages have the gradients of the dream.
        """
        inputs = dream.policy.detach()
        logits = self.critic(inputs)
        value = self.critic.mean(logits.detach())
        ahead = value
        if through:
            with frozen(self.critic):
                ahead = self.critic.mean(self.critic(dream.policy))
        if self.endless:
            reward = reward + self.discount * (1 - alive) * ranks.gathered(value.flatten()).mean()
        nowhere = torch.zeros_like(reward, dtype=torch.bool)
        imagined = lambda_returns(reward.t(), alive.t(), nowhere.t(), ahead.t(), self.discount, self.lam).t()
        returns = imagined.detach()
        # Steps after a probable end count only with the probability of being reached.
        discounts = alive.new_full((len(alive) - 1, 1), self.discount)
        discounts[0] = 1
        weight = torch.cumprod(alive[:-1].detach() * discounts, 0)
        scale = self.scale.update(returns)
        loss = self.critic.loss(logits[:-1], returns)
        few = slice(None, None, SLOW_EVERY)
        to_slow = self._slow_loss(logits[:-1, few], inputs[:-1, few])
        loss = (weight * loss).mean() + self.slow_regulariser * (weight[:, few] * to_slow).mean()
        metrics = {
            "critic": loss.detach(),
            "return": returns.mean(),
            "return_scale": scale,
            "value": value.mean(),
            "value_error": (returns - value[:-1]).abs().mean(),
        }
        return loss, (imagined - value[:-1]) / scale, weight, metrics

    def replay_loss(self, policy: Tensor, reward: Tensor, is_terminal: Tensor, is_last: Tensor) -> Tensor:
        """Critic loss on a replayed window, a scalar: policy inputs `[B, T, P]`, the rest `[B, T]`."""
        logits = self.critic(policy)
        value = self.critic.mean(logits.detach())
        returns = lambda_returns(reward, 1 - is_terminal.float(), is_last, value, self.discount, self.lam)
        # The row after a last one belongs to another episode: no return is defined from a last row, and what
        # stands in its place must not reach the gradients, even where it is NaN.
        undefined = is_last[:, :-1]
        target = returns.masked_fill(undefined, 0)
        losses = self.critic.loss(logits[:, :-1], target)
        losses = losses + self.slow_regulariser * self._slow_loss(logits[:, :-1], policy[:, :-1])
        return losses.masked_fill(undefined, 0).mean()

    def _slow_loss(self, logits: Tensor, policy: Tensor) -> Tensor:
        """Cross-entropy `[...]` of the critic's logits to what the slow critic predicts from the same."""
        with torch.no_grad():
            slow = self.slow_critic.mean(self.slow_critic(policy))
        return self.critic.loss(logits, slow)

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow critic a little towards the critic."""
        torch._foreach_lerp_(
            list(self.slow_critic.parameters()), list(self.critic.parameters()), self.slow_rate
        )


class ActorCritic(Critic):
    """Policy and value over the policy input of the backbone.

    Args:
        inputs: P.
        codec: action space.
        units, layers: size of both networks.
        bins, resolution: of the critic's two-hot code.
        discount: 1 - 1 / effective horizon.
        lam: lambda of the returns.
        gradient: how the actor learns from a dream. `reinforce`: by the score function (DreamerV3, eq. 11).
            `dynamics`: by the derivative of the returns with respect to the actions, through the world model
            (DreamerV2, eq. 6 with rho = 0). `auto`: `dynamics` for continuous actions.
        entropy: weight of the policy's entropy.
        slow_rate: how far the slow critic moves towards the critic at each update.
        slow_regulariser: weight of the critic's cross-entropy to the slow critic's prediction.
        replay_value: weight of the critic's loss on replayed returns; 0 leaves it out.
    """

    def __init__(
        self,
        inputs: int,
        codec: ActionCodec,
        units: int,
        layers: int,
        bins: int,
        resolution: float,
        discount: float,
        lam: float,
        gradient: str,
        entropy: float,
        slow_rate: float,
        slow_regulariser: float,
        replay_value: float,
    ) -> None:
        actor = MLP(inputs, units, layers, codec.policy_outputs, out_scale=0.01)
        critic = TwoHotHead(inputs, units, layers, bins, resolution)
        super().__init__(critic, discount, lam, slow_rate, slow_regulariser)
        self.actor = actor
        self.codec = codec
        self.through_dynamics = gradient == "dynamics" or (gradient == "auto" and not codec.discrete)
        self.entropy, self.replay_value = entropy, replay_value

    def policy(self, inputs: Tensor) -> Categoricals | BoundedNormal:
        """Distribution over action vectors for policy inputs `[..., P]`."""
        return self.codec.distribution(self.actor(inputs))

    def sample(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Action vectors `[N, A]` for policy inputs `[N, P]`, and the network's outputs `[N, O]`.

        Gradients reach the policy network only, even where the caller records none: its loss takes up the
        outputs again. Those of the actions are recorded if `through_dynamics`.
        """
        with torch.enable_grad():
            outputs = self.actor(inputs.detach())
        drawn_from = outputs if self.through_dynamics else outputs.detach()
        return self.codec.distribution(drawn_from).rsample(), outputs

    def loss(
        self, dream: Trajectory, reward: Tensor, alive: Tensor, besides: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Actor and critic loss of imagined trajectories, each a scalar, and metrics.

        Args:
            dream: N trajectories of horizon H, as returned by `imagine` with `sample`; with gradients to the
                actions if `through_dynamics`.
            reward: `[H + 1, N]`, predicted for each position; the first is not used.
            alive: `[H + 1, N]`, probability that the position is not terminal; the first comes from replay.
            besides: added to the advantages, `[H, N]`, for what the actor is to follow besides rewards.
        """
        critic, gain, weight, metrics = self.of_dream(dream, reward, alive, self.through_dynamics)
        gain = gain + besides
        policy = self.codec.distribution(dream.outputs)
        entropy = policy.entropy()
        if not self.through_dynamics:
            gain = policy.log_prob(dream.action) * gain.detach()
        actor = -(weight * (gain + self.entropy * entropy)).mean()
        metrics |= {"actor": actor, "entropy": entropy.mean(), "imagined_reward": reward[1:].mean()}
        return actor, critic, {key: metric.detach() for key, metric in metrics.items()}

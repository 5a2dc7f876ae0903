"""A bonus for what is not known: not learned yet by the world model, or not seen yet in an episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agent.actions import ActionCodec
from agent.actor_critic import Critic
from agent.imagination import Dream
from worldmodels import Backbone
from worldmodels.base import Counted
from worldmodels.heads import TwoHotHead
from worldmodels.latent import Latent
from worldmodels.nets import MLP


class Guesses(nn.Module):
    """Networks of different first weights that foresee something of the next step; from it comes a bonus.

    Args:
        inputs, action_size, action_norm: P, A, and the largest norm of an action vector.
        outputs: n, of a network.
        count: networks, K.
        units, layers: size of each.
    """

    def __init__(
        self,
        inputs: int,
        action_size: int,
        action_norm: float,
        outputs: int,
        count: int,
        units: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.action_scale = inputs**0.5 / action_norm  # as `WorldModel.head_input`
        sizes = (inputs + action_size, units, layers, outputs)
        self.networks = nn.ModuleList(MLP(*sizes) for _ in range(count))

    def forward(self, policy: Tensor, action: Tensor) -> Tensor:
        """What each network says, `[K, ..., n]`: policy inputs `[..., P]`, the actions taken there."""
        inputs = torch.cat([policy, self.action_scale * action.to(policy.dtype)], -1)
        return torch.stack([network(inputs) for network in self.networks])

    def loss(self, policy: Tensor, action: Tensor, posterior: Tensor, prior: Tensor) -> Tensor:
        """Loss `[...]`, given the posteriors and priors `[..., S, n]` of the steps that follow."""
        raise NotImplementedError

    def bonus(self, policy: Tensor, action: Tensor) -> Tensor:
        """In nats `[...]`, for policy inputs `[..., P]` and the actions taken there `[..., A]`."""
        raise NotImplementedError


class Disagreement(Guesses):
    """How little networks agree that foresee the next posterior: what the model has not learned yet.

    Plan2Explore (Sekar et al., 2020), with the latent's distributions in place of regressions. Where all have
    learned what comes, chance included, they agree. Elsewhere what comes would tell which of them is right:
    by the mean KL, in nats, of each to the distribution of their mean parameters (of one-hot latents that is
    their mixture, and the mean the mutual information of latent and network).

    Args:
        latent: the backbone's.
        sizes: of `Guesses`, but for the outputs.
    """

    def __init__(self, latent: Latent, **sizes: Any) -> None:
        super().__init__(outputs=latent.outputs, **sizes)
        self.latent = latent

    def loss(self, policy: Tensor, action: Tensor, posterior: Tensor, prior: Tensor) -> Tensor:
        del prior
        foreseen = self.latent.distribution(self(policy, action))
        return self.latent.kl(posterior.expand_as(foreseen), foreseen).mean(0)

    def bonus(self, policy: Tensor, action: Tensor) -> Tensor:
        foreseen = self.latent.distribution(self(policy, action))
        return self.latent.kl(foreseen, foreseen.mean(0).expand_as(foreseen)).mean(0)


class Surprise(Guesses):
    """How far the next posterior is expected to be from the prior: what the episode has not shown yet.

    A model that remembers is not surprised by what it has seen before, whatever chance made it so; of a world
    of which a part is in view the rest surprises. Noise does at every step, wherever the agent goes.

    Args:
        latent: the backbone's.
        free_nats: KL below this costs the model nothing, and so says nothing.
        sizes: of `Guesses`, but for the outputs.
    """

    def __init__(self, latent: Latent, free_nats: float, **sizes: Any) -> None:
        super().__init__(outputs=1, **sizes)
        self.latent, self.free_nats = latent, free_nats

    def loss(self, policy: Tensor, action: Tensor, posterior: Tensor, prior: Tensor) -> Tensor:
        surprise = (self.latent.kl(posterior, prior) - self.free_nats).clamp(min=0)
        return (self(policy, action).squeeze(-1).float() - surprise).square().mean(0)

    def bonus(self, policy: Tensor, action: Tensor) -> Tensor:
        return self(policy, action).squeeze(-1).float().mean(0)


class Explorer(nn.Module):
    """Sends the actor, in the first part of a run, to what is not known as well as to rewards.

    The bonus has a value of its own, that of rewards knows nothing of it: when the bonus has faded, rewards
    alone are followed at once. Its advantages are divided by the range of its own returns, down to a tenth
    of a nat, and the end of an episode is no loss to it (Burda et al., 2018, "Exploration by random network
    distillation", section 2.3).

    Args:
        guesses: what says the bonus.
        critic: network of the bonus's value.
        scale: weight of the bonus's advantages beside those of rewards, at the beginning of a run.
        share: share of the run, its first, over which the weight falls to 0; inf keeps it.
        options: of `Critic`.

    Attributes:
        left: share of the run that is still to come, which the caller says before an update.
    """

    FLOOR = 0.1

    def __init__(
        self, guesses: Guesses, critic: TwoHotHead, scale: float, share: float, **options: float
    ) -> None:
        super().__init__()
        self.guesses = guesses
        self.critic = Critic(critic, floor=self.FLOOR, endless=True, **options)
        self.scale, self.share, self.left = scale, share, 1.0

    @property
    def weight(self) -> float:
        """That of the bonus's advantages, now."""
        return self.scale * max(0.0, 1 - (1 - self.left) / self.share)

    def of_window(
        self, policy: Tensor, action: Tensor, posterior: Tensor, prior: Tensor, is_first: Tensor
    ) -> tuple[Tensor, dict[str, Tensor | Counted]]:
        """The loss of what guesses on a window, a scalar, and its mean over rows that follow from others.

        Policy inputs `[B, T, P]`, the actions that led to them `[B, T, A]`, posteriors and priors
        `[B, T, S, n]`; first rows follow from nothing and have none.
        """
        follows = ~is_first[:, 1:]
        losses = self.guesses.loss(policy[:, :-1], action[:, 1:], posterior[:, 1:], prior[:, 1:])
        told = Counted.where(losses.detach(), follows)
        return torch.where(follows, losses, 0).mean(), {"bonus_guess": told}

    def of_dream(self, dream: Dream, through: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss of the bonus's critic, a scalar; what the actor follows besides rewards `[H, N]`; metrics.

        See `Critic.of_dream`, with the dream's bonus where rewards stand there.
        """
        assert dream.bonus is not None
        loss, gain, _, metrics = self.critic.of_dream(dream.path, dream.bonus, dream.alive, through)
        named = {f"bonus_{name}": metrics[name] for name in ("critic", "value", "return_scale")}
        return loss, self.weight * gain, named | {"bonus": dream.bonus[1:].mean().detach()}


def make_explorer(config: Mapping[str, Any], backbone: Backbone, codec: ActionCodec) -> Explorer | None:
    """What a configuration's `explore` asks for, as large as actor and critic; None with no networks."""
    options, like = dict(config["explore"]), config["actor_critic"]
    count, bonus = options.pop("networks"), options.pop("bonus")
    if not count:
        return None
    size = {"inputs": backbone.policy_size, "units": like["units"], "layers": like["layers"]}
    sizes = size | {"action_size": codec.size, "action_norm": codec.norm, "count": count}
    guesses: Guesses
    if bonus == "surprise":
        guesses = Surprise(backbone.latent, config["kl"]["free_nats"], **sizes)
    else:
        guesses = Disagreement(backbone.latent, **sizes)
    critic = TwoHotHead(**size, bins=like["bins"], resolution=like["resolution"])
    of_critic = {key: like[key] for key in ("discount", "lam", "slow_rate", "slow_regulariser")}
    return Explorer(guesses, critic, **options, **of_critic)

"""A bonus for what the world model does not know yet: networks that foresee the next latent, and disagree."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.latent import Latent
from worldmodels.metrics import Counted
from worldmodels.nets import MLP


class Ensemble(nn.Module):
    """Networks of different first weights that foresee the next posterior from policy input and action.

    Plan2Explore (Sekar et al., 2020), with the latent's distributions in place of regressions. Where all have
    learned what comes, chance included, they agree. Elsewhere what comes would tell which of them is right:
    by the mean KL, in nats, of each to the distribution of their mean parameters (of one-hot latents that is
    their mixture, and the mean the mutual information of latent and network).

    Args:
        inputs, action_size, action_norm: P, A, and the largest norm of an action vector.
        latent: the backbone's.
        count: networks, K.
        scale: bonus for a nat.
        units, layers: size of each network.
    """

    def __init__(
        self,
        inputs: int,
        action_size: int,
        action_norm: float,
        latent: Latent,
        count: int,
        scale: float,
        units: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.latent, self.scale = latent, scale
        self.action_scale = inputs**0.5 / action_norm  # as `WorldModel.head_input`
        sizes = (inputs + action_size, units, layers, latent.outputs)
        self.networks = nn.ModuleList(MLP(*sizes) for _ in range(count))

    def forward(self, policy: Tensor, action: Tensor) -> Tensor:
        """What each network foresees, `[K, ..., S, n]`: policy inputs `[..., P]`, the actions taken there."""
        inputs = torch.cat([policy, self.action_scale * action.to(policy.dtype)], -1)
        return torch.stack([self.latent.distribution(network(inputs)) for network in self.networks])

    def loss(self, policy: Tensor, action: Tensor, posterior: Tensor, is_first: Tensor) -> Tensor:
        """Mean KL of a window's posteriors to what was foreseen of them, a scalar.

        Policy inputs `[B, T, P]`, the actions that led to them `[B, T, A]`, posteriors `[B, T, S, n]`; first
        rows follow from nothing and have none.
        """
        foreseen = self(policy[:, :-1], action[:, 1:])
        kl = self.latent.kl(posterior[:, 1:].expand_as(foreseen), foreseen)
        return kl.masked_fill(is_first[:, 1:], 0).mean()

    def of_window(
        self, policy: Tensor, action: Tensor, posterior: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Counted]]:
        """`loss` of a window, the bonus that arrives with each of its rows `[B, T]`, and metrics.

        First rows of episodes follow from nothing: no metric counts them.
        """
        # Before the bonus: autocast may keep casts that were made without a gradient.
        loss = self.loss(policy, action, posterior, is_first)
        with torch.no_grad():
            bonus = self.bonus(policy[:, :-1], action[:, 1:])
        follows = ~is_first[:, 1:]
        metrics = {
            "bonus": Counted.where(bonus, follows),
            "ensemble": Counted(loss.detach() * follows.numel(), follows.sum()),
        }
        return loss, F.pad(bonus, (1, 0)), metrics

    def bonus(self, policy: Tensor, action: Tensor) -> Tensor:
        """Reward `[...]` for the disagreement about what follows policy inputs `[..., P]` and actions."""
        foreseen = self(policy, action)
        return self.scale * self.latent.kl(foreseen, foreseen.mean(0).expand_as(foreseen)).mean(0)

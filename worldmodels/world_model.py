"""Encoder -> backbone -> heads -> losses: everything in the world model that no backbone has to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from worldmodels.base import Backbone, Counted, Rollout, State, reset_rows
from worldmodels.encoder_decoder import Batch, Decoder, Encoder, observations
from worldmodels.heads import BernoulliHead, TwoHotHead
from worldmodels.nets import MLP, linear
from worldmodels.recall import CANDIDATES, Recall, excess_loss


class WorldModel(nn.Module):
    """The world model as the agent sees it.

    Args:
        space: observation space, a flat Dict of Box leaves (uint8 `[H, W, C]` images, float32 `[d]` vectors).
        make_backbone: embedding size -> backbone.
        encoder, decoder, heads: options of the networks, straight from the configuration.
        kl: `free_nats`, `dynamics`, `representation`; `first`, whether first rows have losses.
        recall: `scale`, `positions`; scale 0 leaves the recall loss out.
        action_size, action_norm: A, and the largest norm of an action vector.
    """

    def __init__(
        self,
        space: gymnasium.spaces.Dict,
        make_backbone: Callable[[int], Backbone],
        encoder: Mapping[str, int],
        decoder: Mapping[str, Any],
        heads: Mapping[str, Any],
        kl: Mapping[str, float],
        recall: Mapping[str, float],
        action_size: int,
        action_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(space, **encoder)
        self.backbone = make_backbone(self.encoder.output_size)
        feature_size = self.backbone.feature_size
        self.decoder = Decoder(feature_size, space, **decoder)
        inputs = self.backbone.policy_size
        self.project: nn.Module = nn.Identity()
        if 0 < heads["inputs"] < inputs:
            self.project, inputs = linear(inputs, heads["inputs"]), heads["inputs"]
        self.action_scale = inputs**0.5 / action_norm if heads["action"] else 0.0
        inputs += action_size if heads["action"] else 0
        units = heads["units"]
        self.trunk = MLP(inputs, units, heads["layers"])
        self.gate = nn.Linear(action_size, units) if heads["action"] and heads["product"] else None
        if self.gate is not None:
            nn.init.normal_(self.gate.weight, std=1 / action_norm)
            nn.init.ones_(self.gate.bias)
        self.reward = TwoHotHead(units, units, 0, heads["bins"], heads["resolution"])
        self.reward_scale = heads["reward_scale"]
        self.continues = BernoulliHead(units)
        self.free_nats = kl["free_nats"]
        self.dynamics_scale, self.representation_scale = kl["dynamics"], kl["representation"]
        self.first = kl["first"]
        self.recall_scale, positions = recall["scale"], int(recall["positions"])
        self.recall = Recall(feature_size, space, positions, decoder) if self.recall_scale else None

    def loss(
        self, batch: Batch, state: State, keep: Tensor | None = None
    ) -> tuple[Tensor, Rollout, dict[str, Tensor | Counted]]:
        """Loss of a batch `[B, T, ...]` from a given state.

        Returns:
            the scalar loss, the rollout, and metrics: every loss by name, the KL before free nats at all
            steps and at first steps, and how often the sign of a reward that is not 0 is predicted.
        """
        # The window as the backbone sees it
        obs, is_first = observations(batch), batch["is_first"]
        rollout = self.backbone.observe(state, self.encoder(obs), batch["action"], is_first, keep)

        # Losses of every step
        dynamics, representation = self.backbone.kl_losses(rollout)
        reconstruction = self.decoder.losses(rollout.features, obs)
        reward, continues = self.outcomes(rollout.policy, reset_rows(is_first, batch["action"]))
        losses = {f"decoder/{key}": value for key, value in reconstruction.items()} | {
            "reward": self.reward_scale * self.reward.loss(reward, batch["reward"]),
            "continue": self.continues.loss(continues, 1 - batch["is_terminal"].float()),
            "dynamics": self.dynamics_scale * dynamics.clamp(min=self.free_nats),
            "representation": self.representation_scale * representation.clamp(min=self.free_nats),
        }
        for name, value in losses.items():
            assert value.shape == is_first.shape, f"loss {name} has shape {tuple(value.shape)}, not [B, T]"
        if not self.first:
            losses = {name: reset_rows(is_first, value) for name, value in losses.items()}

        # Recall, above all of what the prior did not foresee
        if self.recall is not None:
            with torch.no_grad():
                prior = self.backbone.prior_features(rollout)
            most = CANDIDATES * self.recall.positions
            weight = excess_loss(self.decoder, prior, reconstruction, obs, most)
            losses["recall"] = self.recall_scale * self.recall(rollout.features, weight, is_first, obs)

        # Their sum, and metrics
        means = {name: value.mean() for name, value in losses.items()}
        total = sum(means.values(), start=torch.zeros((), device=is_first.device))
        with torch.no_grad():
            kl = dynamics.detach()
            metrics: dict[str, Tensor | Counted] = {name: value.detach() for name, value in means.items()}
            metrics["kl"] = kl.mean()
            metrics["kl_first"] = Counted.where(kl, is_first)
            right = self.reward.mean(reward).sign() == batch["reward"].sign()
            metrics["reward_sign_accuracy"] = Counted.where(right.float(), batch["reward"] != 0)
        return total, rollout, metrics

    def outcomes(self, policy: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of reward `[..., bins]` and continuation `[...]`, whose hidden layers are the same.

        Policy inputs `[..., P]`, and the actions that led to them, `[..., A]`.
        """
        hidden = self.trunk(self.head_input(policy, action))
        if self.gate is not None:  # which hidden units count depends on the action
            hidden = hidden * self.gate(action.to(hidden.dtype))
        return self.reward(hidden), self.continues(hidden)

    def head_input(self, policy: Tensor, action: Tensor) -> Tensor:
        """What reward and continue heads read: policy inputs `[..., P]`, and the last action `[..., A]`.

        The states that the policy sees may hold what the output h shows only as a small part of themselves.
        They hold the action too, but training shrinks it, since nothing but the reward needs it. The action
        appended here is scaled to the norm that the inputs have at unit variance.
        """
        inputs = self.project(policy)
        if not self.action_scale:
            return inputs
        return torch.cat([inputs, self.action_scale * action.to(inputs.dtype)], -1)

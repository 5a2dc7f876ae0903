"""Encoder -> backbone -> heads -> losses: everything in the world model that no backbone has to know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.base import Backbone, Rollout, State, keep_steps, reset_rows
from worldmodels.heads import BernoulliHead, TwoHotHead, symexp, symlog
from worldmodels.nets import MLP, ConvDecoder, ConvEncoder, linear

Batch = dict[str, Tensor]


class Counted(NamedTuple):
    """A metric defined at some steps only, few or none in some batches: their sum and number, each `[]`."""

    total: Tensor
    number: Tensor

    @classmethod
    def where(cls, value: Tensor, chosen: Tensor) -> Counted:
        """Sum and number of `value` where `chosen`, both of the same shape."""
        return cls((value * chosen).sum(), chosen.sum())


def is_image(space: gymnasium.Space) -> bool:
    """Whether an observation goes to the convolutional network: uint8 and of rank 3."""
    return space.dtype == "uint8" and len(space.shape or ()) == 3


def classes(space: gymnasium.Space) -> tuple[int, ...]:
    """How many classes each one-hot code of a vector has; () for a vector that holds none.

    The environments declare this by an attribute of this name on the leaf's space.
    """
    return getattr(space, "classes", ())


def _size(space: gymnasium.Space) -> int:
    return math.prod(space.shape or ())


class Encoder(nn.Module):
    """Any mix of observations -> embedding `[..., E]`: a CNN for every image, one MLP for all vectors."""

    def __init__(self, space: gymnasium.spaces.Dict, depth: int, units: int, layers: int) -> None:
        super().__init__()
        self.images = [key for key, leaf in space.items() if is_image(leaf)]
        self.vectors = [key for key, leaf in space.items() if not is_image(leaf)]
        cnns = [ConvEncoder(space[key].shape or (), depth) for key in self.images]
        self.cnns = nn.ModuleList(cnns)
        self.output_size = sum(cnn.output_size for cnn in cnns)
        self.mlp = None
        if self.vectors:
            self.mlp = MLP(sum(_size(space[key]) for key in self.vectors), units, layers)
            self.output_size += units

    def forward(self, obs: Batch) -> Tensor:
        """Images uint8 `[..., H, W, C]`, vectors `[..., d]` -> `[..., E]`."""
        parts = []
        for key, cnn in zip(self.images, self.cnns, strict=True):
            image = obs[key]
            lead = image.shape[:-3]
            flat = image.flatten(0, -4).movedim(-1, 1).float() / 255 - 0.5
            parts.append(cnn(flat).unflatten(0, lead))
        if self.mlp is not None:
            parts.append(self.mlp(symlog(torch.cat([obs[key] for key in self.vectors], -1))))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """Feature `[..., F]` -> predicted observations: pixel means in [0, 1], symlog vectors, logits of classes.

    Args:
        inputs: F.
        space: observation space.
        depth, units, layers: sizes.
        steps: images that `sampled_losses` decodes in each row of a window; 0 for all.
        vector_scale: weight of the squared errors of vectors: a Gaussian likelihood with standard deviation
            (2 vector_scale)^-1/2 in symlog space. The recall loss's decoder has the same.
    """

    def __init__(
        self,
        inputs: int,
        space: gymnasium.spaces.Dict,
        depth: int,
        units: int,
        layers: int,
        steps: int,
        vector_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if steps < 0:
            raise ValueError(f"decoder.steps must be a number of steps, or 0 for all of them; got {steps}")
        if vector_scale <= 0:
            raise ValueError(f"decoder.vector_scale must be above 0, got {vector_scale}")
        self.steps, self.vector_scale = steps, vector_scale
        self.images = [key for key, leaf in space.items() if is_image(leaf)]
        self.vectors = {key: _size(leaf) for key, leaf in space.items() if not is_image(leaf)}
        self.classes = {key: classes(space[key]) for key in self.vectors}
        self.cnns = nn.ModuleList(ConvDecoder(inputs, space[key].shape or (), depth) for key in self.images)
        self.mlp = MLP(inputs, units, layers, sum(self.vectors.values())) if self.vectors else None

    def forward(self, feature: Tensor) -> Batch:
        """Images `[..., H, W, C]` in [0, 1], vectors `[..., d]` in symlog space; logits of one-hot codes."""
        return self._images(feature) | self._vectors(feature)

    def _images(self, feature: Tensor) -> Batch:
        means: Batch = {}
        for key, cnn in zip(self.images, self.cnns, strict=True):
            image = cnn(feature.flatten(0, -2)).movedim(1, -1)
            means[key] = image.unflatten(0, feature.shape[:-1])
        return means

    def _vectors(self, feature: Tensor) -> Batch:
        if self.mlp is None:
            return {}
        parts = self.mlp(feature).float().split(list(self.vectors.values()), -1)
        return dict(zip(self.vectors, parts, strict=True))

    def losses(self, feature: Tensor, obs: Batch) -> Batch:
        """`[...]` per key: squared errors summed over pixels or elements; cross-entropies over one-hot codes.

        As in DreamerV3 (eq. 2; its implementation has the cross-entropy for discrete observations), except
        for `vector_scale`. Under a squared error, the information in a one-hot code is not worth the KL that
        it costs.
        """
        return self._image_losses(feature, obs) | self._vector_losses(feature, obs)

    def choose(self, rows: int, length: int, device: torch.device) -> Tensor | None:
        """Random steps `[rows, steps]` of a window at which its images are decoded; None for all."""
        if not self.images or not 0 < self.steps < length:
            return None
        return torch.rand(rows, length, device=device).argsort(1)[:, : self.steps]

    def sampled_losses(self, feature: Tensor, obs: Batch, chosen: Tensor | None) -> Batch:
        """`losses` of a window, feature `[B, T, F]`, images only at the steps that `choose` chose.

        Returns:
            `[B, T]` for vectors, `[B, steps]` for images; their means have the same expectation.
        """
        if chosen is None:
            return self.losses(feature, obs)
        shown = {key: keep_steps(chosen, obs[key]) for key in self.images}
        return self._image_losses(keep_steps(chosen, feature), shown) | self._vector_losses(feature, obs)

    @torch.no_grad()
    def surprise(self, foreseen: Tensor, obs: Batch, decoded: Batch, chosen: Tensor | None) -> Tensor:
        """How much worse, `[B, T]`, observations are decoded from `foreseen` `[B, T, F]` than in `decoded`.

        `decoded` is what `sampled_losses` returned for the posterior's sample; where images are not decoded,
        only vectors count. For a model that codes sparingly the KL measures the same, but below the free nats
        it counts noise as well.
        """
        surprise = torch.zeros_like(foreseen[..., 0], dtype=torch.float32)
        for key, loss in self.sampled_losses(foreseen, obs, chosen).items():
            worse = loss - decoded[key]
            if chosen is not None and key in self.images:
                worse = torch.zeros_like(surprise).scatter(1, chosen, worse)
            surprise += worse
        return surprise

    def _image_losses(self, feature: Tensor, obs: Batch) -> Batch:
        means = self._images(feature)
        return {key: (means[key] - obs[key].float() / 255).square().sum((-3, -2, -1)) for key in means}

    def _vector_losses(self, feature: Tensor, obs: Batch) -> Batch:
        losses = {}
        for key, mean in self._vectors(feature).items():
            if self.classes[key]:
                losses[key] = -(obs[key] * _by_code(F.log_softmax, mean, self.classes[key])).sum(-1)
            else:
                losses[key] = self.vector_scale * (mean - symlog(obs[key])).square().sum(-1)
        return losses

    def observations(self, feature: Tensor) -> Batch:
        """Predictions in the observations' own units: images in [0, 1], vectors, probabilities of classes."""
        vectors = {
            key: _by_code(F.softmax, mean, self.classes[key]) if self.classes[key] else symexp(mean)
            for key, mean in self._vectors(feature).items()
        }
        return self._images(feature) | vectors


def _by_code(function: Callable[[Tensor, int], Tensor], vector: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """`function(part, -1)` of each one-hot code in `[..., d]`, put together again."""
    if len(set(sizes)) == 1:  # at once: a deck of cards has many codes
        return function(vector.unflatten(-1, (len(sizes), sizes[0])), -1).flatten(-2)
    return torch.cat([function(part, -1) for part in vector.split(sizes, -1)], -1)


class Recall(nn.Module):
    """Recall loss: from the feature at t, reconstruct the observation at an earlier s of the same episode.

    An idea of this project, not of the papers: it asks the recurrent state directly for what it has to carry,
    while the reward of a memory task asks only once the product of cue and action is understood. A step s is
    drawn with probability proportional to how much it surprised the model, and then the lag t - s, so that
    its logarithm is uniform: what is shown once is learned over a step or two before it can be learned over
    many. A separate decoder reconstructs the observation at s from (feature_t, t - s). The model's own one
    would have to be told that t is s: it has learned not to see an old cue.

    Args:
        feature_size: F.
        space: observation space.
        positions: how many pairs (s, t) of a batch are drawn.
        decoder: sizes of the decoder.
    """

    FREQUENCIES = 8

    def __init__(
        self, feature_size: int, space: gymnasium.spaces.Dict, positions: int, decoder: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.positions = positions
        inputs = feature_size + 1 + 2 * self.FREQUENCIES
        self.decoder = Decoder(inputs, space, **{**decoder, "steps": 0})

    def forward(self, features: Tensor, surprise: Tensor, is_first: Tensor, obs: Batch) -> Tensor:
        """Loss of each drawn pair `[positions]`, 0 where no step follows s; surprise `[B, T]`."""
        left = steps_left(is_first)
        # something to draw even where nothing surprises, or no step has one after it
        weights = surprise.clamp(min=1e-6).nan_to_num(0.0, 0.0) * (left > 0) + 1e-30
        pair = torch.multinomial(weights.flatten(), self.positions, replacement=True)
        row, past = pair // left.shape[1], pair % left.shape[1]
        left = left[row, past]
        lag = (torch.rand_like(surprise[row, past]) * (left + 1).log()).exp().long().minimum(left)
        inputs = torch.cat([features[row, past + lag], self._lag(lag.to(surprise.dtype))], -1)
        losses = self.decoder.losses(inputs, {key: value[row, past] for key, value in obs.items()})
        return torch.stack(list(losses.values())).sum(0).masked_fill(left == 0, 0)

    def _lag(self, lag: Tensor) -> Tensor:
        """Features of a lag in steps: its logarithm and waves of periods 2, 4, ... 2^8 steps."""
        periods = 2.0 ** torch.arange(1, self.FREQUENCIES + 1, device=lag.device)
        phase = 2 * math.pi * lag[:, None] / periods
        return torch.cat([torch.log1p(lag)[:, None] / 4, phase.sin(), phase.cos()], -1)


class WorldModel(nn.Module):
    """The world model as the agent sees it.

    Args:
        space: observation space, a flat Dict of Box leaves (uint8 `[H, W, C]` images, float32 `[d]` vectors).
        make_backbone: embedding size -> backbone.
        encoder, decoder, heads: sizes of the networks, straight from the configuration.
        kl: `free_nats`, `dynamics`, `representation`.
        recall: `scale`, `positions`; scale 0 leaves the recall loss out.
        action_size, action_norm: A, and the largest norm of an action vector.
    """

    def __init__(
        self,
        space: gymnasium.spaces.Dict,
        make_backbone: Callable[[int], Backbone],
        encoder: Mapping[str, int],
        decoder: Mapping[str, int],
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
        self.shorten: nn.Module = nn.Identity()
        if 0 < heads["inputs"] < inputs:
            self.shorten, inputs = linear(inputs, heads["inputs"]), heads["inputs"]
        self.action_scale = inputs**0.5 / action_norm if heads["action"] else 0.0
        inputs += action_size if heads["action"] else 0
        self.reward = TwoHotHead(inputs, heads["units"], heads["layers"], heads["bins"], heads["resolution"])
        self.continues = BernoulliHead(inputs, heads["units"], heads["layers"])
        self.free_nats, self.dynamics_scale, self.representation_scale = (
            kl["free_nats"],
            kl["dynamics"],
            kl["representation"],
        )
        self.recall_scale = recall["scale"]
        self.recall = (
            Recall(feature_size, space, int(recall["positions"]), decoder) if self.recall_scale else None
        )

    def loss(
        self, batch: Batch, state: State, keep: Tensor | None = None
    ) -> tuple[Tensor, Rollout, dict[str, Tensor | Counted]]:
        """Loss of a batch `[B, T, ...]` from a given state.

        Returns:
            the scalar loss, the rollout, and metrics: every loss by name, the KL before free nats at all
            steps and at first steps, and how often the sign of a reward that is not 0 is predicted.
        """
        obs = observations(batch)
        is_first = batch["is_first"]
        rollout = self.backbone.observe(state, self.encoder(obs), batch["action"], is_first, keep)
        dynamics, representation = self.backbone.kl_losses(rollout)
        chosen = self.decoder.choose(len(is_first), is_first.shape[1], is_first.device)
        decoded = self.decoder.sampled_losses(rollout.features, obs, chosen)
        losses = {}
        inputs = self.head_input(rollout.policy, reset_rows(is_first, batch["action"]))
        reward = self.reward(inputs)
        (losses["reward"],) = self.reward.loss(reward, batch["reward"])
        losses["continue"] = self.continues.loss(self.continues(inputs), 1 - batch["is_terminal"].float())
        losses["dynamics"] = self.dynamics_scale * dynamics.clamp(min=self.free_nats)
        losses["representation"] = self.representation_scale * representation.clamp(min=self.free_nats)
        for name, value in losses.items():
            assert value.shape == is_first.shape, f"loss {name} has shape {tuple(value.shape)}, not [B, T]"
        losses = {f"decoder/{key}": value for key, value in decoded.items()} | losses
        kl = dynamics.detach()
        if self.recall is not None:
            surprise = self.decoder.surprise(self.backbone.foreseen(rollout), obs, decoded, chosen)
            losses["recall"] = self.recall_scale * self.recall(rollout.features, surprise, is_first, obs)
        means = {name: value.mean() for name, value in losses.items()}
        total = sum(means.values())
        with torch.no_grad():
            metrics: dict[str, Tensor | Counted] = {name: value.detach() for name, value in means.items()}
            metrics["kl"] = kl.mean()
            metrics["kl_first"] = Counted.where(kl, is_first)
            right = self.reward.mean(reward).sign() == batch["reward"].sign()
            metrics["reward_sign_accuracy"] = Counted.where(right.float(), batch["reward"] != 0)
        return total, rollout, metrics  # type: ignore[return-value]

    def head_input(self, policy: Tensor, action: Tensor) -> Tensor:
        """What reward and continue heads read: policy inputs `[..., P]`, and the last action `[..., A]`.

        The states that the policy sees may hold what the output h shows only as a small part of themselves.
        They hold the action too, but training shrinks it, since nothing but the reward needs it. The action
        appended here is scaled to the norm that the inputs have at unit variance.
        """
        inputs = self.shorten(policy)
        if not self.action_scale:
            return inputs
        return torch.cat([inputs, self.action_scale * action.to(inputs.dtype)], -1)


def observations(batch: Batch) -> Batch:
    """The entries `obs/<name>` of a batch, by name."""
    return {key.removeprefix("obs/"): value for key, value in batch.items() if key.startswith("obs/")}


def steps_left(is_first: Tensor) -> Tensor:
    """How many steps of the window `[B, T]` still follow each in its episode, whole numbers `[B, T]`."""
    steps = is_first.shape[1]
    now = torch.arange(steps, device=is_first.device)
    # where the next episode begins, seen from each step: the first of the beginnings after it
    following = F.pad(torch.where(is_first, now, steps)[:, 1:], (0, 1), value=steps)
    return following.flip(1).cummin(1).values.flip(1) - now - 1

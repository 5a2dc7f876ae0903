"""Conversion between environment actions and the model's vectors; the policy's distribution over them."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from worldmodels import ranks
from worldmodels.latent import finite_log, mix_uniform, sample_onehot


class ActionCodec:
    """Encodes actions of a space as vectors `[..., A]` for the model, and makes the policy's distribution.

    Discrete and MultiDiscrete, counted from 0, become concatenated one-hot vectors; a Box is flattened.

    Raises:
        ValueError: for any other action space, or unless min_std <= max_std.
    """

    def __init__(self, space: gymnasium.Space, unimix: float, min_std: float, max_std: float) -> None:
        if min_std > max_std:
            raise ValueError(f"actor_critic.min_std must be at most max_std, got {min_std} and {max_std}")
        self.space, self.shape = space, space.shape or ()
        self.unimix, self.min_std, self.max_std = unimix, min_std, max_std
        if isinstance(space, spaces.Discrete):
            self.sizes = [int(space.n)]
        elif isinstance(space, spaces.MultiDiscrete):
            self.sizes = [int(size) for size in space.nvec.reshape(-1)]
        elif isinstance(space, spaces.Box):
            self.sizes = []
        else:
            raise ValueError(
                f"action space {space} is not supported: expected Discrete, MultiDiscrete or Box; "
                f"wrap the environment so that its actions are one of these"
            )
        self.discrete = bool(self.sizes)
        self.size = sum(self.sizes) if self.discrete else math.prod(self.shape)
        self.policy_outputs = self.size if self.discrete else 2 * self.size

    @property
    def norm(self) -> float:
        """The largest Euclidean norm of an action vector."""
        return math.sqrt(len(self.sizes) or self.size)

    def encode(self, action: Tensor) -> Tensor:
        """Environment actions `[..., *space.shape]` -> vectors `[..., A]` float32."""
        flat = action.flatten(action.dim() - len(self.shape)) if self.shape else action[..., None]
        if not self.discrete:
            return flat
        parts = [F.one_hot(part, size) for part, size in zip(flat.unbind(-1), self.sizes, strict=True)]
        return torch.cat(parts, -1).float()

    def decode(self, vector: Tensor) -> np.ndarray:
        """Vectors `[N, A]` -> environment actions `[N, *space.shape]`."""
        if not self.discrete:
            box = vector.clamp(-1, 1).cpu().numpy().reshape(len(vector), *self.shape)
            return box.astype(self.space.dtype)
        index = torch.stack([part.argmax(-1) for part in vector.split(self.sizes, -1)], -1).cpu().numpy()
        return index.reshape(len(vector), *self.shape)

    def distribution(self, outputs: Tensor) -> Categoricals | BoundedNormal:
        """Distribution from the policy network's outputs `[..., policy_outputs]`."""
        if self.discrete:
            return Categoricals(outputs, self.sizes, self.unimix)
        return BoundedNormal(outputs, self.min_std, self.max_std)


class Categoricals:
    """Independent categoricals over concatenated one-hot vectors, each mixed with a share of the uniform."""

    def __init__(self, logits: Tensor, sizes: list[int], unimix: float) -> None:
        self.probs = [mix_uniform(part, unimix) for part in logits.split(sizes, -1)]

    def rsample(self) -> Tensor:
        """`[..., A]`, with the straight-through gradient to the probabilities."""
        samples = [sample_onehot(part) for part in self.probs]
        return samples[0] if len(samples) == 1 else torch.cat(samples, -1)

    def mode(self) -> Tensor:
        """`[..., A]`."""
        return torch.cat(
            [F.one_hot(part.argmax(-1), part.shape[-1]).to(part.dtype) for part in self.probs], -1
        )

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability `[...]` of one-hot vectors `[..., A]`."""
        return (finite_log(torch.cat(self.probs, -1)) * action).sum(-1)

    def entropy(self) -> Tensor:
        """`[...]` in nats, summed over the categoricals."""
        return -sum((part * finite_log(part)).sum(-1) for part in self.probs)  # type: ignore[return-value]


class BoundedNormal:
    """Normal with mean tanh(.) and deviation between two bounds (DreamerV3's bounded normal)."""

    def __init__(self, outputs: Tensor, min_std: float, max_std: float) -> None:
        mean, spread = outputs.float().chunk(2, -1)
        self.mean = torch.tanh(mean)
        self.std = (max_std - min_std) * torch.sigmoid(spread + 2) + min_std

    def rsample(self) -> Tensor:
        """`[..., A]`, reparametrised; may lie outside [-1, 1], `decode` clips what the environment gets."""
        return self.mean + self.std * ranks.normal_like(self.mean)

    def mode(self) -> Tensor:
        """`[..., A]`."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density `[...]`."""
        scaled = (action - self.mean) / self.std
        return (-0.5 * scaled.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """`[...]` in nats."""
        return (self.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

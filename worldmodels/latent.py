"""The stochastic latent z: S categorical variables, or S Gaussian ones; how it is drawn, and its KL."""

from __future__ import annotations

from typing import Final, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels import ranks
from worldmodels.nets import widen

MODE: Final = "mode"
Noise = Tensor | Literal["mode"] | None
"""What a latent is sampled from: numbers uniform on [0, 1), torch's generator (None), or none (`MODE`)."""


class Latent(Protocol):
    """A family of distributions, each of which is represented by one tensor `[..., S, n]`.

    Attributes:
        shape: of a sample, (S, K).
        size: elements of a sample, S K.
        outputs: network outputs for one distribution.
    """

    shape: tuple[int, int]
    size: int
    outputs: int

    def distribution(self, outputs: Tensor) -> Tensor:
        """The distributions `[..., S, n]` of network outputs `[..., outputs]`, in float32 or wider."""

    def sample(self, distribution: Tensor, noise: Noise = None) -> Tensor:
        """Samples `[..., S, K]`, with a gradient to the distribution; noise `[..., S]` decides each."""

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL(left || right) in nats, summed over S, `[...]`."""


class Categorical:
    """S groups of K classes, one-hot (DreamerV2 and V3); a distribution is its probabilities `[..., S, K]`.

    Args:
        groups, classes: S and K.
        unimix: share of the uniform distribution in each.
    """

    def __init__(self, groups: int, classes: int, unimix: float) -> None:
        self.shape = (groups, classes)
        self.size = self.outputs = groups * classes
        self.unimix = unimix

    def distribution(self, outputs: Tensor) -> Tensor:
        return mix_uniform(outputs.unflatten(-1, self.shape), self.unimix)

    def sample(self, distribution: Tensor, noise: Noise = None) -> Tensor:
        return sample_onehot(distribution, noise)

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        return (left * (finite_log(left) - finite_log(right))).sum((-2, -1))


class Gaussian:
    """S independent numbers (PlaNet, DreamerV1); a distribution is means and deviations `[..., S, 2]`.

    The gradient goes through the sample itself, so that it accounts for the noise that sampling adds; the
    straight-through gradient of one-hot samples does not.

    Args:
        numbers: S; K is 1.
    """

    MIN_STD = 0.1

    def __init__(self, numbers: int) -> None:
        self.shape = (numbers, 1)
        self.size, self.outputs = numbers, 2 * numbers

    def distribution(self, outputs: Tensor) -> Tensor:
        mean, width = widen(outputs).chunk(2, -1)
        return torch.stack([mean, 2 * torch.sigmoid(width / 2) + self.MIN_STD], -1)  # as DreamerV2's

    def sample(self, distribution: Tensor, noise: Noise = None) -> Tensor:
        """The normal quantile of `noise`, scaled and shifted; with `MODE` the mean."""
        mean, std = distribution.unbind(-1)
        if isinstance(noise, str):
            return mean[..., None]
        if noise is None:
            normal = ranks.normal_like(mean)
        else:
            tiny = torch.finfo(mean.dtype).eps
            normal = torch.special.ndtri(noise.to(mean.dtype).clamp(tiny, 1 - tiny))
        return (mean + std * normal)[..., None]

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        (mean, std), (other, width) = left.unbind(-1), right.unbind(-1)
        ratio = std / width
        return 0.5 * (ratio.square() + ((mean - other) / width).square() - 1 - 2 * ratio.log()).sum(-1)


def make_latent(stoch: int, classes: int, unimix: float) -> Latent:
    """The latent for a backbone's options `stoch`, `classes` and `unimix`; with 0 classes a Gaussian one."""
    return Categorical(stoch, classes, unimix) if classes else Gaussian(stoch)


def mix_uniform(logits: Tensor, unimix: float) -> Tensor:
    """Probabilities (1 - unimix) softmax(logits) + unimix / K over the last axis, in float32 or wider."""
    probs = F.softmax(widen(logits), -1)
    return torch.lerp(probs, probs.new_full((), 1 / logits.shape[-1]), unimix) if unimix else probs


def finite_log(probs: Tensor) -> Tensor:
    """Logarithms of probabilities, finite even where, without unimix, one has become exactly 0."""
    return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()


def sample_onehot(probs: Tensor, noise: Noise = None) -> Tensor:
    """One-hot sample of each categorical `[..., K]`, with the straight-through gradient to the probabilities.

    Inverts the cumulative distribution at `noise` `[...]`, uniform on [0, 1): one number per categorical, and
    the sample is a function of (probs, noise). With `MODE` it is the most probable class.
    """
    with torch.no_grad():
        if isinstance(noise, str):
            index = probs.argmax(-1, keepdim=True)
        else:
            if noise is None:
                noise = ranks.uniform(probs.shape[:-1], dtype=probs.dtype, device=probs.device)
            noise = noise[..., None].contiguous()
            index = torch.searchsorted(probs[..., :-1].cumsum(-1), noise, right=True)
        sample = torch.zeros_like(probs).scatter_(-1, index, 1.0)
    if not probs.requires_grad:
        return sample
    return sample + (probs - probs.detach())

"""Output distributions: symexp two-hot for rewards and values, Bernoulli for continuation (DreamerV3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.nets import MLP, linear


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`: sign(x) (exp(|x|) - 1)."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


class TwoHotHead(nn.Module):
    """A scalar as a categorical over bins r symexp(-20 .. 20) (DreamerV3, eq. 8-10), initially exactly 0.

    Bins are spaced evenly below the resolution r and geometrically above. DreamerV3 has r = 1, where rewards
    of +0.02 and -0.02 have almost one code (95 % on the bin of 0): it hardly pays to learn which one comes.

    Args:
        inputs, units, layers: sizes of the network.
        bins: how many, odd.
        resolution: r; scalars beyond r symexp(20) = 4.9e8 r are clamped to that.
    """

    bins: Tensor

    def __init__(
        self, inputs: int, units: int, layers: int, bins: int = 255, resolution: float = 1.0
    ) -> None:
        super().__init__()
        if bins % 2 == 0:
            raise ValueError(f"the number of two-hot bins must be odd, so that one is exactly 0; got {bins}")
        self.net = MLP(inputs, units, layers, bins, out_scale=0.0)
        half = resolution * symexp(torch.linspace(-20, 0, bins // 2 + 1))
        self.register_buffer("bins", torch.cat([half, -half[:-1].flip(0)]), persistent=False)

    @property
    def largest(self) -> float:
        """The largest scalar that the bins hold; larger ones are clamped to it."""
        return float(self.bins[-1])

    def forward(self, feature: Tensor) -> Tensor:
        """`[..., F]` -> logits `[..., bins]`."""
        return self.net(feature).float()

    def mean(self, logits: Tensor) -> Tensor:
        """Expected value `[...]`, summed in mirrored pairs: a symmetric distribution gives exactly 0."""
        weighted = F.softmax(logits, -1) * self.bins
        half = weighted.shape[-1] // 2
        return (weighted[..., :half].flip(-1) + weighted[..., half + 1 :]).sum(-1)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy `[...]` to the two-hot code whose mean is `target` `[...]`."""
        logprobs = F.log_softmax(logits, -1)
        target = target.clamp(self.bins[0], self.bins[-1])
        above = torch.searchsorted(self.bins, target.contiguous(), right=True).clamp(1, len(self.bins) - 1)
        low, high = self.bins[above - 1], self.bins[above]
        weight = (target - low) / (high - low)
        near = logprobs.gather(-1, torch.stack([above - 1, above], -1))
        return -torch.lerp(near[..., 0], near[..., 1], weight)


class BernoulliHead(nn.Module):
    """Probability that the episode continues; its logit is linear in the inputs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(linear(inputs, 1))

    def forward(self, feature: Tensor) -> Tensor:
        """`[..., F]` -> logits `[...]`."""
        return self.net(feature).float().squeeze(-1)

    def mean(self, logits: Tensor) -> Tensor:
        """Probability `[...]`."""
        return torch.sigmoid(logits)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood `[...]` of `target` in [0, 1]."""
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")

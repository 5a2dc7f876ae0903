"""The recall loss: the recurrent state is asked directly for what it has to carry."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels import ranks
from worldmodels.encoder_decoder import Batch, Decoder

WAVES = 8
CANDIDATES = 4
"""Steps whose weight is measured, for each pair that is drawn."""


class Recall(nn.Module):
    """Recall loss: from the feature at t, reconstruct the observation at an earlier s of the same episode.

    An idea of this project, not of the papers: it asks the recurrent state directly for what it has to carry,
    while the reward of a memory task asks only once the product of cue and action is understood. A step s is
    drawn in proportion to its weight, the `excess_loss` of what the prior did not foresee, and then the lag
    t - s, so that its logarithm is uniform: what is shown once is learned over a step or two before it can be
    learned over many. A separate decoder reconstructs the observation at s from (feature_t, t - s). The
    model's own one would have to be told that t is s: it has learned not to see an old cue.

    Args:
        feature_size: F.
        space: observation space.
        positions: how many pairs (s, t) of a batch are drawn, from `CANDIDATES` times as many steps s.
        decoder: options of the decoder.
    """

    def __init__(
        self, feature_size: int, space: gymnasium.spaces.Dict, positions: int, decoder: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.positions = positions
        self.decoder = Decoder(feature_size + 1 + 2 * WAVES, space, **decoder)

    def forward(self, features: Tensor, weight: Tensor, is_first: Tensor, obs: Batch) -> Tensor:
        """Loss of each drawn pair `[positions]`, 0 where no step follows s.

        With several ranks pairs are drawn from the whole batch, and the mean over all ranks is the loss.

        Args:
            features: `[B, T, F]`.
            weight: `[B, T]`, of each step s.
            is_first: `[B, T]` bool.
            obs: of the window, `[B, T, ...]`.
        """
        left = steps_left(is_first)
        # something to draw even where no weight is positive, or no step has one after it
        weight = weight.clamp(min=1e-6).nan_to_num(0.0, 0.0) * (left > 0) + 1e-30
        pair = torch.multinomial(ranks.gathered(weight).flatten(), self.positions, replacement=True)
        share = torch.rand(self.positions, dtype=weight.dtype, device=weight.device)
        here, pair = ranks.own(pair, weight.numel())
        row, past = pair // left.shape[1], pair % left.shape[1]
        left = left[row, past]
        lag = (share[here] * (left + 1).log()).exp().long().minimum(left)
        inputs = torch.cat([features[row, past + lag], lag_features(lag.to(weight.dtype))], -1)
        losses = self.decoder.losses(inputs, {key: value[row, past] for key, value in obs.items()})
        summed = torch.stack(list(losses.values())).sum(0).masked_fill(left == 0, 0)
        return ranks.scattered(summed, here, self.positions)


@torch.no_grad()
def excess_loss(decoder: Decoder, prior: Tensor, of_posterior: Batch, obs: Batch, most: int) -> Tensor:
    """How much worse observations are decoded from a sample of the prior than of the posterior, `[B, T]`.

    For a model that codes sparingly the KL measures the same, but below the free nats it counts noise as
    well. Of more than `most` steps of all ranks, so many are drawn and measured, as decoding pictures is
    dear; the rest are 0.

    Args:
        decoder: the model's own.
        prior: `[B, T, F]`, features with a latent drawn from the prior.
        of_posterior: the decoder's losses `[B, T]` by key.
        obs: `[B, T, ...]`.
        most: how many steps to measure.
    """
    rows, steps = prior.shape[:2]
    count, device = rows * steps, prior.device
    drawn = torch.arange(count, device=device)
    if (whole := count * ranks.place()[1]) > most:
        _, drawn = ranks.own(torch.randperm(whole, device=device)[:most], count)
    shown = {key: value.flatten(0, 1)[drawn] for key, value in obs.items()}
    of_prior = decoder.losses(prior.flatten(0, 1)[drawn], shown)
    excess = [of_prior[key] - loss.flatten()[drawn] for key, loss in of_posterior.items()]
    measured = functools.reduce(torch.add, excess)
    return measured.new_zeros(count).index_put((drawn,), measured).unflatten(0, (rows, steps))


def steps_left(is_first: Tensor) -> Tensor:
    """How many steps of the window `[B, T]` still follow each in its episode, whole numbers `[B, T]`."""
    steps = is_first.shape[1]
    now = torch.arange(steps, device=is_first.device)
    # where the next episode begins, seen from each step: the first of the beginnings after it
    following = F.pad(torch.where(is_first, now, steps)[:, 1:], (0, 1), value=steps)
    return following.flip(1).cummin(1).values.flip(1) - now - 1


def lag_features(lag: Tensor) -> Tensor:
    """What tells lags `[n]` in steps apart: their logarithm, and waves of 2, 4, ... 2^8 steps, `[n, 17]`."""
    periods = 2.0 ** torch.arange(1, WAVES + 1, device=lag.device)
    phase = 2 * math.pi * lag[:, None] / periods
    return torch.cat([torch.log1p(lag)[:, None] / 4, phase.sin(), phase.cos()], -1)

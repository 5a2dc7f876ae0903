"""What every world-model backbone promises, and the time convention that it keeps.

Symbols: B batch, T replay length, N start states, A action, E embedding, F feature, P policy input,
S x K the stochastic latent: S groups of K classes, or S numbers (K = 1).

Time convention (docs/shapes.md shows it on an example). Row t of a batch holds `obs[t]` together with the
`reward[t]` and `is_terminal[t]` that ARRIVED with it, and `action[t]`, the action that LED INTO `obs[t]`.
`is_first[b, t]` erases the state, the previous latent and the action of row b BEFORE step t, in the same way
in training, acting, imagination and evaluation. `continue[t] = 1 - is_terminal[t]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldmodels.latent import Latent, Noise

State = dict[str, Tensor]
"""Recurrent state: a flat dict of tensors, every leaf `[B, ...]`. Only its backbone knows what is in it."""


@dataclass
class Rollout:
    """What `Backbone.observe` returns for a batch of sequences.

    Attributes:
        features: `[B, T, F]`, what the decoder reads: h_t, then the flattened sample z_t at the end.
        policy: `[B, T, P]`, what actor, critic, reward and continue networks read.
        posterior: q(z_t | ...), as the backbone's `latent` represents it: `[B, T, S, K]` probabilities, or
            `[B, T, S, 2]` means and deviations.
        prior: p(z_t | h_t), the same.
        last: the state after step T - 1, leaves `[B, ...]`.
        kept: the states after the steps that the caller named, leaves `[B, keep, ...]`, or an empty dict.
    """

    features: Tensor
    policy: Tensor
    posterior: Tensor
    prior: Tensor
    last: State
    kept: State


class Backbone(nn.Module):
    """Base of all backbones; a new backbone implements the five methods that raise.

    `noise` is uniform on [0, 1), shape `[B, T, S]` or `[B, S]`; it decides every sample, so that two ways of
    computing the same thing can be compared exactly. Without it, it is drawn from torch's global generator.
    """

    feature_size: int
    policy_size: int
    latent: Latent

    def initial(self, batch_size: int) -> State:
        """State before the first step of an episode, leaves `[B, ...]`, all zeros."""
        raise NotImplementedError

    def observe(
        self,
        state: State,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        keep: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Rollout:
        """Filter a batch of sequences: embed `[B, T, E]`, action `[B, T, A]`, is_first `[B, T]` bool.

        `keep` `[B, n]` int64 names, row by row, the steps after which the state is wanted.
        """
        raise NotImplementedError

    def observe_step(
        self, state: State, embed: Tensor, action: Tensor, is_first: Tensor, noise: Noise = None
    ) -> tuple[State, Tensor]:
        """Filter one step: embed `[B, E]`, action `[B, A]`, is_first `[B]` -> state, feature `[B, F]`.

        `noise` may also be `latent.MODE`: then the latent is the most probable one.
        """
        raise NotImplementedError

    def imagine_step(self, state: State, action: Tensor, noise: Noise = None) -> tuple[State, Tensor]:
        """Advance one step unobserved (prior sample): action `[B, A]` -> state, feature `[B, F]`.

        Differentiable with respect to state and action: continuous policies learn through it. `noise` may
        also be `latent.MODE`.
        """
        raise NotImplementedError

    def policy_input(self, state: State) -> Tensor:
        """What actor, critic, reward and continue networks see of a state: `[B, P]`."""
        raise NotImplementedError

    def prepare_imagination(self, state: State, horizon: int) -> State:
        """The state in the form that makes up to `horizon` calls of `imagine_step` cheapest; here unchanged.

        Only `imagine_step` and `policy_input` understand the result, and without gradients `imagine_step` may
        overwrite it.
        """
        del horizon
        return state

    def imagine(
        self, state: State, action: Tensor, is_first: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[State, Tensor]:
        """Repeated `imagine_step` under given actions `[B, H, A]` -> last state, features `[B, H, F]`.

        `is_first` `[B, H]` erases state and action before a step as everywhere; default: no episode begins.
        """
        features = []
        for t in range(action.shape[1]):
            step_action = action[:, t]
            if is_first is not None:
                state = reset_state(is_first[:, t], state)
                step_action = reset_rows(is_first[:, t], step_action)
            state, feature = self.imagine_step(state, step_action, None if noise is None else noise[:, t])
            features.append(feature)
        return state, torch.stack(features, 1)

    def memory_times(self) -> list[Tensor]:
        """For each layer, the steps after which its states have decayed to 1/e, any shape [n]; here none."""
        return []

    def kl_losses(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Dynamics and representation KL, each `[B, T]` in nats, before free nats (DreamerV3, eq. 3).

        dynamics = KL(sg(posterior) || prior), representation = KL(posterior || sg(prior)).
        """
        posterior, prior = rollout.posterior, rollout.prior
        return self.latent.kl(posterior.detach(), prior), self.latent.kl(posterior, prior.detach())

    def prior_features(self, rollout: Rollout) -> Tensor:
        """Features `[B, T, F]` with a sample of the prior in place of z_t."""
        sample = self.latent.sample(rollout.prior).flatten(-2)
        return torch.cat([rollout.features[..., : -sample.shape[-1]], sample], -1)


class Counted(NamedTuple):
    """A metric defined at some steps only, few or none in some batches: their sum and number, each `[]`."""

    total: Tensor
    number: Tensor

    @classmethod
    def where(cls, value: Tensor, mask: Tensor) -> Counted:
        """Sum and number of `value` where `mask` is true, both of the same shape."""
        return cls(torch.where(mask, value, 0).sum(), mask.sum())


def reset_rows(is_first: Tensor, value: Tensor) -> Tensor:
    """`value` with zeros in the rows where `is_first` is set; whatever stood there, NaN included, is gone."""
    return value.masked_fill(is_first.reshape(is_first.shape + (1,) * (value.dim() - is_first.dim())), 0)


def reset_state(is_first: Tensor, state: State) -> State:
    """`reset_rows` for every leaf: the state of row b is the initial state where `is_first[b]`."""
    return {key: reset_rows(is_first, leaf) for key, leaf in state.items()}


def keep_steps(keep: Tensor, value: Tensor) -> Tensor:
    """Rows of `value` `[B, T, ...]` at the steps `keep` `[B, n]` -> `[B, n, ...]`."""
    return value[torch.arange(keep.shape[0], device=keep.device)[:, None], keep]


def keep_states(keep: Tensor | None, states: State) -> State:
    """`keep_steps` for every leaf `[B, T, ...]` of a window's states; an empty dict where none are wanted."""
    return {} if keep is None else {key: keep_steps(keep, leaf) for key, leaf in states.items()}


def steps_with_resets(is_first: Tensor) -> list[bool]:
    """Which steps of `[B, T]` reset any row: all of them where reading it would wait for the device."""
    if is_first.device.type != "cpu":
        return [True] * is_first.shape[1]
    return is_first.any(0).tolist()


def merge_rows(state: State) -> State:
    """Kept states `[B, n, ...]` as one batch of start states `[B * n, ...]`."""
    return {key: leaf.flatten(0, 1) for key, leaf in state.items()}

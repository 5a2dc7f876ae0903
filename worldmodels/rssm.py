"""DreamerV3's recurrent state-space model (Hafner et al., 2023, section 3 and appendix B)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels import ranks
from worldmodels.base import Backbone, Rollout, State, keep_states, reset_rows, reset_state, steps_with_resets
from worldmodels.latent import Latent, Noise
from worldmodels.nets import MLP, BlockLinear, RMSNorm, linear


class RSSM(Backbone):
    """Block-diagonal GRU with posterior q(z_t | h_t, x_t) and prior p(z_t | h_t); sequential over the window.

    State leaves: `latent` z `[B, S, K]`, `deter` h `[B, deter]`. Features and policy input are (norm(h), z).
    Not DreamerV3's are the norm, which can be switched off: without it a small h is faint beside the one-hot
    z, and what the last action left in h hardly reaches the heads (docs/design.md); and the initial
    weights of the block-diagonal layers, which are scaled by the mean fan of one block: at `12m` the gates'
    deviation is twice the authors', and the hidden layer's 3.6 times.

    Args:
        embed_size, action_size, latent: E, A, and the family of z.
        deter: size of the recurrent state.
        units: width of the input projections, prior and posterior networks.
        blocks: blocks of the block-diagonal recurrent weights; must divide `deter`.
        dynamics_layers: hidden block-diagonal layers inside the recurrence.
        prior_layers, posterior_layers: hidden layers of the two latent heads.
        feature_norm: RMS norm of h where decoder, heads, actor and critic read it.
    """

    def __init__(
        self,
        *,
        embed_size: int,
        action_size: int,
        latent: Latent,
        deter: int,
        units: int,
        blocks: int,
        dynamics_layers: int,
        prior_layers: int,
        posterior_layers: int,
        feature_norm: bool,
    ) -> None:
        super().__init__()
        if deter % blocks:
            raise ValueError(f"rssm.deter {deter} must be divisible by rssm.blocks {blocks}")
        self.latent, self.deter, self.blocks = latent, deter, blocks
        self.deter_in = MLP(deter, units, 1, norm=RMSNorm)
        self.latent_in = MLP(latent.size, units, 1, norm=RMSNorm)
        self.action_in = MLP(action_size, units, 1, norm=RMSNorm)
        inputs = deter + 3 * units * blocks
        self.hidden = nn.ModuleList()
        self.hidden_norm = nn.ModuleList()
        for _ in range(dynamics_layers):
            self.hidden.append(BlockLinear(inputs, deter, blocks))
            self.hidden_norm.append(RMSNorm(deter))
            inputs = deter
        self.gates = BlockLinear(inputs, 3 * deter, blocks)
        self.prior_net = MLP(deter, units, prior_layers, latent.outputs, norm=RMSNorm)
        # The posterior's first layer reads (h, embed); its two halves are kept apart, because the embeddings
        # of the whole window go through theirs at once while h arrives step by step.
        self.embed_in = nn.Linear(embed_size, units, bias=False)
        self.posterior_in = linear(deter, units)
        bound = linear(deter + embed_size, units).weight.data
        self.posterior_in.weight.data.copy_(bound[:, :deter])
        self.embed_in.weight.data.copy_(bound[:, deter:])
        self.posterior_rest = nn.Sequential(
            RMSNorm(units), nn.SiLU(), MLP(units, units, posterior_layers - 1, latent.outputs, norm=RMSNorm)
        )
        self.feature_norm: nn.Module = RMSNorm(deter) if feature_norm else nn.Identity()
        self.feature_size = self.policy_size = deter + latent.size

    def initial(self, batch_size: int) -> State:
        zeros = self.posterior_in.weight.new_zeros
        return {"latent": zeros(batch_size, *self.latent.shape), "deter": zeros(batch_size, self.deter)}

    def observe(
        self,
        state: State,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        keep: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Rollout:
        latent, deter = state["latent"], state["deter"]
        action = self.action_in(reset_rows(is_first, action.to(embed.dtype)))
        embed = self.embed_in(embed)
        if noise is None:
            noise = ranks.uniform((*is_first.shape, self.latent.shape[0]), device=embed.device)
        latents, deters, posteriors = [], [], []
        # Unbound rather than indexed: the backward pass of an index is a zero tensor of the whole window.
        steps = (leaf.unbind(1) for leaf in (is_first, embed, action, noise))
        resets = steps_with_resets(is_first)
        for reset, first, step_embed, step_action, step_noise in zip(resets, *steps, strict=True):
            if reset:
                latent, deter = reset_rows(first, latent), reset_rows(first, deter)
            deter = self._recur(deter, latent, step_action)
            posterior = self._posterior(deter, step_embed)
            latent = self.latent.sample(posterior, step_noise)
            latents.append(latent)
            deters.append(deter)
            posteriors.append(posterior)
        states = {"latent": torch.stack(latents, 1), "deter": torch.stack(deters, 1)}
        features = self._feature(states)
        return Rollout(
            features=features,
            policy=features,
            posterior=torch.stack(posteriors, 1),
            prior=self.latent.distribution(self.prior_net(states["deter"])),
            last={"latent": latent, "deter": deter},
            kept=keep_states(keep, states),
        )

    def observe_step(
        self, state: State, embed: Tensor, action: Tensor, is_first: Tensor, noise: Noise = None
    ) -> tuple[State, Tensor]:
        state = reset_state(is_first, state)
        action = self.action_in(reset_rows(is_first, action.to(embed.dtype)))
        deter = self._recur(state["deter"], state["latent"], action)
        latent = self.latent.sample(self._posterior(deter, self.embed_in(embed)), noise)
        state = {"latent": latent, "deter": deter}
        return state, self._feature(state)

    def imagine_step(self, state: State, action: Tensor, noise: Noise = None) -> tuple[State, Tensor]:
        deter = self._recur(state["deter"], state["latent"], self.action_in(action))
        latent = self.latent.sample(self.latent.distribution(self.prior_net(deter)), noise)
        state = {"latent": latent, "deter": deter}
        return state, self._feature(state)

    def policy_input(self, state: State) -> Tensor:
        return self._feature(state)

    def _recur(self, deter: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        """Next recurrent state from h `[B, deter]`, z `[B, S, K]` and the projected action `[B, units]`."""
        groups = deter.unflatten(-1, (self.blocks, -1)).transpose(0, 1)  # [blocks, B, deter / blocks]
        shared = torch.cat([self.deter_in(deter), self.latent_in(latent.flatten(-2)), action], -1)
        x = torch.cat([groups, shared.expand(self.blocks, *shared.shape)], -1)
        for layer, norm in zip(self.hidden, self.hidden_norm, strict=True):
            x = F.silu(norm(layer(x).transpose(0, 1).flatten(-2)))
            x = x.unflatten(-1, (self.blocks, -1)).transpose(0, 1)
        reset, candidate, update = self.gates(x).to(groups.dtype).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        # With the bias of -1 the gate starts out remembering.
        return torch.lerp(groups, candidate, torch.sigmoid(update - 1)).transpose(0, 1).flatten(-2)

    def _posterior(self, deter: Tensor, embed: Tensor) -> Tensor:
        return self.latent.distribution(self.posterior_rest(self.posterior_in(deter) + embed))

    def _feature(self, state: State) -> Tensor:
        return torch.cat([self.feature_norm(state["deter"]), state["latent"].flatten(-2)], -1)

"""What S4WM and TSSM-XL share: a posterior that sees the current frame only (S4WM paper, eq. 4 to 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodels.base import Backbone, State, reset_rows, reset_state
from worldmodels.latent import Latent, Noise
from worldmodels.nets import MLP, linear


class FramePosterior(Backbone):
    """Backbones with q(z_t | x_t) and p(z_t | h_t), with h_t from a sequence model of the inputs g_1 to g_t.

    The posterior does not see h, so all z of a window, hence all inputs g_t = MLP(z_{t-1}, a_t), are known at
    once: `filtered`. A subclass creates the sequence model and then `prior_net`, implements `observe` and
    `advance`, and adds its own leaves to `initial`. Features are (h_t, z_t), and what the policy sees is the
    same where it has no `policy_input` of its own. State leaves: `latent` z `[B, S, K]`, `output` h `[B, D]`,
    and the subclass's own.

    Args:
        embed_size, action_size, latent: E, A, and the family of z.
        units, hidden_layers: width and depth of posterior, prior and input networks.
        width: D of the inputs and outputs of the sequence model.
    """

    prior_net: MLP

    def __init__(
        self, embed_size: int, action_size: int, latent: Latent, units: int, hidden_layers: int, width: int
    ) -> None:
        super().__init__()
        self.latent, self.width = latent, width
        self.posterior_net = MLP(embed_size, units, hidden_layers, latent.outputs)
        # Latent and action are normalised apart, as in DreamerV3: the action is but a few numbers among many.
        self.latent_in = MLP(latent.size, units, hidden_layers)
        self.action_in = MLP(action_size, units, hidden_layers)
        self.input_net = linear(2 * units, width)
        self.feature_size = self.policy_size = width + latent.size

    def initial(self, batch_size: int) -> State:
        zeros = self.input_net.weight.new_zeros
        return {"latent": zeros(batch_size, *self.latent.shape), "output": zeros(batch_size, self.width)}

    def advance(self, inputs: Tensor, state: State) -> State:
        """One step of the sequence model: g_t `[B, D]` -> `output` and the subclass's own leaves.

        `state` may be what `prepare_imagination` made of one.
        """
        raise NotImplementedError

    def filtered(
        self, state: State, embed: Tensor, action: Tensor, is_first: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For a window, as in `observe`: posterior, sample z `[B, T, S, K]`, and inputs g `[B, T, D]`."""
        posterior = self.latent.distribution(self.posterior_net(embed))
        latent = self.latent.sample(posterior, noise)
        before = torch.cat([state["latent"][:, None].to(latent.dtype), latent[:, :-1]], 1)
        return posterior, latent, self._inputs(reset_rows(is_first, before), reset_rows(is_first, action))

    def observe_step(
        self, state: State, embed: Tensor, action: Tensor, is_first: Tensor, noise: Noise = None
    ) -> tuple[State, Tensor]:
        state = reset_state(is_first, state)
        rest = self.advance(self._inputs(state["latent"], reset_rows(is_first, action)), state)
        latent = self.latent.sample(self.latent.distribution(self.posterior_net(embed)), noise)
        state = {**rest, "latent": latent}
        return state, self.feature(state)

    def imagine_step(self, state: State, action: Tensor, noise: Noise = None) -> tuple[State, Tensor]:
        rest = self.advance(self._inputs(state["latent"], action), state)
        latent = self.latent.sample(self.prior(rest), noise)
        state = {**rest, "latent": latent}
        return state, self.feature(state)

    def policy_input(self, state: State) -> Tensor:
        return self.feature(state)

    def prior(self, state: State) -> Tensor:
        """p(z | h), from a state, or all states of a window; their `latent` is not read."""
        return self.latent.distribution(self.prior_net(self.prior_input(state)))

    def prior_input(self, state: State) -> Tensor:
        """What `prior_net` reads: h `[..., D]`, unless a subclass has more."""
        return state["output"]

    def feature(self, state: State) -> Tensor:
        """(h, z) of a state, or of all states of a window: `[..., F]`."""
        return torch.cat([state["output"], state["latent"].flatten(-2)], -1)

    def _inputs(self, latent: Tensor, action: Tensor) -> Tensor:
        """`[..., S, K]` and `[..., A]` -> `[..., D]`."""
        parts = self.latent_in(latent.flatten(-2)), self.action_in(action.to(latent.dtype))
        return self.input_net(torch.cat(parts, -1))

"""S4WM: a latent world model whose memory is a stack of state-space layers (Deng et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.attention import Attention, Past, initial_cache, step_of
from worldmodels.base import Rollout, State, keep_states
from worldmodels.frame_posterior import FramePosterior
from worldmodels.latent import Latent
from worldmodels.nets import MLP
from worldmodels.ssm import LAYERS, Stack

MOST_SEEN = 8192
"""Size of the layers' states up to which `auto` includes them: S5's is below at every preset, S4's is not."""


class S4WM(FramePosterior):
    """Section 3 and equations 4 to 9 of the paper.

    A block is one state-space layer with a GLU; the paper's, with `mlp_every` 2, two S4 layers and an MLP.

    The stack runs over the g_t of a window in parallel, and step by step in acting and imagination. The
    decoder reads (h_t, z_t); actor, critic and heads read the policy input.

    With attention behind some blocks the stack is a hybrid, which the paper's conclusion leaves open: its
    layers remember for long, and attention finds what was lately there by content or place.

    State leaves: `latent` z `[B, S, K]`, `output` h `[B, D]`, `memory`: the layers' states `[B, L, ...]`, and
    with attention `cache` `[B, n, M, D]` and `length` `[B]`, as `Past` has them.

    Args:
        embed_size, action_size, latent, units, hidden_layers, width: see `FramePosterior`.
        layers: L of the stack.
        layer: name of the state-space layer; `layer_options[layer]` goes to its constructor.
        mlp_every: see `Stack`; it has to divide L.
        attention: how many `layers` of attention, up to L, spread evenly over the stack (one is behind the
            first half), of how many `heads`, with how many steps of `memory`.
        policy_input: what actor, critic and heads see: `output` (h, z), `hidden` (z, normalised states),
            `full` (all three) or `auto` (`full`, but `output` where there are more than `MOST_SEEN` states).
        prior_input: what the prior sees: `output` (h) or `full` (h, normalised states).
        gradient_checkpointing: recompute each block of a window in the backward pass instead of storing it.
    """

    def __init__(
        self,
        *,
        embed_size: int,
        action_size: int,
        latent: Latent,
        units: int,
        hidden_layers: int,
        width: int,
        layers: int,
        layer: str,
        mlp_every: int,
        attention: Mapping[str, int],
        policy_input: str,
        prior_input: str,
        gradient_checkpointing: bool,
        **layer_options: Mapping[str, Any],
    ) -> None:
        if mlp_every and layers % mlp_every:
            raise ValueError(f"s4wm.layers {layers} must be divisible by s4wm.mlp_every {mlp_every}")
        count, heads = attention["layers"], attention["heads"]
        if count > layers:
            raise ValueError(f"s4wm.attention.layers {count} must be at most s4wm.layers {layers}")
        if count and width % (2 * heads):
            raise ValueError(f"s4wm.width {width} must be divisible by twice s4wm.attention.heads {heads}")
        super().__init__(embed_size, action_size, latent, units, hidden_layers, width)
        options = layer_options[layer]
        behind = [((2 * number + 1) * layers - 1) // (2 * count) for number in range(count)]
        self.stack = Stack(
            width,
            layers,
            lambda: LAYERS[layer](width, **options),
            gradient_checkpointing,
            mlp_every,
            {block: Attention(width, heads, attention["memory"]) for block in behind},
        )
        memory = self.stack.initial(1).numel()
        sizes = {"output": width, "hidden": memory, "full": width + memory}
        self.prior_view = prior_input
        self.prior_net = MLP(sizes[prior_input], units, hidden_layers, latent.outputs)
        if policy_input == "auto":
            policy_input = "full" if memory <= MOST_SEEN else "output"
        self.policy_view = policy_input
        self.policy_size = latent.size + sizes[policy_input]
        self.states_are_read = policy_input != "output" or prior_input != "output"  # those of every step

    def initial(self, batch_size: int) -> State:
        layers = self.stack.attention
        own = {"memory": self.stack.initial(batch_size)}
        return super().initial(batch_size) | own | (initial_cache(layers, batch_size) if layers else {})

    def observe(
        self,
        state: State,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        keep: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Rollout:
        posterior, latent, inputs = self.filtered(state, embed, action, is_first, noise)
        past = Past(self.stack.attention, state, is_first) if self.stack.attention else None
        wanted = "all" if self.states_are_read else keep
        output, last, memory = self.stack(inputs, state["memory"], is_first, wanted, past)
        states = {"latent": latent, "output": output} | ({"memory": memory} if self.states_are_read else {})
        kept = keep_states(keep, states)
        if keep is not None and not self.states_are_read:
            kept["memory"] = memory
        if past and keep is not None:
            kept |= past.kept(keep)
        remembered = {"memory": last} | (past.last() if past else {})
        return Rollout(
            features=self.feature(states),
            policy=self.policy_input(states),
            posterior=posterior,
            prior=self.prior(states),
            last={"latent": latent[:, -1], "output": output[:, -1], **remembered},
            kept=kept,
        )

    def advance(self, inputs: Tensor, state: State) -> State:
        past = step_of(self.stack.attention, state) if self.stack.attention else None
        if "memory" in state:
            output, memory = self.stack.step(inputs, state["memory"], past)
            after = {"memory": memory}
        else:
            output, after = self.stack.respond(inputs, state, past)
        return {**after, "output": output, **(past.last() if past else {})}

    def prepare_imagination(self, state: State, horizon: int) -> State:
        """Layers with a system per channel cover the whole horizon at once, unless their states are read.

        State leaves then: `latent`, `output`, those of `Stack.responses` in place of `memory`, and those of
        `Dream.prepare` in place of `cache`.
        """
        self.stack.hold()
        prepared = dict(state)
        if self.stack.attention:
            prepared |= self.stack.remembered(state)
            del prepared["cache"]
        if not self.states_are_read and (entries := self.stack.responses(state["memory"], horizon)):
            prepared |= entries
            del prepared["memory"]
        return prepared

    def memory_times(self) -> list[Tensor]:
        return [-1 / block.layer.log_abar().flatten() for block in self.stack.blocks]

    def policy_input(self, state: State) -> Tensor:
        parts = []
        if self.policy_view != "hidden":
            parts.append(state["output"])
        parts.append(state["latent"].flatten(-2))
        if self.policy_view != "output":
            parts.append(self._normalised(state))
        return torch.cat(parts, -1)

    def prior_input(self, state: State) -> Tensor:
        if self.prior_view == "output":
            return state["output"]
        return torch.cat([state["output"], self._normalised(state)], -1)

    def _normalised(self, state: State) -> Tensor:
        """The layers' states, each layer normalised: `[..., N]`."""
        layers = state["memory"].reshape(*state["output"].shape[:-1], len(self.stack.blocks), -1)
        return F.layer_norm(layers, layers.shape[-1:]).flatten(-2)

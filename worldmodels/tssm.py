"""TSSM-XL: a latent world model that remembers in a Transformer-XL's cache (Chen et al., 2022)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from worldmodels.attention import Attention, Dream, Past, initial_cache, step_of
from worldmodels.base import Rollout, State, keep_states
from worldmodels.frame_posterior import FramePosterior
from worldmodels.latent import Latent
from worldmodels.nets import MLP, linear


class TSSM(FramePosterior):
    """TransDreamer's TSSM with the S4WM paper's Transformer-XL: the baseline of its section 4.

    Features and policy input are (h_t, z_t). In every layer a step attends to itself and the M steps before
    it (`attention.py`). No gradient flows into the cache of a window's given state.

    State leaves: `latent` z `[B, S, K]`, `output` h `[B, D]`, `cache` `[B, L, M, D]`: the last M inputs of
    every layer, the newest last, `length` `[B]`: how many of them belong to the episode; the others are zero.

    Args:
        embed_size, action_size, latent, units, hidden_layers, width: see `FramePosterior`.
        layers, heads: L, and attention heads; D is a multiple of twice their number.
        feed_forward: width of the network after each attention.
        memory: M, steps that a layer looks back.
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
        heads: int,
        feed_forward: int,
        memory: int,
    ) -> None:
        if width % (2 * heads):
            raise ValueError(f"tssm.width {width} must be divisible by twice tssm.heads {heads}")
        super().__init__(embed_size, action_size, latent, units, hidden_layers, width)
        # Where an episode begins, latent and action are zero. An input of exactly zero stays that through all
        # blocks, and each of their norms multiplies its gradient by 300.
        nn.init.normal_(self.input_net.bias, std=0.1)
        self.blocks: Any = nn.ModuleList(Block(width, heads, feed_forward, memory) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.prior_net = MLP(width, units, hidden_layers, latent.outputs)

    def initial(self, batch_size: int) -> State:
        return super().initial(batch_size) | initial_cache(self._attention(), batch_size)

    def observe(
        self,
        state: State,
        embed: Tensor,
        action: Tensor,
        is_first: Tensor,
        keep: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Rollout:
        posterior, latent, x = self.filtered(state, embed, action, is_first, noise)
        past = Past(self._attention(), state | {"cache": state["cache"].detach()}, is_first)
        output = self._output(x, past).to(latent.dtype)
        states = {"latent": latent, "output": output}
        features = self.feature(states)
        return Rollout(
            features=features,
            policy=features,
            posterior=posterior,
            prior=self.prior(states),
            last={"latent": latent[:, -1], "output": output[:, -1], **past.last()},
            kept={} if keep is None else keep_states(keep, states) | past.kept(keep),
        )

    def prepare_imagination(self, state: State, horizon: int) -> State:
        """State leaves then: `latent`, `output`, and those of `Dream.prepare` in place of `cache`."""
        del horizon
        rest = {"latent": state["latent"], "output": state["output"]}
        return rest | Dream.prepare(self._attention(), state)

    def advance(self, inputs: Tensor, state: State) -> State:
        past = step_of(self._attention(), state)
        output = self._output(inputs[:, None], past)[:, 0]
        return {"output": output.to(state["output"].dtype), **past.last()}

    def _output(self, x: Tensor, past: Past | Dream) -> Tensor:
        """h of inputs g, both `[B, T, D]`."""
        for number, block in enumerate(self.blocks):
            x = past.attend(number, x)
            x = x + block.feed_forward(block.norm(x))
        return self.norm(x)

    def _attention(self) -> list[Attention]:
        return [block.attention for block in self.blocks]


class Block(nn.Module):
    """Pre-norm attention, then a pre-norm feed-forward network."""

    def __init__(self, width: int, heads: int, feed_forward: int, memory: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, memory)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(linear(width, feed_forward), nn.GELU(), linear(feed_forward, width))

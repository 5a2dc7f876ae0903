"""TSSM-XL: a latent world model that remembers in a Transformer-XL's cache (Chen et al., 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodels.base import Rollout, State, keep_states, keep_steps
from worldmodels.frame_posterior import FramePosterior
from worldmodels.latent import Latent
from worldmodels.nets import MLP, linear, widen

QUERIES = 64
"""Steps that attend at once, to the keys in their reach: what a window costs is linear in its length."""


class TSSM(FramePosterior):
    """TransDreamer's TSSM with the S4WM paper's Transformer-XL: the baseline of its section 4.

    Features and policy input are (h_t, z_t). In every layer a step attends to itself and the M steps before
    it, whether they lie in the window or in the cache: the parallel form and the step see the same. No
    gradient flows into the cache of a given state.

    State leaves: `latent` z `[B, S, K]`, `output` h `[B, D]`, `memory` `[B, L, M, D]`: the last M inputs of
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
        self.memory = memory
        # Where an episode begins, latent and action are zero. An input of exactly zero stays that through all
        # blocks, and each of their norms multiplies its gradient by 300.
        nn.init.normal_(self.input_net.bias, std=0.1)
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.prior_net = MLP(width, units, hidden_layers, latent.outputs)
        self.policy_size = self.feature_size
        self.register_buffer("waves", _waves(memory, width), persistent=False)  # [M + 1, D], by distance

    def initial(self, batch_size: int) -> State:
        zeros = self.input_net.weight.new_zeros
        return {
            "latent": zeros(batch_size, *self.latent.shape),
            "output": zeros(batch_size, self.width),
            "memory": zeros(batch_size, len(self.blocks), self.memory, self.width),
            "length": zeros(batch_size),
        }

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
        rows, steps = is_first.shape
        length = self._lengths(state["length"], is_first)
        spans = spans_of((length - 1).clamp(max=self.memory), self.memory)
        sequences = []
        for number, block in enumerate(self._layers()):
            cache = state["memory"][:, number].detach().to(x.dtype)
            sequence = torch.cat([cache, x], 1)  # [B, M + T, D]
            sequences.append(sequence)
            keys, values = block.keys_and_values(sequence)
            x = block(x, keys, values, spans, self.waves)
        output = self.norm(x).to(latent.dtype)
        states = {"latent": latent, "output": output}

        def memories(at: Tensor) -> State:
            """Memory and length after the steps `at` `[B, n]`."""
            place = at[..., None] + 1 + torch.arange(self.memory, device=at.device)  # [B, n, M]
            row = torch.arange(rows, device=at.device)[:, None, None]
            inputs = torch.stack([sequence[row, place] for sequence in sequences], 2).to(latent.dtype)
            count = keep_steps(at, length).clamp(max=self.memory)
            stale = torch.arange(self.memory, 0, -1, device=at.device) > count[..., None]  # [B, n, M]
            return {"memory": inputs.masked_fill(stale[:, :, None, :, None], 0), "length": count}

        end = memories(torch.full((rows, 1), steps - 1, device=x.device))
        end = {key: leaf[:, 0] for key, leaf in end.items()}
        features = self.feature(states)
        return Rollout(
            features=features,
            policy=features,
            posterior=posterior,
            prior=self.prior(output),
            last={"latent": latent[:, -1], "output": output[:, -1], **end},
            kept={} if keep is None else keep_states(keep, states) | memories(keep),
        )

    def prepare_imagination(self, state: State, horizon: int) -> State:
        """Keys and values of the cache are computed once, not once per step.

        State leaves then: `latent`, `output`, `length`, and `keys`, `values` `[B, L, M, D]` for `memory`.
        """
        del horizon
        pairs = [block.keys_and_values(state["memory"][:, n]) for n, block in enumerate(self._layers())]
        keys, values = (torch.stack(leaves, 1) for leaves in zip(*pairs, strict=True))
        rest = {key: state[key] for key in ("latent", "output", "length")}
        return {**rest, "keys": keys, "values": values}

    def policy_input(self, state: State) -> Tensor:
        return self.feature(state)

    def advance(self, inputs: Tensor, state: State) -> State:
        """The new `output`, `length`, and the cache in the same form as in `state`."""
        length = (state["length"] + 1).clamp(max=self.memory + 1)
        spans = spans_of(length[:, None] - 1, self.memory)
        x = inputs[:, None]
        cache = {key: state[key] for key in ("memory", "keys", "values") if key in state}
        grown: dict[str, list[Tensor]] = {key: [] for key in cache}
        for number, block in enumerate(self._layers()):
            new = (x,) if "memory" in cache else block.keys_and_values(x)
            rows = [
                torch.cat([leaf[:, number].to(x.dtype), row], 1)  # [B, M + 1, D]
                for leaf, row in zip(cache.values(), new, strict=True)
            ]
            keys, values = block.keys_and_values(*rows) if "memory" in cache else rows
            x = block(x, keys, values, spans, self.waves)
            for leaves, row in zip(grown.values(), rows, strict=True):
                leaves.append(row[:, 1:])
        kind = state["output"].dtype
        return {
            "output": self.norm(x)[:, 0].to(kind),
            "length": length.clamp(max=self.memory),
            **{key: torch.stack(leaves, 1).to(kind) for key, leaves in grown.items()},
        }

    def _layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _lengths(self, length: Tensor, is_first: Tensor) -> Tensor:
        """Steps of the episode up to and including each step, `[B, T]`; those in the cache count too."""
        count = torch.arange(1, is_first.shape[1] + 1, device=is_first.device)
        begin = torch.where(is_first, count, 0).cummax(1).values
        since = (count - begin + 1).to(length.dtype)
        return torch.where(begin > 0, since, length[:, None] + count)


@dataclass
class Span:
    """q consecutive steps of a window, and the M + q keys in their reach.

    Attributes:
        queries, keys: which of the T steps, and of the M + T keys.
        distance: `[q, M + q]` int64, how far back a key lies, from 0 to M.
        seen: `[B, q, M + q]` bool, whether a step attends to it.
    """

    queries: slice
    keys: slice
    distance: Tensor
    seen: Tensor


def spans_of(past: Tensor, memory: int) -> list[Span]:
    """A window in spans of at most `QUERIES` steps; step t sees itself and the `past` `[B, T]` before it."""
    spans = []
    for begin in range(0, past.shape[1], QUERIES):
        end = min(begin + QUERIES, past.shape[1])
        keys = torch.arange(memory + end - begin, device=past.device)
        distance = keys[memory:, None] - keys  # step t has the key M + t
        seen = (distance >= 0) & (distance <= past[:, begin:end, None])
        spans.append(Span(slice(begin, end), slice(begin, memory + end), distance.clamp(0, memory), seen))
    return spans


class Block(nn.Module):
    """Pre-norm attention with relative positions (Dai et al., 2019, section 3.3), then a feed-forward net."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.out = linear(width, width), linear(width, width)
        self.key_value = linear(width, 2 * width)
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.feed_forward = nn.Sequential(linear(width, feed_forward), nn.GELU(), linear(feed_forward, width))

    def keys_and_values(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, n, D]` -> keys and values `[B, n, D]`.

        NaN is replaced by a number: another episode's step has weight 0, but 0 times NaN is NaN. The query of
        such a step stays as it is, so nothing is hidden.
        """
        keys, values = self.key_value(self.norm(inputs)).nan_to_num().chunk(2, -1)
        return keys, values

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, spans: Sequence[Span], waves: Tensor
    ) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`.

        Args:
            x: the inputs of T steps.
            keys, values: `[B, M + T, D]`, of the M steps before them and of their own.
            spans: which steps attend to which, from `spans_of`.
            waves: `[M + 1, D]`, encodings of distances.
        """
        query, key, value = (self._split(part) for part in (self.query(self.norm(x)), keys, values))
        position = self._split(self.position(waves.to(x.dtype)))  # [heads, M + 1, d]
        parts = []
        for span in spans:
            asking, near = query[..., span.queries, :], key[..., span.keys, :]
            content = (asking + self.content_bias) @ near.mT  # [B, heads, q, M + q]
            place = (asking + self.position_bias) @ position.mT  # [B, heads, q, M + 1]
            place = place.gather(-1, span.distance.expand(*content.shape))
            score = widen(content + place) / math.sqrt(query.shape[-1])
            weight = score.masked_fill(~span.seen[:, None], -torch.inf).softmax(-1)
            parts.append(weight.to(value.dtype) @ value[..., span.keys, :])
        x = x + self.out(torch.cat(parts, -2).transpose(1, 2).flatten(-2))
        return x + self.feed_forward(self.norm2(x))

    def _split(self, x: Tensor) -> Tensor:
        """`[..., n, D]` -> `[..., heads, n, D / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def _waves(longest: int, width: int) -> Tensor:
    """Sines and cosines of the distances 0 to `longest`, `[longest + 1, width]` (Vaswani et al., 2017)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    phase = torch.arange(longest + 1)[:, None] * frequency
    return torch.cat([phase.sin(), phase.cos()], -1)

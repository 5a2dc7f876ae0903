"""Causal attention over the last M steps of an episode: in windows, step by step, and in dreams.

A step attends to itself and the M steps before it, whether they lie in the window or in the cache: all forms
see the same. The attention is Transformer-XL's, with relative positions (Dai et al., 2019, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodels.base import State, keep_steps
from worldmodels.nets import linear, widen

QUERIES = 64
"""Steps that attend at once, to the keys in their reach: what a window costs is linear in its length."""


class Attention(nn.Module):
    """x + attention(norm(x)) for x `[B, T, D]`, of `heads` heads of d = D / heads numbers.

    Args:
        width: D, a multiple of twice the heads.
        heads: their number.
        memory: M, steps that a step looks back.
    """

    waves: Tensor  # [M + 1, D], by distance

    def __init__(self, width: int, heads: int, memory: int) -> None:
        super().__init__()
        self.heads, self.memory = heads, memory
        self.norm = nn.LayerNorm(width)
        self.query, self.out = linear(width, width), linear(width, width)
        self.key_value = linear(width, 2 * width)
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.register_buffer("waves", _waves(memory, width), persistent=False)

    def forward(self, sequence: Tensor, spans: Sequence[Span]) -> Tensor:
        """A window: the inputs of the M steps before it and of its own, `[B, M + T, D]` -> `[B, T, D]`."""
        x, (keys, values) = sequence[:, self.memory :], self.keys_and_values(sequence)
        query, position = self._asked(x)
        parts = []
        for span in spans:
            near = keys[..., span.keys, :], values[..., span.keys, :]
            score = self._scores(query[..., span.queries, :], near[:1], position, span.distance)
            parts.append(_weights(score, span.seen).to(values.dtype) @ near[1])
        return self._answered(x, torch.cat(parts, -2))

    def dream(self, x: Tensor, cached: Sequence[Tensor], dreamt: Sequence[Tensor], length: Tensor) -> Tensor:
        """A step `[B, 1, D]` with the keys and values before a dream, and those of the dream's steps.

        Args:
            x: its input.
            cached: keys and values `[B, heads, M, d]` of the M steps before the dream.
            dreamt: those `[B, heads, h, d]` of the newest of its steps, this one included.
            length: `[B]`, steps before this one that belong to the episode.
        """
        query, position = self._asked(x)
        old, count = self.memory, self.memory + dreamt[0].shape[-2]
        distance = torch.arange(count - 1, -1, -1, device=x.device)
        # Two products each, not one with both joined: joining would copy the cache in every step.
        keys = cached[0], dreamt[0]
        score = self._scores(query, keys, position, distance.clamp(max=self.memory)[None])
        weight = _weights(score, distance <= length[:, None, None]).to(cached[1].dtype)
        return self._answered(x, weight[..., :old] @ cached[1] + weight[..., old:] @ dreamt[1])

    def keys_and_values(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs `[B, n, D]` of steps -> keys and values `[B, heads, n, d]`.

        NaN is replaced by a number: another episode's step has weight 0, but 0 times NaN is NaN. The query of
        such a step stays as it is, so nothing is hidden.
        """
        keys, values = self.key_value(self.norm(inputs)).nan_to_num().chunk(2, -1)
        return self._split(keys), self._split(values)

    def _asked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries `[B, heads, T, d]`, and the encodings of the distances 0 to M, `[heads, M + 1, d]`."""
        return self._split(self.query(self.norm(x))), self._split(self.position(self.waves.to(x.dtype)))

    def _scores(self, query: Tensor, keys: Sequence[Tensor], position: Tensor, distance: Tensor) -> Tensor:
        """Scores `[B, heads, q, k]` of queries `[B, heads, q, d]`.

        Args:
            query, position: see `_asked`.
            keys: the k keys in parts `[B, heads, ., d]`.
            distance: `[q, k]`, how far back each lies, at most M.
        """
        products = [(query + self.content_bias) @ part.mT for part in keys]
        content = products[0] if len(products) == 1 else torch.cat(products, -1)
        asked = (query + self.position_bias).transpose(0, 1)  # [heads, B, q, d]
        place = (asked.flatten(1, 2) @ position.mT).unflatten(1, asked.shape[1:3])  # [heads, B, q, M + 1]
        place = place.transpose(0, 1).gather(-1, distance.expand(*content.shape))
        return widen(content + place) / math.sqrt(query.shape[-1])

    def _answered(self, x: Tensor, found: Tensor) -> Tensor:
        """Adds what the heads found, `[B, heads, T, d]`."""
        return x + self.out(found.transpose(1, 2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        """`[..., n, D]` -> `[..., heads, n, d]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


class Past:
    """A window, or a single step, and the M steps before it, as the attention layers of a backbone see them.

    Args:
        layers: the L attention layers, in their order.
        state: its leaves `cache` `[B, L, M, D]`, the inputs of each layer at the last M steps, the newest
            last, and `length` `[B]`, how many of them belong to the episode; the others are zero.
        is_first: `[B, T]` bool, of a window; None for a step of an episode that goes on.
    """

    def __init__(self, layers: Sequence[Attention], state: State, is_first: Tensor | None = None) -> None:
        self.layers, self.cache, self.memory = layers, state["cache"], layers[0].memory
        length = state["length"]
        self.length = length[:, None] + 1 if is_first is None else _lengths(length, is_first)  # [B, T]
        self.spans = spans_of((self.length - 1).clamp(max=self.memory), self.memory)
        self.sequences: dict[int, Tensor] = {}

    def attend(self, number: int, x: Tensor) -> Tensor:
        """Layer `number` of the inputs `[B, T, D]`."""
        sequence = torch.cat([self.cache[:, number].to(x.dtype), x], 1)
        self.sequences[number] = sequence
        return self.layers[number](sequence, self.spans)

    def last(self) -> State:
        """`cache` and `length` after the last step."""
        inputs = torch.stack([sequence[:, -self.memory :] for sequence in self._ordered()], 1)
        return self._state(inputs, self.length[:, -1])

    def kept(self, keep: Tensor) -> State:
        """The same after the steps `keep` `[B, n]`."""
        place = keep[..., None] + 1 + torch.arange(self.memory, device=keep.device)  # [B, n, M]
        row = torch.arange(len(keep), device=keep.device)[:, None, None]
        inputs = torch.stack([sequence[row, place] for sequence in self._ordered()], 2)
        return self._state(inputs, keep_steps(keep, self.length))

    def _ordered(self) -> list[Tensor]:
        return [self.sequences[number] for number in range(len(self.layers))]

    def _state(self, inputs: Tensor, length: Tensor) -> State:
        """Inputs `[..., L, M, D]` with zeros where they are not of the episode, and `length` `[...]`."""
        stale = torch.arange(self.memory, 0, -1, device=inputs.device) > length[..., None]  # [..., M]
        inputs = inputs.to(self.cache.dtype).masked_fill(stale[..., None, :, None], 0)
        return {"cache": inputs, "length": length.clamp(max=self.memory)}


class Dream:
    """A step of a dream: keys and values of the cache are computed once, and copied never.

    `prepare` makes the leaves that it needs of a state. Of the dream's own steps the last M are kept.
    """

    def __init__(self, layers: Sequence[Attention], state: State) -> None:
        self.layers, self.state = layers, state
        self.grown: State = {"length": (state["length"] + 1).clamp(max=layers[0].memory)}

    @staticmethod
    def prepare(layers: Sequence[Attention], state: State) -> State:
        """In place of `cache`: `keys<n>`, `values<n>` `[B, heads, M, d]` and `dreamt_keys<n>`,
        `dreamt_values<n>` `[B, heads, 0, d]` for each layer n."""
        leaves = {"length": state["length"]}
        for number, layer in enumerate(layers):
            pair = layer.keys_and_values(state["cache"][:, number])
            for name, leaf in zip(("keys", "values"), pair, strict=True):
                leaf = leaf.contiguous()
                leaves |= {f"{name}{number}": leaf, f"dreamt_{name}{number}": leaf[..., :0, :]}
        return leaves

    def attend(self, number: int, x: Tensor) -> Tensor:
        """Layer `number` of the inputs `[B, 1, D]`."""
        layer, names = self.layers[number], (f"keys{number}", f"values{number}")
        cached, dreamt = [self.state[name] for name in names], []
        for name, new in zip(names, layer.keys_and_values(x), strict=True):
            dreamt.append(torch.cat([self.state[f"dreamt_{name}"], new], -2))
            self.grown[f"dreamt_{name}"] = dreamt[-1][..., -layer.memory :, :]
        return layer.dream(x, cached, dreamt, self.state["length"])

    def last(self) -> State:
        """The leaves of `prepare` after the step."""
        fixed = {name: leaf for name, leaf in self.state.items() if name.startswith(("keys", "values"))}
        return fixed | self.grown


def step_of(layers: Sequence[Attention], state: State) -> Past | Dream:
    """A step from a state, or from what `Dream.prepare` made of one."""
    return Past(layers, state) if "cache" in state else Dream(layers, state)


def initial_cache(layers: Sequence[Attention], batch_size: int) -> State:
    """`cache` and `length` before the first step of an episode, zeros."""
    memory, width = layers[0].memory, layers[0].out.in_features
    zeros = layers[0].content_bias.new_zeros
    return {"cache": zeros(batch_size, len(layers), memory, width), "length": zeros(batch_size)}


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


def _weights(score: Tensor, seen: Tensor) -> Tensor:
    """Softmax of the scores `[B, heads, q, k]` over the keys that are `seen` `[B, q, k]`."""
    return score.masked_fill(~seen[:, None], -torch.inf).softmax(-1)


def _lengths(length: Tensor, is_first: Tensor) -> Tensor:
    """Steps of the episode up to and including each, `[B, T]`; the `length` ones in the cache count too."""
    count = torch.arange(1, is_first.shape[1] + 1, device=is_first.device)
    begin = torch.where(is_first, count, 0).cummax(1).values
    since = (count - begin + 1).to(length.dtype)
    return torch.where(begin > 0, since, length[:, None] + count)


def _waves(longest: int, width: int) -> Tensor:
    """Sines and cosines of the distances 0 to `longest`, `[longest + 1, width]` (Vaswani et al., 2017)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    phase = torch.arange(longest + 1)[:, None] * frequency
    return torch.cat([phase.sin(), phase.cos()], -1)

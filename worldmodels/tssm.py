"""TSSM-XL: a latent world model that remembers in a Transformer-XL's cache (Chen et al., 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodels.base import Rollout, State, keep_steps
from worldmodels.frame_posterior import FramePosterior
from worldmodels.nets import MLP, linear, widen


class TSSM(FramePosterior):
    """TransDreamer's TSSM with the S4WM paper's Transformer-XL: the baseline of its section 4.

    As in S4WM the posterior q(z_t | x_t) sees the current frame only, so all inputs g_t = MLP(z_{t-1}, a_t)
    of a window are known at once; prior p(z_t | h_t); features and policy input are (h_t, z_t). In every
    layer step t attends to itself and to the `memory` steps before it, whether they lie in the window or in
    the cache: the parallel form and the step see the same. No gradient flows into the cache of a given state.

    State leaves: `latent` z `[B, S, K]`, `output` h `[B, D]`, `memory` `[B, L, M, D]`: the last M inputs of
    every layer, the newest last, `length` `[B]`: how many of them belong to the episode; the others are zero.

    Args:
        embed_size, action_size: E and A.
        stoch, classes: S groups of K classes; with 0 classes S Gaussian numbers (K = 1).
        units, hidden_layers: width and depth of posterior, prior and input networks.
        width, layers, heads: D, L, and attention heads, which divide D.
        feed_forward: width of the network after each attention.
        memory: M, steps that a layer looks back.
        unimix: share of the uniform distribution in a categorical posterior and prior.
    """

    def __init__(
        self,
        *,
        embed_size: int,
        action_size: int,
        stoch: int,
        classes: int,
        units: int,
        hidden_layers: int,
        width: int,
        layers: int,
        heads: int,
        feed_forward: int,
        memory: int,
        unimix: float,
    ) -> None:
        if width % (2 * heads):
            raise ValueError(f"tssm.width {width} must be divisible by twice tssm.heads {heads}")
        if memory < 1:
            raise ValueError(f"tssm.memory must be at least 1, got {memory}")
        super().__init__(embed_size, action_size, stoch, classes, units, hidden_layers, width, unimix)
        self.memory = memory
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.prior_net = MLP(width, units, hidden_layers, self.latent.outputs)
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
        # Step t sits at M + t behind the cache; it sees what lies at most min(M, length) steps back.
        now = self.memory + torch.arange(steps, device=x.device)
        distance = now[:, None] - torch.arange(self.memory + steps, device=x.device)  # [T, M + T]
        past = (length - 1).clamp(max=self.memory)[..., None]  # [B, T, 1], steps before this one
        seen = (distance >= 0) & (distance <= past)  # [B, T, M + T]
        sequences = []
        for number, block in enumerate(self._layers()):
            cache = state["memory"][:, number].detach().to(x.dtype)
            sequence = torch.cat([cache, x], 1)  # [B, M + T, D]
            sequences.append(sequence)
            keys, values = block.keys_and_values(sequence)
            x = block(x, keys, values, seen, distance.clamp(0, self.memory), self.waves)
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
        features = self.feature(states)
        return Rollout(
            features=features,
            policy=features,
            posterior=posterior,
            prior=self.prior(output),
            last={"latent": latent[:, -1], "output": output[:, -1]}
            | {key: v[:, 0] for key, v in end.items()},
            kept={}
            if keep is None
            else {key: keep_steps(keep, leaf) for key, leaf in states.items()} | memories(keep),
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
        distance = torch.arange(self.memory, -1, -1, device=inputs.device)[None]  # [1, M + 1]
        seen = distance < length[:, None, None]  # [B, 1, M + 1]
        x = inputs[:, None]
        cached = {key: state[key] for key in ("memory", "keys", "values") if key in state}
        grown: dict[str, list[Tensor]] = {key: [] for key in cached}
        for number, block in enumerate(self._layers()):
            if "memory" in cached:
                new = {"memory": x}
                sequence = torch.cat([cached["memory"][:, number].to(x.dtype), x], 1)
                keys, values = block.keys_and_values(sequence)
                grown["memory"].append(sequence[:, 1:])
            else:
                new = dict(zip(("keys", "values"), block.keys_and_values(x), strict=True))
                keys, values = (
                    torch.cat([cached[key][:, number].to(x.dtype), new[key]], 1) for key in ("keys", "values")
                )
                grown["keys"].append(keys[:, 1:])
                grown["values"].append(values[:, 1:])
            x = block(x, keys, values, seen, distance, self.waves)
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
        self, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor, distance: Tensor, waves: Tensor
    ) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`.

        Args:
            x: the inputs of T steps.
            keys, values: `[B, n, D]` of the n steps there are.
            seen: `[B, T, n]` bool, which of them a step attends to.
            distance: `[T, n]` int64, how far back they lie, from 0 to M.
            waves: `[M + 1, D]`, encodings of distances.
        """
        query, key, value = (self._split(part) for part in (self.query(self.norm(x)), keys, values))
        position = self._split(self.position(waves.to(x.dtype)))  # [heads, M + 1, d]
        content = (query + self.content_bias) @ key.mT  # [B, heads, T, n]
        place = (query + self.position_bias) @ position.mT  # [B, heads, T, M + 1]
        place = place.gather(-1, distance.expand(*content.shape))
        score = widen(content + place)
        score = (score / math.sqrt(query.shape[-1])).masked_fill(~seen[:, None], -torch.inf)
        mixed = (score.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(-2)
        x = x + self.out(mixed)
        return x + self.feed_forward(self.norm2(x))

    def _split(self, x: Tensor) -> Tensor:
        """`[..., n, D]` -> `[..., heads, n, D / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def _waves(longest: int, width: int) -> Tensor:
    """Sines and cosines of the distances 0 to `longest`, `[longest + 1, width]` (Vaswani et al., 2017)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    phase = torch.arange(longest + 1)[:, None] * frequency
    return torch.cat([phase.sin(), phase.cos()], -1)

"""The residual stack of state-space layers that takes the place of the recurrent network (S4WM, figure 2)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldmodels.attention import Attention, Dream, Past
from worldmodels.base import State
from worldmodels.ssm.channels import PerChannel
from worldmodels.ssm.layer import Layer, TimeInvariant
from worldmodels.ssm.window import Keep, Window


class Block(nn.Module):
    """x + dropout-free GLU(GELU(layer(norm(x)))): the pre-norm block of S4 and S5.

    With `mlp` that is followed by x + MLP(norm(x)), of one hidden layer of D units.
    """

    def __init__(self, width: int, layer: Layer, mlp: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = layer
        self.mix = nn.Linear(width, 2 * width)
        self.mlp = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            if mlp
            else None
        )

    def forward(self, x: Tensor, state: Tensor, window: Window) -> tuple[Tensor, Tensor, Tensor | None]:
        """x `[B, T, D]`, state `[B, ...]` -> as x, last state, kept `[B, n, ...]`."""
        y, last, kept = self.layer(self.norm(x), state, window)
        return self._add(x, y), last, kept

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x `[B, D]`, state `[B, ...]` -> `[B, D]`, next state."""
        y, state = self.layer.step(self.norm(x), state)
        return self._add(x, y), state

    def respond(self, x: Tensor, response: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
        """The step without a state: x `[B, D]`, response `[h, B, D]`, taps `[H, 1, D]` with H >= h.

        `response` is what the layer will output at this and later steps if its inputs are zero from now on;
        an input adds the layer's impulse response to it, in place where no gradient is recorded.
        """
        u = self.norm(x)
        y = torch.addcmul(response[0], taps[0], u)
        later, taps = response[1:], taps[1 : len(response)]
        # In place the responses stay in the cache: 2.5 times as fast at 256 starts of 704 channels.
        after = torch.addcmul(later, taps, u) if torch.is_grad_enabled() else later.addcmul_(taps, u)
        return self._add(x, y), after

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + F.glu(self.mix(F.gelu(y)), -1)
        return x if self.mlp is None else x + self.mlp(x)


class Stack(nn.Module):
    """`layers` blocks and a final norm. Its state is one tensor `[B, layers, ...]`.

    Behind some blocks there may be attention. What that looks back at is not in the state: whoever calls a
    stack with attention gives it `past`, made of `attention` and what is remembered (`attention.py`).

    Runs in float32 even under autocast: the recurrence over thousands of steps needs it.

    Args:
        width: D.
        layers: L.
        make_layer: makes the state-space layer of a block.
        checkpointing: store only each block's input for a window, and recompute the block in the backward
            pass: memory of one block instead of all, for one more forward pass.
        mlp_every: an MLP follows each so manieth layer; with 2, two `Block`s are one block of the S4WM paper
            (its figure of the architecture). 0 for none.
        attention: behind which blocks there is attention, counted from 0, and the layers in that order.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        make_layer: Callable[[], Layer],
        checkpointing: bool = False,
        mlp_every: int = 0,
        attention: Mapping[int, Attention] | None = None,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        with_mlp = [bool(mlp_every) and number % mlp_every == 0 for number in range(1, layers + 1)]
        self.blocks: Any = nn.ModuleList(Block(width, make_layer(), mlp) for mlp in with_mlp)
        self.norm = nn.LayerNorm(width)
        attention = attention or {}
        self.attention: Any = nn.ModuleList(attention.values())
        self._behind = {block: number for number, block in enumerate(attention)}

    def initial(self, batch_size: int) -> Tensor:
        """Zero state `[B, layers, ...]`."""
        return torch.stack([block.layer.initial(batch_size) for block in self.blocks], 1)

    def forward(
        self,
        x: Tensor,
        state: Tensor,
        is_first: Tensor,
        keep: Keep = None,
        past: Past | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The window: x `[B, T, D]`, state `[B, layers, ...]`, is_first `[B, T]`, `past` for attention.

        Returns:
            `[B, T, D]`, last state `[B, layers, ...]`, and the states after the steps to `keep`,
            `[B, n, layers, ...]`, or None if there are none to keep.
        """
        window = Window(is_first, keep)
        with _autocast_off(x.device.type):
            x = x.to(state.dtype)
            lasts, kepts = [], []
            for number, before in enumerate(state.unbind(1)):
                run: Any = functools.partial(self._run, number, past)
                if self.checkpointing and torch.is_grad_enabled():
                    run = functools.partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)
                x, last, kept = run(x, before, window)
                lasts.append(last)
                kepts.append(kept)
            return self.norm(x), torch.stack(lasts, 1), None if keep is None else torch.stack(kepts, 2)

    def step(self, x: Tensor, state: Tensor, past: Past | Dream | None = None) -> tuple[Tensor, Tensor]:
        """x `[B, D]`, state `[B, layers, ...]` -> `[B, D]`, next state."""
        with _autocast_off(x.device.type):
            x = x.to(state.dtype)
            collected = []
            for number, before in enumerate(state.unbind(1)):
                x, after = self.blocks[number].step(x, before)
                x = self._attended(number, x[:, None], past)[:, 0]
                collected.append(after)
            return self.norm(x), torch.stack(collected, 1)

    def hold(self) -> None:
        """Compute what `step` needs of the parameters, where layers cache it: compiled steps rely on it."""
        for block in self.blocks:
            if isinstance(block.layer, TimeInvariant):
                block.layer.discretise()

    def responses(self, state: Tensor, horizon: int) -> dict[str, Tensor] | None:
        """What replaces the state over the next `horizon` steps: two entries per layer, or None.

        Layers with an input and an output of their own for each channel can be stepped without a state: the
        response to the start state over the whole horizon is one matrix product, and each later input adds
        its impulse response. Other layers are cheaper to step.

        Returns:
            `response<n>` `[horizon, B, D]` and `taps<n>`, the impulse response, `[horizon, 1, D]`.
        """
        if not all(isinstance(block.layer, PerChannel) for block in self.blocks):
            return None
        entries = {}
        with _autocast_off(state.device.type):
            for number, block in enumerate(self.blocks):
                of_layer = block.layer.response(1 << (horizon - 1).bit_length())
                free = state[:, number].flatten(2).transpose(0, 1) @ of_layer.read[..., :horizon]
                entries[f"response{number}"] = free.permute(2, 1, 0).contiguous()
                entries[f"taps{number}"] = of_layer.taps[:, :horizon].t()[:, None].contiguous()
        return entries

    def remembered(self, state: State) -> State:
        """What attention needs of a state for a dream: `Dream.prepare`."""
        with _autocast_off(state["cache"].device.type):
            return Dream.prepare(self.attention, state)

    def respond(
        self, x: Tensor, entries: dict[str, Tensor], past: Past | Dream | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`step` with the entries of `responses` for a state: x `[B, D]` -> `[B, D]`, next entries.

        Without gradients the entries are overwritten: use the returned ones for the next step, and the given
        ones no more.
        """
        if not len(entries["response0"]):
            raise ValueError(
                f"the state was prepared for {len(entries['taps0'])} steps, and they are done; prepare "
                f"it for more, or step the state itself"
            )
        after = dict(entries)
        with _autocast_off(x.device.type):
            x = x.to(entries["response0"].dtype)
            for number, block in enumerate(self.blocks):
                name = f"response{number}"
                x, after[name] = block.respond(x, entries[name], entries[f"taps{number}"])
                x = self._attended(number, x[:, None], past)[:, 0]
            return self.norm(x), after

    def _run(
        self, number: int, past: Past | None, x: Tensor, state: Tensor, window: Window
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """A block and the attention behind it, as the block's `forward`."""
        x, last, kept = self.blocks[number](x, state, window)
        return self._attended(number, x, past), last, kept

    def _attended(self, number: int, x: Tensor, past: Past | Dream | None) -> Tensor:
        """x `[B, T, D]` behind a block -> behind its attention, if it has one."""
        return past.attend(self._behind[number], x) if past and number in self._behind else x


def _autocast_off(device: str) -> contextlib.AbstractContextManager:
    """Autocast switched off, at no cost where it is off."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()

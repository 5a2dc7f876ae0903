"""The residual stack of state-space layers that takes the place of the recurrent network (S4WM, figure 2)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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

    Runs in float32 even under autocast: the recurrence over thousands of steps needs it.

    Args:
        width: D.
        layers: L.
        make_layer: makes the state-space layer of a block.
        checkpointing: store only each block's input for a window, and recompute the block in the backward
            pass: memory of one block instead of all, for one more forward pass.
        mlp_every: an MLP follows each so manieth layer; with 2, two `Block`s are one block of the S4WM paper
            (its figure of the architecture). 0 for none.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        make_layer: Callable[[], Layer],
        checkpointing: bool = False,
        mlp_every: int = 0,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        with_mlp = [bool(mlp_every) and number % mlp_every == 0 for number in range(1, layers + 1)]
        self.blocks: Any = nn.ModuleList(Block(width, make_layer(), mlp) for mlp in with_mlp)
        self.norm = nn.LayerNorm(width)

    def initial(self, batch_size: int) -> Tensor:
        """Zero state `[B, layers, ...]`."""
        return torch.stack([block.layer.initial(batch_size) for block in self.blocks], 1)

    def forward(
        self, x: Tensor, state: Tensor, is_first: Tensor, keep: Keep = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The window: x `[B, T, D]`, state `[B, layers, ...]`, is_first `[B, T]`.

        Returns:
            `[B, T, D]`, last state `[B, layers, ...]`, and the states after the steps to `keep`,
            `[B, n, layers, ...]`, or None if there are none to keep.
        """
        window = Window(is_first, keep)
        with _autocast_off(x.device.type):
            x = x.to(state.dtype)
            lasts, kepts = [], []
            for block, before in zip(self.blocks, state.unbind(1), strict=True):
                if self.checkpointing and torch.is_grad_enabled():
                    block = functools.partial(
                        checkpoint, block, use_reentrant=False, preserve_rng_state=False
                    )
                x, last, kept = block(x, before, window)
                lasts.append(last)
                kepts.append(kept)
            return self.norm(x), torch.stack(lasts, 1), None if keep is None else torch.stack(kepts, 2)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x `[B, D]`, state `[B, layers, ...]` -> `[B, D]`, next state."""
        with _autocast_off(x.device.type):
            x = x.to(state.dtype)
            collected = []
            for block, before in zip(self.blocks, state.unbind(1), strict=True):
                x, after = block.step(x, before)
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

    def respond(self, x: Tensor, entries: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
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
            return self.norm(x), after


def _autocast_off(device: str) -> contextlib.AbstractContextManager:
    """Autocast switched off, at no cost where it is off."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()

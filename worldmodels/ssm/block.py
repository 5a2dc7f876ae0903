"""The residual stack of state-space layers that takes the place of the recurrent network (S4WM, figure 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.ssm.keep import Keep


class Block(nn.Module):
    """x + dropout-free GLU(GELU(layer(norm(x)))): the pre-norm block of S4 and S5."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer: Any = layer  # a module with `initial`, `forward` and `step`
        self.mix = nn.Linear(width, 2 * width)

    def forward(
        self, x: Tensor, state: Tensor, is_first: Tensor, keep: Keep = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """x `[B, T, D]`, state `[B, ...]`, is_first `[B, T]` -> as x, last state, kept `[B, n, ...]`."""
        y, last, kept = self.layer(self.norm(x), state, is_first, keep)
        return x + F.glu(self.mix(F.gelu(y)), -1), last, kept

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x `[B, D]`, state `[B, ...]` -> `[B, D]`, next state."""
        y, state = self.layer.step(self.norm(x), state)
        return x + F.glu(self.mix(F.gelu(y)), -1), state


class Stack(nn.Module):
    """`layers` blocks and a final norm. Its state is one tensor `[B, layers, ...]`.

    Runs in float32 whatever autocast says outside: the recurrence over thousands of steps needs it.
    """

    def __init__(self, width: int, layers: int, make_layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(Block(width, make_layer()) for _ in range(layers))
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
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(state.dtype)
            lasts, kepts = [], []
            for number, block in enumerate(self.blocks):
                x, last, kept = block(x, state[:, number], is_first, keep)
                lasts.append(last)
                kepts.append(kept)
            return self.norm(x), torch.stack(lasts, 1), None if keep is None else torch.stack(kepts, 2)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x `[B, D]`, state `[B, layers, ...]` -> `[B, D]`, next state."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(state.dtype)
            collected = []
            for number, block in enumerate(self.blocks):
                x, after = block.step(x, state[:, number])
                collected.append(after)
            return self.norm(x), torch.stack(collected, 1)

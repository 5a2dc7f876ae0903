"""Small layers of every kind, inputs for them, and their steps one after the other."""

from collections.abc import Callable

import torch
from torch import Tensor

from worldmodels.base import reset_rows
from worldmodels.ssm import LRU, S4, S4D, S5, Layer, Mamba2, SelectiveLRU, Stack

WIDTH = 6


def selecting(layer: SelectiveLRU) -> SelectiveLRU:
    """With weights of its selection, which is 0 at first."""
    torch.nn.init.normal_(layer.select)
    return layer


MAKERS: dict[str, Callable[[], Layer]] = {
    "s5": lambda: S5(WIDTH, state_size=8, blocks=2),
    "s4d-legs": lambda: S4D(WIDTH, state_size=4),
    "s5-unit": lambda: S5(WIDTH, state_size=8, blocks=2, input_scale="unit"),
    "s4d-unit": lambda: S4D(WIDTH, state_size=4, input_scale="unit"),
    "s4d-lin": lambda: S4D(WIDTH, state_size=4, init="lin"),
    "s4d-bilinear": lambda: S4D(WIDTH, state_size=4, discretisation="bilinear"),
    "s4": lambda: S4(WIDTH, state_size=4, dt_min=1e-3, dt_max=1e-1),
    "lru": lambda: LRU(WIDTH, state_size=8, r_min=0.5, r_max=0.999, max_phase=6.28),
    "mamba2": lambda: Mamba2(WIDTH, state_size=4, head_size=3, dt_min=1e-3, dt_max=1e-1),
    "selective_lru": lambda: selecting(
        SelectiveLRU(WIDTH, 8, r_min=0.5, r_max=0.999, max_phase=1.6, heads=4)
    ),
}


def sequence(
    layer: Layer | Stack, batch: int, steps: int, seed: int = 1, width: int = WIDTH
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs `[B, T, D]`, a state that is not zero, and random resets."""
    torch.manual_seed(seed)
    u = torch.randn(batch, steps, width, dtype=torch.float64)
    state = torch.randn_like(layer.initial(batch))
    return u, state, torch.rand(batch, steps) < 0.1


def stepped(layer: Layer | Stack, u: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and states of `step`, one after the other, with the state zeroed where `is_first`."""
    outputs, states = [], []
    for t in range(u.shape[1]):
        y, state = layer.step(u[:, t], reset_rows(is_first[:, t], state))
        outputs.append(y)
        states.append(state)
    return torch.stack(outputs, 1), torch.stack(states, 1)

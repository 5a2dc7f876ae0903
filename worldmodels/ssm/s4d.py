"""S4D: an independent diagonal state-space system for every channel (Gu, Gupta, Goel, Re, NeurIPS 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodels.ssm.hippo import DiagonalSystem, hippo_normal, log_steps
from worldmodels.ssm.scan import linear_recurrence


class S4D(DiagonalSystem):
    """D systems of one input, one output and N/2 complex modes: y_t = 2 Re(C x_t) + D u_t by channel.

    Initialisation as published: A from the normal part of HiPPO-LegS (`legs`) or -1/2 + i pi n (`lin`),
    B = 1, C complex normal, zero-order hold with one step size a channel, log-uniform in [dt_min, dt_max].

    The sequence is computed by the same recurrence as S5's, so resets are exact and every state is at hand,
    at the price of `[B, T, D, N/2]` complex numbers of memory a layer.

    Args:
        width: D, channels.
        state_size: N/2, complex modes a channel.
        init: `legs` or `lin`.
        dt_min, dt_max: range of the initial step sizes, in environment steps.
        input_scale: `zoh` as published, or `unit`; see `DiagonalSystem`.
    """

    def __init__(
        self,
        width: int,
        state_size: int,
        init: str = "legs",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        input_scale: str = "zoh",
    ) -> None:
        super().__init__(input_scale)
        if init not in ("legs", "lin"):
            raise ValueError(f"S4D: init must be 'legs' or 'lin', got {init!r} (ssm.init)")
        self.state_shape = (width, state_size, 2)
        if init == "legs":
            frequency = hippo_normal(2 * state_size)[0].imag.float()
        else:
            frequency = math.pi * torch.arange(state_size, dtype=torch.float32)
        self.log_decay = nn.Parameter(torch.full((width, state_size), math.log(0.5)))
        self.frequency = nn.Parameter(frequency.repeat(width, 1))  # [D, N/2]
        self.log_dt = nn.Parameter(log_steps(width, dt_min, dt_max)[:, None])  # [D, 1]
        self.c = nn.Parameter(torch.randn(width, state_size, 2) * math.sqrt(0.5))
        self.d = nn.Parameter(torch.randn(width))

    def initial(self, batch_size: int) -> Tensor:
        """Zero state `[B, D, N/2, 2]` (real and imaginary part)."""
        return self.d.new_zeros(batch_size, *self.state_shape)

    def forward(self, u: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """u `[B, T, D]`, state `[B, D, N/2, 2]`, is_first `[B, T]` -> y as u, states `[B, T, D, N/2, 2]`."""
        decay, scale = self.discretise()
        x = linear_recurrence(
            decay, u[..., None] * scale, torch.view_as_complex(state.contiguous()), is_first
        )
        return self._output(x, u), torch.view_as_real(x)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the same: u `[B, D]`, state `[B, D, N/2, 2]` -> y `[B, D]`, next state."""
        decay, scale = self.discretise()
        x = torch.addcmul(u[..., None] * scale, decay, torch.view_as_complex(state.contiguous()))
        return self._output(x, u), torch.view_as_real(x)

    def _output(self, x: Tensor, u: Tensor) -> Tensor:
        return 2 * (torch.view_as_complex(self.c) * x).real.sum(-1) + self.d * u

"""S5: one diagonal state-space system for all channels (Smith, Warrington, Linderman, ICLR 2023)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.ssm.hippo import DiagonalSystem, hippo_normal, log_steps
from worldmodels.ssm.scan import linear_recurrence


class S5(DiagonalSystem):
    """x_t = Abar x_{t-1} + Bbar u_t, y_t = 2 Re(C x_t) + D u_t; Abar is diagonal, conjugates are left out.

    Initialisation as published (section 3.3 and appendix B.1): A = block-diagonal HiPPO-N, B and C drawn real
    and rotated into its eigenbasis, zero-order hold with one step size a mode, log-uniform in [dt_min,
    dt_max]. Re(A) = -exp(.) keeps the system stable whatever training does.

    Args:
        width: D, channels in and out.
        state_size: P, complex modes kept (half of the conjugate pairs' real dimension).
        blocks: J, copies of HiPPO-N on the diagonal; must divide `state_size`.
        dt_min, dt_max: range of the initial step sizes, in environment steps.
        input_scale: `zoh` as published, or `unit`; see `DiagonalSystem`.
    """

    def __init__(
        self,
        width: int,
        state_size: int,
        blocks: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        input_scale: str = "zoh",
    ) -> None:
        super().__init__(input_scale)
        if state_size % blocks:
            raise ValueError(f"S5: state_size {state_size} must be divisible by blocks {blocks} (ssm.blocks)")
        self.state_shape = (state_size, 2)
        values, vectors = hippo_normal(2 * state_size // blocks)  # [P/J], [2P/J, P/J]
        values = values.repeat(blocks)
        self.log_decay = nn.Parameter(torch.log(-values.real).float())  # [P]
        self.frequency = nn.Parameter(values.imag.clone().float())  # [P]
        self.log_dt = nn.Parameter(log_steps(state_size, dt_min, dt_max))  # [P]
        real_b = torch.randn(blocks, vectors.shape[0], width, dtype=torch.float64) / math.sqrt(width)
        b = (vectors.conj().t() @ real_b.to(vectors.dtype)).reshape(state_size, width)
        real_c = torch.randn(width, blocks, vectors.shape[0], dtype=torch.float64) / math.sqrt(2 * state_size)
        c = (real_c.to(vectors.dtype) @ vectors).reshape(width, state_size)
        # Real matrices whose columns (rows) are real and imaginary in turn: a matmul gives a complex view.
        self.b = nn.Parameter(torch.view_as_real(b).movedim(2, 1).reshape(2 * state_size, width).float())
        self.c = nn.Parameter(
            torch.view_as_real(c.conj().resolve_conj()).flatten(1).float()
        )  # [D, 2P], Re(Cx) = c . (Re x, Im x)
        self.d = nn.Parameter(torch.randn(width))

    def initial(self, batch_size: int) -> Tensor:
        """Zero state `[B, P, 2]` (real and imaginary part)."""
        return self.d.new_zeros(batch_size, *self.state_shape)

    def forward(self, u: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """u `[B, T, D]`, state `[B, P, 2]`, is_first `[B, T]` -> y `[B, T, D]`, states `[B, T, P, 2]`."""
        decay, scale = self.discretise()
        inputs = torch.view_as_complex(F.linear(u, self.b).unflatten(-1, self.state_shape)) * scale
        x = linear_recurrence(decay, inputs, torch.view_as_complex(state.contiguous()), is_first)
        states = torch.view_as_real(x)
        return self._output(states, u), states

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the same: u `[B, D]`, state `[B, P, 2]` -> y `[B, D]`, next state `[B, P, 2]`."""
        decay, scale = self.discretise()
        inputs = torch.view_as_complex(F.linear(u, self.b).unflatten(-1, self.state_shape)) * scale
        state = torch.view_as_real(torch.addcmul(inputs, decay, torch.view_as_complex(state.contiguous())))
        return self._output(state, u), state

    def _output(self, states: Tensor, u: Tensor) -> Tensor:
        return 2 * F.linear(states.flatten(-2), self.c) + self.d * u

"""S5: one diagonal state-space system for all channels (Smith, Warrington, Linderman, ICLR 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodels.ssm.hippo import INPUT_SCALES, check_choice, discretise_diagonal, hippo_normal, log_steps
from worldmodels.ssm.mimo import MIMO


class S5(MIMO):
    """x_t = Abar x_{t-1} + Bbar u_t, y_t = 2 Re(C x_t) + D u_t; Abar is diagonal, conjugates are left out.

    Initialisation as published (section 3.3 and appendix B.1): A = block-diagonal HiPPO-N, B and C drawn real
    and rotated into its eigenbasis, zero-order hold with one step size per mode, log-uniform in [dt_min,
    dt_max]. Re(A) = -exp(.) keeps the system stable whatever training does. A, B and the step sizes are
    a separate parameter group, as in the authors' code (train_helpers.py, "standard").

    Args:
        width: D, channels in and out.
        state_size: P, complex modes kept (half of the conjugate pairs' real dimension).
        blocks: J, copies of HiPPO-N on the diagonal; must divide `state_size`.
        dt_min, dt_max: range of the initial step sizes, in environment steps.
        input_scale: `bbar` as published, or `unit`; see `discretise_diagonal`.
    """

    DYNAMICS = ("log_decay", "frequency", "log_dt", "b")
    readout = 2.0

    def __init__(
        self,
        width: int,
        state_size: int,
        blocks: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        input_scale: str = "bbar",
    ) -> None:
        super().__init__()
        check_choice("s4wm.s5.input_scale", input_scale, INPUT_SCALES)
        if state_size % blocks:
            raise ValueError(
                f"S5: state_size {state_size} must be divisible by blocks {blocks} (s4wm.s5.blocks)"
            )
        self.state_shape, self.input_scale = (state_size, 2), input_scale
        values, vectors = hippo_normal(2 * state_size // blocks)  # [P/J], [2P/J, P/J]
        values = values.repeat(blocks)
        self.log_decay = nn.Parameter(torch.log(-values.real).float())  # [P]
        self.frequency = nn.Parameter(values.imag.clone().float())  # [P]
        self.log_dt = nn.Parameter(log_steps(state_size, dt_min, dt_max))  # [P]
        real_b = torch.randn(blocks, vectors.shape[0], width, dtype=torch.float64) / math.sqrt(width)
        b = (vectors.conj().t() @ real_b.to(vectors.dtype)).reshape(state_size, width)
        real_c = torch.randn(width, blocks, vectors.shape[0], dtype=torch.float64) / math.sqrt(2 * state_size)
        c = (real_c.to(vectors.dtype) @ vectors).reshape(width, state_size)
        self.b = nn.Parameter(torch.view_as_real(b).movedim(2, 1).reshape(2 * state_size, width).float())
        self.c = nn.Parameter(torch.view_as_real(c.conj().resolve_conj()).flatten(1).float())
        self.d = nn.Parameter(torch.randn(width))

    def log_abar(self) -> Tensor:
        """Logarithms of |Abar|, `[P]`, below 0."""
        return self.log_dt.exp() * -self.log_decay.exp()

    def _modes(self) -> tuple[Tensor, Tensor]:
        dt, real = self.log_dt.exp(), -self.log_decay.exp()
        return discretise_diagonal(real, self.frequency, dt, input_scale=self.input_scale)

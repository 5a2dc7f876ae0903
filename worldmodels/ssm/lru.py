"""LRU: a diagonal linear recurrence without a system in continuous time (Orvieto et al., ICML 2023)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodels.ssm.mimo import MIMO


class LRU(MIMO):
    """x_t = lambda x_{t-1} + gamma B u_t, y_t = Re(C x_t) + D u_t; lambda = exp(-exp(nu) + i exp(theta)).

    Parameters and initialisation as published (section 3, appendix A): |lambda|^2 uniform in [r_min^2,
    r_max^2], phase uniform in [0, max_phase], gamma = sqrt(1 - |lambda|^2) and learned from there on, B
    complex normal of variance 1 / D, C of 2 / P, since half of it is lost with the imaginary part. |lambda|
    < 1 whatever training does.

    Args:
        width: D, channels in and out.
        state_size: P, complex modes.
        r_min, r_max: ring of the initial |lambda|; the memory of a mode is about 1 / (1 - |lambda|) steps.
        max_phase: largest initial phase, radians/step: small for long memories, large to tell steps apart.
            From pi on frequencies repeat, as the real part of a mode is that of its conjugate.
    """

    DYNAMICS = ("log_decay", "log_phase", "log_scale", "b")
    readout = 1.0

    def __init__(self, width: int, state_size: int, r_min: float, r_max: float, max_phase: float) -> None:
        super().__init__()
        if not 0 <= r_min < r_max < 1:
            raise ValueError(f"s4wm.lru needs 0 <= r_min < r_max < 1, got r_min {r_min} and r_max {r_max}")
        if not 0 < max_phase <= 2 * math.pi:
            raise ValueError(f"s4wm.lru.max_phase must be in (0, 2 pi], got {max_phase}")
        self.state_shape = (state_size, 2)
        # 1 - rand is in (0, 1]: neither a modulus nor a phase is 0, whose logarithms are not finite.
        square = r_min**2 + (1 - torch.rand(state_size)) * (r_max**2 - r_min**2)
        self.log_decay = nn.Parameter(torch.log(-0.5 * torch.log(square)))  # nu [P]
        self.log_phase = nn.Parameter(torch.log(max_phase * (1 - torch.rand(state_size))))  # theta [P]
        self.log_scale = nn.Parameter(0.5 * torch.log1p(-square))  # log gamma [P]
        self.b = nn.Parameter(torch.randn(2 * state_size, width) * math.sqrt(0.5 / width))
        self.c = nn.Parameter(torch.randn(width, 2 * state_size) / math.sqrt(state_size))
        self.d = nn.Parameter(torch.randn(width))

    def log_abar(self) -> Tensor:
        """Logarithms of |Abar|, `[P]`, below 0."""
        return -self.log_decay.exp()

    def _modes(self) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.exp()
        modulus = (-self.log_decay.exp()).exp()
        return torch.polar(modulus, self.log_phase.exp()), torch.complex(scale, torch.zeros_like(scale))

"""S4D: an independent diagonal state-space system for every channel (Gu, Gupta, Goel, Re, NeurIPS 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodels.ssm.channels import PerChannel
from worldmodels.ssm.diagonal import discretise_diagonal, linear_recurrence, modulus_and_phase
from worldmodels.ssm.hippo import hippo_normal, log_steps
from worldmodels.ssm.layer import as_complex
from worldmodels.ssm.window import Window


class S4D(PerChannel):
    """D systems of M diagonal modes.

    Initialisation as published (section 4): A from the normal part of HiPPO-LegS (`legs`) or
    -1/2 + i pi n (`lin`), B = 1 (fixed: only its product with C matters), C complex normal, one step size per
    channel, log-uniform in [dt_min, dt_max]. Re(A) = -exp(.) keeps the system stable.

    A window is computed in chunks, and the states only where they are asked for. If all of them are, the
    recurrence yields them directly, at the cost of `[B, T, D, M]` complex numbers of memory.

    Args:
        width: D, channels.
        state_size: M, complex modes per channel.
        init: `legs` or `lin`.
        dt_min, dt_max: range of the initial step sizes, in environment steps.
        discretisation: `zoh` or `bilinear`.
        input_scale: `bbar` as published, or `unit`; see `discretise_diagonal`.
    """

    DYNAMICS = ("log_decay", "frequency", "log_dt")

    def __init__(
        self,
        width: int,
        state_size: int,
        init: str = "legs",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        discretisation: str = "zoh",
        input_scale: str = "bbar",
    ) -> None:
        super().__init__()
        self.discretisation, self.input_scale = discretisation, input_scale
        self.state_shape = (width, state_size, 2)
        if init == "legs":
            frequency = hippo_normal(2 * state_size)[0].imag.float()
        else:
            frequency = math.pi * torch.arange(state_size, dtype=torch.float32)
        self.log_decay = nn.Parameter(torch.full((width, state_size), math.log(0.5)))
        self.frequency = nn.Parameter(frequency.repeat(width, 1))  # [D, M]
        self.log_dt = nn.Parameter(log_steps(width, dt_min, dt_max)[:, None])  # [D, 1]
        self._make_readout()

    def forward(self, u: Tensor, state: Tensor, window: Window) -> tuple[Tensor, Tensor, Tensor | None]:
        if not isinstance(window.keep, str):
            return super().forward(u, state, window)
        abar, scale = self.discretise()
        x = linear_recurrence(abar, u[..., None] * scale, as_complex(state), window.is_first)  # [B, T, D, M]
        states = torch.view_as_real(x)
        return self._output(x, u), states[:, -1], states

    def response(self, length: int) -> DiagonalResponse:
        return DiagonalResponse(self, length)

    def log_abar(self) -> Tensor:
        return modulus_and_phase(*self._rates(), self.discretisation)[0]  # [D, M]

    def _rates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Real and imaginary parts of A, and the step sizes."""
        return -self.log_decay.exp(), self.frequency, self.log_dt.exp()

    def _discretise(self) -> tuple[Tensor, Tensor]:
        """Abar and the factor of the inputs, `[D, M]` complex."""
        return discretise_diagonal(*self._rates(), self.discretisation, self.input_scale)

    def _advance(self, x: Tensor, u: Tensor) -> Tensor:
        abar, scale = self.discretise()
        return torch.addcmul(u * scale, abar, x)


class DiagonalResponse:
    """`Response` of S4D, from tables of the powers of Abar."""

    def __init__(self, layer: S4D, length: int) -> None:
        log_modulus, phase = modulus_and_phase(*layer._rates(), layer.discretisation)
        # A phase of many turns would lose its digits when it is multiplied by the number of steps.
        phase = torch.atan2(phase.sin(), phase.cos())
        k = torch.arange(length + 1, dtype=phase.dtype, device=phase.device)[:, None]
        modulus, angle = (k * log_modulus[:, None]).exp(), k * phase[:, None]  # [D, length + 1, M]
        real, imag = modulus * angle.cos(), modulus * angle.sin()
        self.scale = layer.discretise()[1]
        b_real, b_imag = self.scale.real[:, None], self.scale.imag[:, None]
        c_real, c_imag = 2 * layer.c[:, None, :, 0], 2 * layer.c[:, None, :, 1]
        reach = torch.stack([b_real * real - b_imag * imag, b_real * imag + b_imag * real], -1)
        taps = (c_real * reach[..., 0] - c_imag * reach[..., 1]).sum(-1)[:, :length]
        self.taps = torch.cat([taps[:, :1] + layer.d[:, None], taps[:, 1:]], 1)
        self.write = reach[:, :length].flip(1).flatten(2)
        read = torch.stack([c_real * real - c_imag * imag, -c_real * imag - c_imag * real], -1)
        self.read = read[:, 1:].flatten(2).transpose(1, 2)
        self.powers = torch.complex(real, imag)

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        x = torch.addcmul(u[..., None] * self.scale, self.powers[:, 1], _complex(state))
        return torch.view_as_real(x).flatten(-2)

    def advance(self, state: Tensor, steps: int) -> Tensor:
        return torch.view_as_real(_complex(state) * self.powers[:, steps : steps + 1]).flatten(-2)

    def carry(self, state: Tensor, written: Tensor, fresh: Tensor) -> Tensor:
        ends = linear_recurrence(self.powers[:, -1], _complex(written), _complex(state), fresh)
        return torch.view_as_real(ends).flatten(-2)


def _complex(x: Tensor) -> Tensor:
    """`[..., 2M]` real -> `[..., M]` complex."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())

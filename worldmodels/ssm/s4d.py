"""S4D: an independent diagonal state-space system for every channel (Gu, Gupta, Goel, Re, NeurIPS 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodels.ssm.hippo import (
    DISCRETISATIONS,
    INPUT_SCALES,
    check_choice,
    discretise_diagonal,
    hippo_normal,
    log_steps,
    modulus_and_phase,
)
from worldmodels.ssm.keep import Keep
from worldmodels.ssm.scan import linear_recurrence
from worldmodels.ssm.siso import SISO


class S4D(SISO):
    """D systems of one input, one output and N/2 complex modes: y_t = 2 Re(C x_t) + D u_t by channel.

    Initialisation as published (section 4): A from the normal part of HiPPO-LegS (`legs`) or
    -1/2 + i pi n (`lin`), B = 1 (fixed: only its product with C matters), C complex normal, one step size per
    channel, log-uniform in [dt_min, dt_max]. Re(A) = -exp(.) keeps the system stable.

    A window is computed in chunks, and the states only where they are asked for. If all of them are, the
    recurrence yields them directly, at the cost of `[B, T, D, N/2]` complex numbers of memory.

    Args:
        width: D, channels.
        state_size: N/2, complex modes per channel.
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
        check_choice("s4wm.s4d.init", init, ("legs", "lin"))
        check_choice("s4wm.s4d.discretisation", discretisation, DISCRETISATIONS)
        check_choice("s4wm.s4d.input_scale", input_scale, INPUT_SCALES)
        self.discretisation, self.input_scale = discretisation, input_scale
        self.state_shape = (width, state_size, 2)
        if init == "legs":
            frequency = hippo_normal(2 * state_size)[0].imag.float()
        else:
            frequency = math.pi * torch.arange(state_size, dtype=torch.float32)
        self.log_decay = nn.Parameter(torch.full((width, state_size), math.log(0.5)))
        self.frequency = nn.Parameter(frequency.repeat(width, 1))  # [D, N/2]
        self.log_dt = nn.Parameter(log_steps(width, dt_min, dt_max)[:, None])  # [D, 1]
        self._make_readout()

    def forward(
        self, u: Tensor, state: Tensor, is_first: Tensor, keep: Keep = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """u `[B, T, D]`, state `[B, D, N/2, 2]`, is_first `[B, T]` -> y as u, last state, kept states."""
        if isinstance(keep, str):
            decay, scale = self.discretise()
            x = linear_recurrence(
                decay, u[..., None] * scale, torch.view_as_complex(state.contiguous()), is_first
            )
            states = torch.view_as_real(x)
            return self._output(x, u), states[:, -1], states
        return super().forward(u, state, is_first, keep)

    def response(self, length: int) -> DiagonalResponse:
        """What the layer, D included, does over a chunk of `length` steps."""
        return DiagonalResponse(self, length)

    def log_abar(self) -> Tensor:
        """Logarithms of |Abar|, `[D, N/2]`, below 0."""
        dt, real = self.log_dt.exp(), -self.log_decay.exp()
        return modulus_and_phase(real, self.frequency, dt, self.discretisation)[0]

    def _discretise(self) -> tuple[Tensor, Tensor]:
        dt, real = self.log_dt.exp(), -self.log_decay.exp()
        return discretise_diagonal(real, self.frequency, dt, self.discretisation, self.input_scale)

    def _advance(self, x: Tensor, u: Tensor) -> Tensor:
        decay, scale = self.discretise()
        return torch.addcmul(u * scale, decay, x)


class DiagonalResponse:
    """`Response` of S4D, from tables of the powers of Abar; N = N/2 modes x (real, imaginary)."""

    def __init__(self, layer: S4D, length: int) -> None:
        dt, real = layer.log_dt.exp(), -layer.log_decay.exp()
        log_modulus, phase = modulus_and_phase(real, layer.frequency, dt, layer.discretisation)
        # A phase of many turns would lose its digits when it is multiplied by the number of steps.
        phase = torch.atan2(phase.sin(), phase.cos())
        k = torch.arange(length + 1, dtype=phase.dtype, device=phase.device)[:, None]
        modulus, angle = (k * log_modulus[:, None]).exp(), k * phase[:, None]  # [D, length + 1, N/2]
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
        x = torch.addcmul(u[..., None] * self.scale, self.powers[:, 1], torch.view_as_complex(_pairs(state)))
        return torch.view_as_real(x).flatten(-2)

    def advance(self, state: Tensor, steps: int) -> Tensor:
        moved = torch.view_as_complex(_pairs(state)) * self.powers[:, steps : steps + 1]
        return torch.view_as_real(moved).flatten(-2)

    def carry(self, state: Tensor, written: Tensor, fresh: Tensor) -> Tensor:
        ends = linear_recurrence(
            self.powers[:, -1],
            torch.view_as_complex(_pairs(written)),
            torch.view_as_complex(_pairs(state)),
            fresh,
        )
        return torch.view_as_real(ends).flatten(-2)


def _pairs(x: Tensor) -> Tensor:
    """`[..., N]` -> `[..., N/2, 2]`."""
    return x.unflatten(-1, (-1, 2)).contiguous()

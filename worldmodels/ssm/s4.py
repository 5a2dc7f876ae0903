"""S4, the layer of S4WM: HiPPO-LegS for every channel, bilinear (Gu, Goel, Re, ICLR 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodels.ssm.channels import PerChannel
from worldmodels.ssm.hippo import hippo_normal, log_steps

SHOWN = 64
"""Channels whose eigenvalues are reported: at the larger presets all of them would take half a minute."""


class S4(PerChannel):
    """D systems with A = Lambda - p p^*, in M of 2M conjugate modes.

    Initialisation as published (theorem 1 and appendix): in the eigenbasis of HiPPO-LegS's normal part Lambda
    holds its eigenvalues, p_n = sqrt(n + 1/2), B_n = sqrt(2n + 1), C complex normal, a step size per channel,
    log-uniform in [dt_min, dt_max]; every channel has its own Lambda, p, B and C. With p on both sides and
    Re(Lambda) = -exp(.), A + A^* is negative definite (Goel et al., 2022, SaShiMi, section 4.1), so that the
    bilinear Abar shortens every state, whatever training does.

    C itself is learned, not C (I - Abar^T): a window is computed in chunks, not by FFT over its length. The
    step solves with I - dt A / 2 by Woodbury's identity: diagonalised, Abar would need eigenvectors too
    ill-conditioned for float32.

    Args:
        width: D, channels.
        state_size: M, complex modes per channel.
        dt_min, dt_max: range of the initial step sizes, in environment steps.
    """

    DYNAMICS = ("log_decay", "frequency", "log_dt", "low_rank", "b")

    def __init__(self, width: int, state_size: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        self.state_shape = (width, state_size, 2)
        values, vectors = hippo_normal(2 * state_size)  # [M], [2M, M]
        n = torch.arange(2 * state_size, dtype=torch.float64)
        rotated = vectors.conj().t() @ torch.sqrt(n + 0.5).to(vectors.dtype)
        low_rank = torch.view_as_real(rotated).float().repeat(width, 1, 1)  # [D, M, 2]
        self.log_decay = nn.Parameter(torch.log(-values.real).float().repeat(width, 1))  # [D, M]
        self.frequency = nn.Parameter(values.imag.float().repeat(width, 1))  # [D, M]
        self.log_dt = nn.Parameter(log_steps(width, dt_min, dt_max)[:, None])  # [D, 1]
        self.low_rank = nn.Parameter(low_rank)  # p
        self.b = nn.Parameter(math.sqrt(2) * low_rank)
        self._make_readout()

    def response(self, length: int) -> DenseResponse:
        modes = self.state_shape[1]
        unit = torch.eye(2 * modes, dtype=self.d.dtype, device=self.d.device)
        basis = torch.view_as_complex(unit.reshape(-1, 1, modes, 2))  # [2M, 1, M]
        moved = torch.view_as_real(self._advance(basis, basis.new_zeros(1))).flatten(-2)  # [2M, D, 2M]
        impulse = self._advance(basis.new_zeros(1, modes), self.d.new_ones(1))  # [D, M]
        readout = 2 * torch.stack([self.c[..., 0], -self.c[..., 1]], -1)
        return DenseResponse(
            moved.transpose(0, 1),
            torch.view_as_real(impulse).flatten(-2),
            readout.flatten(-2),
            self.d,
            length,
        )

    @torch.no_grad()
    def log_abar(self) -> Tensor:
        """Logarithms of the moduli of Abar's eigenvalues, `[n, 2M]` on the CPU, below 0.

        Only those of at most `SHOWN` channels, evenly spaced: p p^* moves them far from Lambda's, so that
        they have to be computed.
        """
        transition = self.response(1).powers[0]
        transition = transition[:: -(-len(transition) // SHOWN)].double().cpu()
        return torch.linalg.eigvals(transition).abs().log().to(self.d.dtype)

    def _discretise(self) -> tuple[Tensor, ...]:
        """diagonal, right, left, b and p (as pairs, to take p^* x with) of Abar and Bbar in factors.

        With h = dt / 2 and G = 1 / (1 - h Lambda), by Woodbury's identity Abar = (1 - left p^*) (diagonal -
        right p^*) and Bbar = (1 - left p^*) b, where diagonal = G (1 + h Lambda), right = h G p, left =
        right / (1 + h p^* G p) and b = dt G B.
        """
        half = self.log_dt.exp() / 2
        rates = torch.complex(-self.log_decay.exp(), self.frequency)
        inverse = 1 / (1 - half * rates)
        low_rank, b = torch.view_as_complex(self.low_rank), torch.view_as_complex(self.b)
        right = half * inverse * low_rank
        # Re(inverse) > 0, so that nothing is divided by less than 1.
        inner = (low_rank.abs().square() * inverse.real).sum(-1, keepdim=True)
        left = right / (1 + 2 * half * inner)
        return inverse * (1 + half * rates), right, left, 2 * half * inverse * b, 2 * self.low_rank

    def _advance(self, x: Tensor, u: Tensor) -> Tensor:
        """(1 - dt A / 2)^-1 ((1 + dt A / 2) x + dt B u): x `[..., D, M]` complex, u `[..., D or 1, 1]`.

        For the whole of a conjugate pair, p^* x is twice the real part of the sum over its kept half.
        """
        diagonal, right, left, b, pairs = self.discretise()
        inner = (torch.view_as_real(x) * pairs).sum((-2, -1))[..., None]
        x = torch.addcmul(b * u, diagonal, x) - right * inner
        inner = (torch.view_as_real(x) * pairs).sum((-2, -1))[..., None]
        return x - left * inner


class DenseResponse:
    """`Response` of dense systems x' = x A + B u, y = x C + d u, from the powers A^1, A^2, A^4, ... of A.

    Args:
        transition: A `[D, 2M, 2M]`.
        impulse: B `[D, 2M]`, the state one step after an impulse.
        readout: C `[D, 2M]`.
        d: `[D]`.
        length: steps of a chunk, a power of 2.
    """

    def __init__(self, transition: Tensor, impulse: Tensor, readout: Tensor, d: Tensor, length: int) -> None:
        self.powers = [transition]
        reach, read = impulse[:, None], (transition @ readout[..., None])  # [D, m, 2M], [D, 2M, m]
        while reach.shape[1] < length:
            power = self.powers[-1]
            reach, read = torch.cat([reach, reach @ power], 1), torch.cat([read, power @ read], 2)
            self.powers.append(power @ power)
        taps = (reach * readout[:, None]).sum(-1)
        self.taps = torch.cat([taps[:, :1] + d[:, None], taps[:, 1:]], 1)
        self.write, self.read = reach.flip(1), read

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        new = u.t()[..., None] * self.write[:, -1:]
        return torch.baddbmm(new, state.transpose(0, 1), self.powers[0]).transpose(0, 1)

    def advance(self, state: Tensor, steps: int) -> Tensor:
        for bit, power in enumerate(self.powers):
            if steps >> bit & 1:
                state = state @ power
        return state

    def carry(self, state: Tensor, written: Tensor, fresh: Tensor) -> Tensor:
        ends, x = [], state.transpose(0, 1)  # [D, B, 2M]
        for new, erased in zip(written.unbind(1), fresh.unbind(1), strict=True):
            x = torch.baddbmm(new.transpose(0, 1), x.masked_fill(erased[:, None], 0), self.powers[-1])
            ends.append(x.transpose(0, 1))
        return torch.stack(ends, 1)

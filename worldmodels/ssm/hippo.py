"""Initialisations and discretisations that the state-space layers share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

INPUT_SCALES = ("zoh", "unit")


def hippo_normal(size: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the normal part of HiPPO-LegS, one of each conjugate pair, in float64.

    HiPPO-LegS is A[n, k] = -sqrt(2n+1) sqrt(2k+1) below the diagonal and -(n+1) on it; its normal part is
    A + p p^T with p_n = sqrt(n + 1/2) (Gu et al., 2022, S4D, section 4.1): -1/2 I and a skew-symmetric part.

    Args:
        size: order of the real system, even.

    Returns:
        eigenvalues `[size / 2]` with positive imaginary part, ascending, and eigenvectors `[size, size / 2]`.
    """
    if size < 2 or size % 2:
        raise ValueError(
            f"HiPPO-N needs an even order of at least 2, got {size}; change the layer's state_size"
        )
    n = torch.arange(size, dtype=torch.float64)
    root = torch.sqrt(2 * n + 1)
    # The skew part S of A + p p^T: -1/2 r_n r_k below the diagonal, +1/2 r_n r_k above it; -i S is Hermitian.
    product = 0.5 * root[:, None] * root[None, :]
    skew = torch.triu(product, 1) - torch.tril(product, -1)
    frequency, vectors = torch.linalg.eigh(-1j * skew)
    upper = frequency > 0
    return torch.complex(torch.full((size // 2,), -0.5, dtype=torch.float64), frequency[upper]), vectors[
        :, upper
    ]


def log_steps(count: int, dt_min: float, dt_max: float) -> Tensor:
    """Logarithms of `count` step sizes, log-uniform in [dt_min, dt_max], float32."""
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"step sizes need 0 < dt_min <= dt_max, got dt_min {dt_min} and dt_max {dt_max}")
    return math.log(dt_min) + torch.rand(count) * (math.log(dt_max) - math.log(dt_min))


class DiagonalSystem(nn.Module):
    """A diagonal A = -exp(log_decay) + i frequency, its step sizes, and their discretisation.

    Args:
        input_scale: by what the inputs of a mode are multiplied. `zoh`: (Abar - 1) / A, zero-order hold as
            published; a slow mode then takes in an impulse at a strength of about its step size. `unit`:
            sqrt(1 - |Abar|^2), so that white noise gives every mode unit variance, fast or slow (Orvieto et
            al., 2023, LRU, section 3.4).
    """

    log_decay: nn.Parameter
    frequency: nn.Parameter
    log_dt: nn.Parameter

    def __init__(self, input_scale: str) -> None:
        super().__init__()
        if input_scale not in INPUT_SCALES:
            raise ValueError(f"input_scale must be one of {', '.join(INPUT_SCALES)}, got {input_scale!r}")
        self.input_scale = input_scale
        self._held: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def discretise(self) -> tuple[Tensor, Tensor]:
        """Abar and the scale of the inputs, both complex and of the parameters' common shape.

        Abar is put together from magnitude and phase, so its modulus is below 1 by construction. Without
        gradients the result is kept until a parameter changes: acting and imagination ask at each step.
        """
        if torch.is_grad_enabled():
            # Whatever trains the parameters comes by here first. Their version alone does not tell: torch's
            # fused optimisers change parameters without counting it up.
            self._held = None
            return self._discretise()
        parameters = self.log_decay, self.frequency, self.log_dt
        key = tuple((id(p), p._version, p.data_ptr(), p.dtype) for p in parameters)
        if self._held is None or self._held[0] != key:
            self._held = key, self._discretise()
        return self._held[1]

    def _discretise(self) -> tuple[Tensor, Tensor]:
        dt = self.log_dt.exp()
        real = -self.log_decay.exp()
        abar = torch.polar((dt * real).exp(), dt * self.frequency)
        if self.input_scale == "zoh":
            return abar, (abar - 1) / torch.complex(real.expand_as(self.frequency), self.frequency)
        scale = torch.sqrt(-torch.expm1(2 * dt * real))
        return abar, torch.complex(scale, torch.zeros_like(scale))

"""Initialisations and discretisations that the state-space layers share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def hippo_normal(size: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the normal part of HiPPO-LegS, one of each conjugate pair, in float64.

    HiPPO-LegS is A[n, k] = -sqrt(2n+1) sqrt(2k+1) below the diagonal and -(n+1) on it; its normal part is
    A + p p^T with p_n = sqrt(n + 1/2) (Gu et al., 2022, S4D, section 4.1): -1/2 I plus a skew-symmetric matrix.

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


class ZeroOrderHold(nn.Module):
    """Parameters of a diagonal A and its step sizes, discretised by zero-order hold.

    A = -exp(log_decay) + i frequency is stable whatever training does.
    """

    log_decay: nn.Parameter
    frequency: nn.Parameter
    log_dt: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def discretise(self) -> tuple[Tensor, Tensor]:
        """Abar and the factor (Abar - 1) / A of the inputs, both complex and of the parameters' common shape.

        Without gradients the result is kept until a parameter changes: acting and imagination ask for it each step.
        """
        parameters = self.log_decay, self.frequency, self.log_dt
        if torch.is_grad_enabled():
            return zero_order_hold(*parameters)
        key = tuple((id(p), p._version, p.data_ptr(), p.dtype) for p in parameters)
        if self._held is None or self._held[0] != key:
            self._held = key, zero_order_hold(*parameters)
        return self._held[1]


def zero_order_hold(log_decay: Tensor, frequency: Tensor, log_dt: Tensor) -> tuple[Tensor, Tensor]:
    """Abar = exp(dt A) and (Abar - 1) / A for A = -exp(log_decay) + i frequency; any common shape, complex out.

    Abar is put together from magnitude and phase, so its modulus is below 1 by construction.
    """
    dt = log_dt.exp()
    real = -log_decay.exp()
    abar = torch.polar((dt * real).exp(), dt * frequency)
    return abar, (abar - 1) / torch.complex(real.expand_as(frequency), frequency)

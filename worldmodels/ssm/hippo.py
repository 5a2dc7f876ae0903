"""What state-space layers start from: the poles of HiPPO-LegS, and step sizes on every scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hippo_normal(size: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the normal part of HiPPO-LegS, one of each conjugate pair, in float64.

    HiPPO-LegS is A[n, k] = -sqrt(2n+1) sqrt(2k+1) below the diagonal and -(n+1) on it; its normal part is
    A + p p^T with p_n = sqrt(n + 1/2) (Gu et al., 2022, S4D, section 4.1): -1/2 I and a skew-symmetric part.

    Args:
        size: order of the real system, even.

    Returns:
        eigenvalues `[size / 2]` with positive imaginary part, ascending, and eigenvectors `[size, size / 2]`.
    """
    root = torch.sqrt(2 * torch.arange(size, dtype=torch.float64) + 1)
    # The skew part S of A + p p^T: -1/2 r_n r_k below the diagonal, +1/2 r_n r_k above it; -i S is Hermitian.
    product = 0.5 * root[:, None] * root[None, :]
    skew = torch.triu(product, 1) - torch.tril(product, -1)
    frequency, vectors = torch.linalg.eigh(-1j * skew)
    upper = frequency > 0
    return torch.complex(torch.full_like(frequency[upper], -0.5), frequency[upper]), vectors[:, upper]


def log_steps(count: int, dt_min: float, dt_max: float) -> Tensor:
    """Logarithms of `count` step sizes, log-uniform in [dt_min, dt_max], float32."""
    if dt_min > dt_max:
        raise ValueError(f"step sizes need dt_min <= dt_max, got dt_min {dt_min} and dt_max {dt_max}")
    return math.log(dt_min) + torch.rand(count) * (math.log(dt_max) - math.log(dt_min))

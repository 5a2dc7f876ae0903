"""Initialisations and discretisations that the time-invariant layers share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DISCRETISATIONS = ("zoh", "bilinear")
INPUT_SCALES = ("bbar", "unit")


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


def modulus_and_phase(
    real: Tensor, frequency: Tensor, dt: Tensor, discretisation: str
) -> tuple[Tensor, Tensor]:
    """Logarithm of the modulus, at most 0, and phase of Abar, for A = real + i frequency with real < 0.

    `zoh`: Abar = exp(dt A). `bilinear`: Abar = (1 + dt A / 2) / (1 - dt A / 2). All arguments broadcast.
    """
    if discretisation == "zoh":
        return dt * real, dt * frequency
    a, b = dt * real / 2, dt * frequency / 2
    # |1 + a + ib|^2 = |1 - a - ib|^2 + 4a.
    log_modulus = torch.log1p(4 * a / ((1 - a).square() + b.square())) / 2
    return log_modulus, torch.atan2(b, 1 + a) + torch.atan2(b, 1 - a)


def discretise_diagonal(
    real: Tensor, frequency: Tensor, dt: Tensor, discretisation: str = "zoh", input_scale: str = "bbar"
) -> tuple[Tensor, Tensor]:
    """Abar and the factor of the inputs of each mode, both complex.

    Abar is composed of modulus and phase, so that its modulus cannot exceed 1.

    Args:
        real, frequency, dt: of A = real + i frequency with real < 0, and its step sizes.
        discretisation: `zoh` or `bilinear`.
        input_scale: `bbar`: as published, (Abar - 1) / A under zero-order hold and dt / (1 - dt A / 2)
            bilinear; a slow mode then receives an impulse with a strength of about its step size. `unit`:
            sqrt(1 - |Abar|^2), so that white noise gives every mode unit variance, fast or slow (Orvieto et
            al., 2023, LRU, section 3.4).
    """
    log_modulus, phase = modulus_and_phase(real, frequency, dt, discretisation)
    abar = torch.polar(log_modulus.exp(), phase)
    if input_scale == "unit":
        log_square = 2 * dt * real if discretisation == "zoh" else 2 * log_modulus
        scale = torch.sqrt(-torch.expm1(log_square))
        return abar, torch.complex(scale, torch.zeros_like(scale))
    a = torch.complex(real.expand_as(frequency), frequency)
    return abar, (abar - 1) / a if discretisation == "zoh" else dt / (1 - dt * a / 2)


def as_complex(x: Tensor) -> Tensor:
    """`[..., 2]`, real and imaginary part -> `[...]` complex: a view where the memory layout allows one."""
    *strides, last = x.stride()
    fits = last == 1 and x.storage_offset() % 2 == 0 and all(stride % 2 == 0 for stride in strides)
    return torch.view_as_complex(x if fits else x.contiguous())


def multiply_add(inputs: Tensor, factor: Tensor, x: Tensor) -> Tensor:
    """inputs + factor * x of complex numbers as pairs, `[..., 2]` each."""
    if torch.compiler.is_compiling():  # inductor fuses real arithmetic only
        real, imag = factor.unbind(-1)
        turned = torch.stack([-x[..., 1], x[..., 0]], -1)
        return inputs + real[..., None] * x + imag[..., None] * turned
    return torch.view_as_real(torch.addcmul(as_complex(inputs), as_complex(factor), as_complex(x)))


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the `known` values of the option `name`, if `value` is none of them."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


class TimeInvariant(nn.Module):
    """A layer whose discretised system depends on parameters only, and is cached while they do not change.

    A subclass implements `_discretise`, and names in `DYNAMICS` what its authors trained without weight decay
    and with a separate learning rate: A, B and the step sizes, where these are parameters.
    """

    DYNAMICS: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[tuple, tuple[Tensor, ...]] | None = None

    def discretise(self) -> tuple[Tensor, ...]:
        """The discretised system, as the subclass defines it.

        Without gradients to the parameters it is cached until one changes: acting and imagination need it at
        each step.
        """
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters(recurse=False)):
            # Whatever trains the parameters passes here first. Their version alone does not tell: torch's
            # fused optimisers change parameters without incrementing it.
            self._held = None
            return self._discretise()
        if torch.compiler.is_compiling() and self._held is not None:
            return self._held[1]  # of `Stack.hold`; compiled code cannot compare versions
        key = tuple([(id(p), p._version, p.data_ptr()) for p in self._parameters.values() if p is not None])
        if self._held is None or self._held[0] != key:
            self._held = key, self._discretise()
        return self._held[1]

    def _discretise(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

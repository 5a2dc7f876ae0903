"""An LRU whose inputs turn and damp its modes: they choose the transition, which is what tracks a state."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.ssm.diagonal import LRU


class SelectiveLRU(LRU):
    """Abar_t = exp(-exp(nu) s(r_t) + i (exp(theta) (1 + p_t) + f_t)) by mode; r, f, p are linear in u_t.

    A product of such transitions counts: an input that turns a mode by f = 2 pi / n moves a state modulo n,
    and one that turns nothing leaves it where it was. Negative real eigenvalues, f = pi, give parity (Grazzi
    et al., ICLR 2025); complex ones of unit modulus that depend on the input are those of adaptive unitary
    SSMs (Karuvally et al., 2025) and of Mamba-3 (Lahoti et al., 2026). Rotations of the plane commute, so
    that one layer follows no permutations. Two follow those of three items, and more those of other solvable
    groups: a layer turns by an angle whose sign the one below decides (Krohn and Rhodes).

    The pace 1 + p_t is a step size of the turns alone, of either sign: at 0 what was shown waits, and at -1
    the modes turn back, so that a fixed readout passes over it in reverse order: a stack.

    s(r) = softplus(r + log(e - 1)), 1 at r = 0: the modulus is gated as in Griffin (De et al., 2024), but can
    also become 0. `select`, the weights of r, f and p, begins at 0, and with it the layer as LRU, gamma, B
    and C included: a delay that keeps the order of what was shown. |Abar_t| < 1 whatever training does.

    Args:
        width, state_size, r_min, r_max, max_phase: see `LRU`.
        heads: modes of a head share r, f and p; must divide `state_size`.
    """

    DYNAMICS = (*LRU.DYNAMICS, "select")

    def __init__(
        self, width: int, state_size: int, r_min: float, r_max: float, max_phase: float, heads: int
    ) -> None:
        super().__init__(width, state_size, r_min, r_max, max_phase)
        if state_size % heads:
            raise ValueError(
                f"SelectiveLRU: state_size {state_size} must be divisible by heads {heads} "
                f"(s4wm.selective_lru.heads)"
            )
        self.heads = heads
        self.select = nn.Parameter(torch.zeros(3 * heads, width))

    def _discretise(self) -> tuple[Tensor, ...]:
        """Logarithm of the modulus and phase without inputs, `[heads, M / heads, 2]`, and the matrices."""
        _, b, c = super()._discretise()
        still = torch.stack([self.log_abar(), self.log_phase.exp()], -1)
        return still.unflatten(0, (self.heads, -1)), b, c

    def _transition(self, system: Tensor, u: Tensor) -> Tensor:
        damp, turn, pace = F.linear(u, self.select).unflatten(-1, (3, self.heads, 1)).unbind(-3)
        modulus = (system[..., 0] * F.softplus(damp + math.log(math.e - 1))).exp()
        angle = system[..., 1] * (1 + pace) + turn
        return torch.stack([modulus * angle.cos(), modulus * angle.sin()], -1).flatten(-3, -2)

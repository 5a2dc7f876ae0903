"""One diagonal state-space system for all channels: what S5 and LRU share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.ssm.hippo import TimeInvariant, as_complex, multiply_add
from worldmodels.ssm.keep import Keep, keep_states
from worldmodels.ssm.scan import linear_recurrence


class MIMO(TimeInvariant):
    """x_t = Abar x_{t-1} + g B u_t, y_t = readout Re(C x_t) + D u_t, with Abar and g diagonal.

    A subclass sets the parameters below, `state_shape` (P, 2) and `readout`, and its `_modes` gives Abar and
    g, `[P]` complex.

    Attributes:
        b: `[2P, D]`, alternating real and imaginary rows: a matmul gives a complex view.
        c: `[D, 2P]`, alternating Re and -Im of the complex C, so that Re(C x) = c . (Re x, Im x).
        d: `[D]`.
    """

    state_shape: tuple[int, int]
    readout: float
    b: nn.Parameter
    c: nn.Parameter
    d: nn.Parameter

    def initial(self, batch_size: int) -> Tensor:
        """Zero state `[B, P, 2]` (real and imaginary part)."""
        return self.d.new_zeros(batch_size, *self.state_shape)

    def forward(
        self, u: Tensor, state: Tensor, is_first: Tensor, keep: Keep = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """u `[B, T, D]`, state `[B, P, 2]`, is_first `[B, T]` -> y as u, last state, kept `[B, n, P, 2]`."""
        abar, _, _, b, c = self.discretise()
        inputs = torch.view_as_complex(F.linear(u, b).unflatten(-1, self.state_shape))
        x = linear_recurrence(abar, inputs, as_complex(state), is_first)
        states = torch.view_as_real(x)
        y = torch.addcmul(F.linear(states.flatten(-2), c), self.d, u)
        return y, states[:, -1], keep_states(keep, states)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the same: u `[B, D]`, state `[B, P, 2]` -> y `[B, D]`, next state `[B, P, 2]`."""
        _, _, abar, b, c = self.discretise()
        inputs = F.linear(u, b).unflatten(-1, self.state_shape)
        state = multiply_add(inputs, abar, state)
        return torch.addcmul(F.linear(state.flatten(-2), c), self.d, u), state

    def _discretise(self) -> tuple[Tensor, ...]:
        """Abar and g; Abar `[P, 2]`; the matrices with all factors in them: g B like `b`, readout C."""
        abar, scale = self._modes()
        pairs = self.b.unflatten(0, self.state_shape)  # [P, 2, D]
        turned = torch.stack([-pairs[:, 1], pairs[:, 0]], 1)  # i times as much
        b = scale.real[:, None, None] * pairs + scale.imag[:, None, None] * turned
        return abar, scale, torch.view_as_real(abar), b.flatten(0, 1), self.readout * self.c

    def _modes(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

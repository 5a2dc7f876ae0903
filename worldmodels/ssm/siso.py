"""One state-space system for each channel: what S4 and S4D share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldmodels.ssm.chunk import Response, chunk_length, siso_window
from worldmodels.ssm.hippo import TimeInvariant, as_complex
from worldmodels.ssm.keep import Keep


class SISO(TimeInvariant):
    """D systems of one input, one output and N/2 complex modes: y_t = 2 Re(C x_t) + D u_t by channel.

    A subclass creates dynamics, then the readout (`_make_readout`), and implements `response`, `_advance`.

    Attributes:
        state_shape: (D, N/2, 2).
        c: `[D, N/2, 2]`, real and imaginary part.
        d: `[D]`.
    """

    state_shape: tuple[int, int, int]
    c: nn.Parameter
    d: nn.Parameter

    def _make_readout(self) -> None:
        """C complex normal and D normal, as S4 and S4D are published."""
        width, modes, _ = self.state_shape
        self.c = nn.Parameter(torch.randn(width, modes, 2) * math.sqrt(0.5))
        self.d = nn.Parameter(torch.randn(width))

    def initial(self, batch_size: int) -> Tensor:
        """Zero state `[B, D, N/2, 2]` (real and imaginary part)."""
        return self.d.new_zeros(batch_size, *self.state_shape)

    def forward(
        self, u: Tensor, state: Tensor, is_first: Tensor, keep: Keep = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """u `[B, T, D]`, state `[B, D, N/2, 2]`, is_first `[B, T]` -> y as u, last state, kept states."""
        response = self.response(chunk_length(u.shape[1]))
        y, last, kept = siso_window(response, u, state.flatten(-2), is_first, keep)
        return y, last.unflatten(-1, (-1, 2)), None if kept is None else kept.unflatten(-1, (-1, 2))

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the same: u `[B, D]`, state `[B, D, N/2, 2]` -> y `[B, D]`, next state."""
        x = self._advance(as_complex(state), u[..., None])
        return self._output(x, u), torch.view_as_real(x)

    def response(self, length: int) -> Response:
        """What the layer, D included, does over a chunk of `length` steps, a power of 2."""
        raise NotImplementedError

    def _advance(self, x: Tensor, u: Tensor) -> Tensor:
        """The state one step later: x `[..., D, N/2]` complex, u `[..., D or 1, 1]`."""
        raise NotImplementedError

    def _output(self, x: Tensor, u: Tensor) -> Tensor:
        (c_real, c_imag), (real, imag) = self.c.unbind(-1), torch.view_as_real(x).unbind(-1)
        y = torch.addcmul(c_real * real, c_imag, imag, value=-1).sum(-1)
        return torch.add(self.d * u, y, alpha=2)

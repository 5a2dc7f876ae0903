"""A system of one input and one output for each channel, computed in chunks: what S4 and S4D share."""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.ssm.layer import TimeInvariant, as_complex
from worldmodels.ssm.window import Window


class Response(Protocol):
    """What the D systems of a layer do over a chunk; their states are 2M real numbers."""

    taps: Tensor
    """`[D, length]`: y_t in response to an impulse at 0."""
    write: Tensor
    """`[D, length, 2M]`: the state after the chunk in response to an impulse at each step."""
    read: Tensor
    """`[D, 2M, length]`: y at each step in response to the state before the chunk."""

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        """State `[B, D, 2M]` and inputs `[B, D]` -> the state one step later."""
        ...

    def advance(self, state: Tensor, steps: int) -> Tensor:
        """States `[D, B, 2M]` moved on by 1 to length steps without inputs."""
        ...

    def carry(self, state: Tensor, written: Tensor, fresh: Tensor) -> Tensor:
        """States at the ends of n chunks: state `[B, D, 2M]`, written `[B, n, D, 2M]` -> shaped as `written`.

        The state before a chunk does not reach its end where it is `fresh` `[B, n]`.
        """
        ...


class PerChannel(TimeInvariant):
    """D systems of M complex modes: x_t = Abar x_{t-1} + Bbar u_t, y_t = 2 Re(C x_t) + d u_t by channel.

    A subclass creates its dynamics, then the readout (`_make_readout`), and implements `response`, `_advance`
    and the rest of a layer. State: `[B, D, M, 2]`.

    Attributes:
        c: `[D, M, 2]`, real and imaginary part.
        d: `[D]`.
    """

    state_shape: tuple[int, int, int]
    c: nn.Parameter

    def _make_readout(self) -> None:
        """C complex normal and d normal, as S4 and S4D are published."""
        width, modes, _ = self.state_shape
        self.c = nn.Parameter(torch.randn(width, modes, 2) * math.sqrt(0.5))
        self.d = nn.Parameter(torch.randn(width))

    def forward(self, u: Tensor, state: Tensor, window: Window) -> tuple[Tensor, Tensor, Tensor | None]:
        """Within a chunk y = u toeplitz(taps) + x read; from chunk to chunk x' = Abar^length x + u write."""
        chunks = window.chunks
        response = self.response(chunks.length)
        state = state.flatten(-2)  # [B, D, 2M]
        inputs = chunks.rows(u).permute(2, 0, 1).contiguous()  # [D, R + X, length]
        written = (inputs[:, : chunks.main] @ response.write).transpose(0, 1)  # [R, D, 2M]
        ends = response.carry(state, written.unflatten(0, (chunks.batch, -1)), chunks.fresh)
        entering = chunks.entering(state, ends).transpose(0, 1)  # [D, R + X, 2M]
        y = torch.baddbmm(inputs @ toeplitz(response.taps), entering, response.read)  # [D, R + X, length]
        if y.requires_grad:  # its gradient comes by steps; torch would multiply that layout matrix by matrix
            y.register_hook(lambda grad: None if grad is None else grad.contiguous())
        y = chunks.join(y.permute(1, 2, 0))  # [B, T, D]
        tail = chunks.tail
        ending, before = (chunks.last(x.transpose(0, 1)).transpose(0, 1) for x in (inputs, entering))
        last = ending[..., :tail] @ response.write[:, chunks.length - tail :] + response.advance(before, tail)
        inputs_at = u.unbind(1)
        kept = window.walk(lambda x, t: response.step(x, inputs_at[t]), state)
        return y, _pairs(last.transpose(0, 1)), None if kept is None else _pairs(kept)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = self._advance(as_complex(state), u[..., None])  # [B, D, M]
        return self._output(x, u), torch.view_as_real(x)

    def response(self, length: int) -> Response:
        """What the layer, d included, does over a chunk of `length` steps, a power of 2."""
        raise NotImplementedError

    def _advance(self, x: Tensor, u: Tensor) -> Tensor:
        """The state one step later: x `[..., D, M]` complex, u `[..., D or 1, 1]`."""
        raise NotImplementedError

    def _output(self, x: Tensor, u: Tensor) -> Tensor:
        """y `[..., D]` of states `[..., D, M]` complex and inputs `[..., D]`."""
        (c_real, c_imag), (real, imag) = self.c.unbind(-1), torch.view_as_real(x).unbind(-1)
        y = torch.addcmul(c_real * real, c_imag, imag, value=-1).sum(-1)
        return torch.add(self.d * u, y, alpha=2)


def toeplitz(taps: Tensor) -> Tensor:
    """Upper triangular M[s, t] = taps[t - s]: `[D, length]` -> `[D, length, length]`."""
    length = taps.shape[1]
    # (taps, zeros), 2 length numbers, repeated in lines of 2 length - 1: each begins one place earlier.
    repeated = F.pad(taps, (0, length))[:, None].expand(-1, length, -1).flatten(1)
    return repeated[:, : length * (2 * length - 1)].unflatten(1, (length, -1))[..., :length]


def _pairs(x: Tensor) -> Tensor:
    """`[..., 2M]` -> `[..., M, 2]`."""
    return x.unflatten(-1, (-1, 2))

"""Mamba-2: a selective state-space layer, one scalar decay per head and step (Dao and Gu, ICML 2024)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.nets import RMSNorm
from worldmodels.ssm.diagonal import linear_recurrence
from worldmodels.ssm.hippo import log_steps
from worldmodels.ssm.layer import Layer
from worldmodels.ssm.window import Window


class Mamba2(Layer):
    """h_t = a_t h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + d x_t by head; a_t = exp(-dt_t exp(log_decay)).

    x, B, C and dt come from the input, B and C shared by all heads; SiLU on x, B and C, dt = softplus(. +
    bias); an RMS norm and a projection follow. Initialisation as in the authors' code: exp(log_decay) uniform
    in [1, 16], dt log-uniform in [dt_min, dt_max] by its bias, d one. 0 < a_t < 1 whatever training does.
    Left out: the short convolution, whose inputs a state would have to hold too, and the gate, since the
    block around a layer has one. State: `[B, heads, p, M]`, with p channels a head.

    Args:
        width: D, channels in and out.
        state_size: M, numbers that a channel remembers.
        head_size: p; must divide `width`.
        dt_min, dt_max: range of the step sizes at the beginning, in environment steps.
    """

    DYNAMICS = ("log_decay", "dt_bias")

    def __init__(self, width: int, state_size: int, head_size: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        if width % head_size:
            raise ValueError(
                f"Mamba2: width {width} must be divisible by head_size {head_size} (s4wm.mamba2.head_size)"
            )
        heads = width // head_size
        self.state_shape = (heads, head_size, state_size)
        self.sizes = [width, state_size, state_size, heads]
        self.project_in = nn.Linear(width, sum(self.sizes), bias=False)
        self.log_decay = nn.Parameter(torch.log(1 + 15 * torch.rand(heads)))
        dt = log_steps(heads, dt_min, dt_max).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt
        self.d = nn.Parameter(torch.ones(heads))
        self.norm = RMSNorm(width)
        self.project_out = nn.Linear(width, width, bias=False)

    def forward(self, u: Tensor, state: Tensor, window: Window) -> tuple[Tensor, Tensor, Tensor | None]:
        x, b, c, dt, log_a = self._select(u)
        v = dt[..., None] * x  # [B, T, heads, p]
        chunks = window.chunks
        v_rows, b_rows, c_rows, log_rows = (chunks.rows(part) for part in (v, b, c, log_a))
        whole = [part[: chunks.main] for part in (v_rows, b_rows, log_rows)]
        written = ssd_states(*whole).unflatten(0, (chunks.batch, -1))  # [B, chunks, heads, p, M]
        decay = whole[2].sum(1).exp()[..., None, None].unflatten(0, (chunks.batch, -1))
        ends = linear_recurrence(decay, written, state, chunks.fresh)
        starts = chunks.entering(state, ends)  # [R + X, heads, p, M]
        y = chunks.join(ssd_outputs(v_rows, b_rows, c_rows, log_rows, starts))  # [B, T, heads, p]
        ending = [chunks.last(part)[:, : chunks.tail] for part in (v_rows, b_rows, log_rows)]
        decay = ending[2].sum(1).exp()[..., None, None]
        last = torch.addcmul(ssd_states(*ending), decay, chunks.last(starts))  # [B, heads, p, M]
        vs, bs, decays = (
            part.unbind(1) for part in (v[..., None], b[:, :, None, None], log_a.exp()[..., None, None])
        )
        kept = window.walk(lambda h, t: torch.addcmul(vs[t] * bs[t], decays[t], h), state)
        return self._output(y, x), last, kept

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x, b, c, dt, log_a = self._select(u)
        new = (dt[..., None] * x)[..., None] * b[:, None, None]
        state = torch.addcmul(new, log_a.exp()[..., None, None], state)
        y = torch.bmm(state.flatten(1, 2), c[..., None]).view_as(x)
        return self._output(y, x), state

    def log_abar(self) -> Tensor:
        """Logarithms of a at an input of zero, `[heads]`, below 0."""
        return -F.softplus(self.dt_bias) * self.log_decay.exp()

    def _select(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x `[..., heads, p]`, B and C `[..., M]`, dt and log a `[..., heads]` from inputs `[..., D]`."""
        xbc, dt = self.project_in(u).split([sum(self.sizes[:3]), self.sizes[3]], -1)
        x, b, c = F.silu(xbc).split(self.sizes[:3], -1)
        dt = F.softplus(dt + self.dt_bias)
        return x.unflatten(-1, self.state_shape[:2]), b, c, dt, -dt * self.log_decay.exp()

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        """y and x `[..., heads, p]` -> `[..., D]`."""
        return self.project_out(self.norm((y + self.d[:, None] * x).flatten(-2)))


def ssd_states(v: Tensor, b: Tensor, log_a: Tensor) -> Tensor:
    """States `[R, heads, p, M]` at the ends of R rows of steps that start from zero; arguments as below."""
    total = _running(log_a)
    weighted = v * (total[:, -1:] - total).exp().to(v.dtype)[..., None]
    states = weighted.flatten(2).transpose(1, 2) @ b
    return states.unflatten(1, v.shape[2:])


def ssd_outputs(v: Tensor, b: Tensor, c: Tensor, log_a: Tensor, state: Tensor) -> Tensor:
    """Outputs `[R, length, heads, p]` of rows of steps, as an attention without softmax (paper, section 6).

    y_t = sum over s <= t of (C_t . B_s) exp(sum of log_a over s+1..t) v_s, and what the state before the row,
    `[R, heads, p, M]`, adds. The sums are of negative numbers, so no factor exceeds 1.

    Args:
        v: `[R, length, heads, p]`.
        b, c: `[R, length, M]`.
        log_a: `[R, length, heads]`.
    """
    total = _running(log_a).transpose(1, 2)  # [R, heads, length]
    steps = v.shape[1]
    later = torch.ones(steps, steps, dtype=torch.bool, device=v.device).triu(1)
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(later, -math.inf).exp().to(v.dtype)
    within = ((c @ b.transpose(1, 2))[:, None] * decay) @ v.transpose(1, 2)  # [R, heads, length, p]
    from_state = (c @ state.flatten(1, 2).transpose(1, 2)).unflatten(-1, v.shape[2:])
    return within.transpose(1, 2) + from_state * total.exp().to(v.dtype).transpose(1, 2)[..., None]


def _running(log_a: Tensor) -> Tensor:
    """Sums of `[R, length, heads]` up to each step, in float64: after a strong decay differences of float32
    sums would have no digits left."""
    return log_a.double().cumsum(1)

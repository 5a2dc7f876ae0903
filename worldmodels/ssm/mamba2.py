"""Mamba-2: a selective state-space layer, one scalar decay per head and step (Dao and Gu, ICML 2024)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.nets import RMSNorm
from worldmodels.ssm.chunk import Chunks, chunk_length
from worldmodels.ssm.hippo import log_steps
from worldmodels.ssm.keep import Keep, walk_states
from worldmodels.ssm.scan import linear_recurrence


class Mamba2(nn.Module):
    """h_t = a_t h_{t-1} + dt_t x_t B_t^T, y_t = h_t C_t + D x_t by head; a_t = exp(-dt_t exp(log_decay)).

    x, B, C and dt come from the input, B and C shared by all heads; SiLU on x, B and C, dt = softplus(. +
    bias); an RMS norm and a projection follow. Initialisation as in the authors' code: exp(log_decay) uniform
    in [1, 16], dt log-uniform in [dt_min, dt_max] by its bias, D one. 0 < a_t < 1 whatever training does.
    Left out: the short convolution, whose inputs a state would have to hold too, and the gate, since the
    block around a layer has one.

    Args:
        width: D, channels in and out.
        state_size: N, numbers that a channel remembers.
        head_size: P, channels of a head; must divide `width`.
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

    def initial(self, batch_size: int) -> Tensor:
        """Zero state `[B, heads, P, N]`."""
        return self.d.new_zeros(batch_size, *self.state_shape)

    def forward(
        self, u: Tensor, state: Tensor, is_first: Tensor, keep: Keep = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """u `[B, T, D]`, state `[B, heads, P, N]`, is_first `[B, T]` -> y as u, last state, kept states."""
        x, b, c, dt, log_a = self._select(u)
        chunks = Chunks(is_first, chunk_length(u.shape[1]))
        inputs = dt[..., None] * x
        v_rows, b_rows, c_rows, log_rows = (chunks.rows(part) for part in (inputs, b, c, log_a))
        written = ssd_states(*(part[: len(chunks.segment)] for part in (v_rows, b_rows, log_rows)))
        decay = log_rows[: len(chunks.segment)].sum(1).exp()[..., None, None]  # [R, heads, 1, 1]
        decay, written, fresh = (
            part.unflatten(0, (chunks.batch, chunks.count)) for part in (decay, written, chunks.fresh)
        )
        ends = linear_recurrence(decay, written, state, fresh)
        before = torch.cat([state[:, None], ends[:, :-1]], 1).flatten(0, 1)
        starts = chunks.entering(before)  # [R + X, heads, P, N]
        y = chunks.join(ssd_outputs(v_rows, b_rows, c_rows, log_rows, starts))
        v_last, b_last, log_last = (
            chunks.last(part)[:, : chunks.tail] for part in (v_rows, b_rows, log_rows)
        )
        decay = log_last.sum(1).exp()[..., None, None]
        last = torch.addcmul(ssd_states(v_last, b_last, log_last), decay, chunks.last(starts))
        parts = (
            inputs[..., None].unbind(1),
            b[:, :, None, None].unbind(1),
            log_a.exp()[..., None, None].unbind(1),
        )
        kept = walk_states(
            keep, lambda x, t: torch.addcmul(parts[0][t] * parts[1][t], parts[2][t], x), state, is_first
        )
        return self._output(y, x), last, kept

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the same: u `[B, D]`, state `[B, heads, P, N]` -> y `[B, D]`, next state."""
        x, b, c, dt, log_a = self._select(u)
        new = (dt[..., None] * x)[..., None] * b[:, None, None]
        state = torch.addcmul(new, log_a.exp()[..., None, None], state)
        y = torch.bmm(state.flatten(1, 2), c[..., None]).view_as(x)
        return self._output(y, x), state

    def log_abar(self) -> Tensor:
        """Logarithms of a at an input of zero, `[heads]`, below 0."""
        return -F.softplus(self.dt_bias) * self.log_decay.exp()

    def _select(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x `[..., heads, P]`, B and C `[..., N]`, dt and log a `[..., heads]` from inputs `[..., D]`."""
        xbc, dt = self.project_in(u).split([sum(self.sizes[:3]), self.sizes[3]], -1)
        x, b, c = F.silu(xbc).split(self.sizes[:3], -1)
        dt = F.softplus(dt + self.dt_bias)
        return x.unflatten(-1, self.state_shape[:2]), b, c, dt, -dt * self.log_decay.exp()

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        """y and x `[..., heads, P]` -> `[..., D]`."""
        return self.project_out(self.norm((y + self.d[:, None] * x).flatten(-2)))


def ssd_states(v: Tensor, b: Tensor, log_a: Tensor) -> Tensor:
    """States at the ends of rows of steps that start from zero: v `[R, L, heads, P]`, b `[R, L, N]`,
    log_a `[R, L, heads]` -> `[R, heads, P, N]`."""
    total = _running(log_a)
    weighted = v * (total[:, -1:] - total).exp().to(v.dtype)[..., None]
    states = weighted.flatten(2).transpose(1, 2) @ b
    return states.unflatten(1, v.shape[2:])


def ssd_outputs(v: Tensor, b: Tensor, c: Tensor, log_a: Tensor, state: Tensor) -> Tensor:
    """Outputs of rows of steps as an attention without softmax (section 6 of the paper): `[R, L, heads, P]`.

    y_t = sum over s <= t of (C_t . B_s) exp(sum of log_a over s+1..t) v_s, and what the state before the row,
    `[R, heads, P, N]`, adds. The sums are of negative numbers, so no factor exceeds 1.

    Args:
        v: `[R, L, heads, P]`.
        b, c: `[R, L, N]`.
        log_a: `[R, L, heads]`.
    """
    total = _running(log_a).transpose(1, 2)  # [R, heads, L]
    steps = v.shape[1]
    later = torch.ones(steps, steps, dtype=torch.bool, device=v.device).triu(1)
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(later, -math.inf).exp().to(v.dtype)
    within = ((c @ b.transpose(1, 2))[:, None] * decay) @ v.transpose(1, 2)  # [R, heads, L, P]
    from_state = (c @ state.flatten(1, 2).transpose(1, 2)).unflatten(-1, v.shape[2:])
    return within.transpose(1, 2) + from_state * total.exp().to(v.dtype).transpose(1, 2)[..., None]


def _running(log_a: Tensor) -> Tensor:
    """Sums of `[R, L, heads]` up to each step, in float64: after a strong decay, differences of float32 sums
    would have no digits left."""
    return log_a.double().cumsum(1)

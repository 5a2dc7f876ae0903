"""Windows in chunks: within a chunk a layer is a matrix product, only from chunk to chunk it is a recurrence.

A chunk that holds a reset consists of segments, the parts of different episodes. A segment is computed as a
row of its own, from inputs that are zero outside it: a reset is a selection, never a difference, and nothing
of one episode, NaN included, meets another in a product.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.ssm.keep import Keep


def chunk_length(steps: int) -> int:
    """Steps of a chunk, a power of 2: 32, 64 for windows beyond 256 steps, fewer for shorter ones."""
    if steps > 256:
        return 64
    return min(32, 1 << (steps - 1).bit_length())


class Chunks:
    """A window `[B, T]` as R = B x chunks rows of `length` steps, and X further rows for earlier segments.

    Row r holds the last segment of chunk r; row R + x one that a reset in its chunk ends. Reading where the
    resets are makes a GPU wait once.

    Args:
        is_first: `[B, T]` bool.
        length: steps of a chunk.
    """

    def __init__(self, is_first: Tensor, length: int) -> None:
        self.batch, self.steps = is_first.shape
        self.length, self.count = length, -(-self.steps // length)
        self.padding = self.count * length - self.steps
        first = F.pad(is_first, (0, self.padding)).reshape(-1, length)  # [R, length]
        self.segment = first.cumsum(1)  # of each step; 0: the episode that came in with the carry
        last = self.segment[:, -1]
        self.fresh = last > 0  # [R]: no carry reaches the end of the chunk
        begins = first.clone()
        begins[:, 0] = True
        row, step = begins.nonzero(as_tuple=True)
        segment = self.segment[row, step]
        earlier = segment < last[row]
        self.row, self.part = row[earlier], segment[earlier]  # [X]
        if len(self.row):
            extra, step = (self.segment[self.row] == self.part[:, None]).nonzero(as_tuple=True)
            self.source, self.target = extra * length + step, self.row[extra] * length + step

    def rows(self, x: Tensor) -> Tensor:
        """`[B, T, ...]` -> `[R + X, length, ...]`, zeros outside the segment of a row."""
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, self.padding)) if self.padding else x
        x = x.reshape(-1, self.length, *x.shape[2:])
        if not len(self.row):
            return x
        outside = self.segment != self.segment[:, -1:], self.segment[self.row] != self.part[:, None]
        return _erase(torch.cat([x, x.index_select(0, self.row)]), torch.cat(outside))

    def join(self, y: Tensor) -> Tensor:
        """Outputs of all rows `[R + X, length, ...]` -> `[B, T, ...]`, each step's from its own segment."""
        rows = len(self.segment)
        steps = y[:rows].flatten(0, 1)
        if len(self.row):
            steps = steps.index_copy(0, self.target, y[rows:].flatten(0, 1).index_select(0, self.source))
        return steps.unflatten(0, (self.batch, -1))[:, : self.steps]

    def entering(self, before: Tensor) -> Tensor:
        """States before each chunk `[R, ...]` -> those that each row starts from, `[R + X, ...]`."""
        main = _erase(before, self.fresh)
        if not len(self.row):
            return main
        return torch.cat([main, _erase(before.index_select(0, self.row), self.part > 0)])

    def before(self, state: Tensor, ends: Tensor) -> Tensor:
        """States before each chunk `[R, ...]`, from the initial and those at the ends `[B, chunks, ...]`."""
        return torch.cat([state[:, None], ends[:, :-1]], 1).flatten(0, 1)

    def wanted(self, keep: Keep) -> tuple[Tensor, Tensor]:
        """Row and step, each `[K]`, of the kept states row by row and then of the last ones."""
        row = torch.arange(self.batch, device=self.segment.device)
        last = torch.full_like(row, self.steps - 1)
        if keep is None:
            return row, last
        if isinstance(keep, str):
            keep = torch.arange(self.steps, device=row.device).expand(self.batch, -1)
        return torch.cat([row.repeat_interleave(keep.shape[1]), row]), torch.cat([keep.flatten(), last])

    def ending(self, x: Tensor, row: Tensor, step: Tensor) -> Tensor:
        """The `length` steps of `x` `[B, T, ...]` that end with `step` `[K]` -> `[K, length, ...]`.

        Zeros where a step is of another chunk or segment.
        """
        steps = step[:, None] + torch.arange(1 - self.length, 1, device=step.device)
        segment = self.segment.reshape(self.batch, -1)
        clipped = steps.clamp(min=0)
        own = segment[row[:, None], clipped] == segment[row, step][:, None]
        outside = ~own | (steps < (step - step % self.length)[:, None])
        taken = x.flatten(0, 1).index_select(0, (row[:, None] * self.steps + clipped).flatten())
        return _erase(taken.unflatten(0, steps.shape), outside)

    def carried(self, before: Tensor, row: Tensor, step: Tensor) -> Tensor:
        """Of the states before each chunk `[R, ...]` what reaches `step` `[K]` of a row -> `[K, ...]`."""
        chunk = row * self.count + step // self.length
        return _erase(before.index_select(0, chunk), self.segment[chunk, step % self.length] > 0)

    def split(self, states: Tensor, keep: Keep) -> tuple[Tensor, Tensor | None]:
        """The states `[K, ...]` at the `wanted` steps as last `[B, ...]` and kept `[B, n, ...]` or None."""
        kept, last = states[: -self.batch], states[-self.batch :]
        return last, None if keep is None else kept.unflatten(0, (self.batch, -1))


class Response(Protocol):
    """What a bank of D systems of N real states, one input and one output each, does over a chunk."""

    taps: Tensor
    """`[D, length]`: y_t to an impulse at 0."""
    write: Tensor
    """`[D, length, N]`: the state after the chunk to an impulse at each step."""
    read: Tensor
    """`[D, N, length]`: y at each step to the state before the chunk."""

    def advance(self, state: Tensor, steps: Tensor) -> Tensor:
        """States `[D, K, N]`, each moved on by `steps` `[K]` (1 to length) without inputs."""
        ...

    def carry(self, state: Tensor, written: Tensor, fresh: Tensor) -> Tensor:
        """States at the ends of n chunks: state `[B, D, N]`, written `[B, n, D, N]` -> as written.

        The state before a chunk does not reach its end where it is `fresh` `[B, n]`.
        """
        ...


def siso_window(
    response: Response, u: Tensor, state: Tensor, is_first: Tensor, keep: Keep
) -> tuple[Tensor, Tensor, Tensor | None]:
    """D systems over a window: u `[B, T, D]`, state `[B, D, N]` -> y as u, last, kept `[B, n, D, N]`.

    With K the taps, M[s, t] = K[t - s], E = write and F = read: Y = U M + X F and, from chunk to chunk,
    X' = Abar^length X + U E. Only chunk ends and the steps that are asked for have their states computed.
    """
    length = response.taps.shape[1]
    chunks = Chunks(is_first, length)
    inputs = chunks.rows(u).permute(2, 0, 1).contiguous()  # [D, R + X, length]
    written = (inputs[:, : len(chunks.segment)] @ response.write).transpose(0, 1)  # [R, D, N]
    written = written.unflatten(0, (chunks.batch, chunks.count))
    before = chunks.before(
        state, response.carry(state, written, chunks.fresh.reshape(chunks.batch, chunks.count))
    )
    entering = chunks.entering(before).transpose(0, 1)  # [D, R + X, N]
    y = torch.baddbmm(inputs @ toeplitz(response.taps), entering, response.read)
    row, step = chunks.wanted(keep)
    states = chunks.ending(u, row, step).permute(2, 0, 1) @ response.write  # [D, K, N]
    states = states + response.advance(chunks.carried(before, row, step).transpose(0, 1), step % length + 1)
    return chunks.join(y.permute(1, 2, 0)), *chunks.split(states.transpose(0, 1), keep)


def toeplitz(taps: Tensor) -> Tensor:
    """Upper triangular M[s, t] = taps[t - s]: `[D, length]` -> `[D, length, length]`."""
    length = taps.shape[1]
    # Row s of the windows over (0, ..., 0, taps) starts length - 1 - s places further right than row 0 does.
    return F.pad(taps, (length - 1, 0)).unfold(1, length, 1).flip(1)


def _erase(x: Tensor, where: Tensor) -> Tensor:
    return x.masked_fill(where.reshape(where.shape + (1,) * (x.dim() - where.dim())), 0)

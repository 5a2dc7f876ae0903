"""Windows in chunks: a layer is a matrix product within a chunk, and a recurrence only from chunk to chunk.

A chunk that holds a reset consists of segments, the parts of different episodes. A segment is computed as a
row of its own, from inputs that are zero outside it: a reset is a selection, never a difference, and nothing
of one episode, NaN included, meets another in a product.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels.base import reset_rows
from worldmodels.ssm.keep import Keep, walk_states


def chunk_length(steps: int) -> int:
    """Steps of a chunk, a power of 2: 32, 64 for windows beyond 256 steps, fewer for shorter ones."""
    if steps > 256:
        return 64
    return min(32, 1 << (steps - 1).bit_length())


class Chunks:
    """A window `[B, T]` as R = B x chunks rows of `length` steps, and X further rows for earlier segments.

    Row r holds the last segment of chunk r; row R + x a segment that a reset in its chunk ends. Reading where
    the resets are synchronises with a GPU once.

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
        return reset_rows(torch.cat(outside), torch.cat([x, x.index_select(0, self.row)]))

    def join(self, y: Tensor) -> Tensor:
        """Outputs of all rows `[R + X, length, ...]` -> `[B, T, ...]`, each step's from its own segment."""
        rows = len(self.segment)
        steps = y[:rows].flatten(0, 1)
        if len(self.row):
            steps = steps.index_copy(0, self.target, y[rows:].flatten(0, 1).index_select(0, self.source))
        return steps.unflatten(0, (self.batch, -1))[:, : self.steps]

    def entering(self, before: Tensor) -> Tensor:
        """States before each chunk `[R, ...]` -> those that each row starts from, `[R + X, ...]`."""
        main = reset_rows(self.fresh, before)
        if not len(self.row):
            return main
        return torch.cat([main, reset_rows(self.part > 0, before.index_select(0, self.row))])

    @property
    def tail(self) -> int:
        """Steps of the last chunk."""
        return self.length - self.padding

    def last(self, rows: Tensor) -> Tensor:
        """Those of all rows `[R + X, ...]` that end the window, `[B, ...]`."""
        return rows[self.count - 1 : len(self.segment) : self.count]


class Response(Protocol):
    """What a bank of D systems of N real states, one input and one output each, does over a chunk."""

    taps: Tensor
    """`[D, length]`: y_t in response to an impulse at 0."""
    write: Tensor
    """`[D, length, N]`: the state after the chunk in response to an impulse at each step."""
    read: Tensor
    """`[D, N, length]`: y at each step in response to the state before the chunk."""

    def step(self, state: Tensor, u: Tensor) -> Tensor:
        """State `[B, D, N]` and inputs `[B, D]` -> the state one step later."""
        ...

    def advance(self, state: Tensor, steps: int) -> Tensor:
        """States `[D, B, N]` moved on by 1 to length steps without inputs."""
        ...

    def carry(self, state: Tensor, written: Tensor, fresh: Tensor) -> Tensor:
        """States at the ends of n chunks: state `[B, D, N]`, written `[B, n, D, N]` -> shaped as `written`.

        The state before a chunk does not reach its end where it is `fresh` `[B, n]`.
        """
        ...


def siso_window(
    response: Response, u: Tensor, state: Tensor, is_first: Tensor, keep: Keep
) -> tuple[Tensor, Tensor, Tensor | None]:
    """D systems over a window: u `[B, T, D]`, state `[B, D, N]` -> y as u, last, kept `[B, n, D, N]`.

    With K the taps, M[s, t] = K[t - s], E = write and F = read: Y = U M + X F and, from chunk to chunk,
    X' = Abar^length X + U E.
    """
    length = response.taps.shape[1]
    chunks = Chunks(is_first, length)
    inputs = chunks.rows(u).permute(2, 0, 1).contiguous()  # [D, R + X, length]
    written = (inputs[:, : len(chunks.segment)] @ response.write).transpose(0, 1)  # [R, D, N]
    written = written.unflatten(0, (chunks.batch, chunks.count))
    ends = response.carry(state, written, chunks.fresh.reshape(chunks.batch, chunks.count))
    before = torch.cat([state[:, None], ends[:, :-1]], 1).flatten(0, 1)  # [R, D, N]
    entering = chunks.entering(before).transpose(0, 1)  # [D, R + X, N]
    y = torch.baddbmm(inputs @ toeplitz(response.taps), entering, response.read)
    if y.requires_grad:  # its gradient comes step by step; torch multiplies such a layout matrix by matrix
        y.register_hook(lambda grad: None if grad is None else grad.contiguous())
    tail = chunks.tail
    last = (
        chunks.last(inputs.transpose(0, 1)).transpose(0, 1)[..., :tail] @ response.write[:, length - tail :]
    )
    last = last + response.advance(chunks.last(entering.transpose(0, 1)).transpose(0, 1), tail)
    inputs_of = u.unbind(1)
    kept = walk_states(keep, lambda x, t: response.step(x, inputs_of[t]), state, is_first)
    return chunks.join(y.permute(1, 2, 0)), last.transpose(0, 1), kept


def toeplitz(taps: Tensor) -> Tensor:
    """Upper triangular M[s, t] = taps[t - s]: `[D, length]` -> `[D, length, length]`."""
    length = taps.shape[1]
    # (taps, zeros), 2 length numbers, repeated in lines of 2 length - 1: each begins one place earlier.
    repeated = F.pad(taps, (0, length))[:, None].expand(-1, length, -1).flatten(1)
    return repeated[:, : length * (2 * length - 1)].unflatten(1, (length, -1))[..., :length]

"""What the layers of a stack share of a window: where its resets are, and whose states are wanted.

Layers that compute a window in chunks are a matrix product within a chunk, and a recurrence only from chunk
to chunk. A chunk that holds a reset consists of segments, the parts of different episodes. A segment is
computed as a row of its own, from inputs that are zero outside it: a reset is a selection, never a
difference, and nothing of one episode, NaN included, meets another in a product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from worldmodels.base import keep_steps, reset_rows

Keep = Tensor | Literal["all"] | None
"""Steps `[B, n]` int64, row by row, whose states are wanted; `"all"`, or None for none."""


class Window:
    """A window of T steps, made once for all layers: what they need on the CPU is read at the first need.

    Args:
        is_first: `[B, T]` bool.
        keep: after which steps states are wanted.
    """

    def __init__(self, is_first: Tensor, keep: Keep = None) -> None:
        self.is_first, self.keep = is_first, keep

    @cached_property
    def chunks(self) -> Chunks:
        """The window as rows of chunks."""
        first, _ = self._on_the_cpu
        return Chunks(first, chunk_length(first.shape[1]), self.is_first.device)

    def kept(self, states: Tensor) -> Tensor | None:
        """Those of the states of all steps `[B, T, ...]` that are wanted, `[B, n, ...]`, or None."""
        if self.keep is None:
            return None
        return states if isinstance(self.keep, str) else keep_steps(self.keep, states)

    def walk(self, step: Callable[[Tensor, int], Tensor], state: Tensor) -> Tensor | None:
        """The wanted states `[B, n, ...]`, or None, by walking through the window from `state` `[B, ...]`.

        For layers that compute their outputs without states. The state of one step is small and stays in the
        cache, which makes this cheap; nothing but the wanted ones is stored. Gradients, which imagination
        does not need, are available at the cost of a second walk that stores every state.

        Args:
            step: state `[B, ...]`, number of the step -> next state.
            state: before the first step.
        """
        if self.keep is None:
            return None
        if isinstance(self.keep, Tensor) and not self.keep.shape[1]:
            return state[:, None][:, :0]
        if torch.is_grad_enabled():
            return checkpoint(self._walk, step, state, use_reentrant=False, preserve_rng_state=False)
        return self._walk(step, state)

    def _walk(self, step: Callable[[Tensor, int], Tensor], x: Tensor) -> Tensor:
        resets, rows, place = self._route
        found = []
        for t, reset in enumerate(resets):
            if reset:
                x = reset_rows(self.is_first[:, t], x)
            x = step(x, t)
            if rows is None:
                found.append(x)
            elif len(rows[t]):
                found.append(x.index_select(0, rows[t]))
        if rows is None:
            return torch.stack(found, 1)
        return torch.cat(found).index_select(0, place.flatten()).unflatten(0, place.shape)

    @cached_property
    def _route(self) -> tuple[list[bool], tuple[Tensor, ...] | None, Tensor]:
        """Of a walk: for each step whether any row is reset; in which rows it finds a wanted state (None: in
        all); and where among those found each wanted one is, `[B, n]`."""
        first, keep = self._on_the_cpu
        resets = first.any(0).tolist()
        if isinstance(self.keep, str):
            return resets, None, keep
        order = keep.flatten().argsort()
        place = order.argsort().view_as(keep)
        counts = keep.flatten().bincount(minlength=len(resets)).tolist()
        rows = self._there(order // keep.shape[1]).split(counts)
        last = max(t for t, count in enumerate(counts) if count)
        return resets[: last + 1], rows, self._there(place)

    @cached_property
    def _on_the_cpu(self) -> tuple[Tensor, Tensor]:
        """`is_first`, and `keep` or nothing `[B, 0]`: a window's only wait for a GPU."""
        steps = self.is_first.shape[1]
        keep = self.keep if isinstance(self.keep, Tensor) else self.is_first[:, :0]
        both = torch.cat([self.is_first, keep], 1).cpu()
        return both[:, :steps].bool(), both[:, steps:]

    def _there(self, x: Tensor) -> Tensor:
        return x.to(self.is_first.device, non_blocking=True)


def chunk_length(steps: int) -> int:
    """Steps of a chunk, a power of 2: 32, 64 for windows beyond 256 steps, fewer for shorter ones."""
    if steps > 256:
        return 64
    return min(32, 1 << (steps - 1).bit_length())


class Chunks:
    """A window `[B, T]` as R = B x chunks rows of `length` steps, and X further rows for earlier segments.

    Row r holds the last segment of chunk r; row R + x a segment that a reset in its chunk ends.

    Args:
        is_first: `[B, T]` bool, on the CPU.
        length: steps of a chunk.
        device: of what is to be arranged in chunks.
    """

    def __init__(self, is_first: Tensor, length: int, device: torch.device | str = "cpu") -> None:
        def there(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        self.batch, self.steps = is_first.shape
        self.length, self.count = length, -(-self.steps // length)
        self.padding = self.count * length - self.steps
        self.tail = length - self.padding  # steps of the last chunk
        first = F.pad(is_first, (0, self.padding)).reshape(-1, length)  # [R, length]
        self.main = len(first)  # R
        segment = first.cumsum(1)  # of each step; 0: the episode that came in with the carry
        last = segment[:, -1:]  # [R, 1]
        begins = first.clone()
        begins[:, 0] = True
        row, step = begins.nonzero(as_tuple=True)
        earlier = segment[row, step] < last[row, 0]
        row, part = row[earlier], segment[row, step][earlier, None]  # [X], [X, 1]
        inside = segment[row] == part  # [X, length]
        extra, step = inside.nonzero(as_tuple=True)
        self.row = there(row)
        self.source, self.target = there(extra * length + step), there(row[extra] * length + step)
        self.outside = there(torch.cat([segment != last, ~inside]))  # [R + X, length] steps of other segments
        self.cut = there(torch.cat([last, part])[:, 0] > 0)  # [R + X] rows that no carry enters
        self.fresh = there((last > 0).reshape(self.batch, -1))  # [B, chunks] no carry reaches the chunk's end

    def rows(self, x: Tensor) -> Tensor:
        """`[B, T, ...]` -> `[R + X, length, ...]`, zeros outside the segment of a row."""
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, self.padding)) if self.padding else x
        x = x.reshape(-1, self.length, *x.shape[2:])
        if not len(self.row):
            return x
        return reset_rows(self.outside, torch.cat([x, x.index_select(0, self.row)]))

    def join(self, y: Tensor) -> Tensor:
        """Outputs of all rows `[R + X, length, ...]` -> `[B, T, ...]`, each step's from its own segment."""
        steps = y[: self.main].flatten(0, 1)
        if len(self.row):
            steps = steps.index_copy(
                0, self.target, y[self.main :].flatten(0, 1).index_select(0, self.source)
            )
        return steps.unflatten(0, (self.batch, -1))[:, : self.steps]

    def entering(self, state: Tensor, ends: Tensor) -> Tensor:
        """States before the window `[B, ...]`, after each chunk `[B, chunks, ...]` -> before each row."""
        before = torch.cat([state[:, None], ends[:, :-1]], 1).flatten(0, 1)  # [R, ...]
        if len(self.row):
            before = torch.cat([before, before.index_select(0, self.row)])
        return reset_rows(self.cut, before)

    def last(self, rows: Tensor) -> Tensor:
        """Those of all rows `[R + X, ...]` that end the window, `[B, ...]`."""
        return rows[self.count - 1 : self.main : self.count]

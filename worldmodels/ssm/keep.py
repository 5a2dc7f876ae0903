"""Which states of a window the caller gets back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from worldmodels.base import keep_steps, reset_rows
from worldmodels.ssm.scan import steps_with_resets

Keep = Tensor | Literal["all"] | None
"""Steps `[B, n]` int64, row by row, whose states are wanted; `"all"`, or None for none."""


def keep_states(keep: Keep, states: Tensor) -> Tensor | None:
    """Those of the states `[B, T, ...]` that are wanted, `[B, n, ...]`, or None."""
    if keep is None:
        return None
    return states if isinstance(keep, str) else keep_steps(keep, states)


def walk_states(
    keep: Keep, step: Callable[[Tensor, int], Tensor], state: Tensor, is_first: Tensor
) -> Tensor | None:
    """The wanted states of a window, by walking through it: `[B, n, ...]`, or None.

    For layers that compute their outputs without states. The state of one step is small and stays in the
    cache, which makes this cheap; nothing but the wanted ones is stored. Gradients, which imagination does
    not need, are available at the cost of a second walk that stores every state.

    Args:
        keep: what is wanted. Reading it synchronises with a GPU once.
        step: state `[B, ...]`, number of the step -> next state.
        state: `[B, ...]`, before the first step.
        is_first: `[B, T]`.
    """
    if keep is None:
        return None

    def walk() -> Tensor:
        x, found = state, []
        for t in range(steps):
            if resets[t]:
                x = reset_rows(is_first[:, t], x)
            x = step(x, t)
            if rows is None:
                found.append(x)
            elif len(rows[t]):
                found.append(x.index_select(0, rows[t]))
        return torch.stack(found, 1) if rows is None else torch.cat(found).index_select(0, place)

    rows: tuple[Tensor, ...] | None = None
    steps, resets = is_first.shape[1], steps_with_resets(is_first)
    if not isinstance(keep, str):
        order = keep.flatten().argsort()
        place = order.argsort()
        counts = keep.flatten().bincount(minlength=steps).tolist()
        rows = (order // keep.shape[1]).split(counts)
        steps = 1 + max(t for t in range(steps) if counts[t])
    if torch.is_grad_enabled():
        states = checkpoint(walk, use_reentrant=False, preserve_rng_state=False)
    else:
        states = walk()
    return states if isinstance(keep, str) else states.unflatten(0, keep.shape)

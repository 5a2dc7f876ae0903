"""Which states of a window the caller gets back."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from worldmodels.base import keep_steps

Keep = Tensor | Literal["all"] | None
"""Steps `[B, n]` int64, row by row, whose states are wanted; `"all"`, or None for none."""


def keep_states(keep: Keep, states: Tensor) -> Tensor | None:
    """Of the states `[B, T, ...]` those that are wanted, `[B, n, ...]`, or None."""
    if keep is None:
        return None
    return states if isinstance(keep, str) else keep_steps(keep, states)

"""Metrics that are defined at some steps only."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Counted(NamedTuple):
    """A metric defined at some steps only, few or none in some batches: their sum and number, each `[]`."""

    total: Tensor
    number: Tensor

    @classmethod
    def where(cls, value: Tensor, mask: Tensor) -> Counted:
        """Sum and number of `value` where `mask` is true, both of the same shape."""
        return cls(torch.where(mask, value, 0).sum(), mask.sum())

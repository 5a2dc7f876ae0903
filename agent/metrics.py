"""Means of metrics over updates and ranks, added up on the device, and whether all of them were finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from worldmodels import ranks
from worldmodels.base import Counted


class Means:
    """Adds up metrics of updates without waiting for the device, until somebody asks.

    Args:
        device: where the metrics are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._names: list[str] = []
        self._totals = self._counts = self._finite = torch.zeros(0, device=device)
        self._added = 0

    def add(self, metrics: Mapping[str, Tensor | Counted]) -> None:
        """Add one update's metrics, each `[]`, and count for each the updates before the first not finite.

        What only earlier updates had is over those; what none had before is over later ones.
        """
        one, nothing = torch.ones((), device=self.device), Counted(*torch.zeros(2, device=self.device))
        self._names += [name for name in metrics if name not in self._names]
        values = [metrics.get(name, nothing) for name in self._names]
        counted = [value if isinstance(value, Counted) else Counted(value, one) for value in values]
        totals = torch.stack([value.total.float() for value in counted])
        if new := len(totals) - len(self._totals):
            self._totals, self._counts = F.pad(self._totals, (0, new)), F.pad(self._counts, (0, new))
            self._finite = F.pad(self._finite, (0, new), value=self._added)
        self._totals = self._totals + totals
        self._counts = self._counts + torch.stack([value.number.float() for value in counted])
        self._finite = self._finite + (totals.isfinite() & (self._finite == self._added))
        self._added += 1

    def check_finite(self, updates: int) -> None:
        """Wait for the device and check that all updates since the last `take`, of `updates`, were finite.

        Raises:
            FloatingPointError: if a loss, gradient norm or other metric was not; names the first and its
                update.
        """
        if not self._added:
            return
        finite = ranks.gathered(self._finite[None]).amin(0).tolist()
        if min(finite) < self._added:
            first = finite.index(min(finite))
            update = updates - self._added + int(finite[first]) + 1
            totals, counts = self._sums()
            mean = totals[first] / counts[first]
            raise FloatingPointError(
                f"train/{self._names[first]} is not finite (mean {mean:g}) since "
                f"update {update}; the last checkpoint is older than that. Lower the learning rate "
                f"(optimiser.*) or look at the observations and rewards of the environment."
            )

    def take(self) -> dict[str, float]:
        """The means since the last call; one that is over some steps only is left out if there were none.

        Waits for the device.
        """
        if not self._added:
            return {}
        totals, counts = self._sums()
        means = zip(self._names, (totals / counts).tolist(), counts.tolist(), strict=True)
        found = {name: mean for name, mean, count in means if count}
        self._names, self._added = [], 0
        self._totals = self._counts = self._finite = torch.zeros(0, device=self.device)
        return found

    def _sums(self) -> tuple[Tensor, Tensor]:
        """Totals and counts over all ranks."""
        totals, counts = ranks.gathered(torch.stack([self._totals, self._counts])[None]).sum(0)
        return totals, counts

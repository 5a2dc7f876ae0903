"""Batches read ahead: while the learner works on one, a thread gathers the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from replay.buffer import Replay
from replay.store import Fingerprints, Read, Rows


def _as_it_is(batch: Rows) -> Rows:
    return batch


class Loader:
    """The batches of a replay, their rows read one batch ahead in the background.

    Which windows come next is decided when the previous batch is handed out, and the recurrent states are
    those at the time of handing out, so the timing of threads does not change any batch.

    Arguments:
        prepare: what the thread does with the rows it has read, such as pinning them for a device.
    """

    def __init__(self, replay: Replay, prepare: Callable[[Rows], Mapping[str, Any]] = _as_it_is) -> None:
        self.replay, self._prepare = replay, prepare
        self._windows: np.ndarray | None = None  # [B,3] of the batch that is being read
        self._rows: Future[Mapping[str, Any]] | None = None

    def next(self) -> dict[str, Any]:
        """Return the next batch, as `Replay.sample` does; raises what went wrong in the background."""
        if self._windows is None or not self.replay.still_there(self._windows):
            self._read(self.replay.choose())
        assert self._windows is not None and self._rows is not None
        windows, rows = self._windows, self._rows.result()
        batch = self.replay.complete(windows, dict(rows))
        self._read(self.replay.choose())
        return batch

    def state_dict(self) -> dict[str, np.ndarray | int]:
        """Return the replay's state with the windows that are being read."""
        nothing = np.zeros((0, 3), np.int64)
        return self.replay.state_dict() | {"ahead": nothing if self._windows is None else self._windows}

    def load_state_dict(
        self, state: Mapping[str, np.ndarray | int], chunks: Fingerprints | None = None
    ) -> list[str]:
        """See `Replay.load_state_dict`; windows that were being read are read again."""
        problems = self.replay.load_state_dict(state, chunks)
        ahead = np.asarray(state["ahead"])
        if len(ahead) and not problems:
            self._windows = ahead
            if self.replay.still_there(ahead):
                self._read(ahead)
        return problems

    def _read(self, windows: np.ndarray) -> None:
        self._windows = windows

        def task(read: Read) -> Mapping[str, Any]:
            return self._prepare(self.replay.rows(windows, read))

        end = windows[:, 1] + self.replay.batch_length
        self._rows = self.replay.store.read_later(windows[:, 2], end, task)

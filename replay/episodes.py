"""Batches from episodes on disk: each row of a batch is a stream of whole episodes, in a random order.

A stream is cut into windows of T rows, each of which begins where the one before ended: in an episode's
middle it goes on from the state that training reached there. Where every episode has T rows, a window is an
episode. Each episode is used once before any is used again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from replay import chunk
from replay.rows import Rows


def load(path: Path, probes: bool = False) -> Rows:
    """Return an episode as batches hold it: `action` [T,...] is the one that LED INTO a row, zero at first.

    `probe/` keys are left out, unless `probes`. Raises ValueError if the file is damaged.
    """
    rows = {key: value for key, value in chunk.read(path).items() if probes or not key.startswith("probe/")}
    action = np.zeros_like(rows["action"])
    action[1:] = rows["action"][:-1]
    return rows | {"action": action}


class Episodes:
    """Batches of `batch_size` windows of `batch_length` rows, read ahead in the background.

    Which episodes come when depends on the seed and their number alone, so a saved one goes on exactly.

    Arguments:
        paths: the episodes' chunks.
        carry: whether windows go on from the states that training reached; else each begins an episode.
        memory: bytes that episodes may take in memory. What does not fit is read again each time.
        load: an episode by its path, as `load` returns it.
        prepare: what to do with the rows of a batch in the background.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        batch_size: int,
        batch_length: int,
        seed: int,
        carry: bool,
        memory: int,
        load: Callable[[Path], Rows] = load,
        prepare: Callable[[Rows], Mapping[str, Any]] = dict,
    ) -> None:
        self.paths, self.batch_length, self.seed = list(paths), batch_length, seed
        self.carry, self.memory, self.load, self.prepare = carry, memory, load, prepare
        self.places = np.full((batch_size, 2), -1)  # of each stream: number of its episode, rows used of it
        self.states: dict[str, np.ndarray] = {}  # leaves [B,...]
        self._kept: dict[int, Rows] = {}
        self._bytes = 0
        self._types: dict[str, np.dtype] = {}
        self._orders: dict[int, np.ndarray] = {}  # epoch -> the episodes' indices as they come
        self._reader = ThreadPoolExecutor(1, "episodes")
        self._ahead: Future[tuple[Mapping[str, Any], np.ndarray]] | None = None

    def ready(self) -> bool:
        """Return whether a batch can be had: always."""
        return True

    def next(self) -> dict[str, Any]:
        """Return the next batch [B,T,...]; raises what went wrong in reading it.

        With `carry` it has `state/<leaf>` [B,...], except at the beginning, and `window` [B,2], where it
        begins, for `refresh`.
        """
        if self._ahead is None:
            self._ahead = self._reader.submit(self._read, self.places)
        batch, after = self._ahead.result()
        found = dict(batch)
        if self.carry:
            found |= {f"state/{leaf}": value for leaf, value in self.states.items()}
            found["window"] = self.places
        self.places = after
        self._ahead = self._reader.submit(self._read, after)
        return found

    def refresh(self, _window: np.ndarray, state: Mapping[str, np.ndarray], _update: int) -> None:
        """Keep the states [B,...] that training reached at the ends of the newest batch's windows."""
        self.states = dict(state)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what `load_state_dict` takes, as plain arrays."""
        return {"places": self.places} | {f"state/{leaf}": value for leaf, value in self.states.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on as the saved one. Raises ValueError if that had another batch size."""
        if state["places"].shape != self.places.shape or state["places"].dtype != self.places.dtype:
            raise ValueError(f"its places are {state['places'].shape}, expected {self.places.shape}")
        self.places = state["places"]
        self.states = {
            key.removeprefix("state/"): value for key, value in state.items() if key.startswith("state/")
        }
        self._ahead = None

    def close(self) -> None:
        """End the background thread."""
        self._reader.shutdown(cancel_futures=True)

    def _read(self, places: np.ndarray) -> tuple[Mapping[str, Any], np.ndarray]:
        """Return the windows that begin at places [B,2], and where they end."""
        places = places.copy()
        taken = int(places[:, 0].max()) + 1  # episodes begun so far
        windows: list[Rows] = []
        for place in places:
            parts: list[Rows] = []
            wanted = self.batch_length
            while wanted:
                episode = self._episode(int(place[0])) if place[0] >= 0 else {}
                if not episode or place[1] == len(episode["reward"]):
                    place[:], taken = (taken, 0), taken + 1
                    continue
                parts.append({key: value[place[1] : place[1] + wanted] for key, value in episode.items()})
                place[1] += len(parts[-1]["reward"])
                wanted -= len(parts[-1]["reward"])
            windows.append({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
        batch = {
            key: np.stack([window[key] for window in windows]).astype(kind, copy=False)
            for key, kind in self._types.items()
        }
        return self.prepare(batch), places

    def _episode(self, number: int) -> Rows:
        """Return the episode that is begun as the `number`-th, whole numbers up to 255 as uint8."""
        epoch, place = divmod(number, len(self.paths))
        if epoch not in self._orders:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.paths))
            self._orders = {epoch - 1: self._orders[epoch - 1]} if epoch - 1 in self._orders else {}
            self._orders[epoch] = order
        index = int(self._orders[epoch][place])
        if index in self._kept:
            return self._kept[index]
        episode = self.load(self.paths[index])
        self._types = {key: value.dtype for key, value in episode.items()}
        episode = {key: _small(value) for key, value in episode.items()}
        size = sum(value.nbytes for value in episode.values())
        if self._bytes + size <= self.memory:
            self._kept[index] = episode
            self._bytes += size
        return episode


def _small(value: np.ndarray) -> np.ndarray:
    """Return an array as uint8 if nothing is lost: codes take a quarter of the memory."""
    if value.dtype == np.float32 and ((value >= 0) & (value <= 255)).all():
        small = value.astype(np.uint8)
        if (small == value).all():
            return small
    return value

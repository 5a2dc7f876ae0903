"""Recurrent states of every K-th row of every stream, and the update whose parameters made each."""

from collections.abc import Mapping

import numpy as np


class KeptStates:
    """States before the rows whose number is a multiple of `every`, of the newest `limit` rows.

    A state is first the one that acting had before the row; training overwrites it with its own.
    """

    def __init__(self, streams: int, limit: int, every: int) -> None:
        self.streams, self.every = streams, every
        self.slots = limit // every + 2
        self.leaves: dict[str, np.ndarray] = {}  # leaf -> [streams, slots, ...] float32
        self.update = 0  # updates done, as far as told
        self._made = np.zeros((streams, self.slots), np.int64)  # updates done when the state was computed

    @property
    def nbytes(self) -> int:
        """Bytes in memory once every slot is in use; 0 until the first states are put."""
        return sum(leaf.nbytes for leaf in self.leaves.values())

    def put(self, stream: np.ndarray, row: np.ndarray, state: Mapping[str, np.ndarray]) -> None:
        """Keep states, leaves [n,...], before rows [n] of streams [n], made after `update` updates."""
        slot = self._slot(row)
        for name, value in state.items():
            if name not in self.leaves:
                self.leaves[name] = np.zeros((self.streams, self.slots, *value.shape[1:]), np.float32)
            self.leaves[name][stream, slot] = value
        self._made[stream, slot] = self.update

    def get(self, stream: np.ndarray, row: np.ndarray) -> dict[str, np.ndarray]:
        """Return the states [n,...] before rows [n] of streams [n], as `state/<leaf>`."""
        slot = self._slot(row)
        return {f"state/{name}": leaf[stream, slot] for name, leaf in self.leaves.items()}

    def age(self, stream: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return how many updates ago the states before rows of streams were made."""
        return self.update - self._made[stream, self._slot(row)]

    def state_dict(self, oldest: int, added: int) -> dict[str, np.ndarray | int]:
        """Return the states of the rows from `oldest` to before `added`, `states/<leaf>`, and their ages."""
        slot = self._slot(self._rows(oldest, added))
        leaves = {f"states/{name}": leaf[:, slot] for name, leaf in self.leaves.items()}
        return {**leaves, "made": self._made[:, slot], "update": self.update}

    def load_state_dict(self, state: Mapping[str, np.ndarray | int], oldest: int, added: int) -> None:
        """Take over what `state_dict` returned for the same rows; of those, the newest that fit."""
        rows = self._rows(oldest, added)[-self.slots :]
        slot = self._slot(rows)
        for key in state:
            if key.startswith("states/"):
                value = np.asarray(state[key])
                kept = np.zeros((self.streams, self.slots, *value.shape[2:]), np.float32)
                kept[:, slot] = value[:, -len(rows) :]
                self.leaves[key.removeprefix("states/")] = kept
        self._made[:, slot] = np.asarray(state["made"])[:, -len(rows) :]
        self.update = int(state["update"])

    def _rows(self, oldest: int, added: int) -> np.ndarray:
        return np.arange(-(-oldest // self.every), -(-added // self.every)) * self.every

    def _slot(self, row: np.ndarray) -> np.ndarray:
        """Return the slots of row numbers, which are multiples of `every`."""
        return row // self.every % self.slots

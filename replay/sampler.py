"""Which windows come next: the newest ones, those that continue the last batch, or uniformly random ones."""

from collections import deque
from collections.abc import Mapping

import numpy as np

from replay.states import KeptStates
from replay.store import Store


class Sampler:
    """Chooses windows of `length` rows; what it chooses depends on the seed, on its count and on the rows.

    Arguments:
        states: None if windows start from nothing.
        batch, length: windows of a batch, rows of a window.
        burn_in: None if windows start where a state is kept, else how far before them one may lie.
        seed, online, consecutive, max_age: see `Replay`.
    """

    def __init__(
        self,
        store: Store,
        states: KeptStates | None,
        batch: int,
        length: int,
        seed: int,
        online: bool,
        consecutive: bool,
        burn_in: int | None,
        max_age: int,
    ) -> None:
        self.store, self.states = store, states
        self.batch, self.length, self.seed = batch, length, seed
        self.online, self.consecutive = online, consecutive
        self.burn_in, self.max_age = burn_in, max_age
        # Windows start at multiples of `grid`, the first of them at one of `every`.
        self.every = 1 if states is None else states.every
        self.grid = 1 if burn_in is not None else self.every
        self.queue: deque[tuple[int, int]] = deque()  # (stream, number of the first row)
        self._samples = 0  # batches chosen so far
        self._fresh = 0  # rows of the newest online window that is not complete yet
        self._cursor = np.full((batch, 2), -1)  # (stream, first row) of the batch before, if consecutive

    def row_added(self) -> None:
        """Register a new row of every stream."""
        if not self.online:
            return
        self._fresh += 1
        if self._fresh == self.length:
            self._fresh = 0
            first = self.store.added - self.length
            self.queue.extend((stream, first) for stream in range(self.store.streams))
            while self.queue[0][1] < self.store.oldest:  # evicted before it was served
                self.queue.popleft()

    def starts(self) -> tuple[int, int]:
        """Return the first row that windows start at, and how many such rows there are.

        The oldest row's incoming action is gone, except for row 0, which never had one. For a burn-in a kept
        state has to be within reach.
        """
        oldest = self.store.oldest
        first = -(-(oldest + (oldest > 0)) // self.every) * self.every
        return first, max(0, (self.store.added - self.length - first) // self.grid + 1)

    def choose(self) -> np.ndarray:
        """Return a batch's windows [B,3]: stream, first row, and the row whose state they start from."""
        # A generator derived from (seed, counter) instead of a running one: two integers are its whole state.
        draws = np.random.default_rng((self.seed, self._samples))
        self._samples += 1
        windows = self._uniform(draws)
        if self.consecutive:
            on = self._cursor + np.array([0, self.length])
            going = (self._cursor[:, 0] >= 0) & self._whole(on)
            windows[going] = on[going]
            self._cursor = windows.copy()
        served = 0
        while self.queue and served < self.batch:
            window = np.array([self.queue.popleft()])
            if self._whole(window)[0]:
                windows[served] = window
                served += 1
        return self._with_state_row(windows)

    def peek(self, number: int) -> np.ndarray:
        """Return uniform windows [B,3] like those of `choose`, on which nothing later depends."""
        return self._with_state_row(self._uniform(np.random.default_rng((self.seed, number, 1))))

    def _with_state_row(self, windows: np.ndarray) -> np.ndarray:
        return np.concatenate([windows, self._state_row(windows)[:, None]], 1)

    def _uniform(self, draws: np.random.Generator) -> np.ndarray:
        """Draw windows [B,2] uniformly from all there are."""
        first, number = self.starts()
        windows = np.zeros((self.batch, 2), np.int64)
        wanted = np.ones(self.batch, bool)
        for _ in range(1000):
            draw = draws.integers(number * self.store.streams, size=int(wanted.sum()))
            row, stream = np.divmod(draw, self.store.streams)
            windows[wanted] = np.stack([stream, first + row * self.grid], 1)
            wanted = ~self._whole(windows)  # only a damaged chunk makes another round necessary
            if not wanted.any():
                return windows
        raise RuntimeError(
            f"no window of {self.length} undamaged steps was found in the replay; "
            f"{len(self.store.holes)} of its chunks were damaged. Start a new run."
        )

    def _whole(self, windows: np.ndarray) -> np.ndarray:
        """Return [n] bool: whether all rows of windows [n,2] are there, and what comes before them."""
        stream, start = windows.T
        first, _ = self.starts()
        whole = (start >= first) & (start + self.length <= self.store.added)
        if self.store.holes:
            reach = self.burn_in or 0
            whole &= ~self.store.damaged(stream, np.maximum(start - reach, 0), self.length + reach)
        return whole

    def _state_row(self, windows: np.ndarray) -> np.ndarray:
        """Return [B] the row whose kept state a window [B,2] starts from.

        For a burn-in that is the nearest one whose state is young enough, else the furthest one within reach.
        """
        stream, start = windows.T
        if self.burn_in is None or self.states is None:
            return start
        oldest = self.store.oldest
        reach = np.maximum(start - self.burn_in, oldest + (oldest > 0))
        back = (start // self.every - np.arange(self.burn_in // self.every + 1)[:, None]).T * self.every
        within = back >= reach[:, None]  # [B, candidates], the nearest one first
        young = within & (self.states.age(stream[:, None], back) <= self.max_age)
        column = np.where(young.any(1), young.argmax(1), within.sum(1) - 1)
        return back[np.arange(len(back)), column]

    def state_dict(self) -> dict[str, np.ndarray | int]:
        """Return counters, online queue and the places of consecutive windows."""
        return {
            "batch_length": self.length,
            "samples": self._samples,
            "fresh": self._fresh,
            "queue": np.array(self.queue, np.int64).reshape(-1, 2),
            "cursor": self._cursor,
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray | int]) -> None:
        """Continue as the saved one; with another length the queue starts empty. Rows are loaded before."""
        self._samples = int(state["samples"])
        if int(state["batch_length"]) != self.length:
            self._fresh = self.store.added % self.grid  # online windows begin where a state is kept
            return
        self._fresh = int(state["fresh"])
        queue = np.asarray(state["queue"]).tolist()
        self.queue.extend((stream, start) for stream, start in queue if start >= self.store.oldest)
        cursor = np.asarray(state["cursor"])
        if cursor.shape == self._cursor.shape:
            self._cursor = cursor.copy()

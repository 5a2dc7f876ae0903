"""Which windows come next: the newest ones, those that continue the last batch, or uniformly random ones."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from replay.states import KeptStates
from replay.store import Store

NOWHERE = np.full((1, 2), -1)


@dataclass(frozen=True)
class Sampling:
    """How batches are drawn. Raises ValueError if options do not go together.

    Windows start from nothing (`zero`), from the state kept at their first row (`stored`: they start where
    one is kept), or anywhere after running through the rows from a kept state on (`burn_in`). Online windows
    follow danijar/dreamerv3: each stream's rows are cut into windows, and a complete one is served once
    before the others are drawn uniformly. Consecutive ones are truncated backpropagation through time.
    """

    batch_size: int  # B, windows in a batch
    batch_length: int  # T, rows in a window
    seed: int  # the n-th batch depends on the seed, on n and on the rows alone
    online: bool = True  # serve each newly completed window once before sampling uniformly
    consecutive: bool = False  # each row of a batch goes on where it ended in the batch before
    initial_state: str = "zero"  # of a window: zero, stored or burn_in
    state_every: int = 16  # rows from one kept recurrent state to the next
    burn_in: int = 32  # longest burn-in before a window
    max_age: int = 1000  # updates after which burn-in takes a younger state, if one is within reach

    def __post_init__(self) -> None:
        if self.online and self.consecutive:
            raise ValueError(
                "replay.online and replay.consecutive exclude each other: a batch goes on where the one "
                "before ended, or begins with the newest windows. Switch one off."
            )
        if self.consecutive and self.initial_state == "zero":
            raise ValueError(
                "replay.consecutive carries the state from batch to batch, which replay.initial_state zero "
                "throws away: use stored or burn_in, or switch it off."
            )
        if self.initial_state == "stored" and self.batch_length % self.state_every:
            raise ValueError(
                f"replay.state_every must divide batch_length {self.batch_length}, so that each window ends "
                f"where the next state is kept, got {self.state_every}."
            )
        if self.initial_state == "burn_in" and not self.state_every <= self.burn_in <= self.batch_length:
            raise ValueError(
                f"replay.burn_in must be at least replay.state_every {self.state_every}, to reach a kept "
                f"state, and at most batch_length {self.batch_length}, got {self.burn_in}."
            )

    @property
    def reach(self) -> int:
        """Rows that may be read before a window to burn in."""
        return self.burn_in if self.initial_state == "burn_in" else 0


class Sampler:
    """Chooses windows; what it chooses depends on the seed, on its count and on the rows.

    Arguments:
        states: None if windows start from nothing.
    """

    def __init__(self, store: Store, states: KeptStates | None, options: Sampling) -> None:
        self.store, self.states, self.options = store, states, options
        self.length = options.batch_length
        # Windows start at multiples of `grid`, the first of them at one of `every`.
        self.every = 1 if states is None else states.every
        self.grid = 1 if options.reach else self.every
        self.queue: deque[tuple[int, int]] = deque()  # (stream, number of the first row)
        self._samples = 0  # batches chosen so far
        self._fresh = 0  # rows of the newest online window that is not complete yet
        self._cursor = np.full((options.batch_size, 2), -1)  # (stream, first row) of the batch before
        self._found = NOWHERE  # [1,2] a window that `ready` found

    def row_added(self) -> None:
        """Register a new row of every stream."""
        if not self.options.online:
            return
        self._fresh += 1
        if self._fresh == self.length:
            self._fresh = 0
            first = self.store.added - self.length
            self.queue.extend((stream, first) for stream in range(self.store.streams))
            while self.queue and self.queue[0][1] < self.store.oldest:  # evicted before it was served
                self.queue.popleft()

    def starts(self) -> tuple[int, int]:
        """Return the first row that windows start at, and how many such rows there are.

        For a burn-in a kept state has to be within reach.
        """
        first = -(-self.store.oldest_with_action // self.every) * self.every
        return first, max(0, (self.store.added - self.length - first) // self.grid + 1)

    def choose(self) -> np.ndarray:
        """Draw the next batch's windows [B,3]: stream, first row, and the row whose state they start from.

        Raises RuntimeError if no window is stored yet.
        """
        # A generator derived from (seed, counter) instead of a running one: two integers are its whole state.
        windows = self._uniform(np.random.default_rng((self.options.seed, self._samples)))
        self._samples += 1
        if self.options.consecutive:
            on = self._cursor + np.array([0, self.length])
            going = (self._cursor[:, 0] >= 0) & self._whole(on)
            windows[going] = on[going]
            self._cursor = windows.copy()
        served = 0
        while self.queue and served < len(windows):
            window = np.array([self.queue.popleft()])
            if self._whole(window)[0]:
                windows[served] = window
                served += 1
        return self._with_state_rows(windows)

    def peek(self, number: int) -> np.ndarray:
        """Return uniform windows [B,3] like those of `choose`, on which nothing later depends."""
        return self._with_state_rows(self._uniform(np.random.default_rng((self.options.seed, number, 1))))

    def _uniform(self, draws: np.random.Generator) -> np.ndarray:
        """Draw windows [B,2] uniformly from all there are."""
        first, number = self.starts()
        if not number:
            stored = self.store.added - self.store.oldest
            raise RuntimeError(
                f"the replay cannot be sampled yet: a batch needs {self.length} steps in each of "
                f"{self.store.streams} streams, {stored} are stored. Ask ready() first."
            )
        windows = np.zeros((self.options.batch_size, 2), np.int64)
        wanted = np.ones(len(windows), bool)
        for _ in range(1000):
            draw = draws.integers(number * self.store.streams, size=int(wanted.sum()))
            row, stream = np.divmod(draw, self.store.streams)
            windows[wanted] = np.stack([stream, first + row * self.grid], 1)
            wanted = ~self._whole(windows)  # only a damaged chunk makes another round necessary
            if not wanted.any():
                return windows
        whole = self._all_whole()  # few are left
        if not len(whole):
            raise RuntimeError(
                f"no window of {self.length} undamaged steps is in the replay; {len(self.store.holes)} of "
                f"its chunks were damaged. Add more steps; ask ready() first."
            )
        windows[wanted] = whole[draws.integers(len(whole), size=int(wanted.sum()))]
        return windows

    def ready(self) -> bool:
        """Return whether a batch can be drawn."""
        if not self.store.holes or not self.starts()[1]:
            return self.starts()[1] > 0
        if not self._whole(self._found)[0]:
            self._found = np.concatenate([self._all_whole()[:1], NOWHERE])[:1]
        return bool(self._whole(self._found)[0])

    def _all_whole(self) -> np.ndarray:
        """Return every window [n,2] that can be drawn, the newest first."""
        first, number = self.starts()
        row, stream = np.divmod(np.arange(number * self.store.streams)[::-1], self.store.streams)
        windows = np.stack([stream, first + row * self.grid], 1)
        return windows[self._whole(windows)]

    def _whole(self, windows: np.ndarray) -> np.ndarray:
        """Return [n] bool: whether all rows of windows [n,2] are there, and what comes before them."""
        stream, start = windows.T
        first, _ = self.starts()
        whole = (start >= first) & (start + self.length <= self.store.added)
        if self.store.holes:
            reach = self.options.reach
            whole &= ~self.store.damaged(stream, np.maximum(start - reach, 0), self.length + reach)
        return whole

    def _with_state_rows(self, windows: np.ndarray) -> np.ndarray:
        """Return windows [B,2] with the row whose kept state each starts from, [B,3].

        For a burn-in that is the nearest one whose state is young enough, else the furthest one within reach.
        """
        stream, start = windows.T
        reach = self.options.reach
        if not reach or self.states is None:
            return np.column_stack([windows, start])
        back = (start // self.every - np.arange(reach // self.every + 1)[:, None]).T * self.every
        least = np.maximum(start - reach, self.store.oldest_with_action)
        within = back >= least[:, None]  # [B, candidates], the nearest one first
        young = within & (self.states.age(stream[:, None], back) <= self.options.max_age)
        column = np.where(young.any(1), young.argmax(1), within.sum(1) - 1)
        return np.column_stack([windows, back[np.arange(len(back)), column]])

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

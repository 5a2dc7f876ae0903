"""Sequence replay: rows of every environment, sampled as windows that may cross episodes.

A row holds what one environment showed and what was then done: `obs/*`, `reward`, `is_first`, `is_last`,
`is_terminal` and `action`, the action TAKEN at that row. The learner wants the action that LED INTO a row, so
windows are read with it shifted once, here and nowhere else.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import gymnasium
import numpy as np

from replay import checks
from replay.chunk import FLAGS
from replay.sampler import Sampler
from replay.states import KeptStates
from replay.store import Fingerprints, Read, Rows, Store

INITIAL_STATES = ("zero", "stored", "burn_in")


class Replay:
    """The newest `capacity` steps of `streams` environments that are stepped together.

    Arguments:
        capacity: hard limit on the steps that can be sampled, all streams together.
        streams: number of environments, the leading axis N of every added row.
        batch_size: B, windows in a sampled batch.
        batch_length: T, consecutive steps in a window.
        seed: the n-th batch of a replay depends on the seed, on n and on the rows alone.
        online: serve each freshly completed window of T steps once before sampling uniformly.
        consecutive: each row of a batch continues where it ended in the previous batch (truncated
            backpropagation through time), as long as there are rows.
        initial_state: what a window starts from: `zero` (nothing), `stored` (the state kept at its first row:
            windows start where one is kept) or `burn_in` (windows start anywhere; the batch also holds the
            rows from a kept state on, to be run through without a loss).
        state_every: K, rows from one kept recurrent state to the next.
        burn_in: largest number of rows to burn in with before a window, in mode `burn_in`.
        max_age: updates after which a kept state is too old to burn in from, if there is a younger one within
            reach; if not, the one furthest back is taken.
        folder, chunk: see `Store`.
        memory_gb: GiB that rows may take in memory.

    Raises ValueError if sizes are not positive or do not fit together.

    The n-th rows of all streams belong together, so one counter describes them all. The online queue follows
    danijar/dreamerv3: a stream's rows are cut into consecutive windows, and each enters the queue when it is
    complete.
    """

    def __init__(
        self,
        capacity: int,
        streams: int,
        batch_size: int,
        batch_length: int,
        seed: int,
        online: bool = True,
        consecutive: bool = False,
        initial_state: str = "zero",
        state_every: int = 16,
        burn_in: int = 32,
        max_age: int = 1000,
        folder: Path | None = None,
        chunk: int = 1024,
        memory_gb: float = 4.0,
    ) -> None:
        sizes = {
            "capacity": capacity,
            "streams": streams,
            "batch_size": batch_size,
            "batch_length": batch_length,
            "state_every": state_every,
            "chunk": chunk,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"replay {name} must be at least 1, got {value}.")
        if seed < 0:
            raise ValueError(f"replay seed must not be negative, got {seed}.")
        if initial_state not in INITIAL_STATES:
            raise ValueError(
                f"replay.initial_state must be one of {', '.join(INITIAL_STATES)}, got {initial_state!r}."
            )
        if online and consecutive:
            raise ValueError(
                "replay.online and replay.consecutive exclude each other: a batch goes on where the one "
                "before ended, or begins with the newest windows. Switch one off."
            )
        if consecutive and initial_state == "zero":
            raise ValueError(
                "replay.consecutive carries the state from batch to batch, which replay.initial_state zero "
                "throws away: use stored or burn_in, or switch it off."
            )
        if initial_state == "stored" and batch_length % state_every:
            raise ValueError(
                f"replay state_every must divide batch_length {batch_length}, so that each window ends where "
                f"the next state is kept, got {state_every}."
            )
        if initial_state == "burn_in" and not state_every <= burn_in <= batch_length:
            raise ValueError(
                f"replay burn_in must be at least state_every {state_every}, to reach a kept state, and at "
                f"most batch_length {batch_length}, got {burn_in}."
            )
        self.length = capacity // streams  # rows of one stream
        needed = batch_length + (1 if initial_state == "zero" else state_every)
        if self.length < needed:
            raise ValueError(
                f"replay capacity {capacity} gives {self.length} steps to each of {streams} streams, but a "
                f"window of batch_length {batch_length} needs {needed}: the action that led into its first "
                f"step is stored one step earlier, and it starts where a state is kept. Use a capacity of at "
                f"least {streams * needed}, fewer environments or a shorter batch_length."
            )
        self.capacity, self.streams = capacity, streams
        self.batch_size, self.batch_length = batch_size, batch_length
        self.initial_state, self.state_every, self.burn_in = initial_state, state_every, burn_in
        self.store = Store(streams, self.length, folder, chunk, int(memory_gb * 2**30))
        self.states = None if initial_state == "zero" else KeptStates(streams, self.length, state_every)
        self.sampler = Sampler(
            self.store,
            self.states,
            batch_size,
            batch_length,
            seed,
            online,
            consecutive,
            burn_in if initial_state == "burn_in" else None,
            max_age,
        )
        self._ended = np.ones(streams, bool)  # [N] the stream's next row must start an episode
        self._resumed = False  # nothing was added since the contents were loaded

    @property
    def _size(self) -> int:
        """Rows of each stream that count."""
        return self.store.added - self.store.oldest

    def __len__(self) -> int:
        """Return the number of stored steps, all streams together."""
        return self.streams * self._size

    @property
    def bytes_per_step(self) -> int:
        """Bytes of one stored step, without its share of a kept state; 0 until the first rows are added."""
        return self.store.row_bytes

    def check_memory(self, spaces: Iterable[gymnasium.Space]) -> None:
        """Check early what the first `add` checks: that memory holds rows of these observations and actions.

        Raises ValueError if it does not hold two chunks of every stream.
        """
        row = (
            *(np.asarray(space.sample()) for space in spaces),
            np.zeros(1, np.float32),
            np.zeros(len(FLAGS), bool),
        )
        self.store.rows_that_fit(sum(part.nbytes for part in row))

    def describe(self) -> str:
        """Return one line on capacity, memory and disk, to be printed when a run starts."""
        text = f"replay: {self.streams * self.length:,} steps ({self.streams} streams x {self.length:,})"
        size = self.bytes_per_step
        if not size:
            return f"{text}, size known once the first step is stored"
        memory = self.streams * min(self.store.memory_rows, self.length) * size
        text = f"{text}, {_bytes(size)} a step, when full {_bytes(memory)} in memory"
        if self.states is not None:
            text = f"{text}, {_bytes(self.states.nbytes)} of recurrent states"
        if self.store.folder is not None:
            text = f"{text}, {_bytes(self.streams * self.length * size)} on disk"
        return f"{text}; {len(self):,} steps now"

    def wants_state(self) -> bool:
        """Return whether the next `add` takes the recurrent state before its row."""
        return self.states is not None and self.store.added % self.state_every == 0

    def add(self, rows: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None) -> None:
        """Store one row of every stream; beyond the capacity the oldest ones no longer count.

        Arguments:
            rows: `obs/<name>` [N,...] uint8 or float32, `action` [N,...] int64 or float32 (the action taken
                at this row), `reward` [N] float32, `is_first`, `is_last`, `is_terminal` [N] bool.
            state: leaves [N,...] float32, the recurrent state before this row; needed where `wants_state`.

        Raises ValueError, storing nothing, if a key, shape or dtype differs from the first rows added, a
        reward is not finite, an episode does not begin exactly where the last one ended, or a row is terminal
        without being the last; OSError if a chunk could not be written or read in the background.
        """
        number = self.store.added
        if not self.store.rings:
            checks.first_rows(rows, self.streams)
        else:
            checks.like_the_first(rows, number, self.store.rings)
        checks.continuing(rows, number, self._ended, self._resumed)
        if self.wants_state():
            if state is None:
                raise ValueError(f"row {number} of the replay needs the recurrent state before it.")
            assert self.states is not None
            self.states.put(np.arange(self.streams), np.full(self.streams, number), state)
        self.store.append(rows)
        self._ended = rows["is_last"].copy()
        self._resumed = False
        self.sampler.row_added()

    def close_episodes(self, streams: np.ndarray) -> None:
        """End the open episodes of streams [N] bool, whose environments start anew.

        The newest row becomes `is_last`, never `is_terminal`; its action, of unknown outcome, becomes zero.
        """
        opened = streams & ~self._ended
        if opened.any():  # there are rows
            self.store.change_newest("is_last", opened, True)
            self.store.change_newest("action", opened, 0)
            self._ended = self._ended | opened

    def ready(self) -> bool:
        """Return whether a batch can be sampled."""
        return self.sampler.starts()[1] > 0

    def sample(self) -> Rows:
        """Return a batch [B,T,...] of windows of T consecutive rows, each of one stream.

        Windows may cross episodes; `is_first` marks where. Queued online windows come first, the rest are
        uniform over all windows whose first row has a known incoming action: its predecessor still counts,
        or it is row 0, where every stream starts an episode. With `stored`, of these only windows that begin
        where a state is kept; with `consecutive`, rows of a batch continue those of the batch before.

        Returns: the stored keys, with `action` [B,T,...] the action that led INTO each row, zero where
        `is_first`; unless the initial state is `zero`, also `state/<leaf>` [B,...], the recurrent state
        before each window, and `window` [B,2], which `refresh` takes. With `burn_in` that state is the one
        before the rows `burn_in/<key>` [B,burn_in,...], of which the first `burn_in/length` [B] lie before
        the window; `end` [B] is the step of the window after which `refresh` takes the state.

        Raises RuntimeError if no window is stored yet.
        """
        windows = self.choose()
        return self.complete(windows, self.rows(windows, self.store.read))

    def peek(self, number: int) -> Rows:
        """Return a batch like `sample`'s, all of it uniform: the `number`-th of a sequence of its own.

        What `sample` returns is the same whether or not `peek` was called.
        """
        self._must_be_ready()
        windows = self.sampler.peek(number)
        return self.complete(windows, self.rows(windows, self.store.read))

    def choose(self) -> np.ndarray:
        """Draw the next batch's windows [B,3]: stream, first row, and the row whose state it starts from."""
        self._must_be_ready()
        return self.sampler.choose()

    def _must_be_ready(self) -> None:
        if not self.ready():
            raise RuntimeError(
                f"the replay cannot be sampled yet: a batch needs {self.batch_length} steps in each of "
                f"{self.streams} streams, {self._size} are stored. Ask ready() first."
            )

    def rows(self, windows: np.ndarray, read: Read) -> Rows:
        """Return what is stored of windows [B,3]; `read` is `Store.read`, or the one `read_later` passes."""
        stream, start, begin = windows.T
        batch = read(stream, start, self.batch_length)
        batch["action"][batch["is_first"]] = 0
        if self.initial_state == "burn_in":
            keys = [key for key in batch if key.startswith("obs/")]
            before = read(stream, begin, self.burn_in, [*keys, "action", "is_first"])
            before["action"][before["is_first"]] = 0
            batch |= {f"burn_in/{key}": value for key, value in before.items()}
            batch["burn_in/length"] = start - begin
        return batch

    def complete(self, windows: np.ndarray, batch: Rows) -> Rows:
        """Add the states as they are now to the rows of windows [B,3]."""
        if self.states is None:
            return batch
        stream, start, begin = windows.T
        batch |= self.states.get(stream, begin) | {"window": windows[:, :2]}
        if self.initial_state == "burn_in":
            batch["end"] = self._end(start) - start - 1
        return batch

    def still_there(self, windows: np.ndarray) -> bool:
        """Return whether all rows of chosen windows [B,3], and the actions into them, still count."""
        oldest = self.store.oldest
        return bool((windows[:, 2] >= oldest + (oldest > 0)).all())

    def refresh(self, window: np.ndarray, state: Mapping[str, np.ndarray], update: int = 0) -> None:
        """Keep the states [B,...] that training reached in sampled windows, after `update` updates.

        `window` [B,2] is that of their batch, and the states are those at its `end`, or the window's last.
        """
        assert self.states is not None, "there are no states to renew"
        self.states.update = update
        stream, row = window[:, 0], self._end(window[:, 1])
        stored = (row > self.store.oldest) & (row <= self.store.added)
        self.states.put(stream[stored], row[stored], {leaf: value[stored] for leaf, value in state.items()})

    def _end(self, start: np.ndarray) -> np.ndarray:
        """Return the last rows with a kept state that lie in the windows from `start` on, or right after."""
        return (start + self.batch_length) // self.state_every * self.state_every

    def state_dict(self) -> dict[str, np.ndarray | int]:
        """Return what is in no chunk as plain arrays and integers; `chunks` names the chunks that go with it.

        `rows/<key>` [streams, rows, ...] are the newest rows, from number `first` on; without a folder all.
        """
        self.store.settle(self.store.added)
        first, tail = self.store.tail()
        oldest, added = self.store.oldest, self.store.added
        state: dict[str, np.ndarray | int] = {f"rows/{key}": value for key, value in tail.items()}
        if self.states is not None:
            state |= self.states.state_dict(oldest, added)
        return (
            state
            | self.sampler.state_dict()
            | {
                "initial_state": np.array(self.initial_state),
                "state_every": self.state_every,
                "chunk": self.store.chunk_rows,
                "oldest": oldest,
                "first": first,
                "streams": self.streams,
            }
        )

    def chunks(self) -> Fingerprints:
        """Return size and CRC-32 of the chunks on disk that hold steps of the replay, by file name."""
        return self.store.flush()

    def load_state_dict(
        self, state: Mapping[str, np.ndarray | int], chunks: Fingerprints | None = None
    ) -> list[str]:
        """Replace the contents by those of `state_dict` and `chunks`; open episodes stay open.

        With the same sizes, sampling continues exactly as it would have. A smaller capacity keeps the newest
        rows; with another batch_length the online queue starts empty.

        Returns a message for every chunk that is missing or damaged: its steps are no longer sampled.

        Raises ValueError if the state has other streams, states or chunks, or lacks an entry; RuntimeError
        if this replay is not empty.
        """
        if self.store.added:
            raise RuntimeError("contents are loaded into a new replay only, this one has rows already.")
        missing = _ENTRIES - state.keys()
        if missing:
            raise ValueError(
                f"the saved replay lacks {sorted(missing)}: it was not written by Replay.state_dict."
            )
        for name, ours in {
            "streams": self.streams,
            "initial_state": self.initial_state,
            "state_every": self.state_every,
            "chunk": self.store.chunk_rows,
        }.items():
            if str(state[name]) != str(ours):
                raise ValueError(
                    f"the saved replay has {name} {state[name]}, this one {ours}: resume with the options "
                    f"that the run was started with, or start a new run."
                )
        tail = {key.removeprefix("rows/"): np.asarray(state[key]) for key in state if key.startswith("rows/")}
        problems = []
        if tail:
            oldest = int(state["oldest"])
            problems = self.store.load(oldest, int(state["first"]), tail, chunks or {})
            self._ended = self.store.newest("is_last")
            self._resumed = True
            if self.states is not None:
                self.states.load_state_dict(state, oldest, self.store.added)
        self.sampler.load_state_dict(state)
        return problems

    def prune(self, keep: set[str]) -> None:
        """Remove the chunks on disk that hold no step of the replay, except those named in `keep`."""
        self.store.prune(keep)

    def close(self) -> None:
        """End the threads that write and read chunks."""
        self.store.close()


_ENTRIES = {"streams", "initial_state", "state_every", "chunk", "oldest", "first", "samples", "queue"}


def _bytes(count: int) -> str:
    """Return a number of bytes in a readable unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"

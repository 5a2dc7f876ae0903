"""Sequence replay: rows of every environment, sampled as windows that may cross episodes."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from replay.files import Fingerprint
from replay.rows import FLAGS, Rows, check, check_alike, check_continuing
from replay.sampler import Sampler, Sampling
from replay.states import KeptStates
from replay.store import Read, Store


class Replay:
    """The newest `capacity` rows of `streams` environments that are stepped together.

    Arguments:
        capacity: hard limit on the rows that can be sampled, all streams together.
        streams: number of environments, the leading axis N of every added row.
        batch_size, batch_length, seed, options: see `Sampling`.
        folder, chunk, first_stream: see `Store`.
        memory_gb: GiB that rows may take in memory.
        prepare: what the background thread of `next` does with the rows it has read, such as pinning them
            for a device.

    Raises ValueError if options do not go together, or the capacity holds no window.
    """

    def __init__(
        self,
        capacity: int,
        streams: int,
        batch_size: int,
        batch_length: int,
        seed: int,
        *,
        folder: Path | None = None,
        chunk: int = 1024,
        first_stream: int = 0,
        memory_gb: float = 4.0,
        prepare: Callable[[Rows], Mapping[str, Any]] = dict,
        **options: Any,
    ) -> None:
        self.options = Sampling(batch_size, batch_length, seed, **options)
        keeps = self.options.initial_state != "zero"
        self.streams, length = streams, capacity // streams  # rows of one stream
        needed = batch_length + (self.options.state_every if keeps else 1)
        if length < needed:
            raise ValueError(
                f"replay.capacity {capacity} gives {length} steps to each of {streams} streams, but a "
                f"window of batch_length {batch_length} needs {needed}: the action that led into its first "
                f"step is stored one step earlier, and it starts where a state is kept. Use a capacity of at "
                f"least {streams * needed}, fewer environments or a shorter batch_length."
            )
        self.store = Store(streams, length, folder, chunk, int(memory_gb * 2**30), first_stream)
        self.states = KeptStates(streams, length, self.options.state_every) if keeps else None
        self.sampler = Sampler(self.store, self.states, self.options)
        self._prepare = prepare
        self._ahead = np.zeros((0, 3), np.int64)  # windows of the batch that is being read, if any
        self._reading: Future[Mapping[str, Any]] | None = None
        self._ended = np.ones(streams, bool)  # [N] the stream's next row must start an episode
        self._resumed = False  # nothing was added since the contents were loaded

    def __len__(self) -> int:
        """Return the number of stored rows, all streams together."""
        return self.streams * (self.store.added - self.store.oldest)

    @property
    def orphaned(self) -> int:
        """Chunks found in the folder that no checkpoint knew; they are in its `orphaned/` now."""
        return self.store.orphaned

    def check_memory(self, spaces: Iterable[gymnasium.Space]) -> None:
        """Check early what the first `add` checks: that memory holds rows of these observations and actions.

        Raises ValueError if it does not hold two chunks of every stream.
        """
        shown = sum(np.asarray(space.sample()).nbytes for space in spaces)
        self.store.rows_that_fit(shown + np.float32().nbytes + len(FLAGS))

    def describe(self) -> str:
        """Return one line on capacity and memory, to be printed when a run starts."""
        length, size = self.store.limit, self.store.row_bytes
        text = f"replay: {self.streams * length:,} steps ({self.streams} streams x {length:,})"
        if not size:
            return f"{text}, size known once the first step is stored"
        memory = self.streams * min(self.store.memory_rows, length) * size
        text = f"{text}, {readable(size)} a step, when full {readable(memory)} in memory"
        if self.states is not None:
            text = f"{text}, {readable(self.states.nbytes)} of recurrent states"
        return f"{text}; {len(self):,} steps now"

    def disk(self, rows: int) -> tuple[int, int]:
        """Return the bytes of the chunks of so many rows, and of a `state_dict`, once a row is stored."""
        size, chunk = self.store.row_bytes, self.store.chunk_rows
        tail = self.streams * min(chunk, self.store.limit) if self.store.folder else rows
        states = 0 if self.states is None else self.states.nbytes * rows // (self.streams * self.store.limit)
        return rows * size if self.store.folder else 0, tail * size + states

    def wants_state(self, ahead: int = 0) -> bool:
        """Return whether the `add` after `ahead` more takes the recurrent state before its row."""
        return self.states is not None and (self.store.added + ahead) % self.states.every == 0

    def add(self, rows: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None) -> None:
        """Store one row of every stream; beyond the capacity the oldest ones no longer count.

        Arguments:
            rows: see `replay.rows`.
            state: leaves [N,...] float32, the recurrent state before this row; needed where `wants_state`.

        Raises ValueError, storing nothing, if a key, shape or type is wrong or differs from the first rows
        added, a reward is not finite, an episode does not begin exactly where the last one ended, or a row is
        terminal without being the last; OSError if a chunk could not be written or read in the background.
        """
        number = self.store.added
        if not self.store.rings:
            check(rows, self.streams, "the first row of the replay")
        else:
            check_alike(rows, number, self.store.rings)
        check_continuing(rows, number, self._ended, self._resumed)
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
        """Return whether a batch can be drawn."""
        return self.sampler.ready()

    def next(self) -> dict[str, Any]:
        """Return the next batch, whose rows were read in the background; raises what went wrong there.

        A batch is that of `sample`, its rows as `prepare` returned them. Its windows are chosen when the
        batch before is handed out, and the recurrent states are those at the time of handing out, so the
        timing of threads changes no batch.
        """
        if self._reading is None or not self._counts(self._ahead):
            self._read_ahead(self.sampler.choose())
        assert self._reading is not None
        batch = {**self._reading.result(), **self._states_of(self._ahead)}
        self._read_ahead(self.sampler.choose())
        return batch

    def sample(self) -> Rows:
        """Draw a batch [B,T,...] of windows of T consecutive rows, each of one stream, and read it now.

        Windows may cross episodes; `is_first` marks where. Queued online windows come first, the rest are
        uniform over all windows whose first row has a known incoming action: its predecessor still counts,
        or it is row 0, where every stream starts an episode. With `stored`, of these only windows that begin
        where a state is kept; with `consecutive`, rows of a batch continue those of the batch before.

        Returns: the stored keys, with `action` [B,T,...] the action that led INTO each row, zero where
        `is_first`; unless the initial state is `zero`, also `state/<leaf>` [B,...], the recurrent state
        before each window, and `window` [B,2] (stream, first row), which `refresh` takes. With `burn_in` that
        state is the one before the rows `burn_in/<key>` [B,burn_in,...], of which the first `burn_in/length`
        [B] lie before the window; `end` [B] is the step of the window after which `refresh` takes the state.

        Raises RuntimeError if no window is stored yet.
        """
        return self.batch(self.sampler.choose())

    def peek(self, number: int) -> Rows:
        """Return a batch like `sample`'s, all of it uniform: the `number`-th of a sequence of its own.

        What `sample` and `next` return is the same whether or not `peek` was called.
        """
        return self.batch(self.sampler.peek(number))

    def batch(self, windows: np.ndarray) -> Rows:
        """Return the batch of windows [B,3] that the sampler chose, as `sample` does."""
        return self._rows(windows, self.store.read) | self._states_of(windows)

    def refresh(self, window: np.ndarray, state: Mapping[str, np.ndarray], update: int = 0) -> None:
        """Keep the states [B,...] that training reached in sampled windows, after `update` updates.

        `window` [B,2] is that of their batch, and the states are those at its `end`, or the window's last.
        """
        assert self.states is not None, "there are no states to renew"
        self.states.update = update
        stream, row = window[:, 0], self._end(window[:, 1])
        stored = (row > self.store.oldest) & (row <= self.store.added)
        self.states.put(stream[stored], row[stored], {leaf: value[stored] for leaf, value in state.items()})

    def state_dict(self) -> dict[str, np.ndarray | int]:
        """Return what is in no chunk as plain arrays and integers; `chunks` names the chunks that go with it.

        `rows/<key>` [streams, rows, ...] are the newest rows, from number `first` on; without a folder all.
        """
        first, tail = self.store.tail()
        oldest, added = self.store.oldest, self.store.added
        state: dict[str, np.ndarray | int] = {f"rows/{key}": value for key, value in tail.items()}
        if self.states is not None:
            state |= self.states.state_dict(oldest, added)
        state |= self.sampler.state_dict() | self._fixed()
        return state | {"oldest": oldest, "first": first, "ahead": self._ahead}

    def chunks(self) -> dict[str, Fingerprint]:
        """Return size and CRC-32 of the chunks on disk that hold rows of the replay, by file name."""
        return self.store.flush()

    def load_state_dict(
        self, state: Mapping[str, np.ndarray | int], chunks: Mapping[str, Fingerprint] | None = None
    ) -> list[str]:
        """Take over the contents of `state_dict` and `chunks`; open episodes stay open.

        With the same sizes, sampling continues exactly as it would have. A smaller capacity keeps the newest
        rows; with another batch_length the online queue starts empty.

        Returns messages on the chunks that are missing or damaged: their rows are no longer sampled.

        Raises ValueError if the state has other streams, states or chunks, or lacks an entry; RuntimeError
        if this replay is not empty.
        """
        if self.store.added:
            raise RuntimeError("contents are loaded into a new replay only, this one has rows already.")
        missing = {*self._fixed(), "oldest", "first", "ahead", "samples", "queue"} - state.keys()
        if missing:
            raise ValueError(
                f"the saved replay lacks {sorted(missing)}: it was not written by Replay.state_dict."
            )
        for name, ours in self._fixed().items():
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
        ahead = np.asarray(state["ahead"])
        if len(ahead) and not problems:
            self._ahead = ahead
            if self._counts(ahead):
                self._read_ahead(ahead)
        if tail:
            self.store.put_away()  # the first that changes the folder: all of the state was taken over
        return problems

    def prune(self, keep: Iterable[str]) -> None:
        """Remove the chunks on disk that hold no row of the replay, except those named in `keep`."""
        self.store.prune(keep)

    def close(self) -> None:
        """End the threads that write and read chunks."""
        self.store.close()

    def _fixed(self) -> dict[str, np.ndarray | int]:
        """Return what contents have in common with the replay they are loaded into."""
        return {
            "streams": self.streams,
            "initial_state": np.array(self.options.initial_state),
            "state_every": self.options.state_every,
            "chunk": self.store.chunk_rows,
        }

    def _read_ahead(self, windows: np.ndarray) -> None:
        """Have the rows of windows [B,3] read in the background."""
        end = windows[:, 1] + self.options.batch_length
        self._ahead = windows
        self._reading = self.store.read_later(
            windows[:, 2], end, lambda read: self._prepare(self._rows(windows, read))
        )

    def _counts(self, windows: np.ndarray) -> bool:
        """Return whether all rows of chosen windows [B,3], and the actions into them, still count."""
        return bool((windows[:, 2] >= self.store.oldest_with_action).all())

    def _rows(self, windows: np.ndarray, read: Read) -> Rows:
        """Return what is stored of windows [B,3]; `read` is `Store.read`, or the one `read_later` passes."""
        stream, start, begin = windows.T
        batch = read(stream, start, self.options.batch_length)
        if self.options.reach:
            keys = [key for key in batch if key.startswith("obs/")]
            before = read(stream, begin, self.options.reach, [*keys, "action"])
            batch |= {f"burn_in/{key}": value for key, value in before.items()}
            batch["burn_in/length"] = start - begin
        return batch

    def _states_of(self, windows: np.ndarray) -> Rows:
        """Return the states of windows [B,3] as they are now, and what `refresh` needs to renew them."""
        if self.states is None:
            return {}
        stream, start, begin = windows.T
        found = self.states.get(stream, begin) | {"window": windows[:, :2]}
        if self.options.reach:
            found["end"] = self._end(start) - start - 1
        return found

    def _end(self, start: np.ndarray) -> np.ndarray:
        """Return the last rows with a kept state that lie in the windows from `start` on, or right after."""
        assert self.states is not None
        return (start + self.options.batch_length) // self.states.every * self.states.every


def readable(count: int) -> str:
    """Return a number of bytes in a readable unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"

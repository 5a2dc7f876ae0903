"""Sequence replay: a ring of rows for each environment, sampled as windows that may cross episodes.

A row holds what one environment showed and what was then done: `obs/*`, `reward`, `is_first`, `is_last`,
`is_terminal` and `action`, the action TAKEN at that row. The learner wants the action that LED INTO a row, so
`Replay.sample` shifts once, here and nowhere else.
"""

from collections import deque
from collections.abc import Mapping

import numpy as np

FLAGS = ("is_first", "is_last", "is_terminal")
REQUIRED = ("action", "reward", *FLAGS)


class Replay:
    """The newest `capacity` steps of `streams` environments that are stepped together.

    Arguments:
        capacity: hard limit of stored steps, all streams together.
        streams: number of environments, the leading axis N of every added row.
        batch_size: B, windows in a sampled batch.
        batch_length: T, consecutive steps in a window.
        seed: the n-th batch of a replay depends on the seed, on n and on the rows alone.
        online: serve each freshly completed window of T steps once before sampling uniformly.
        state_every: K, rows from one kept recurrent state to the next; windows then start at such rows, with
            the state that was there. 0 keeps none: windows start anywhere and without a state.

    Raises ValueError if a size is not positive, a stream's share of the capacity cannot hold one window, or
    windows would not end where a state is kept.

    The n-th row of every stream lies in the same slot, so one counter describes all the rings. The online
    queue follows danijar/dreamerv3: a stream's rows are cut into consecutive windows, and each enters the
    queue when it is complete.

    A kept state is first the one acting had when it came to the row. Training overwrites it with its own when
    a window ends there (`refresh`), so that states stay about as young as the parameters.
    """

    def __init__(
        self,
        capacity: int,
        streams: int,
        batch_size: int,
        batch_length: int,
        seed: int,
        online: bool = True,
        state_every: int = 0,
    ) -> None:
        sizes = {
            "capacity": capacity,
            "streams": streams,
            "batch_size": batch_size,
            "batch_length": batch_length,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"replay {name} must be at least 1, got {value}.")
        if seed < 0:
            raise ValueError(f"replay seed must not be negative, got {seed}.")
        if state_every < 0 or (state_every and batch_length % state_every):
            raise ValueError(
                f"replay state_every must be 0 or divide batch_length {batch_length}, so that each window "
                f"ends where the next state is kept, got {state_every}."
            )
        self.length = capacity // streams  # rows in the ring of one stream
        needed = batch_length + max(state_every, 1)
        if self.length < needed:
            raise ValueError(
                f"replay capacity {capacity} gives {self.length} steps to each of {streams} streams, but a "
                f"window of batch_length {batch_length} needs {needed}: the action that led into its first "
                f"step is stored one step earlier, and it starts where a state is kept. Use a capacity of at "
                f"least {streams * needed}, fewer environments or a shorter batch_length."
            )
        self.capacity, self.streams = capacity, streams
        self.batch_size, self.batch_length = batch_size, batch_length
        self.seed, self.online, self.state_every = seed, online, state_every
        self._states: dict[str, np.ndarray] = {}  # leaf -> [streams, kept states, ...]
        self._rings: dict[str, np.ndarray] = {}  # key -> [streams, length, ...]
        self._flat: dict[str, np.ndarray] = {}  # the same memory as [streams * length, ...]
        self._clear()

    def _clear(self) -> None:
        self._added = 0  # rows ever added to each stream; row number n lies in slot n % length
        self._samples = 0  # batches served so far
        self._fresh = 0  # rows of the newest online window that is not complete yet
        self._queue: deque[tuple[int, int]] = deque()  # (stream, number of the first row)
        self._ended = np.ones(self.streams, bool)  # [N] the stream's next row must start an episode
        self._resumed = False  # nothing was added since the contents were loaded

    @property
    def _size(self) -> int:
        """Rows stored in each stream."""
        return min(self._added, self.length)

    def __len__(self) -> int:
        """Return the number of stored steps, all streams together."""
        return self.streams * self._size

    @property
    def bytes_per_step(self) -> int:
        """Bytes of one stored step, its share of a kept state included; 0 until the first rows were added."""
        states = sum(states[0, 0].nbytes for states in self._states.values())
        return sum(ring[0, 0].nbytes for ring in self._rings.values()) + states // max(self.state_every, 1)

    @property
    def nbytes(self) -> int:
        """Bytes that the stored steps take in memory."""
        return len(self) * self.bytes_per_step

    @property
    def nbytes_at_capacity(self) -> int:
        """Bytes in memory once the rings are full; 0 until the first rows were added."""
        return self.streams * self.length * self.bytes_per_step

    def describe(self) -> str:
        """Return one line on capacity and memory, to be printed when a run starts."""
        text = f"replay: {self.streams * self.length:,} steps ({self.streams} streams x {self.length:,})"
        if not self._rings:
            return f"{text}, size in memory known once the first step is stored"
        return (
            f"{text}, {_bytes(self.bytes_per_step)} a step, {_bytes(self.nbytes_at_capacity)} in memory when "
            f"full, {_bytes(self.nbytes)} now"
        )

    def wants_state(self) -> bool:
        """Return whether the next `add` takes the recurrent state before its row."""
        return bool(self.state_every) and self._added % self.state_every == 0

    def add(self, rows: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None) -> None:
        """Store one row of every stream, evicting the oldest ones when the rings are full.

        Arguments:
            rows: `obs/<name>` [N,...] uint8 or float32, `action` [N,...] int64 or float32 (the action taken
                at this row), `reward` [N] float32, `is_first`, `is_last`, `is_terminal` [N] bool.
            state: leaves [N,...] float32, the recurrent state before this row; needed where `wants_state`.

        Raises ValueError, storing nothing, if a key, shape or dtype differs from the first rows added, a
        reward is not finite, an episode starts or ends in the middle, or a row is terminal without being the
        last.
        """
        if not self._rings:
            self._allocate(rows)
        self._check(rows)
        if self.wants_state():
            if state is None:
                raise ValueError(f"row {self._added} of the replay needs the recurrent state before it.")
            self._put(np.arange(self.streams), np.full(self.streams, self._added), state)
        slot = self._added % self.length
        for key, ring in self._rings.items():
            ring[:, slot] = rows[key]
        self._added += 1
        self._ended = rows["is_last"].copy()
        self._resumed = False
        if not self.online:
            return
        self._fresh += 1
        if self._fresh == self.batch_length:
            self._fresh = 0
            self._queue.extend((stream, self._added - self.batch_length) for stream in range(self.streams))
            while self._queue[0][1] < self._added - self.length:  # evicted before it was served
                self._queue.popleft()

    def close_episodes(self, streams: np.ndarray) -> None:
        """End the open episodes of streams [N] bool: their environments start anew.

        The newest row becomes `is_last`, never `is_terminal`, and its action, whose outcome is unknown, zero.
        """
        slot = (self._added - 1) % self.length
        opened = streams & ~self._ended
        if opened.any():  # there are rows
            self._rings["is_last"][opened, slot] = True
            self._rings["action"][opened, slot] = 0
            self._ended = self._ended | opened

    def ready(self) -> bool:
        """Return whether a batch can be sampled."""
        return self._starts()[1] > 0 or (self._size >= self.batch_length and bool(self._edge_streams().size))

    def sample(self) -> dict[str, np.ndarray]:
        """Return a batch [B,T,...] of windows of T consecutive rows, each of one stream.

        Windows may cross episodes; `is_first` marks where. Queued online windows come first, the rest is
        uniform over every window whose first row has a known incoming action: its predecessor is still
        stored, or it starts an episode.

        Returns: the stored keys, with `action` [B,T,...] the action that led INTO each row, zero where
        `is_first`; with `state_every` also `state/<leaf>` [B,...], the recurrent state before each window,
        and `window` [B,2], which `refresh` wants back.

        Raises RuntimeError if no window is stored yet.
        """
        if not self.ready():
            raise RuntimeError(
                f"the replay cannot be sampled yet: a batch needs {self.batch_length} steps in each of "
                f"{self.streams} streams, {self._size} are stored. Ask ready() first."
            )
        stream, start = self._choose()
        rows = start[:, None] + np.arange(self.batch_length)  # [B,T]
        base = (stream * self.length)[:, None]
        index = base + rows % self.length
        batch = {key: flat.take(index, axis=0) for key, flat in self._flat.items() if key != "action"}
        batch["action"] = self._flat["action"].take(base + (rows - 1) % self.length, axis=0)
        batch["action"][batch["is_first"]] = 0
        if self.state_every:
            batch["window"] = np.stack([stream, start], 1)
            for leaf, states in self._states.items():
                batch[f"state/{leaf}"] = states[stream, self._state_slot(start, states)]
        return batch

    def refresh(self, window: np.ndarray, state: Mapping[str, np.ndarray]) -> None:
        """Keep the states [B,...] at the ends of sampled windows, `window` [B,2] as in their batch."""
        stream, row = window[:, 0], window[:, 1] + self.batch_length
        stored = (row > self._added - self._size) & (row <= self._added)
        self._put(stream[stored], row[stored], {leaf: value[stored] for leaf, value in state.items()})

    def _put(self, stream: np.ndarray, row: np.ndarray, state: Mapping[str, np.ndarray]) -> None:
        """Keep states [n,...] before row numbers [n] of streams [n]."""
        for leaf, value in state.items():
            if leaf not in self._states:
                slots = self.length // self.state_every + 2
                self._states[leaf] = np.zeros((self.streams, slots, *value.shape[1:]), np.float32)
            states = self._states[leaf]
            states[stream, self._state_slot(row, states)] = value

    def _state_slot(self, row: np.ndarray, states: np.ndarray) -> np.ndarray:
        return row // self.state_every % states.shape[1]

    def _choose(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the stream [B] and the number of the first row [B] of the next batch's windows."""
        served: list[tuple[int, int]] = []
        oldest = self._added - self._size
        while self._queue and len(served) < self.batch_size:
            stream, start = self._queue.popleft()
            slot = start % self.length
            if start > oldest or (start == oldest and self._rings["is_first"][stream, slot]):
                served.append((stream, start))
        # A generator derived from (seed, counter) instead of a running one: two integers are its whole state.
        draws = np.random.default_rng((self.seed, self._samples))
        self._samples += 1
        first, count = self._starts()
        preceded = self.streams * count
        edge = self._edge_streams()
        draw = draws.integers(preceded + edge.size, size=self.batch_size - len(served))
        row, stream_index = np.divmod(draw, self.streams)
        start_index = first + row * max(self.state_every, 1)
        at_edge = draw >= preceded
        stream_index[at_edge] = edge[draw[at_edge] - preceded]
        start_index[at_edge] = oldest
        queued = np.array(served, np.int64).reshape(-1, 2)
        return np.concatenate([queued[:, 0], stream_index]), np.concatenate([queued[:, 1], start_index])

    def _starts(self) -> tuple[int, int]:
        """Return the first row with a stored predecessor that windows start at, and how many there are."""
        every = max(self.state_every, 1)
        first = -(-(self._added - self._size + 1) // every) * every
        return first, max(0, (self._added - self.batch_length - first) // every + 1)

    def _edge_streams(self) -> np.ndarray:
        """Return the streams whose oldest stored row starts an episode: a window may start there too."""
        if not self._added or (self._added - self._size) % max(self.state_every, 1):
            return np.zeros(0, np.int64)
        return np.flatnonzero(self._rings["is_first"][:, (self._added - self._size) % self.length])

    def state_dict(self) -> dict[str, np.ndarray | int]:
        """Return rows, online queue and counters as plain arrays and integers.

        The row arrays `rows/<key>` [streams, stored, ...] are views of the rings, so that saving a full
        buffer does not double its memory: write or copy them before the next `add`.
        """
        oldest = self._added - self._size
        queue = [(stream, start - oldest) for stream, start in self._queue if start >= oldest]
        state: dict[str, np.ndarray | int] = {f"rows/{k}": v[:, : self._size] for k, v in self._rings.items()}
        if self.state_every:
            # states[:, i] was before the i-th stored row whose number is a multiple of `state_every`
            numbers = np.arange(-(-oldest // self.state_every), -(-self._added // self.state_every))
            state |= {
                f"states/{leaf}": states[:, numbers % states.shape[1]]
                for leaf, states in self._states.items()
            }
        return state | {
            "state_every": self.state_every,
            "oldest": oldest,
            "streams": self.streams,
            "batch_length": self.batch_length,
            # rows[:, (oldest_slot + i) % stored] is the i-th oldest row
            "oldest_slot": oldest % self._size if self._size else 0,
            "samples": self._samples,
            "fresh": self._fresh,
            "queue": np.array(queue, np.int64).reshape(-1, 2),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray | int]) -> None:
        """Replace the contents by those of `state_dict`; open episodes stay open, see `close_episodes`.

        With the same sizes, what is sampled from then on is what would have been. A smaller capacity keeps
        the newest rows; with another batch_length the online queue starts empty. Where rows cannot keep their
        numbers, they are counted from 0 again, where a state has to be kept: fewer than `state_every` of the
        oldest are left out for that.

        Raises ValueError if the state is of another number of streams or `state_every`, or lacks an entry.
        """
        entries = {
            "streams",
            "batch_length",
            "state_every",
            "oldest",
            "oldest_slot",
            "samples",
            "fresh",
            "queue",
        }
        missing = entries - state.keys()
        if missing:
            raise ValueError(
                f"the saved replay lacks {sorted(missing)}: it was not written by Replay.state_dict."
            )
        if int(state["streams"]) != self.streams:
            raise ValueError(
                f"the saved replay has {int(state['streams'])} streams, this one {self.streams}: resume with "
                f"the number of environments the run was started with, or start a new run."
            )
        if int(state["state_every"]) != self.state_every:
            raise ValueError(
                f"the saved replay keeps a state every {int(state['state_every'])} rows, this one every "
                f"{self.state_every} (replay.state_every): resume with the same, or start a new run."
            )
        saved, states = (
            {key.removeprefix(prefix): np.asarray(state[key]) for key in state if key.startswith(prefix)}
            for prefix in ("rows/", "states/")
        )
        self._rings, self._flat, self._states = {}, {}, {}
        self._clear()
        self._samples = int(state["samples"])
        if not saved:
            return
        self._allocate({key: value[:, 0] for key, value in saved.items()})
        stored = saved["reward"].shape[1]
        kept, every = min(stored, self.length), max(self.state_every, 1)
        oldest = int(state["oldest"])
        first = 0 if kept < self.length else oldest + stored - kept  # number of the oldest row from now on
        if not first:
            kept -= -(oldest + stored - kept) % every
        source = (int(state["oldest_slot"]) + stored - kept + np.arange(kept)) % stored
        slots = (first + np.arange(kept)) % self.length
        for key, ring in self._rings.items():
            for stream in range(self.streams):  # one at a time: the reordered copy stays small
                ring[stream, slots] = saved[key][stream, source]
        self._added = first + kept
        self._ended = self._rings["is_last"][:, slots[-1]].copy()
        self._resumed = True
        if self.online and int(state["batch_length"]) == self.batch_length:
            self._fresh = int(state["fresh"])
            queue = np.asarray(state["queue"]) + np.array([0, first - (stored - kept)])
            self._queue.extend((int(stream), int(start)) for stream, start in queue if start >= first)
        else:
            self._fresh = self._added % every  # online windows begin where a state is kept
        shift = oldest + stored - kept - first  # a multiple of `every` wherever rows have new numbers
        streams = np.arange(self.streams)
        for leaf, values in states.items():
            for number in range(values.shape[1]):
                row = (-(-oldest // every) + number) * every - shift
                if row >= first:
                    self._put(streams, np.full(self.streams, row), {leaf: values[:, number]})

    def _allocate(self, rows: Mapping[str, np.ndarray]) -> None:
        """Reserve a ring for every key of the first rows; the system commits the memory as it is written."""
        missing = [key for key in REQUIRED if key not in rows]
        if not any(key.startswith("obs/") for key in rows):
            missing.append("obs/<name>")
        unknown = [key for key in rows if key not in REQUIRED and not key.startswith("obs/")]
        if missing or unknown:
            raise ValueError(
                f"a replay row holds obs/<name>, {', '.join(REQUIRED)}; missing: {missing or 'nothing'}, "
                f"unknown: {unknown or 'nothing'}."
            )
        for key, value in rows.items():
            allowed = _allowed(key)
            if value.dtype not in allowed:
                raise ValueError(
                    f"replay key '{key}' must be {' or '.join(map(str, allowed))}, got {value.dtype}; "
                    f"convert it where the row is made."
                )
            expected = (self.streams,) if key in ("reward", *FLAGS) else (self.streams, *value.shape[1:])
            if value.shape != expected:
                raise ValueError(
                    f"replay key '{key}' must have shape {expected} (one entry for each stream), got "
                    f"{value.shape}."
                )
        for key, value in rows.items():
            ring = np.zeros((self.streams, self.length, *value.shape[1:]), value.dtype)
            self._rings[key] = ring
            self._flat[key] = ring.reshape(self.streams * self.length, *value.shape[1:])

    def _check(self, rows: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError unless `rows` continues what is stored."""
        if rows.keys() != self._rings.keys():
            raise ValueError(
                f"row {self._added} of the replay has other keys than the first one; missing: "
                f"{sorted(self._rings.keys() - rows.keys()) or 'nothing'}, unknown: "
                f"{sorted(rows.keys() - self._rings.keys()) or 'nothing'}."
            )
        for key, ring in self._rings.items():
            value, expected = rows[key], (self.streams, *ring.shape[2:])
            if value.shape != expected or value.dtype != ring.dtype:
                raise ValueError(
                    f"replay key '{key}' is {ring.dtype} {expected} since the first row, but row "
                    f"{self._added} brings {value.dtype} {value.shape}."
                )
        finite = np.isfinite(rows["reward"])
        if not finite.all():
            stream = int(np.flatnonzero(~finite)[0])
            raise ValueError(
                f"the reward of environment {stream} at row {self._added} is {rows['reward'][stream]}; "
                f"rewards must be finite. Find out what the environment returned at this step."
            )
        stray = rows["is_terminal"] & ~rows["is_last"]
        if stray.any():
            raise ValueError(
                f"environment {int(np.flatnonzero(stray)[0])} is terminal at row {self._added} without being "
                f"last; every terminal row ends its episode (is_last)."
            )
        seam = rows["is_first"] != self._ended
        if seam.any():
            stream = int(np.flatnonzero(seam)[0])
            if not self._ended[stream]:
                cause = "is_first is True, but the row before did not end its episode (is_last)"
            elif self._resumed:
                cause = "is_first must be True: the replay was just loaded, so the environments start anew"
            else:
                cause = "is_first must be True: no episode is open"
            raise ValueError(f"environment {stream} at row {self._added}: {cause}.")


def _allowed(key: str) -> tuple[np.dtype, ...]:
    """Return the dtypes a row key may have."""
    if key in FLAGS:
        return (np.dtype(bool),)
    if key == "reward":
        return (np.dtype(np.float32),)
    return (np.dtype(np.int64 if key == "action" else np.uint8), np.dtype(np.float32))


def _bytes(count: int) -> str:
    """Return a number of bytes in the unit a person would choose."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"

"""Rows by number: the newest of every stream in memory, all that count in immutable chunks on disk.

Row n of all streams is added at once and has slot n % memory_rows in the rings. When a stream's chunk_rows
rows are complete, and one more has come (the newest row may still change), a background thread writes them as
a chunk. A row leaves the rings when a newer one needs its slot, and is read from its chunk from then on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from replay import chunk
from replay.files import Fingerprint, fingerprint
from replay.rows import Rows

Read = Callable[..., Rows]
T = TypeVar("T")

SHOWN = 5  # lost chunks that are named

_NAME = re.compile(r"chunk-(\d{4,})-(\d{8,})\.npz")


class Store:
    """The newest `limit` rows of `streams` environments that are stepped together.

    Arguments:
        folder: where chunks are written; None keeps all rows in memory.
        chunk_rows: rows of a stream in a chunk.
        memory: bytes that rows may take in memory; with a folder, at least two chunks of every stream.
        first_stream: number of the first stream in the names of chunks; the folder may hold those of others.
    """

    def __init__(
        self,
        streams: int,
        limit: int,
        folder: Path | None = None,
        chunk_rows: int = 1024,
        memory: int = 4 << 30,
        first_stream: int = 0,
    ) -> None:
        self.streams, self.limit, self.folder = streams, limit, folder
        self.chunk_rows, self.memory, self.first_stream = chunk_rows, memory, first_stream
        self.added = 0  # rows ever added to each stream
        self.begin = 0  # number of the first row there is
        self.memory_rows = limit  # rows of each stream that the rings hold
        self.holes: set[tuple[int, int]] = set()  # (stream, number) of chunks that were damaged
        self.orphaned = 0  # chunks that no checkpoint knew
        self.rings: Rows = {}  # key -> [streams, memory_rows, ...]
        self._chunks: dict[str, Fingerprint] = {}
        self._offsets: dict[str, int] = {}  # of every chunk's arrays
        self._jobs: list[tuple[int, Future[Any]]] = []  # in the background, reading the rings from a row on
        self._writer = ThreadPoolExecutor(1, "replay-writer")
        self._reader = ThreadPoolExecutor(1, "replay-reader")

    @property
    def oldest(self) -> int:
        """Number of the oldest row that counts."""
        return max(self.begin, self.added - self.limit)

    @property
    def oldest_with_action(self) -> int:
        """Number of the oldest row that counts and whose incoming action is known: row 0 has none."""
        return self.oldest + (self.oldest > 0)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of one stream; 0 until the first rows are added."""
        return sum(ring[0, 0].nbytes for ring in self.rings.values())

    def rows_that_fit(self, row_bytes: int) -> int:
        """Rows of each stream that the rings are to hold beside chunks on disk.

        Raises ValueError if the memory does not hold two chunks of every stream.
        """
        size = row_bytes * self.streams * self.chunk_rows
        fitting = self.memory // size
        if fitting < 2:
            raise ValueError(
                f"replay.memory_gb is {self.memory / 2**30:.3g}, but {2 * size / 2**30:.3g} are needed: "
                f"two chunks of {self.chunk_rows} rows of {self.streams} streams stay in memory. Allow "
                "more, or make replay.chunk smaller."
            )
        needed = -(-self.limit // self.chunk_rows) + 1  # one is being filled while the others count
        return max(2, min(needed, fitting)) * self.chunk_rows

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Add one row [streams,...] of every stream; raises what a background job raised.

        The first one raises ValueError if the memory does not hold two chunks of every stream.
        """
        if not self.rings:
            self._allocate(rows)
            self.put_away()
        self.settle(self.added - self.memory_rows)
        slot = self.added % self.memory_rows
        for key, ring in self.rings.items():
            ring[:, slot] = rows[key]
        self.added += 1
        number, beyond = divmod(self.added - 1, self.chunk_rows)
        if self.folder is not None and number and not beyond:
            self._submit(self._writer, (number - 1) * self.chunk_rows, self._write, number - 1)

    def change_newest(self, key: str, streams: np.ndarray, value: Any) -> None:
        """Set an entry of the newest row of streams [N] bool."""
        self.settle(self.added)
        self.rings[key][streams, (self.added - 1) % self.memory_rows] = value

    def newest(self, key: str) -> np.ndarray:
        """Return an entry of the newest row, [streams,...]."""
        return self.rings[key][:, (self.added - 1) % self.memory_rows].copy()

    def settle(self, row: int) -> None:
        """Wait for the jobs that read the rings at `row` or before it; raises what a finished job raised."""
        for lowest, job in self._jobs:
            if lowest <= row or job.done():
                job.result()
        self._jobs = [(lowest, job) for lowest, job in self._jobs if not job.done()]

    def read(self, stream: np.ndarray, first: np.ndarray, count: int, keys: Iterable[str] = ()) -> Rows:
        """Return `count` rows from numbers `first` [B] on of streams [B], as key -> [B,count,...].

        `action` is the action that LED INTO a row, zero where an episode begins: rows hold the action taken,
        and this is where it is shifted. Of the keys all are read, or the given ones and `is_first`. Where
        there is no row (before row 0, in a damaged chunk) contents are arbitrary. Raises OSError or
        ValueError with the path if a chunk cannot be read.
        """
        return self._read(self._floor(), stream, first, count, keys)

    def read_later(self, first: np.ndarray, end: np.ndarray, task: Callable[[Read], T]) -> Future[T]:
        """Run `task(read)` in the background, `read` like `Store.read`.

        It may read rows from `first` [B] up to `end` [B], not included: they do not change until it is done.
        """
        floor = self._floor()
        in_memory = first[end > floor] - 1
        lowest = max(floor, int(in_memory.min())) if in_memory.size else self.added
        return self._submit(self._reader, lowest, task, partial(self._read, floor))

    def damaged(self, stream: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
        """Return [B] bool: whether any of `count` rows from `first` [B] - 1 on lies in a damaged chunk."""
        begin, last = np.maximum(first - 1, 0) // self.chunk_rows, (first + count - 1) // self.chunk_rows
        holes = np.array(sorted(stream << 32 | number for stream, number in self.holes), np.int64)
        streams = stream.astype(np.int64) << 32
        return np.searchsorted(holes, streams | last, "right") > np.searchsorted(holes, streams | begin)

    def flush(self) -> dict[str, Fingerprint]:
        """Wait for background jobs; return the fingerprints of chunks with rows that count, by name."""
        self.settle(self.added)
        return {
            name: found for name, found in self._chunks.items() if self._identity(name)[1] >= self._needed()
        }

    def prune(self, keep: Iterable[str]) -> None:
        """Remove the chunks without a row that counts, except those named in `keep`.

        This includes chunks taken over from another process, even if only older checkpoints named them.
        """
        self.settle(self.added)
        for name in self._on_disk() - set(keep):
            if self._identity(name)[1] < self._needed():
                self._path(name).unlink()
                self._chunks.pop(name, None)

    def tail(self) -> tuple[int, Rows]:
        """Wait for background jobs; return the rows that count and are in no chunk, and the first's number.

        Rows are key -> [streams, rows, ...]: copies.
        """
        self.settle(self.added)
        first = self.oldest
        if self.folder is not None:
            first = max(first, (self.added - 1) // self.chunk_rows * self.chunk_rows)
        slots = np.arange(first, self.added) % self.memory_rows
        return first, {key: ring[:, slots] for key, ring in self.rings.items()}

    def load(self, begin: int, first: int, tail: Rows, chunks: Mapping[str, Fingerprint]) -> list[str]:
        """Take over rows: from `begin` on those of the chunks that `flush` named, from `first` on the tail's.

        Returns messages on the chunks that are missing or not what was written: their rows are lost, and the
        store continues without them. It begins after the chunks that every stream has lost. `put_away` moves
        the chunks of later rows.
        """
        self._allocate({key: value[:, 0] for key, value in tail.items()})
        self.begin, self.added = begin, first + tail["reward"].shape[1]
        floor = self._floor()
        chunks = {name: found for name, found in chunks.items() if self._owns(name)}
        self._chunks = dict(chunks)
        problems = []
        with ThreadPoolExecutor() as pool:
            for name, problem in zip(chunks, pool.map(self._verify, chunks), strict=True):
                if problem:
                    problems.append(f"{self._path(name)}: {problem}")
                    del self._chunks[name]
        if self.folder is not None:  # also those that were lost before: no checkpoint names them any more
            kept = set(map(self._identity, self._chunks))
            numbers = range(self._needed(), first // self.chunk_rows)
            self.holes = {(s, n) for s in range(self.streams) for n in numbers if (s, n) not in kept}
        if self.holes:
            whole = [self._identity(name)[1] * self.chunk_rows for name in self._chunks]
            self.begin = max(begin, min(whole, default=first))
        for name in self._chunks:
            stream, number = self._identity(name)
            origin = number * self.chunk_rows
            rows = np.arange(max(origin, floor), origin + self.chunk_rows)
            if rows.size:
                for key, value in chunk.read_rows(self._path(name)).items():
                    self.rings[key][stream, rows % self.memory_rows] = value[rows - origin]
        rows = np.arange(max(first, floor), self.added)
        for key, value in tail.items():
            self.rings[key][:, rows % self.memory_rows] = value[:, rows - first]
        more = [f"{len(problems) - SHOWN} more chunks"] if len(problems) > SHOWN else []
        return problems[:SHOWN] + more

    def close(self) -> None:
        """End the background threads once their jobs are done."""
        self._writer.shutdown()
        self._reader.shutdown()

    def _allocate(self, rows: Mapping[str, np.ndarray]) -> None:
        """Reserve the rings for rows like these, [streams,...]; memory is committed as it is written."""
        if self.folder is not None:
            self.memory_rows = self.rows_that_fit(sum(value[0].nbytes for value in rows.values()))
        for key, value in rows.items():
            self.rings[key] = np.zeros((self.streams, self.memory_rows, *value.shape[1:]), value.dtype)

    def _floor(self) -> int:
        """Number of the oldest row in the rings."""
        return max(0, self.added - self.memory_rows)

    def _needed(self) -> int:
        """Number of the oldest chunk that counts: the one with the action that led into the oldest row."""
        return max(0, self.oldest - 1) // self.chunk_rows

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / name

    def _on_disk(self) -> set[str]:
        """Return the names of our chunks in the folder."""
        if self.folder is None or not self.folder.is_dir():
            return set()
        return {path.name for path in self.folder.iterdir() if self._owns(path.name)}

    def _owns(self, name: str) -> bool:
        """Return whether a file is a chunk of one of our streams."""
        return bool(_NAME.fullmatch(name)) and self._identity(name)[0] in range(self.streams)

    def _name(self, stream: int, number: int) -> str:
        return f"chunk-{self.first_stream + stream:04d}-{number:08d}.npz"

    def _identity(self, name: str) -> tuple[int, int]:
        """Return stream, counted from our first one, and number of a chunk by its name."""
        _, stream, number = name.removesuffix(".npz").split("-")
        return int(stream) - self.first_stream, int(number)

    def _submit(
        self, pool: ThreadPoolExecutor, lowest: int, task: Callable[..., T], *arguments: Any
    ) -> Future[T]:
        job = pool.submit(task, *arguments)
        self._jobs.append((lowest, job))
        return job

    def _write(self, number: int) -> None:
        """Write chunk `number` of every stream."""
        begin = number * self.chunk_rows % self.memory_rows
        for stream in range(self.streams):
            rows = {key: ring[stream, begin : begin + self.chunk_rows] for key, ring in self.rings.items()}
            name = self._name(stream, number)
            self._chunks[name] = chunk.write_rows(self._path(name), rows)

    def _verify(self, name: str) -> str:
        """Return what is wrong with a chunk, or nothing."""
        path = self._path(name)
        if not path.is_file():
            return "is missing"
        return "" if fingerprint(path) == self._chunks[name] else "is not what was written"

    def put_away(self) -> None:
        """Move damaged chunks, and those of rows that no chunk holds yet, to `orphaned/`.

        Half-written ones are removed.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        number = (self.added - 1) // self.chunk_rows
        for path in self.folder.glob(".chunk-*"):
            if self._owns(re.sub(r"^\.(chunk-\d+-\d+).*", r"\1.npz", path.name)):
                path.unlink()
        strangers = self._on_disk() - self._chunks.keys()
        stray = [name for name in strangers if (at := self._identity(name))[1] >= number or at in self.holes]
        for name in stray:
            (self.folder / "orphaned").mkdir(exist_ok=True)
            os.replace(self._path(name), self.folder / "orphaned" / name)
        self.orphaned = len(stray)

    def _read(
        self, floor: int, stream: np.ndarray, first: np.ndarray, count: int, keys: Iterable[str] = ()
    ) -> Rows:
        """See `read`; rows from number `floor` on are in the rings."""
        number = first[:, None] + np.arange(count)
        base = stream[:, None] * self.memory_rows
        index, before = base + number % self.memory_rows, base + (number - 1) % self.memory_rows
        batch = {}
        for key in dict.fromkeys([*(tuple(keys) or self.rings), "is_first"]):
            ring = self.rings[key]
            flat = ring.reshape(-1, *ring.shape[2:])  # no copy; `take` along one axis is fast
            batch[key] = flat.take(before if key == "action" else index, axis=0)
        for window in np.flatnonzero(np.maximum(first - 1, 0) < floor):
            rows = {key: array[window] for key, array in batch.items()}
            self._read_disk(rows, int(stream[window]), int(first[window]), count, floor)
        if "action" in batch:
            batch["action"][batch["is_first"]] = 0
        return batch

    def _read_disk(self, window: Rows, stream: int, first: int, count: int, floor: int) -> None:
        """Fill the rows before `floor` of one window, key -> [count,...], from their chunks."""
        size = self.chunk_rows
        for number in range(max(0, first - 1) // size, (min(first + count, floor) - 1) // size + 1):
            if (stream, number) in self.holes:
                continue
            path = self._path(self._name(stream, number))
            self._offsets = self._offsets or chunk.offsets(path)
            handle = os.open(path, os.O_RDONLY)
            try:
                for key, rows in window.items():
                    origin = first - (key == "action")
                    begin, end = max(origin, number * size), min(origin + count, (number + 1) * size)
                    if begin >= end:
                        continue
                    target = rows[begin - origin : end - origin].reshape(-1).view(np.uint8)
                    offset = self._offsets[key] + (begin - number * size) * (target.nbytes // (end - begin))
                    if os.preadv(handle, [target.data], offset) != target.nbytes:
                        raise OSError(f"{path} ended before row {end} of stream {stream}: it was cut short")
            finally:
                os.close(handle)

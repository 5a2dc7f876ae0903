"""Chunks: consecutive rows of one environment, one immutable file each.

    <folder>/episode-00000012.npz       one whole episode, compressed: what `run.py collect` writes, with
                                        dataset.json, which says of what
    <folder>/chunk-0003-00000012.npz    rows of stream 3, uncompressed: what replay keeps on disk

A chunk is an .npz of T rows of one stream: the keys and types of `replay.rows`, leading axis T. An episode
may hold `probe/<name>` [T,...] too: the true state of the world, which no agent is shown, for measuring what
it knows. The same rows give the same bytes.

A chunk is written under a dot name and renamed when every byte is on disk, so a chunk that exists is whole;
zip's own checksums verify it when it is read. From an uncompressed one any range of rows can be read on its
own: `offsets` says where they lie.
"""

import contextlib
import io
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from replay.files import Fingerprint, atomic, check_unpacked, fingerprint, readable
from replay.rows import Rows, check

FORMAT, RECORD = 1, "dataset.json"  # of folders of episodes

_NAME = re.compile(r"episode-(\d{8,})\.npz")


def path_of(folder: str | Path, episode: int) -> Path:
    """Return where the chunk of an episode lies in a folder."""
    return Path(folder) / f"episode-{episode:08d}.npz"


def paths(folder: str | Path) -> list[Path]:
    """Return the chunks of a folder in the order of their episodes; none where there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = {int(match[1]): path for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return [found[episode] for episode in sorted(found)]


def is_chunk(path: Path) -> bool:
    """Return whether a file has the name of an episode's chunk."""
    return _NAME.fullmatch(path.name) is not None


def number_of(path: Path) -> int:
    """Return the number of the episode in a chunk that `paths` found."""
    return int(path.stem.removeprefix("episode-"))


def length(path: str | Path) -> int:
    """Return how many rows a chunk has, reading no more than that.

    Raises ValueError if the file is damaged or not a chunk.
    """
    with _opened(path) as archive, archive.open("reward.npy") as file:
        np.lib.format.read_magic(file)
        return int(np.lib.format.read_array_header_1_0(file)[0][0])


def write(path: str | Path, episode: Mapping[str, np.ndarray]) -> None:
    """Write one whole episode; see the module for its keys.

    Raises ValueError if a key is missing, unknown or of another type or length, or the rows are not one
    episode; FileExistsError if the chunk exists: it never changes.
    """
    _check_episode(Path(path), episode)
    write_rows(path, episode, compressed=True)


def write_rows(path: str | Path, rows: Mapping[str, np.ndarray], compressed: bool = False) -> Fingerprint:
    """Write rows of one length, `rows` key -> [T,...]; return the file's fingerprint.

    Raises FileExistsError if the chunk exists: it never changes; OSError with the path if writing fails.
    Nothing is left behind then.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already, and a chunk never changes; remove it to replace it.")
    save = np.savez_compressed if compressed else np.savez
    with atomic(path, "a chunk") as temporary:
        arrays: dict[str, Any] = {key: rows[key] for key in sorted(rows)}
        save(temporary, **arrays)
        if compressed and not readable(temporary):  # rows so even that it looks like a zip bomb
            np.savez(temporary, **arrays)
    return fingerprint(path)


def offsets(path: str | Path) -> dict[str, int]:
    """Return at which byte each array of an uncompressed chunk begins.

    They are the same for chunks of equal keys and shapes. Raises ValueError if the chunk is compressed or
    damaged.
    """
    found = {}
    with _opened(path) as archive, open(path, "rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed: single rows cannot be read from it")
            file.seek(member.header_offset + 26)  # the lengths of name and extra field end the local header
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(name + extra, io.SEEK_CUR)
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            found[member.filename.removesuffix(".npy")] = file.tell()
    return found


def read(path: str | Path, keys: Iterable[str] | None = None) -> Rows:
    """Return the arrays of an episode's chunk, all or only the named ones.

    Raises ValueError if the file is damaged or not an episode.
    """
    arrays = read_rows(path, keys)
    if keys is None:
        _check_episode(Path(path), arrays)
    return arrays


def read_rows(path: str | Path, keys: Iterable[str] | None = None) -> Rows:
    """Return the arrays of a chunk, all or only the named ones, key -> [T,...].

    Raises ValueError if the file is damaged or not a chunk.
    """
    with _opened(path) as file:  # reading a member to its end checks its CRC-32
        names = [name.removesuffix(".npy") for name in file.namelist()] if keys is None else keys
        return {key: _array(file.read(f"{key}.npy")) for key in names}


def _array(content: bytes) -> np.ndarray:
    """Return the array of an .npy file; one whose header promises more than there is takes no memory."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"an array of shape {shape} has {len(content) - file.tell()} bytes")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def rows(chunks: Iterable[str | Path], streams: int) -> Iterator[Rows]:
    """Yield the episodes of chunks as rows for `Replay.add`, leading axis N = `streams`.

    Each stream takes the next chunk when it has finished one. The rows end when a stream finds none left,
    so up to `streams` - 1 episodes are cut short. `probe/` keys are left out: replay has no place for them.
    """
    waiting = iter(chunks)

    def stream() -> Iterator[Rows]:
        for path in waiting:
            episode = {key: array for key, array in read(path).items() if not key.startswith("probe/")}
            for t in range(len(episode["reward"])):
                yield {key: array[t] for key, array in episode.items()}

    for moment in zip(*(stream() for _ in range(streams)), strict=False):
        yield {key: np.stack([row[key] for row in moment]) for key in moment[0]}


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Open a chunk; whatever is wrong inside becomes a ValueError that names it."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(archive, Path(path))
            yield archive
    except OSError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for what they cannot read
        raise ValueError(
            f"{path} is damaged or not a chunk ({error}): remove it, and the command that wrote it will make "
            "it again."
        ) from error


def _check_episode(path: Path, episode: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless this is one whole episode."""
    length = np.size(episode.get("reward", ()))
    check(episode, length, f"the episode in {path}", extra=("probe/",))
    first, last = np.flatnonzero(episode["is_first"]), np.flatnonzero(episode["is_last"])
    if first.tolist() != [0] or last.tolist() != [length - 1]:
        raise ValueError(
            f"{path}: a chunk is one whole episode of {length} rows, but is_first is set at rows "
            f"{first.tolist()} and is_last at rows {last.tolist()}."
        )

"""Chunks: consecutive rows of one environment, one immutable file each.

    <folder>/episode-00000012.npz       one whole episode, compressed: what `run.py collect` writes
    <folder>/chunk-0003-00000012.npz    rows of stream 3, uncompressed: what replay keeps on disk

A chunk is an .npz of T rows in the keys and types of a replay row, leading axis T: `obs/<name>` [T,...] uint8
or float32, `action` [T,...] int64 or float32 (the action TAKEN at that row, zero in an episode's last one),
`reward` [T] float32, `is_first`, `is_last`, `is_terminal` [T] bool. An episode may hold `probe/<name>`
[T,...] too: the true state of the world, which no agent is shown, for measuring what it knows. The same rows
give the same bytes.

A chunk is written under a dot name and renamed when every byte is on disk, so a chunk that exists is whole;
zip's own checksums verify it when it is read. From an uncompressed one any range of rows can be read on its
own: `layout` says where they lie.
"""

import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

FLAGS = ("is_first", "is_last", "is_terminal")
REQUIRED = ("action", "reward", *FLAGS)

_NAME = re.compile(r"episode-(\d{8,})\.npz")


class Span(NamedTuple):
    """Where an array lies in an uncompressed chunk: byte offset of its first row, type and shape of a row."""

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


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


def write(path: str | Path, episode: Mapping[str, np.ndarray]) -> None:
    """Write one whole episode; see the module for its keys.

    Raises ValueError if a key is missing, unknown or of another length, or the rows are not one episode;
    FileExistsError if the chunk exists: it never changes.
    """
    _check(Path(path), episode)
    write_rows(path, episode, compressed=True)


def write_rows(path: str | Path, rows: Mapping[str, np.ndarray], compressed: bool = False) -> dict[str, int]:
    """Write rows of one length, `rows` key -> [T,...]; return `size` and `crc32` of the file's bytes.

    Raises FileExistsError if the chunk exists: it never changes; OSError with the path if writing fails.
    Nothing is left behind then.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already, and a chunk never changes; remove it to replace it.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save = np.savez_compressed if compressed else np.savez
    try:
        with temporary.open("wb") as file:
            save(file, **{key: rows[key] for key in sorted(rows)})  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        written = fingerprint(temporary)
        os.replace(temporary, path)
    except OSError as error:  # a full disk does not name itself
        raise OSError(error.errno, f"writing a chunk failed ({error.strerror})", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return written


def fingerprint(path: Path) -> dict[str, int]:
    """Return `size` and `crc32` of a file."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return {"size": size, "crc32": checksum}


def layout(path: str | Path) -> dict[str, Span]:
    """Return where each array of an uncompressed chunk lies, the same for chunks of equal keys and shapes.

    Raises ValueError if the chunk is compressed.
    """
    spans = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{path} is compressed: single rows cannot be read from it.")
            file.seek(member.header_offset + 26)  # the lengths of name and extra field end the local header
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(name + extra, io.SEEK_CUR)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            spans[member.filename.removesuffix(".npy")] = Span(file.tell(), dtype, shape[1:])
    return spans


def sync_folder(folder: Path) -> None:
    """Make sure that the names of new files in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: str | Path, keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an episode's chunk, all or only the named ones.

    Raises ValueError if the file is damaged or not an episode.
    """
    arrays = read_rows(path, keys)
    if keys is None:
        _check(Path(path), arrays)
    return arrays


def read_rows(path: str | Path, keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of a chunk, all or only the named ones, key -> [T,...].

    Raises ValueError if the file is damaged or not a chunk.
    """
    try:
        with zipfile.ZipFile(path) as file:  # reading a member to its end checks its CRC-32
            names = [name.removesuffix(".npy") for name in file.namelist()] if keys is None else keys
            arrays = {
                key: np.lib.format.read_array(io.BytesIO(file.read(f"{key}.npy")), allow_pickle=False)
                for key in names
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or not a chunk ({error}): remove it, and the command that wrote it will make "
            "it again."
        ) from error
    return arrays


def rows(chunks: Iterable[str | Path], streams: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the episodes of chunks as rows for `Replay.add`, leading axis N = `streams`.

    Each stream takes the next chunk when it has finished one. The rows end when a stream finds none left,
    so up to `streams` - 1 episodes are cut short. `probe/` keys are left out: replay has no place for them.
    """
    waiting = iter(chunks)

    def stream() -> Iterator[dict[str, np.ndarray]]:
        for path in waiting:
            episode = {key: array for key, array in read(path).items() if not key.startswith("probe/")}
            for t in range(len(episode["reward"])):
                yield {key: array[t] for key, array in episode.items()}

    for moment in zip(*(stream() for _ in range(streams)), strict=False):
        yield {key: np.stack([row[key] for row in moment]) for key in moment[0]}


def _check(path: Path, episode: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless this is one whole episode."""
    missing = [key for key in REQUIRED if key not in episode]
    if not any(key.startswith("obs/") for key in episode):
        missing.append("obs/<name>")
    unknown = [key for key in episode if key not in REQUIRED and not key.startswith(("obs/", "probe/"))]
    if missing or unknown:
        raise ValueError(
            f"{path}: a chunk holds obs/<name>, {', '.join(REQUIRED)} and perhaps probe/<name>; missing: "
            f"{missing or 'nothing'}, unknown: {unknown or 'nothing'}."
        )
    lengths = {key: len(array) for key, array in episode.items()}
    if len(set(lengths.values())) > 1 or not lengths["reward"]:
        raise ValueError(f"{path}: the arrays of a chunk must be of one length, not zero; got {lengths}.")
    first, last = np.flatnonzero(episode["is_first"]), np.flatnonzero(episode["is_last"])
    if first.tolist() != [0] or last.tolist() != [lengths["reward"] - 1]:
        raise ValueError(
            f"{path}: a chunk is one whole episode of {lengths['reward']} rows, but is_first is set at rows "
            f"{first.tolist()} and is_last at rows {last.tolist()}."
        )

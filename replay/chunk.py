"""Chunks: episodes on disk, one immutable file each.

    <folder>/episode-00000012.npz

A chunk is a compressed .npz of one whole episode of T rows, in the keys and types of a replay row, leading
axis T: `obs/<name>` [T,...] uint8 or float32, `action` [T,...] int64 or float32 (the action TAKEN at that
row, zero in the last one), `reward` [T] float32, `is_first`, `is_last`, `is_terminal` [T] bool. It may hold
`probe/<name>` [T,...] too: truths about the world that no agent is shown, for measuring what it knows. The
same episode gives the same bytes.

A chunk is written under a dot name and renamed when every byte is on disk, so a file that is there is whole;
zip's own checksums prove it when it is read.
"""

import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from replay.buffer import REQUIRED

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


def write(path: str | Path, episode: Mapping[str, np.ndarray]) -> None:
    """Write one whole episode; see the module for its keys.

    Raises ValueError if a key is missing, unknown or of another length, or the rows are not one episode;
    FileExistsError if the chunk is there: it never changes.
    """
    path = Path(path)
    _check(path, episode)
    if path.exists():
        raise FileExistsError(f"{path} is there already, and a chunk never changes; remove it to replace it.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **{key: episode[key] for key in sorted(episode)})  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | Path, keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of a chunk, all or only the named ones.

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
    if keys is None:
        _check(Path(path), arrays)
    return arrays


def rows(chunks: Iterable[str | Path], streams: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the episodes of chunks as rows for `Replay.add`, leading axis N = `streams`.

    Each stream takes the next chunk when it is through with one. The rows end when a stream finds none left,
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

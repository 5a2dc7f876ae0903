"""Checkpoints: folders that are either complete and verified, or ignored.

    <logdir>/checkpoints/<step>/agent.pt       tensors and plain Python, read with weights_only=True
                                replay.npz     plain arrays, read with allow_pickle=False
                                loop.json      counters of the loop
                                manifest.json  written last: format, versions, step, size and CRC-32 of each
                                file, and of each chunk of the replay in <logdir>/replay/

A checkpoint is written under a dot name, which loaders ignore, and renamed when every byte is on disk.
Checksums are verified before a file is parsed, because `torch.load` reads a flipped bit without complaint.
"""

import contextlib
import io
import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from replay.files import Fingerprint, fingerprint, naming, sync

FORMAT = 5
AGENT, REPLAY, LOOP, MANIFEST = "agent.pt", "replay.npz", "loop.json", "manifest.json"
_TEMPORARY = ".tmp-"


class Checkpoint(NamedTuple):
    """What `load_newest` found; unpacks as a tuple."""

    step: int
    agent_state: dict[str, Any]
    replay_state: dict[str, np.ndarray] | None
    loop_state: dict[str, Any]
    chunks: dict[str, dict[str, int]]


class DamagedError(Exception):
    """A checkpoint folder is not complete or not what was written; the message says why."""


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def save(
    logdir: str | Path,
    step: int,
    agent_state: Mapping[str, Any],
    replay_state: Mapping[str, np.ndarray | int] | None,
    loop_state: Mapping[str, Any],
    keep: int = 2,
    chunks: Mapping[str, Mapping[str, int]] | None = None,
) -> Path:
    """Write a checkpoint, verify it by reading it back, then remove all but the newest `keep`.

    Arguments:
        step: environment steps so far; names the folder. A checkpoint of the same step is replaced.
        agent_state: nested dicts and lists of tensors, numbers and strings. `replay_state`: plain arrays and
            integers, or None to save no replay. `loop_state`: what JSON can hold.
        keep: complete checkpoints left in the run folder, this one included.
        chunks: `size` and `crc32` of each file that the replay's state relies on, by name; they are on disk.

    Checkpoints of later steps are removed too: they were skipped as damaged when this run resumed, or it
    would not be at an earlier step.

    Returns: the checkpoint's folder.

    Raises ValueError if a state cannot be saved as plain data or the agent's numbers are not finite, OSError
    with the path if writing fails, DamagedError if what is read back is not what was written. The earlier
    checkpoints are untouched in each of these cases.
    """
    if keep < 1:
        raise ValueError(f"at least one checkpoint must be kept, got keep={keep}.")
    _check_finite(agent_state, "agent")
    root = Path(logdir) / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    for stale in root.glob(_TEMPORARY + "*"):  # left by a process that died while saving or pruning
        shutil.rmtree(stale)
    folder, temporary = root / f"{step:012d}", root / f"{_TEMPORARY}{step:012d}"
    temporary.mkdir()
    try:
        files = {AGENT: _write(temporary / AGENT, _agent_bytes(agent_state))}
        if replay_state is not None:
            files[REPLAY] = _write_replay(temporary / REPLAY, replay_state)
        files[LOOP] = _write(temporary / LOOP, _json_bytes(loop_state, "loop state"))
        manifest = {
            "format": FORMAT,
            "step": step,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "files": files,
            "chunks": {name: dict(found) for name, found in (chunks or {}).items()},
        }
        manifest["crc32"] = _manifest_checksum(manifest)
        _write(temporary / MANIFEST, _json_bytes(manifest, "manifest"))
        sync(temporary)
        for name in files:
            _verified(temporary, name, files)
        if folder.exists():
            os.replace(folder, root / f"{_TEMPORARY}replaced-{folder.name}")
        os.replace(temporary, folder)
        sync(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone if all went well; else the next save tries again
    _prune(root, step, keep)
    return folder


def load_newest(
    logdir: str | Path, with_replay: bool = True, report: Callable[[str], None] = _to_stderr
) -> Checkpoint | None:
    """Read the newest checkpoint that is complete and undamaged; None if there is none.

    Arguments:
        with_replay: False leaves the replay on disk and unread, and returns None for it.
        report: receives one message for every checkpoint that was skipped, with the reason.

    Returns: `(step, agent_state, replay_state, loop_state, chunks)`, tensors on the CPU. The chunks are not
    verified here but by the replay, which continues without those that are missing or damaged.

    Raises ValueError if a checkpoint is of another format than this code writes, OSError if none can be
    loaded and at least one could not be read: such checkpoints are not known to be damaged, and a new run
    must not overwrite them.
    """
    skipped, unread = 0, None
    for folder in _folders(Path(logdir) / "checkpoints"):
        try:
            return _read(folder, with_replay)
        except DamagedError as error:
            reason = str(error)
        except OSError as error:
            reason, unread = f"it cannot be read: {error}", error
        skipped += 1
        report(f"skipped checkpoint {folder}: {reason}")
    if unread is not None:
        raise unread
    if skipped:
        report(f"none of the {skipped} checkpoints in {Path(logdir) / 'checkpoints'} can be loaded")
    return None


def chunks_needed(logdir: str | Path) -> set[str]:
    """Return the names of the replay's chunks that any complete checkpoint of a run relies on."""
    needed: set[str] = set()
    for folder in _folders(Path(logdir) / "checkpoints"):
        with contextlib.suppress(DamagedError):  # no run will resume from it
            needed |= _manifest(folder)["chunks"].keys()
    return needed


def _read(folder: Path, with_replay: bool) -> Checkpoint:
    """Return the contents of a checkpoint folder; raises DamagedError if they cannot be trusted."""
    manifest = _manifest(folder)
    files = manifest["files"]
    loop_state = json.loads(_verified(folder, LOOP, files).read_bytes())
    agent_file = _verified(folder, AGENT, files)
    try:
        agent_state = torch.load(agent_file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises, this folder is not one to resume from
        raise DamagedError(f"{AGENT} cannot be loaded as plain tensors: {error}") from error
    replay_state = None
    if with_replay and REPLAY in files:
        with _verified(folder, REPLAY, files).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            replay_state = dict(arrays)
    return Checkpoint(manifest["step"], agent_state, replay_state, loop_state, manifest["chunks"])


def _manifest(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest after checking it and the sizes of all files against each other."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedError(f"{MANIFEST} is missing, so writing it was interrupted")
    try:
        manifest = json.loads(path.read_bytes())
        intact = manifest["crc32"] == _manifest_checksum(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error!r}") from error
    if not intact:
        raise DamagedError(f"the checksum of {MANIFEST} is wrong")
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"checkpoint {folder} has format {manifest['format']}, this version of the code reads format "
            f"{FORMAT}; use the version of the code that wrote it, or another logdir."
        )
    if folder.name != f"{manifest['step']:012d}":
        raise DamagedError(f"{MANIFEST} is of step {manifest['step']}: the folder was renamed")
    sizes = {name: entry["size"] for name, entry in manifest["files"].items()}
    if not {AGENT, LOOP} <= sizes.keys() <= {AGENT, REPLAY, LOOP}:
        raise DamagedError(f"{MANIFEST} lists {sorted(sizes)}, expected {AGENT}, {LOOP} and perhaps {REPLAY}")
    for name, size in sizes.items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found is None:
            raise DamagedError(f"{name} is missing")
        if found != size:
            raise DamagedError(f"{name} has {found} bytes, {size} were written")
    return manifest


def _manifest_checksum(manifest: Mapping[str, Any]) -> int:
    """Return the CRC-32 of a manifest's entries without its own checksum."""
    entries = {key: value for key, value in manifest.items() if key != "crc32"}
    return zlib.crc32(json.dumps(entries, sort_keys=True).encode())


def _verified(folder: Path, name: str, files: Mapping[str, Mapping[str, int]]) -> Path:
    """Return the path of a file whose bytes are those the manifest promises."""
    if fingerprint(folder / name) != files[name]:
        raise DamagedError(
            f"the checksum of {name} is wrong: the disk gives back other bytes than were written"
        )
    return folder / name


def _prune(root: Path, step: int, keep: int) -> None:
    """Remove all checkpoints but the newest `keep` complete ones up to `step`."""
    kept = 0
    for folder in _folders(root):
        complete = int(folder.name) <= step and kept < keep
        if complete:
            try:
                _manifest(folder)
            except DamagedError:
                complete = False  # it holds nothing that could be resumed from
        if complete:
            kept += 1
            continue
        doomed = root / f"{_TEMPORARY}pruned-{folder.name}"
        os.replace(folder, doomed)  # hidden first: a half-removed folder is no checkpoint
        shutil.rmtree(doomed)
    for replaced in root.glob(_TEMPORARY + "*"):
        shutil.rmtree(replaced)


def _folders(root: Path) -> list[Path]:
    """Return the checkpoint folders of a run, newest first."""
    if not root.is_dir():
        return []
    named = [path for path in root.iterdir() if re.fullmatch(r"\d{12,}", path.name) and path.is_dir()]
    return sorted(named, key=lambda path: int(path.name), reverse=True)


def _agent_bytes(state: Mapping[str, Any]) -> memoryview:
    """Serialise the agent's state and make sure that it can be read back as plain data."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises exceptions of several kinds for what it refuses to load
        raise ValueError(
            f"the agent's state must hold only tensors, numbers, strings, lists and dicts, or it could not "
            f"be loaded again with weights_only=True: {error}"
        ) from error
    return buffer.getbuffer()


def _json_bytes(value: Mapping[str, Any], what: str) -> bytes:
    try:
        return json.dumps(value, indent=1).encode()
    except TypeError as error:
        raise ValueError(f"the {what} of a checkpoint must be plain JSON data: {error}") from error


def _check_finite(value: Any, path: str) -> None:
    """Raise ValueError naming the first tensor of a nested state that is not finite."""
    if isinstance(value, torch.Tensor):
        if (value.is_floating_point() or value.is_complex()) and not torch.isfinite(value).all():
            raise ValueError(
                f"{path} holds numbers that are not finite; no checkpoint was written, and the newest one on "
                f"disk is the last good state. Look at the losses before this step."
            )
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            _check_finite(entry, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            _check_finite(entry, f"{path}.{index}")


def _naming(path: Path) -> contextlib.AbstractContextManager[None]:
    return naming(path, "a checkpoint", "; the ones before are intact")


def _write(path: Path, content: bytes | memoryview) -> Fingerprint:
    """Write a file and sync it to disk; return size and CRC-32 of what it must hold."""
    with _naming(path):
        path.write_bytes(content)
        sync(path)
    return {"size": len(content), "crc32": zlib.crc32(content)}


def _write_replay(path: Path, state: Mapping[str, np.ndarray | int]) -> Fingerprint:
    """Write arrays uncompressed, one after the other, without a second copy of them in memory."""
    arrays = {key: np.asarray(value) for key, value in state.items()}
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(
                f"replay state '{key}' holds Python objects; a checkpoint takes plain arrays only."
            )
    with _naming(path):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        sync(path)
    return fingerprint(path)

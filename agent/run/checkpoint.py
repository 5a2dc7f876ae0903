"""Checkpoints: folders that are either complete and verified, or ignored.

    <logdir>/checkpoints/<step>/agent.pt       tensors and plain Python, read with weights_only=True
                                replay.npz     plain arrays, read with allow_pickle=False
                                loop.json      counters of the loop
                                manifest.json  written last: format, versions, step, size and CRC-32 of each
                                file, and of each chunk of the replay in <logdir>/replay/; the run's name, its
                                configuration's hash and its spaces (`RunFolder.identity`)

A checkpoint is written under a dot name, which loaders ignore, and renamed when every byte is on disk.
Checksums are verified before a file is parsed, because `torch.load` reads a flipped bit without complaint.
Anybody can write a right checksum, so contents are checked as well: a checkpoint may come from a stranger.
"""

import contextlib
import io
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import configs
from configs.files import read_json, to_stderr
from replay.chunk import read_rows
from replay.files import Fingerprint, check_unpacked, fingerprint, naming, put_aside, sync

FORMAT = 6
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


class WrongError(DamagedError):
    """A checkpoint whose checksums are right does not hold what this run can go on from."""


def save(
    logdir: str | Path,
    step: int,
    agent_state: Mapping[str, Any],
    replay_state: Mapping[str, np.ndarray | int] | None,
    loop_state: Mapping[str, Any],
    keep: int = 2,
    chunks: Mapping[str, Mapping[str, int]] | None = None,
    identity: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint, verify the checksums of what is on disk, then remove all but the newest `keep`.

    Arguments:
        step: environment steps so far; names the folder. A checkpoint of the same step is replaced.
        agent_state: nested dicts and lists of tensors, numbers and strings. `replay_state`: plain arrays and
            integers, or None to save no replay. `loop_state`: what JSON can hold.
        keep: complete checkpoints left in the run folder, this one included.
        chunks: `size` and `crc32` of each file that the replay's state relies on, by name; they are on disk.
        identity: what `load_newest` compares.

    Checkpoints of later steps were skipped when this run resumed, or it would not be at an earlier step: what
    is damaged is removed, the others are put aside. The run's folder is not created.

    Returns: the checkpoint's folder.

    Raises ValueError if a state cannot be saved as plain data or the agent's numbers are not finite, OSError
    with the path if writing fails, DamagedError if what is read back is not what was written. The earlier
    checkpoints are untouched in each of these cases.
    """
    if keep < 1:
        raise ValueError(f"at least one checkpoint must be kept, got keep={keep}.")
    _check_finite(agent_state, "agent")
    root = Path(logdir) / "checkpoints"
    root.mkdir(exist_ok=True)
    for stale in root.glob(_TEMPORARY + "*"):  # left by a process that died while saving or pruning
        _remove(stale)
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
            "identity": dict(identity or {}),
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
    logdir: str | Path,
    with_replay: bool = True,
    report: Callable[[str], None] = to_stderr,
    identity: Mapping[str, str] | None = None,
    accept: Callable[[Checkpoint], object] | None = None,
    step: int | None = None,
) -> Checkpoint | None:
    """Read the newest checkpoint that is complete, undamaged and of this run; None if there is none.

    Arguments:
        with_replay: False leaves the replay on disk and unread, and returns None for it.
        report: receives one message for every checkpoint that was skipped, with the reason.
        identity: what the checkpoint has to have in common with the run; entries of one side alone do not
            count.
        accept: takes over what was found; the checkpoint is skipped if it raises.
        step: of the only checkpoint that is looked at.

    Returns: `(step, agent_state, replay_state, loop_state, chunks)`, tensors on the CPU. The chunks are not
    verified here but by the replay, which continues without those that are missing or damaged.

    Raises configs.Mistake if a checkpoint is of another format than this code writes, or if none can be
    loaded and one is whole but of another run, or holds what no run can go on from; OSError if none can be
    loaded and at least one could not be read. A new run must not overwrite any of these.
    """
    root = Path(logdir) / "checkpoints"
    skipped, unread, wrong = 0, None, ""
    for folder in folders(logdir, step):
        try:
            found = _read(folder, with_replay, identity or {})
            if accept is not None:
                with _wrong("it cannot be taken over"):
                    accept(found)
        except DamagedError as error:
            reason = str(error)
            wrong = wrong or reason * isinstance(error, WrongError)
        except OSError as error:
            reason, unread = f"it cannot be read: {error}", error
        else:
            return found
        skipped += 1
        report(f"skipped checkpoint {folder}: {reason}")
    if unread is not None:
        raise unread
    if wrong:
        raise configs.Mistake(
            f"none of the checkpoints in {root} is one that this run can go on from: {wrong.rstrip('.')}. "
            f"Take them away to begin anew."
        )
    if skipped:
        report(f"none of the {skipped} checkpoints in {root} can be loaded")
    return None


def newest_identity(logdir: str | Path) -> dict[str, str]:
    """The identity that the newest complete checkpoint was saved with; empty if there is none."""
    for folder in folders(logdir):
        with contextlib.suppress(DamagedError):
            return _manifest(folder)["identity"]
    return {}


def chunks_needed(logdir: str | Path) -> set[str]:
    """Return the names of the replay's chunks that any complete checkpoint of a run relies on."""
    needed: set[str] = set()
    for folder in folders(logdir):
        with contextlib.suppress(DamagedError):  # no run will resume from it
            needed |= _manifest(folder)["chunks"].keys()
    return needed


@contextlib.contextmanager
def _wrong(what: str) -> Iterator[None]:
    """Within, whatever is raised for contents that are not ours becomes a WrongError."""
    try:
        yield
    except (OSError, DamagedError):
        raise
    except Exception as error:  # torch, numpy and our own code raise a dozen kinds
        raise WrongError(f"{what}: {' '.join(str(error).split())[:500] or repr(error)}") from error


def _read(folder: Path, with_replay: bool, identity: Mapping[str, str]) -> Checkpoint:
    """Return the contents of a checkpoint folder; raises DamagedError if they cannot be trusted."""
    manifest = _manifest(folder)
    files, saved = manifest["files"], manifest["identity"]
    for what, ours in identity.items():
        if saved.get(what, ours) != ours:
            raise WrongError(f"it is of another run: its {what} is {saved[what]}, here {ours}")
    with _wrong(f"{LOOP} is not a loop's"):
        loop_state = read_json(_verified(folder, LOOP, files), files[LOOP]["size"])
    agent_file = _verified(folder, AGENT, files)
    with _wrong(f"{AGENT} cannot be loaded as plain tensors"):
        if zipfile.is_zipfile(agent_file):
            with zipfile.ZipFile(agent_file) as archive:
                check_unpacked(archive, agent_file)
        agent_state = torch.load(agent_file, map_location="cpu", weights_only=True)
        _check_finite(agent_state, "agent")
    replay_state = None
    if with_replay and REPLAY in files:
        with _wrong(f"{REPLAY} is not a replay's"):
            replay_state = read_rows(_verified(folder, REPLAY, files))
    return Checkpoint(manifest["step"], agent_state, replay_state, loop_state, manifest["chunks"])


def _manifest(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest after checking it and the sizes of all files against each other."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DamagedError(f"{MANIFEST} is missing, so writing it was interrupted")
    try:
        manifest = json.loads(path.read_bytes())
        intact = manifest["crc32"] == _manifest_checksum(manifest)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error!r}") from error
    if not intact:
        raise DamagedError(f"the checksum of {MANIFEST} is wrong")
    if manifest.get("format") != FORMAT:
        raise configs.Mistake(
            f"checkpoint {folder} has format {manifest.get('format')}, this version of the code reads format "
            f"{FORMAT}; use the version of the code that wrote it, or another logdir."
        )
    with _wrong(f"{MANIFEST} is not one of ours"):
        _check_manifest(manifest)
    if folder.name != f"{manifest['step']:012d}":
        raise DamagedError(f"{MANIFEST} is of step {manifest['step']}: the folder was renamed")
    for name, entry in manifest["files"].items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found is None:
            raise DamagedError(f"{name} is missing")
        if found != entry["size"]:
            raise DamagedError(f"{name} has {found} bytes, {entry['size']} were written")
    return manifest


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise an error unless its entries have the types that `save` gives them, and name files of ours."""
    if not isinstance(manifest["step"], int) or manifest["step"] < 0:
        raise ValueError(f"step {manifest['step']!r}")
    files, chunks, identity = manifest["files"], manifest["chunks"], manifest["identity"]
    if not {AGENT, LOOP} <= files.keys() <= {AGENT, REPLAY, LOOP}:
        raise ValueError(f"it lists {sorted(files)}, expected {AGENT}, {LOOP} and perhaps {REPLAY}")
    if stray := [name for name in chunks if not re.fullmatch(r"chunk-\d{4,}-\d{8,}\.npz", name)]:
        raise ValueError(f"{stray[0]!r} is no name of a chunk")
    entries = [
        value for each in (*files.values(), *chunks.values()) for value in (each["size"], each["crc32"])
    ]
    if not all(isinstance(value, int) for value in entries):
        raise ValueError("a size or checksum is no whole number")
    if not all(isinstance(value, str) for value in identity.values()):
        raise ValueError("its identity is no text")


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
    """Remove all but the newest `keep` complete checkpoints up to `step`; put complete later ones aside."""
    kept = 0
    for folder in folders(root.parent):
        try:
            _manifest(folder)
            complete = True
        except DamagedError:
            complete = False  # it holds nothing that could be resumed from
        if complete and int(folder.name) > step:
            put_aside([folder], root.parent)
            continue
        if complete and kept < keep:
            kept += 1
            continue
        doomed = root / f"{_TEMPORARY}pruned-{folder.name}"
        os.replace(folder, doomed)  # hidden first: a half-removed folder is no checkpoint
        _remove(doomed)
    for replaced in root.glob(_TEMPORARY + "*"):
        _remove(replaced)


def _remove(folder: Path) -> None:
    """Remove a folder, or the link to one."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def folders(logdir: str | Path, step: int | None = None) -> list[Path]:
    """Return the checkpoint folders of a run, newest first, or the one of a step."""
    root = Path(logdir) / "checkpoints"
    if not root.is_dir():
        return []
    named = [path for path in root.iterdir() if re.fullmatch(r"\d{12,}", path.name) and path.is_dir()]
    asked = [path for path in named if step in (None, int(path.name))]
    return sorted(asked, key=lambda path: int(path.name), reverse=True)


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
        return json.dumps(value).encode()
    except TypeError as error:
        raise ValueError(f"the {what} of a checkpoint must be plain JSON data: {error}") from error


def _check_finite(value: Any, path: str) -> None:
    """Raise ValueError naming the first tensor of a nested state that is not finite."""
    if isinstance(value, torch.Tensor):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path} claims more numbers than it holds.")
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

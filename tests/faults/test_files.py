"""Files that are cut, changed, strange or hostile, runs that do not fit: what a new process does then."""

import json
import os
import pickle
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.run import checkpoint
from tests.faults.processes import (
    ENDLESS,
    ON_DISK,
    RUN,
    WORDS,
    Start,
    checkpoints,
    chunks,
    finish,
    launch,
    newest_step,
    resumed_step,
    wait_for,
)
from tests.faults.table import Tally

SAVING = [*WORDS, *ON_DISK, "--checkpoint.every", "40"]
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "all but one byte": lambda content: content[:-1],
    "one bit": lambda content: _flip(content, len(content) // 2),
}


def _mark(damage: str) -> pytest.MarkDecorator:
    flipped = damage == "one bit"
    fault = "one bit flipped in a checkpoint file" if flipped else "checkpoint file cut or missing"
    return pytest.mark.faults(fault, full=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 120 steps, with checkpoints of steps 80 and 120."""
    logdir = tmp_path_factory.mktemp("finished")
    code, said = finish(launch(RUN, *SAVING, "--steps", "120", "--logdir", str(logdir)))
    assert code == 0, said
    assert [int(folder.name) for folder in checkpoints(logdir)] == [80, 120]
    return logdir


@pytest.fixture
def logdir(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def go_on(start: Start, logdir: Path, *more: str) -> tuple[int, str]:
    """The same command for 20 steps more."""
    return finish(start(RUN, *SAVING, "--steps", "140", "--logdir", str(logdir), *more))


def _flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("damage", [pytest.param(name, marks=_mark(name)) for name in [*DAMAGES, "absent"]])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, finished: Path, tmp_path: Path, start: Start, tally: Tally
) -> None:
    for name in sorted(path.name for path in checkpoints(finished)[-1].iterdir()):
        tally.attempt()
        logdir = Path(shutil.copytree(finished, tmp_path / name))
        path = checkpoints(logdir)[-1] / name
        if damage == "absent":
            path.unlink()
        else:
            path.write_bytes(DAMAGES[damage](path.read_bytes()))
        code, said = go_on(start, logdir)
        assert code == 0 and f"skipped checkpoint {path.parent}: " in said and name in said, said
        assert resumed_step(said) == 80
        tally.survive(lost=40)


@pytest.mark.timeout(600)
@pytest.mark.faults("chunk of the replay damaged or missing", full=True)
def test_a_damaged_chunk_costs_its_own_rows_only(
    finished: Path, tmp_path: Path, start: Start, tally: Tally
) -> None:
    """The run goes on from the newest checkpoint; the chunk is named, and put away."""
    for damage in [*DAMAGES, "absent"]:
        tally.attempt()
        logdir = Path(shutil.copytree(finished, tmp_path / damage))
        path = chunks(logdir)[3]
        if damage == "absent":
            path.unlink()
        else:
            path.write_bytes(DAMAGES[damage](path.read_bytes()))
        code, said = go_on(start, logdir)
        assert code == 0 and resumed_step(said) == 120, said
        assert f"lost steps of replay: {path}: " in said and said.count("lost steps") == 1
        assert (logdir / "replay" / "orphaned" / path.name).exists() == (damage != "absent")
        assert not path.exists()
        tally.survive(lost=0)


@pytest.mark.faults("stray, half-written or renamed files", full=True)
def test_stray_files_are_no_matter(logdir: Path, start: Start) -> None:
    saved = logdir / "checkpoints"
    half = logdir / "replay" / ".chunk-0000-00000009.npz.1"
    newer = chunks(logdir)[0].with_name("chunk-0000-00000099.npz")
    for stray in (
        half,
        newer,
        saved / "notes.txt",
        saved / "140",
        logdir / "replay" / "notes.txt",
        logdir / ".config.yaml.tmp",
    ):
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"half")
    shutil.copytree(saved / "000000000120", saved / ".tmp-000000000160")
    (saved / ".tmp-000000000160" / "manifest.json").unlink()
    (saved / "000000000160").mkdir()
    with (logdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 121, "episode/ret')
    code, said = go_on(start, logdir)
    assert code == 0 and resumed_step(said) == 120, said
    assert f"skipped checkpoint {saved / '000000000160'}: manifest.json is missing" in said
    for folder in (saved, logdir / "replay"):
        assert (folder / "notes.txt").read_bytes() == b"half", "a file of the user was removed"
    assert not half.exists() and not newer.exists() and (newer.parent / "orphaned" / newer.name).exists()
    for line in (logdir / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def forge(folder: Path, path: Path, content: bytes, what: str = "files") -> None:
    """Replace a file of a checkpoint, or a chunk, with the right checksums."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    path.write_bytes(content)
    manifest[what][path.name] = {"size": len(content), "crc32": zlib.crc32(content)}
    sign(folder, manifest)


def sign(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with its checksum."""
    manifest["crc32"] = checkpoint._manifest_checksum(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.faults("code or a foreign path in a file that is loaded", full=True)
@pytest.mark.parametrize(
    "where", ["agent.pt", "agent.pt as a plain pickle", "replay.npz", "chunk", "config.yaml"]
)
def test_code_is_not_run(where: str, logdir: Path, tmp_path: Path, start: Start) -> None:
    """Though the checksums are right: an older checkpoint is taken, or the run is refused."""
    mark, newest = tmp_path / "executed", checkpoints(logdir)[-1]
    path = tmp_path / "payload"
    if where in ("replay.npz", "chunk"):
        np.savez(path.with_suffix(".npz"), action=np.array([Payload(mark)], object))
        content = path.with_suffix(".npz").read_bytes()
        if where == "replay.npz":
            forge(newest, newest / where, content)
        else:
            forge(newest, chunks(logdir)[-1], content, "chunks")
    elif where == "config.yaml":
        text = (logdir / "config.yaml").read_text()
        (logdir / "config.yaml").write_text(
            re.sub(
                r"^seed: .*$", f"seed: !!python/object/apply:os.mkdir ['{mark}']", text, flags=re.MULTILINE
            )
        )
    else:
        if where == "agent.pt":
            torch.save({"model": Payload(mark)}, path)
        else:
            path.write_bytes(pickle.dumps(Payload(mark)))
        forge(newest, newest / "agent.pt", path.read_bytes())
    code, said = go_on(start, logdir)
    assert not mark.exists(), "the payload was executed"
    assert code == 2 if where == "config.yaml" else (code == 0 and resumed_step(said) == 80), said


@pytest.mark.faults("code or a foreign path in a file that is loaded", full=True)
@pytest.mark.parametrize("listed", ["../000000000080/agent.pt", "/etc/hostname"])
def test_a_path_is_not_followed(listed: str, logdir: Path, start: Start) -> None:
    newest = checkpoints(logdir)[-1]
    manifest = json.loads((newest / "manifest.json").read_bytes())
    content = (newest / listed).read_bytes()
    manifest["files"][listed] = {"size": len(content), "crc32": zlib.crc32(content)}
    sign(newest, manifest)
    code, said = go_on(start, logdir)
    assert code == 0 and resumed_step(said) == 80, said
    assert f"skipped checkpoint {newest}: " in said and listed in said


@pytest.mark.faults("code or a foreign path in a file that is loaded", full=True)
def test_a_chunk_elsewhere_is_not_touched(logdir: Path, tmp_path: Path, start: Start) -> None:
    newest, secret = checkpoints(logdir)[-1], tmp_path / "chunk-0000-00000000.npz"
    shutil.copy(chunks(logdir)[0], secret)
    content = secret.read_bytes()
    manifest = json.loads((newest / "manifest.json").read_bytes())
    manifest["chunks"][f"../../{secret.name}"] = {"size": len(content), "crc32": 0}
    sign(newest, manifest)
    code, said = go_on(start, logdir)
    assert f"../../{secret.name}" in said
    assert (code, resumed_step(said)) in ((0, 80), (1, 0)), said
    assert secret.read_bytes() == content


@pytest.mark.faults("resumed with another configuration or format", full=True)
def test_what_does_not_fit_is_refused(logdir: Path, start: Start, tally: Tally) -> None:
    """With the list of differences, and the folder as it was."""

    def contents() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in logdir.rglob("*")
            if path.is_file() and path.name != ".lock"
        }

    before = contents()
    for more, *listed in (
        (["--s4wm.width", "8"], "s4wm.width: saved 16, now 8"),
        (["--backbone", "rssm"], "backbone: saved 's4wm', now 'rssm'"),
        (
            ["--task", "tmaze", "--seed", "1"],
            "task: saved 'memory_chain:n=3', now 'tmaze'",
            "seed: saved 0, now 1",
        ),
    ):
        tally.attempt()
        code, said = go_on(start, logdir, *more)
        assert code == 2 and all(f"  {line}" in said for line in listed), said
        assert contents() == before
        tally.survive()
    tally.attempt()
    for folder in checkpoints(logdir):
        sign(folder, json.loads((folder / "manifest.json").read_bytes()) | {"format": 0})
    before = contents()
    code, said = go_on(start, logdir)
    assert code == 2 and "has format 0, this version of the code reads format" in said, said
    assert "Traceback" not in said
    assert contents() == before
    tally.survive()


WRONG: dict[str, bytes] = {
    "nothing": b"{}",
    "null": b"null",
    "cut": b'{"step": 12',
    "brackets": b"[" * 20_000,
    "another step": b'{"step": 7}',
}


@pytest.mark.timeout(600)
@pytest.mark.faults("wrong content under right checksums", full=True)
@pytest.mark.parametrize("content", WRONG)
def test_contents_are_checked_too(content: str, finished: Path, tmp_path: Path, start: Start) -> None:
    """The older checkpoint is taken; without one the run is refused, and nothing is overwritten."""
    logdir = Path(shutil.copytree(finished, tmp_path / "newest"))
    newest = checkpoints(logdir)[-1]
    forge(newest, newest / "loop.json", WRONG[content])
    code, said = go_on(start, logdir)
    assert code == 0 and resumed_step(said) == 80 and f"skipped checkpoint {newest}: " in said, said
    logdir = Path(shutil.copytree(finished, tmp_path / "both"))
    for folder in checkpoints(logdir):
        forge(folder, folder / "loop.json", WRONG[content])
    log = (logdir / "metrics.jsonl").read_bytes()
    code, said = go_on(start, logdir)
    assert code == 2 and "none of the checkpoints" in said and "Traceback" not in said, said
    assert (logdir / "metrics.jsonl").read_bytes() == log and len(checkpoints(logdir)) == 2


@pytest.mark.timeout(600)
@pytest.mark.faults("checkpoints of another run", full=True)
def test_another_runs_checkpoints_are_not_taken(logdir: Path, tmp_path: Path, start: Start) -> None:
    """Though its options are the same: by training, evaluation; and they are put aside, not removed."""
    other = tmp_path / "other"
    code, said = finish(start(RUN, *SAVING, "--steps", "120", "--logdir", str(other)))
    assert code == 0, said
    shutil.rmtree(checkpoints(logdir)[-1])
    shutil.copytree(checkpoints(other)[-1], logdir / "checkpoints" / checkpoints(other)[-1].name)
    code, said = finish(start(RUN, *SAVING, "--steps", "100", "--logdir", str(logdir)))
    assert code == 0 and resumed_step(said) == 80 and "it is of another run: its run is" in said, said
    assert (logdir / "aside-1" / checkpoints(other)[-1].name / "agent.pt").is_file()
    shutil.rmtree(logdir / "checkpoints")
    shutil.copytree(other / "checkpoints", logdir / "checkpoints")
    for words in (["eval", str(logdir)], [*SAVING, "--logdir", str(logdir)]):
        code, said = finish(start(RUN, *words))
        assert code == 2 and "it is of another run" in said and "Traceback" not in said, said


@pytest.mark.faults("checkpoint file cut or missing", full=True)
def test_a_run_that_must_start_anew_keeps_what_there_was(logdir: Path, start: Start) -> None:
    log, old = (logdir / "metrics.jsonl").read_bytes(), checkpoints(logdir)
    for folder in old:
        (folder / "agent.pt").write_bytes(b"")
    code, said = go_on(start, logdir)
    aside = logdir / "aside-1"
    assert code == 0 and f"starts anew at step 0; what it had is in {aside}" in said, said
    assert (aside / "metrics.jsonl").read_bytes() == log and (aside / "result.json").is_file()
    assert [path.name for path in sorted((aside / "checkpoints").iterdir())] == [path.name for path in old]
    assert any((aside / "replay").iterdir())


@pytest.mark.faults("chunk of the replay damaged or missing", full=True)
def test_without_any_chunk_the_agent_is_kept(logdir: Path, start: Start) -> None:
    shutil.rmtree(logdir / "replay")
    code, said = go_on(start, logdir)
    assert code == 0 and resumed_step(said) == 120 and "more chunks" in said, said


@pytest.mark.faults("small file cut or malformed", full=True)
def test_small_files_that_are_cut(finished: Path, tmp_path: Path, start: Start, tally: Tally) -> None:
    """A log loses the line, with its number told; a configuration is refused by name."""
    for name in ("sessions.jsonl", "metrics.jsonl", "result.json", "config.yaml"):
        for damage in ("empty", "half", "all but one byte"):
            tally.attempt()
            logdir = Path(shutil.copytree(finished, tmp_path / f"{name} {damage}"))
            (logdir / name).write_bytes(DAMAGES[damage]((logdir / name).read_bytes()))
            code, said = go_on(start, logdir)
            assert "Traceback" not in said, said
            if name == "config.yaml" and damage != "all but one byte":
                assert code == 2 and str(logdir / name) in said, said
            else:
                assert code == 0 and resumed_step(said) == 120, said
            if name == "sessions.jsonl" and damage == "half":
                assert f"{logdir / name}, line 1" in said, said
            for log in ("sessions.jsonl", "metrics.jsonl"):
                good = (logdir / log).read_text().splitlines()[name == log :]
                assert [json.loads(line) for line in good] or log == name
            tally.survive()


MOVES: dict[str, Callable[[Path], object]] = {
    "removed": lambda folder: [shutil.rmtree(folder, ignore_errors=True) for _ in range(3)],
    "moved": lambda folder: folder.rename(folder.with_name("elsewhere")),
    "replaced": lambda folder: (folder.rename(folder.with_name("elsewhere")), folder.mkdir()),
    "its lock removed": lambda folder: (folder / ".lock").unlink(),
}


@pytest.mark.timeout(600)
@pytest.mark.faults("run folder moved, removed or replaced", full=True)
@pytest.mark.parametrize("move", MOVES)
def test_a_run_whose_folder_is_gone_ends(move: str, tmp_path: Path, start: Start) -> None:
    """With the folder's name; it is not made again, and what was moved can be gone on with."""
    logdir = tmp_path / "run"
    process = start(RUN, *SAVING, "--steps", str(ENDLESS), "--logdir", str(logdir))
    wait_for(lambda: newest_step(logdir) >= 40, process)
    MOVES[move](logdir)
    code, said = finish(process)
    assert code == 2 and f"{logdir} is no longer the folder that this run began in" in said, said
    assert "Traceback" not in said
    assert logdir.exists() == (move in ("replaced", "its lock removed"))
    if move == "replaced":
        assert not any(logdir.iterdir())
    if move in ("moved", "replaced"):
        code, said = go_on(
            start, tmp_path / "elsewhere", "--steps", str(newest_step(tmp_path / "elsewhere") + 20)
        )
        assert code == 0 and resumed_step(said) >= 40, said

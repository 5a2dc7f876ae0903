"""A run's folder says which sessions trained it, and of which commits they were."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from studies import provenance


def test_sessions_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session adds a line that can be run again; commits come once, in the order of the sessions."""
    assert provenance.commits(tmp_path) == []
    words = ["python", "run.py", "--task", "a task's name", "--steps", "9"]
    for commit in ("b" * 40, "a" * 40, "b" * 40):
        monkeypatch.setattr(provenance, "commit", lambda commit=commit: commit)
        provenance.record(tmp_path, words)
    assert provenance.commits(tmp_path) == ["b" * 40, "a" * 40]
    lines = (tmp_path / "sessions.jsonl").read_text().splitlines()
    assert len(lines) == 3
    session = json.loads(lines[1])
    assert session.keys() == {"began", "command", "commit", "hardware"}
    assert shlex.split(session["command"]) == words and session["commit"] == "a" * 40


def test_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole hash; `-dirty` behind it once a tracked file was changed; unknown where git knows nothing."""
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    assert provenance.commit() == "unknown"
    (tmp_path / "file").write_text("as committed")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "file"], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True)
    assert provenance.commit() == head.stdout.strip()
    (tmp_path / "file").write_text("changed")
    assert provenance.commit() == head.stdout.strip() + "-dirty"


def test_hardware() -> None:
    """What it says can be written as JSON and names the processor."""
    found = provenance.hardware()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"] and found["cpus"] >= 1 and found["torch"]


def test_a_run_has_begun_when_something_came_of_it(tmp_path: Path) -> None:
    """A configuration, a log and an empty folder are nothing; a checkpoint or a result are."""
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints").mkdir()
    assert not provenance.has_begun(tmp_path)
    (tmp_path / "result.json").touch()
    assert provenance.has_begun(tmp_path) and not provenance.has_checkpoint(tmp_path)
    (tmp_path / "result.json").unlink()
    (tmp_path / "checkpoints" / "100").mkdir()
    assert provenance.has_begun(tmp_path) and provenance.has_checkpoint(tmp_path)

"""The run folder's owner: who may write to it, what it holds, which sessions of which commits trained it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from agent.run import folder as module
from agent.run.folder import RunFolder, commit
from agent.run.machine import hardware

CONFIG = configs.load()


def test_the_default_is_one_folder_a_task() -> None:
    def place(task: str, **changed: str) -> Path:
        return RunFolder.of(configs.load(task, overrides=changed)).path

    assert place("memory_chain:n=3,seed=4") == Path("runs/memory_chain_n=3_seed=4/s4wm/seed0")
    assert place("../../etc:x") == Path("runs/etc_x/s4wm/seed0")
    assert place("x", logdir="a/b") == Path("a/b")


def test_a_run_has_begun_when_something_came_of_it(tmp_path: Path) -> None:
    """A configuration, a log and an empty folder are nothing; a checkpoint or a result are."""
    run = RunFolder(tmp_path)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints").mkdir()
    assert not run.has_begun()
    run.publish_result({"steps": 3})
    assert run.has_begun() and not run.has_checkpoint() and run.result() == {"steps": 3}
    (tmp_path / "result.json").unlink()
    (tmp_path / "checkpoints" / "100").mkdir()
    assert run.has_begun() and run.has_checkpoint() and run.result() is None


def test_the_configuration_of_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"no run in .*: expected .*config\.yaml"):
        run.configuration()
    run.begin_session(CONFIG, ["python", "run.py"])
    with pytest.raises(ValueError, match="has no checkpoint yet: nothing in .*checkpoints"):
        run.configuration()
    assert run.configuration(checkpoint=False) == CONFIG
    (tmp_path / "checkpoints" / "100").mkdir(parents=True)
    assert run.configuration("cpu") == configs.override(CONFIG, {"device": "cpu"})


@pytest.mark.faults("resumed with another configuration or format")
def test_another_run_is_refused_once_one_has_begun(tmp_path: Path) -> None:
    run, other = RunFolder(tmp_path / "a"), configs.load(overrides={"seed": 5, "batch_size": 3})
    run.refuse_another(CONFIG)
    run.path.mkdir()
    run.begin_session(CONFIG, [])
    run.refuse_another(other)  # nothing was saved yet
    run.publish_result({})
    run.refuse_another(configs.override(CONFIG, {"steps": 3, "device": "cpu"}))
    with pytest.raises(ValueError, match="configured otherwise:\n  seed: saved 0, now 5\n  batch_size: "):
        run.refuse_another(other)
    with pytest.raises(ValueError, match=r"its size \(--configs\) included"):
        run.refuse_another(configs.load(presets=["12m"]))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; expected a folder"):
        RunFolder(tmp_path / "file").refuse_another(CONFIG)
    (run.path / "config.yaml").write_text("seed: 3\n")
    with pytest.raises(ValueError, match="config.yaml lacks 'task', 'backbone'"):
        run.refuse_another(CONFIG)


@pytest.mark.faults("one signal, a second run in the folder")
def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    """The lock ends with the process, however it ends; the message says who holds it."""
    code = (
        "import sys, time\n"
        "from agent.run.folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).locked():\n"
        "    print('here', flush=True)\n"
        "    time.sleep(60)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a")]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=module.REPOSITORY)
    assert holder.stdout is not None and holder.stdout.readline() == "here\n"
    run = RunFolder(tmp_path / "a")
    with pytest.raises(configs.Mistake, match=f"is in use: process {holder.pid} on"), run.locked():
        raise AssertionError("two at once")
    holder.kill()
    holder.wait()
    with run.locked():
        assert (run.path / ".lock").is_file()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(configs.Mistake, match="file/a cannot be written .*give another --logdir"),
        RunFolder(tmp_path / "file" / "a").locked(),
    ):
        raise AssertionError("held")


def test_sessions_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session adds a line that can be run again; commits come once, in the order of the sessions."""
    run = RunFolder(tmp_path)
    assert run.commits() == []
    words = ["python", "run.py", "--task", "a task's name", "--steps", "9"]
    for each in ("b" * 40, "a" * 40, "b" * 40):
        monkeypatch.setattr(module, "commit", lambda each=each: each)
        run.begin_session(CONFIG, words)
    assert run.commits() == ["b" * 40, "a" * 40]
    lines = (tmp_path / "sessions.jsonl").read_text().splitlines()
    assert len(lines) == 3
    session = json.loads(lines[1])
    assert session.keys() == {"began", "command", "commit", "hardware"}
    assert shlex.split(session["command"]) == words and session["commit"] == "a" * 40


def test_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole hash; `-dirty` behind it once a tracked file was changed; unknown where git knows nothing."""
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    assert commit() == "unknown"
    (tmp_path / "file").write_text("as committed")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "file"], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True)
    assert commit() == head.stdout.strip()
    (tmp_path / "file").write_text("changed")
    assert commit() == head.stdout.strip() + "-dirty"


def test_hardware() -> None:
    """What it says can be written as JSON and names the processor."""
    found = hardware()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"] and found["cpus"] >= 1 and found["torch"]

"""The run folder's owner: who may write to it, what it holds, which sessions of which commits trained it."""

import errno
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import configs
from agent.run import checkpoint
from agent.run import folder as module
from agent.run.folder import RunFolder, commit, on_disk
from agent.run.machine import hardware

CONFIG = configs.load()


def test_the_default_is_one_folder_a_task() -> None:
    def place(task: str, **changed: str) -> Path:
        return RunFolder.of(configs.load(task, overrides=changed)).path

    assert place("memory_chain:n=3,seed=4") == Path("runs/memory_chain_n=3_seed=4/s4wm/seed0").absolute()
    assert place("../../etc:x") == Path("runs/etc_x/s4wm/seed0").absolute()
    assert place("x", logdir="a/b") == Path("a/b").absolute()


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
    assert session.keys() == {"run", "began", "command", "commit", "hardware"}
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


@pytest.mark.faults("run folder moved, removed or replaced")
@pytest.mark.parametrize("move", ["removed", "moved", "replaced", "lock replaced"])
def test_a_run_knows_its_own_folder(tmp_path: Path, move: str) -> None:
    """Before a save, at the end, and where a file could not be written; nothing is made in its place."""
    run = RunFolder(tmp_path / "a")
    for end in ("check", "result", "error"):
        with (
            pytest.raises(configs.Mistake, match="a is no longer the folder that this run began in"),
            run.locked(),
        ):
            run.check()
            if move == "lock replaced":
                (run.path / ".lock").unlink()
                (run.path / ".lock").touch()
            else:
                run.path.rename(tmp_path / f"b{end}")
                if move == "replaced":
                    run.path.mkdir()
            if end == "check":
                run.check()
            elif end == "result":
                run.publish_result({})
            else:
                (run.path / "replay" / "chunk").write_text("x")
        assert run.path.exists() == ("replaced" in move) and not (run.path / "result.json").exists()
        if move == "replaced":
            run.path.rmdir()
    run.check()  # nothing is held


@pytest.mark.faults("run folder moved, removed or replaced")
def test_its_path_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder("a")
    with run.locked():
        monkeypatch.chdir("/")
        run.check()
        run.publish_result({"steps": 1})
    assert (tmp_path / "a" / "result.json").is_file()


@pytest.mark.faults("output that cannot be written")
@pytest.mark.parametrize("name", ["x" * 256, "new/" + "x" * 256])
def test_a_name_that_is_too_long(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="xxx.*(name of more than 255 bytes|File name too long)"):
        RunFolder(tmp_path / name).refuse_another(CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults("run folder moved, removed or replaced")
def test_without_locks_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", none)
    with (
        pytest.raises(configs.Mistake, match="has no locks .No locks available"),
        RunFolder(tmp_path).locked(),
    ):
        raise AssertionError("held")


@pytest.mark.faults("link in a folder of ours")
def test_a_lock_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(configs.Mistake, match="cannot be written"), RunFolder(tmp_path).locked():
        raise AssertionError("held")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.faults("small file cut or malformed")
def test_a_session_that_was_cut_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next one begins on a line of its own, and goes by the name of the others."""
    run, path = RunFolder(tmp_path), tmp_path / "sessions.jsonl"
    run.begin_session(CONFIG, [])
    run.begin_session(CONFIG, [])
    path.write_text(path.read_text()[:-30])
    again = RunFolder(tmp_path)
    again.begin_session(CONFIG, [])
    assert again.identity() == run.identity() and len(again.commits()) == 1
    assert f"left out {path}, line 2, column" in capsys.readouterr().err
    assert json.loads(path.read_text().splitlines()[2])["run"] == run.identity()["run"]
    (tmp_path / "result.json").write_text('{"steps": 1')
    with pytest.raises(ValueError, match=r"result.json, line 1, column 12: no JSON"):
        run.result()


@pytest.mark.faults("checkpoints of another run")
def test_a_run_is_known_by_its_checkpoints_if_its_files_are_gone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin_session(CONFIG, [])
    identity = run.identity("space")
    checkpoint.save(tmp_path, 1, {}, None, {}, identity=identity)
    for name in ("sessions.jsonl", "config.yaml"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="configured otherwise, and no config.yaml"):
        RunFolder(tmp_path).refuse_another(configs.override(CONFIG, {"seed": 5}))
    again, same = RunFolder(tmp_path), configs.override(CONFIG, {"steps": 5})
    again.refuse_another(same)
    again.begin_session(same, [])
    assert again.identity("space") == identity


@pytest.mark.faults("checkpoint file cut or missing")
def test_what_cannot_be_gone_on_with_is_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path)
    run.begin_session(CONFIG, [])
    (tmp_path / "metrics.jsonl").write_text("log")
    run.begin_anew()  # nothing was saved: nothing to keep
    assert (tmp_path / "metrics.jsonl").exists() and not capsys.readouterr().err
    (tmp_path / "checkpoints" / "000000000001").mkdir(parents=True)
    (tmp_path / "events.out.1").touch()
    run.begin_anew()
    assert f"starts anew at step 0; what it had is in {tmp_path / 'aside-1'}" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "aside-1").iterdir()) == [
        "checkpoints",
        "events.out.1",
        "metrics.jsonl",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside-1", "config.yaml", "sessions.jsonl"]


def test_the_disk_that_a_run_takes_is_all_of_it() -> None:
    """Rows, checkpoints with the optimisers' moments and the newest rows, and the log."""
    config = configs.override(CONFIG, {"steps": 1_000_000, "log.every": 1000, "log.pictures": 0})
    said = on_disk(config, 1_000_000, lambda rows: (rows * 100, 1024))
    assert said == (
        "on disk at the end: about 132.6 MiB (replay 95.4 MiB, 2 checkpoints and the best 34.3 MiB, "
        "log 2.9 MiB), "
        "and 250 B an episode"
    )
    drawn = configs.override(config, {"log.every": 0, "log.pictures": 10_000})
    logs = [on_disk(drawn, 1, lambda rows: (0, 0), images).split("log ")[1] for images in (False, True)]
    assert logs == ["10.5 MiB), and 250 B an episode", "85.8 MiB), and 250 B an episode"]

"""Fitting a world model to episodes on disk: it learns, goes on exactly, and refuses what does not fit."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import configs
import run
from agent.agent import Agent
from agent.run import checkpoint, seams
from replay.episodes import Episodes
from studies import collect, fit, maze_probe, readout
from tests.agent.run import recorded
from tests.agent.run.recorded import maze_files
from tests.agent.run.test_loop import same
from tests.studies.conftest import Call, Refused, Train

TASK = "memory_chain:n=5"
SMALL = ["--configs", "debug", "--device", "cpu", "--recall.scale", "0", "--log.to", "none"]
ACTS = (
    ["eval"],
    ["imagine"],
    ["probe"],
    ["collect", "--task", TASK, "--episodes", "2", "--out", "x", "--policy"],
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of 7 frames: the first two show a bit, and the last action is rewarded if it names it."""
    folder = tmp_path_factory.mktemp("data")
    collect.fill(folder, collect.plan(TASK, "random"), 300, 1)
    return folder


def metrics(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_a_world_model_learns_what_it_has_to_remember(data: Path, tmp_path: Path, call: Call) -> None:
    """The bit is foreseen to be asked for, and the reward follows from it; a guess gets a half."""
    folder, rate = tmp_path / "run", "0.006"
    words = ["fit", "--data", data, "--logdir", folder, *SMALL, "--batch_size", "16", "--updates", "500"]
    words += ["--optimiser.model_lr", rate, "--optimiser.ssm_lr", rate, "--kl.free_nats", "0.1"]
    words += [
        "--log.pictures",
        "0",
        "--log.every",
        "50",
        "--eval.every",
        "0",
        "--eval.episodes",
        "30",
        "--checkpoint.every",
        "0",
    ]
    fitted = call(*words)
    assert fitted["updates"] == fitted["steps"] == 500 and fitted["backbone"] == "s4wm"
    assert metrics(folder, "train/model")[-1] < 0.3 * metrics(folder, "train/model")[0]
    found = call("foresee", folder)
    assert found["reward_accuracy_imagined"] == found["reward_accuracy_inferred"] == 1
    assert found["gen_error"] < 0.05 and found["recon_error"] < 0.05
    assert (found["episodes"], found["context"], found["updates"]) == (30, 3, 500)
    assert len(found["gen_error_by_step"]) == 4 and len(found["kl_by_step"]) == 7
    assert all(Path(path).stat().st_size > 5000 for path in found["files"]) and len(found["files"]) == 2


FAST = [*SMALL, "--log.every", "5", "--eval.every", "12", "--eval.episodes", "4", "--checkpoint.every", "7"]
SHORT = ["--batch_length", "4", "--replay.memory_gb", "1e-6"]  # windows that carry states, episodes read anew


@pytest.mark.parametrize(
    ("backbone", "more"), [("s4wm", []), ("s4wm_published", []), ("rssm_tbtt", SHORT), ("tssm", SHORT)]
)
def test_stopping_and_going_on_changes_no_bit(
    backbone: str, more: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", "--backbone", backbone, *FAST, *more, "--log.pictures", "0"]
    words += ["--updates", "18", "--data", str(data), "--optimiser.matrices", "muon"]
    words += ["--optimiser.cooldown", "0.6"]  # which begins before the stop
    assert run.main([*words, "--logdir", str(tmp_path / "whole")]) == 0
    update = Agent.update

    def spy(agent: Agent, batch: dict[str, np.ndarray], behaviour: bool, left: float) -> Any:
        if agent.updates == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(agent, batch, behaviour, left)

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "update", spy)
        with pytest.raises(SystemExit) as stopped:
            run.main([*words, "--logdir", str(tmp_path / "cut")])
    assert stopped.value.code == 128 + signal.SIGTERM
    saved = checkpoint.load_newest(tmp_path / "cut")
    assert saved is not None and saved.step == saved.agent_state["updates"] == 10
    assert run.main(["fit", "--logdir", str(tmp_path / "cut")]) == 0  # all the rest is as it was
    ends = [checkpoint.load_newest(tmp_path / name) for name in ("whole", "cut")]
    assert ends[0] is not None and ends[1] is not None
    assert ends[0].step == ends[1].step == 18 and same(ends[0].agent_state, ends[1].agent_state)
    begun, ended = saved.agent_state, ends[0].agent_state
    assert not same(begun["model"], ended["model"]), "nothing was learned"
    assert same(begun["actor_critic"], ended["actor_critic"]), "more than the world model was trained"
    states = [end.replay_state or {} for end in ends]
    assert states[0].keys() == states[1].keys() and any("state/" in key for key in states[0]) == bool(more)
    for key, value in states[0].items():
        np.testing.assert_array_equal(states[1][key], value, err_msg=key)
    evaluations = [metrics(tmp_path / name, "eval/gen_error") for name in ("whole", "cut")]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 2


@pytest.mark.parametrize(
    ("backbone", "longest", "length"),
    [("s4wm", 50, 50), ("s4wm_s4", 2500, 2001), ("rssm", 250, 250), ("rssm_tbtt", 250, 64), ("tssm", 50, 50)],
)
def test_windows(backbone: str, longest: int, length: int) -> None:
    """Whole episodes, but for what is trained on segments, whose length is the preset's or an episode's."""
    assert fit.window(configs.load(backbone=backbone, presets=["offline"]), longest) == length


def test_numbers_that_are_not_finite_can_be_had_again(
    data: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Episodes.next

    def spoilt(source: Episodes) -> dict[str, Any]:
        batch = take(source)
        batch["reward"][:] = float("nan")
        return batch

    monkeypatch.setattr(Episodes, "next", spoilt)
    words = ["fit", "--data", str(data), "--logdir", str(tmp_path / "run"), *FAST]
    with pytest.raises(FloatingPointError, match="train/reward is not finite"):
        run.main([*words, "--updates", "5"])
    found = call("reproduce", tmp_path / "run")
    assert found["batch"] == ["reward"] and found["message"] and found["update"] == 1


def test_what_is_refused(
    data: Path, tmp_path: Path, refused: Refused, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other, wrong = tmp_path / "other", tmp_path / "wrong"
    collect.fill(other, collect.plan("memory_chain:n=3", "random"), 10, 1)
    shutil.copytree(other, wrong)
    record = json.loads((wrong / "dataset.json").read_text())
    (wrong / "dataset.json").write_text(json.dumps(record | {"task": "discounting_chain"}))
    late = Path(shutil.copytree(other, tmp_path / "late"))
    (late / "dataset.json").write_text(json.dumps(record | {"context_length": 5}))
    online = train("s4wm", "memory_chain:n=3")
    before = sorted(tmp_path.rglob("*"))
    words: list[str | Path] = ["fit", "--logdir", "none"]
    cases: list[tuple[list[str | Path], str]] = [
        ([*words, "--data", "nothing"], "no episodes in nothing: expected nothing/dataset.json"),
        (words, "name the episodes to fit to: --data DIR"),
        (
            [*words, "--data", data, other],
            "the data are of several tasks, memory_chain:n=3, memory_chain:n=5",
        ),
        ([*words, "--data", wrong], "'obs/vector' is float32 [3]; the task's is"),
        ([*words, "--data", late], "the context has 5 frames, but an episode has 5 only"),
        ([*words, "--data", data, "--updates", "0"], "expected a positive whole number"),
        ([*words, "--data", data, "--envs.count", "3"], "unknown option '--envs.count'"),
        ([*words, "--data", data, "--backbone", "s4mw"], "unknown backbone 's4mw'. Did you mean 's4wm'?"),
        (["fit", "--data", data, "--logdir", online], "holds a run in an environment: give another --logdir"),
        (["foresee", online], "holds no world model fitted to episodes on disk; see imagine"),
        (["foresee", "none"], "none: expected"),
    ]
    for given, said in cases:
        assert said in refused(*given)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_fitted_run_refuses(
    data: Path, tmp_path: Path, refused: Refused, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other, again = (tmp_path / name for name in ("run", "other", "again"))
    words = ["fit", "--data", data, "--logdir", folder, *FAST, "--updates", "2", "--log.pictures", "0"]
    call(*words)
    collect.fill(other, collect.plan("memory_chain:n=5", "random", seed=1), 12, 1)
    for given, said in (
        (["fit", "--data", other, "--logdir", folder], "was fitted to the episodes of"),
        ([*words, "--kl.free_nats", "2"], "kl.free_nats: saved 1.0, now 2.0"),
        (["--task", TASK, "--logdir", folder], "holds a world model fitted to episodes on disk"),
        (["foresee", folder, "--context", "7"], "--context must be less than the 7 frames of"),
        (["foresee", folder, "--data", tmp_path], "no episodes in"),
        (["foresee", folder, "--video", other / "x.gif"], f"--video: {TASK} shows no picture, only: vector."),
        *(
            ([*command, folder], "holds a world model fitted to episodes on disk, which cannot act")
            for command in ACTS
        ),
    ):
        assert said in refused(*given)
    found = call("foresee", folder, "--data", other, "--context", "4", "--out", tmp_path / "pictures")
    assert (found["episodes"], found["context"]) == (12, 4)
    assert {Path(path).parent for path in found["files"]} == {tmp_path / "pictures"}
    assert run.main(["foresee", str(folder), "--episodes", "50"]) == 0
    out, err = capsys.readouterr()
    assert "there are 30 held-out episodes, all of them are used" in err and "30 held-out episodes" in out
    assert configs.read(folder / "config.yaml").task == TASK
    # Its files are written once its checkpoints have not refused it.
    call("fit", "--data", data, "--logdir", again, *words[5:])
    shutil.rmtree(folder / "checkpoints")
    shutil.copytree(again / "checkpoints", folder / "checkpoints")
    names = ("data.json", "sessions.jsonl", "config.yaml")
    before = [(folder / name).read_bytes() for name in names]
    moved = shutil.copytree(data, tmp_path / "moved")
    assert "of another run: its run is" in refused("fit", "--data", moved, *words[3:])
    assert [(folder / name).read_bytes() for name in names] == before


def test_episodes_of_other_arguments_are_said_to_be(
    data: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their context is that of their own task."""
    folder, longer = tmp_path / "run", tmp_path / "longer"
    call("fit", "--data", data, "--logdir", folder, *FAST, "--updates", "2", "--log.pictures", "0")
    collect.fill(longer, collect.plan("memory_chain:n=9", "random") | {"context_length": 8}, 12, 1)
    assert run.main(["foresee", str(folder), "--data", str(data)]) == 0
    assert " are of " not in capsys.readouterr().err
    assert run.main(["foresee", str(folder), "--data", str(longer), "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"run.py: the episodes in {longer} are of memory_chain:n=9, the run of {TASK}\n" in err
    assert json.loads(out.splitlines()[-1])["context"] == 8


def test_episodes_of_others(
    tmp_path: Path, call: Call, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No environment is needed; one that is named has to have the same spaces."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    maze, played = maze_files(tmp_path / "maze"), recorded.played("cart/pole-v0", "CartPole-v1")
    monkeypatch.setattr(seams, "check_task", None)
    monkeypatch.setattr(readout, "STEPS", 2)
    monkeypatch.setattr(maze_probe, "UNITS", 8)
    for name, of, video in (("maze", maze, "x.gif"), ("minari", played, "")):
        folder = tmp_path / name
        fitted = call("fit", "--data", of, "--logdir", folder, *FAST, "--updates", "2", "--log.pictures", "0")
        assert fitted["updates"] == 2 and np.isfinite(fitted["gen_error"])
        call("fit", "--logdir", folder, "--updates", "3")
        found = call("foresee", folder, *(["--video", tmp_path / video] if video else ["--data", of]))
        assert (found["episodes"], found["updates"]) == (1, 3)
    frames = Image.open(tmp_path / "x.gif")
    assert getattr(frames, "n_frames", 1) == 6 and frames.size[0] == 4 * (160 + 4) - 4
    said = refused("foresee", tmp_path / "minari", "--video", tmp_path / "y.gif")
    assert "--video: minari:cart/pole-v0 shows no picture, only: vector" in said
    monkeypatch.undo()
    words = ["fit", "--data", played, "--logdir", tmp_path / "run", *FAST, "--updates", "2"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    assert "'obs/vector' is float32 [4]; the task's is" in refused(*words, "--task", TASK)
    assert not (tmp_path / "run").exists()
    call(*words, "--task", "CartPole-v1")
    assert configs.read(tmp_path / "run" / "config.yaml").task == "CartPole-v1"
    assert "fitted to data of task 'CartPole-v1', got --task 'tmaze'" in refused(*words, "--task", "tmaze")


def test_online_training_begins_with_a_fitted_world_model(
    data: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted, folder = tmp_path / "fitted", tmp_path / "run"
    words = ["fit", "--data", str(data), "--logdir", str(fitted), *FAST, "--log.pictures", "0"]
    assert run.main([*words, "--updates", "3"]) == 0
    train = ["--task", TASK, *SMALL, "--init", str(fitted), "--logdir", str(folder), "--log.pictures", "0"]
    for given, said in (
        ([*train, "--s4wm.width", "24"], "s4wm.width: saved 16, now 24"),
        ([*train, "--recall.scale", "1"], "recall.scale: saved 0.0, now 1.0"),
        ([*train, "--backbone", "rssm"], "backbone: saved 's4wm', now 'rssm'"),
        ([*train, "--task", "tmaze"], "with other spaces than 'tmaze'"),
        ([*train, "--init", "none"], "none: expected"),
    ):
        assert said in refused(*given)
    assert not folder.exists()
    train += ["--steps", "60", "--eval.every", "0", "--eval.max_steps", "20", "--prefill", "60"]
    assert run.main(train) == 0
    assert "3 updates" in capsys.readouterr().err
    ends = [checkpoint.load_newest(place) for place in (fitted, folder)]
    assert ends[0] is not None and ends[1] is not None and ends[1].agent_state["updates"] == 0
    assert same(ends[0].agent_state["model"], ends[1].agent_state["model"])
    assert run.main([*train, "--steps", "120"]) == 0  # it goes on with its own
    assert "3 updates" not in capsys.readouterr().err
    end = checkpoint.load_newest(folder)
    assert end is not None and not same(end.agent_state["model"], ends[0].agent_state["model"])

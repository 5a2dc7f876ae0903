"""An experiment from its data to its table: once, resumable, and no other in the same folder."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import configs
from configs.command_line import Parser
from envs.tasks import multi_doors_keys, rooms
from run import main
from studies import cost, fit, study
from studies.experiments import BUDGETS, EXPERIMENTS, Experiment, Setting
from studies.processes import Run
from tests.studies.conftest import Call, Refused

pytest.importorskip("minigrid")

TASK = "distracting_memory:width=10,observation=symbols"
OPTIONS = ("--configs", "debug", "--device=cpu", "--eval.episodes=2", "--log.pictures=0")
TINY = Setting("tiny", TASK, 20, 2, (4, 3), OPTIONS, {"s4wm": "100 / 99"})
OTHER = Setting("other", TASK.replace("10", "12"), 20, 2, (4, 4), OPTIONS)


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, *settings: Setting) -> None:
    """Give an experiment other settings."""
    monkeypatch.setitem(EXPERIMENTS, name, dataclasses.replace(EXPERIMENTS[name], budgets={"cpu": settings}))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The words of a study of one run that takes seconds."""
    replaced(monkeypatch, "distracting_memory", TINY, OTHER)
    words = ["study", "distracting_memory", "--backbones", "s4wm", "--seeds", "1", "--settings", "tiny"]
    return [*words, "--logdir", str(tmp_path / "study")]


def test_from_the_data_to_the_table(
    tiny: list[str], tmp_path: Path, call: Call, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = call(*tiny)
    folder = tmp_path / "study"
    assert report == json.loads((folder / "study.json").read_text())
    (row,) = report["rows"]
    assert (row["setting"], row["backbone"], row["updates"], row["seeds"]) == ("tiny", "s4wm", 2, 1)
    assert 0 < row["parameters"]["backbone"] < row["parameters"]["model"]
    assert (row["context"], row["episodes"], len(row["gen_error_by_step"][0])) == (19, 2, 6)
    assert row["gen_error"]["mean"] > row["gen_error"]["interval"][0] - 1e-9 > 0
    assert report["command"].startswith("python run.py study distracting_memory --backbones s4wm --seeds 1 ")
    assert len(list((folder / "data" / "tiny").glob("*.npz"))) == 20
    assert (folder / "study.png").stat().st_size > 10_000
    text = study.table(report)
    assert "100 / 99" in text and "s4wm (s5)" in text and "distracting_memory, budget cpu" in text

    before = (folder / "tiny" / "s4wm" / "seed0" / "sessions.jsonl").read_text()
    assert call(*tiny)["rows"][0]["gen_error"] == row["gen_error"], "a finished run was repeated"
    assert (folder / "tiny" / "s4wm" / "seed0" / "sessions.jsonl").read_text() == before

    replaced(monkeypatch, "distracting_memory", dataclasses.replace(TINY, task=OTHER.task))
    assert "holds the study" in refused(*tiny)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the runs of a study made here, which saves the time of starting others."""

    def run_all(runs: Sequence[Run], _jobs: int, _logs: Path) -> None:
        for each in runs:
            assert main([str(word) for word in each.command[2:]]) == 0

    monkeypatch.setattr(study, "run_all", run_all)


def only_row(call: Call, folder: Path, name: str, backbone: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report of a study of one run, and its row."""
    report = call("study", name, "--backbones", backbone, "--seeds", "1", "--logdir", folder)
    (row,) = report["rows"]
    return report, row


@pytest.mark.usefixtures("in_this_process")
def test_doors(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multi_doors_keys.FRAMES, 3, (20, 15))
    task = "multi_doors_keys:observation=symbols"
    replaced(monkeypatch, "multi_doors_keys", Setting("keys3", task, 20, 2, (4, 4), OPTIONS))
    report, row = only_row(call, tmp_path, "multi_doors_keys", "s4wm")
    assert 0 <= row["door_gen_error"]["mean"] <= 1 and (row["context"], row["episodes"]) == (20, 2)
    assert "a door, imagined" in study.table(report)


@pytest.mark.usefixtures("in_this_process")
def test_rooms(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rooms.FRAMES, 2, (4, 5))
    replaced(monkeypatch, "rooms", Setting("rooms2", "rooms", 10, 1, (4, 4), OPTIONS))
    report, row = only_row(call, tmp_path, "rooms", "tssm")
    assert [len(each) for each in row["gen_error_by_step"]] == [5] and row["context"] == 4
    errors, curves = study.draw(EXPERIMENTS["rooms"], report["rows"]).axes
    np.testing.assert_allclose(errors.lines[-1].get_ydata(), row["gen_error_by_step"][0])
    assert curves.get_ylabel() == "error of a frame"


@pytest.mark.usefixtures("in_this_process")
def test_teleport(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rooms.FRAMES, 2, (5, 24))
    replaced(monkeypatch, "teleport", Setting("rooms2", "rooms:teleport=true", 20, 1, (4, 2), OPTIONS))
    report, row = only_row(call, tmp_path, "teleport", "rssm")
    (by_cue,) = row["gen_error_by_cue"]
    assert list(by_cue) == ["0", "1", "5", "10", "20"] and row["context"] == 25
    assert row["gen_error_by_cue.20"]["mean"] == by_cue["20"] == pytest.approx(row["gen_error"]["mean"])
    errors, _ = study.draw(EXPERIMENTS["teleport"], report["rows"]).axes
    np.testing.assert_array_equal(errors.lines[-1].get_xdata(), [0, 1, 5, 10, 20])


def test_cost(tmp_path: Path, call: Call, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained on segments needs the time of all of them, and the memory of one."""
    monkeypatch.setitem(cost.SIZES, "cpu", ("memory_chain", ["debug"], 4, (8, 32), 1))
    words = ["study", "cost", "--backbones", "s4wm", "rssm_tbtt", "--logdir", str(tmp_path / "cost")]
    assert "cost measures the backbones in one process" in refused(*words, "--seeds", "2")
    assert not list(tmp_path.iterdir())
    report = call(*words)
    assert report == json.loads((tmp_path / "cost" / "study.json").read_text())
    assert [(row["name"], row["length"], row["window"]) for row in report["rows"]] == [
        *(("s4wm", 8, 8), ("rssm_tbtt", 8, 8), ("s4wm", 32, 32), ("rssm_tbtt", 32, 16))
    ]
    assert all(row["median"] > 0 and row["imagined_per_second"] > 0 for row in report["rows"])
    assert (tmp_path / "cost" / "study.png").stat().st_size > 10_000


def test_what_is_refused(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    for words, said in (
        (["distracting_memry"], "unknown study 'distracting_memry'. Did you mean 'distracting_memory'?"),
        (["distracting_memory", "--backbones", "s4mw"], "unknown backbone 's4mw'. Did you mean 's4wm'?"),
        (["distracting_memory", "--backbones", "rssm", "rssm"], "name each backbone once"),
        (["distracting_memory", "--budget", "gpu"], "invalid choice: 'gpu'"),
        (["rooms", "--settings", "room4"], "unknown setting 'room4'. Did you mean 'rooms4'?"),
        (["distracting_memory", "--logdir", "a_file"], "a_file is there and no folder"),
    ):
        assert said in refused("study", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_the_table_has_intervals_and_what_is_not_defined() -> None:
    score = {"mean": 0.75, "interval": [0.5, 1.0], "runs": [0.5, 1.0]}
    row: dict[str, Any] = {
        "setting": "w",
        "backbone": "rssm_tbtt",
        "seeds": 2,
        "updates": 6500,
        "parameters": {"backbone": 220_664, "model": 487_770},
        "paper": None,
        "recon_error": score,
        "gen_error": score,
        "seconds": [60, 180],
        "reward_accuracy_inferred": None,
        "reward_accuracy_imagined": score,
        "gen_error_by_step": [[1.0, 2.0], [3.0, 4.0]],
        "curves": [{"steps": [1, 2], "values": [0.5, 1.0]}] * 2,
    }
    text = study.table({"study": "distracting_memory", "budget": "cpu", "rows": [row]})
    cells = text.splitlines()[-1].split("  ")
    assert [cell.strip() for cell in cells if cell.strip()] == [
        *("w", "rssm_tbtt", "2", "6,500", "487,770", "0.75 [0.5, 1]", "0.75 [0.5, 1]", "-"),
        *("75.0% [50.0%, 100.0%]", "-", "2"),
    ]
    errors, accuracy = study.draw(EXPERIMENTS["distracting_memory"], [row]).axes
    np.testing.assert_array_equal(errors.lines[-1].get_ydata(), [2, 3])
    assert len(errors.lines) == 3 and len(accuracy.lines) == 2


def test_what_is_trained_on_segments_sees_as_many_frames(tmp_path: Path) -> None:
    made = study.Study("multi_doors_keys", "cpu", ["s4wm", "rssm_tbtt", "tssm"], 1, ["keys3"], tmp_path)
    (setting,) = made.settings
    assert setting.rows == (8, 31)  # 8 episodes of 250 frames, or 31 windows of 64
    given = {run.name: run.command[run.command.index("--batch_size") + 1] for run in made.runs(setting)}
    assert given == {"s4wm": "8", "rssm_tbtt": "31", "tssm": "31"}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_setting_can_be_fitted_as_it_stands(experiment: Experiment) -> None:
    """Tasks with a script, options that fit takes; but for what this machine has no packages for."""
    assert list(experiment.budgets) == list(BUDGETS)
    for settings in experiment.budgets.values():
        assert len({setting.name for setting in settings}) == len(settings)
        for setting in settings:
            parser = Parser("fit", "")
            fit.arguments(parser)
            args = parser.parse([*setting.options, "--updates", str(setting.updates)])
            assert configs.load(None, None, args.configs, args.overrides).batch_size >= 1
            if "maze" not in setting.task and "mujoco" not in setting.task:
                assert study.collect.plan(setting.task, "scripted")["context_length"] > 1

"""An experiment from its data to its table: once, resumable, and no other in the same folder."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import configs
from configs.command_line import Parser
from studies import fit, study
from studies.study import Setting
from tests.studies.conftest import Call

pytest.importorskip("minigrid")

TASK = "distracting_memory:width=10,observation=symbols"
OPTIONS = ("--configs", "debug", "--device=cpu", "--eval.episodes=2", "--log.pictures=0")
TINY = Setting("tiny", TASK, 20, 2, OPTIONS, {"s4wm": "100 / 99"})


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The words of a study of one run that takes seconds."""
    monkeypatch.setattr(study, "EXPERIMENTS", {"distracting_memory": {"cpu": (TINY,), "paper": (TINY,)}})
    words = ["study", "distracting_memory", "--backbones", "s4wm", "--seeds", "1"]
    return [*words, "--logdir", str(tmp_path / "study")]


def test_from_the_data_to_the_table(
    tiny: list[str], tmp_path: Path, call: Call, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = call(*tiny)
    folder = tmp_path / "study"
    assert report == json.loads((folder / "study.json").read_text())
    (row,) = report["rows"]
    assert (row["setting"], row["backbone"], row["updates"], row["seeds"]) == ("tiny", "s4wm", 2, 1)
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

    other = dataclasses.replace(TINY, task=TASK.replace("10", "12"))
    monkeypatch.setattr(study, "EXPERIMENTS", {"distracting_memory": {"cpu": (other,)}})
    assert "holds the study" in refused(*tiny)


def test_what_is_refused(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    for words, said in (
        (["distracting_memry"], "unknown study 'distracting_memry'. Did you mean 'distracting_memory'?"),
        (["distracting_memory", "--backbones", "s4mw"], "unknown backbone 's4mw'. Did you mean 's4wm'?"),
        (["distracting_memory", "--backbones", "rssm", "rssm"], "name each backbone once"),
        (["distracting_memory", "--budget", "gpu"], "invalid choice: 'gpu'"),
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
        "paper": None,
        "recon_error": score,
        "gen_error": score,
        "seconds": [60, 180],
        "reward_accuracy_inferred": None,
        "reward_accuracy_imagined": score,
        "gen_error_by_step": [[1.0, 2.0], [3.0, 4.0]],
        "curves": [{"steps": [1, 2], "values": [0.5, 1.0]}] * 2,
    }
    text = study.table({"study": "s", "budget": "cpu", "rows": [row]})
    cells = text.splitlines()[-1].split("  ")
    assert [cell.strip() for cell in cells if cell.strip()] == [
        *("w", "rssm_tbtt", "2", "6,500", "0.75 [0.5, 1]", "0.75 [0.5, 1]", "-"),
        *("75.0% [50.0%, 100.0%]", "-", "2"),
    ]
    errors, accuracy = study.draw([row]).axes
    np.testing.assert_array_equal(errors.lines[-1].get_ydata(), [2, 3])
    assert len(errors.lines) == 3 and len(accuracy.lines) == 2


def test_the_settings_are_those_of_the_paper() -> None:
    """Every setting can be fitted as it stands: tasks with a script, options that fit takes."""
    for budgets in study.EXPERIMENTS.values():
        for settings in budgets.values():
            for setting in settings:
                planned = study.collect.plan(setting.task, "scripted")
                assert planned["context_length"] > 1 and setting.episodes >= 1000
                parser = Parser("fit", "")
                fit.arguments(parser)
                args = parser.parse([*setting.options, "--updates", str(setting.updates)])
                assert configs.load(None, None, args.configs, args.overrides).batch_size >= 8

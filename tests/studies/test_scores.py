"""Scores over tasks are those of their definitions, exactly, and say which tasks they leave out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studies import scores as module
from studies.scores import STATISTICS, gap, gather, improvement, iqm, mean, median, report, table
from tests.studies.conftest import Call, Refused

ONE, TWO = np.array([0.0, 0.2, 0.4, 2.0]), np.array([1.0, 1.0, 0.6, 0.8])


def write(path: Path, task: str, optimum: float | None, **returns: list[float]) -> Path:
    """What compare writes, as far as scores are made from it."""
    results = {name: {"returns": values} for name, values in returns.items()}
    path.write_text(json.dumps({"task": task, "optimum": optimum, "results": results}))
    return path


def test_the_definitions() -> None:
    """By hand: the middle four of eight runs, the means of tasks, what is missing to 1, pairs of runs."""
    assert iqm(ONE, TWO, axis=0) == pytest.approx((0.4 + 0.6 + 0.8 + 1) / 4)
    assert mean(ONE, TWO, axis=0) == pytest.approx((0.65 + 0.85) / 2)
    assert median(ONE, TWO, ONE, axis=0) == pytest.approx(0.65)
    assert gap(ONE, TWO, axis=0) == pytest.approx(((1 + 0.8 + 0.6 + 0) / 4 + (0.4 + 0.2) / 4) / 2)
    assert improvement(ONE, TWO, ONE[:2], TWO[:2], axis=0) == pytest.approx((6 / 8 + 2 / 8) / 2)


def test_intervals_resample_the_runs_of_each_task() -> None:
    """By a bootstrap written out: tasks stay, and have as many runs as they had."""
    found = report(
        {"s4wm": {"a": ONE, "b": TWO, "c": np.array([0.5])}, "rssm": {"a": TWO, "b": ONE, "c": ONE}}
    )
    random = np.random.default_rng(1)
    drawn = [
        task[random.integers(len(task), size=(20_000, len(task)))] for task in (ONE, TWO, np.array([0.5]))
    ]
    for name, statistic in STATISTICS.items():
        expected = np.quantile(statistic(*drawn, axis=1), [0.025, 0.975])
        np.testing.assert_allclose(found["scores"]["s4wm"][name]["interval"], expected, atol=0.03)
    (pair,) = found["improvement"]
    assert (pair["of"], pair["over"]) == ("s4wm", "rssm")
    assert pair["interval"][0] < pair["value"] < pair["interval"][1]
    assert pair["value"] == pytest.approx((4 / 16 + 12 / 16 + 3 / 4) / 3)


def test_as_a_command(tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    """A guess scores 0 where it is known, else a return of 0; rows of several files, and of a grid, meet."""
    rows: dict[str, Any] = {"s4wm": [1.0, 0.5], "rssm": [0.5, 0.75], "rssm [rssm.deter=9]": [0.0]}
    files = [
        write(tmp_path / "a.json", "tmaze:corridor=3", 1.0, **rows),
        write(tmp_path / "b.json", "cartpole_masked", None, rssm=[250.0]),
        write(tmp_path / "c.json", "cartpole_masked", 500.0, s4wm=[500.0], tssm=[1.0]),
        write(tmp_path / "d.json", "Pendulum-v1", None, s4wm=[-1.0], rssm=[-1.0]),
    ]
    found = call("scores", *files, "--out", tmp_path / "p.png")
    assert found["tasks"]["tmaze:corridor=3"] == {"optimum": 1.0, "guess": 0.5}
    assert found["tasks"]["cartpole_masked"] == {"optimum": 500.0, "guess": None}
    assert found["runs"]["rssm"] == {"tmaze:corridor=3": [0.0, 0.5], "cartpole_masked": [0.5]}
    assert list(found["scores"]) == ["s4wm", "rssm"]
    assert found["improvement"][0]["value"] == pytest.approx((0.625 + 1) / 2)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    head, _, ours, _, better = table(found).splitlines()
    assert head.startswith("2 tasks; 0 is a guess") and ours.split()[:3] == ["s4wm", "(s5)", "0.667"]
    assert better.startswith("a run of s4wm (s5) ends higher than one of rssm with probability 0.812 [")
    _, chosen = gather(files, ["rssm [rssm.deter=9]", "s4wm"])
    assert list(chosen) == ["rssm [rssm.deter=9]", "s4wm"] and list(chosen["s4wm"]) == ["tmaze:corridor=3"]
    said = capsys.readouterr().err
    assert "left out cartpole_masked: no 'rssm [rssm.deter=9]'" in said
    assert "left out Pendulum-v1: no 'rssm [rssm.deter=9]'" in said
    gather(files)
    assert "left out Pendulum-v1: its optimum is not known" in capsys.readouterr().err


def test_what_is_refused(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write(tmp_path / "a.json", "tmaze", 1.0, s4wm=[1.0])
    again, other = tmp_path / "b.json", write(tmp_path / "c.json", "memory_chain", 1.0, rssm=[1.0])
    again.write_text(one.read_text())
    assert "'s4wm' on tmaze is in another file too" in refused("scores", one, again)
    assert "no row that every task has" in refused("scores", one, other)
    assert "no row that every task has" in refused("scores", one, "--backbones", "tssm")
    (tmp_path / "d.json").write_text("{}")
    assert "d.json is no comparison" in refused("scores", tmp_path / "d.json")
    assert "must end in one of" in refused("scores", one, "--out", tmp_path / "p.doc")

    def missing(task: str) -> None:
        raise ImportError("pip install -e '.[popgym]'")

    monkeypatch.setattr(module.envs, "guess", missing)
    assert "pip install -e '.[popgym]'" in refused("scores", one)

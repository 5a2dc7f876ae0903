"""A comparison runs everything once, resumes, counts every seed, and does not mix with another one."""

import csv
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import configs
from agent.run.folder import RunFolder
from studies import comparison as module
from studies.compare import table
from studies.comparison import Comparison, compare

FAKE = Path(__file__).with_name("fake_train.py")


def fake(
    folder: Path, backbones: list[str], seeds: int, steps: int, mode: str = "normal", **more: Any
) -> Comparison:
    """One whose runs take no time, of the task 't' unless another one is given."""
    more = {"task": "t", "program": (sys.executable, str(FAKE), mode)} | more
    return Comparison(backbones=backbones, seeds=seeds, steps=steps, folder=folder, **more)


@pytest.fixture(autouse=True)
def _known_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of these tests have the optimum 1."""
    monkeypatch.setattr(module.envs, "optimum", lambda task: 1.0)


def starts(folder: Path) -> int:
    """How often a run was started."""
    return sum(not line.startswith("end") for line in (folder / "starts").read_text().splitlines())


def test_every_seed_counts(tmp_path: Path) -> None:
    """The report holds all seeds of all backbones, the failed too, and is written as JSON, CSV, PNG."""
    report = compare(fake(tmp_path, ["s4wm", "rssm"], 3, 1000))
    assert report == json.loads((tmp_path / "compare.json").read_text())
    ours, theirs = report["results"]["s4wm"], report["results"]["rssm"]
    assert ours["returns"] == [1.0] * 3 and ours["interval"] == [1.0, 1.0]
    assert theirs["returns"] == [1.0, 0.0, 1.0]
    assert theirs["return_mean"] == theirs["fraction_of_optimum"] == pytest.approx(2 / 3)
    low, high = theirs["interval"]
    assert 0 <= low < 2 / 3 < high <= 1
    assert ours["steps_to_90"] == [500, 501, 502] and ours["steps_to_90_median"] == 501
    assert theirs["steps_to_90"] == [900, None, 902] and theirs["steps_to_90_median"] == 902
    assert ours["seconds"] == [20, 21, 22] and ours["seconds_mean"] == 21
    assert (ours["seeds"], ours["steps"]) == (3, 1000)
    assert report["task"] == "t" and report["optimum"] == 1.0
    assert report["hardware"].keys() >= {"platform", "cpus", "torch"} and report["commit"]
    assert ours["commits"] == ["s4wm0", "s4wm1"] and theirs["commits"] == ["rssm0", "rssm1"]
    assert report["command"].startswith("python run.py compare --task t --backbones s4wm rssm --seeds 3 ")
    curve = report["curves"]["rssm"]["steps"]
    assert len(curve["x"]) == len(curve["mean"]) == len(curve["low"]) == len(curve["high"])
    failed = report["runs"]["rssm"][1]
    assert len(failed["steps"]) == len(failed["seconds"]) == 10 and failed["values"][-1] == 0.0
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert len(rows) == 2 * 3 * 10
    assert rows[0] == {"backbone": "s4wm", "seed": "0", "step": "100", "seconds": "2.0", "return": "0.2"}
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    (pair,) = report["improvement"]
    assert (pair["of"], pair["over"]) == ("s4wm", "rssm") and pair["probability"] == pytest.approx(4 / 6)
    assert 0.5 <= pair["interval"][0] < 4 / 6 < pair["interval"][1] <= 1
    head, _, first, second, better, narrow = table(report).splitlines()
    assert head == "t, 1,000 steps" and first.split()[:4] == ["s4wm", "(s5)", "1", "[1,"]
    assert second.split()[:3] == ["rssm", "0.667", "[0,"] and narrow.startswith("few runs make narrow")
    assert better.startswith("a run of s4wm (s5) ends higher than one of rssm with probability 0.67 [0.50, ")


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    """The same command again starts nothing; more steps or seeds start what is missing."""
    first = compare(fake(tmp_path, ["s4wm"], 2, 500))
    assert compare(fake(tmp_path, ["s4wm"], 2, 500)) == first
    assert starts(tmp_path / "s4wm" / "seed0") == 1
    longer = compare(fake(tmp_path, ["s4wm"], 3, 800))
    assert [starts(tmp_path / "s4wm" / f"seed{seed}") for seed in range(3)] == [2, 2, 1]
    assert longer["results"]["s4wm"]["seeds"] == 3
    shorter = compare(fake(tmp_path, ["s4wm"], 2, 300))  # runs that went on further are read up to there
    assert shorter["results"]["s4wm"]["returns"] == [0.6, 0.6]
    assert shorter["results"]["s4wm"]["seconds"] == [6, 7]
    compare(fake(tmp_path, ["s4wm"], 1, 300, first=2))
    assert {row["seed"] for row in csv.DictReader((tmp_path / "compare.csv").open())} == {"2"}


def test_an_unknown_optimum_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a known optimum nothing is compared with it."""
    monkeypatch.setattr(module.envs, "optimum", lambda task: None)
    report = compare(fake(tmp_path, ["s4wm"], 2, 1000))
    result = report["results"]["s4wm"]
    assert result["fraction_of_optimum"] is None and result["steps_to_90"] == [None, None]
    assert result["steps_to_90_median"] is None
    assert table(report).splitlines()[2].split() == ["s4wm", "(s5)", "1", "[1,", "1]", "2", "-", "-", "20"]


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    """And says nothing of how probable it is that another run would be better."""
    report = compare(fake(tmp_path, ["s4wm", "rssm"], 1, 500))
    assert report["results"]["rssm"]["interval"] == [0.5, 0.5]
    assert "probability" not in table(report) and "narrow" not in table(report)
    assert table(report).splitlines()[3].split()[:3] == ["rssm", "0.5", "1"]


@pytest.mark.parametrize(("configured", "jobs", "given"), [(0, 2, 2), (1, 2, 1), (9, 2, 2), (0, 9, 1)])
def test_jobs_share_the_cores(
    configured: int, jobs: int, given: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is told its share, or what is configured where that is less."""
    monkeypatch.setattr(module, "cores", lambda: 5)
    report = compare(fake(tmp_path, ["s4wm"], 1, 100, jobs=jobs, threads=configured))
    assert report["hardware"]["threads"] == given
    assert (tmp_path / "s4wm" / "seed0" / "starts").read_text().startswith(f"{given} ")


def test_another_comparison_is_not_mixed_in(tmp_path: Path) -> None:
    """Runs of another task or other options are not taken for finished ones of this."""
    compare(fake(tmp_path, ["s4wm"], 1, 100))
    fake(tmp_path, ["rssm"], 2, 200).refuse_another()
    with pytest.raises(ValueError, match="holds the comparison .*'task': 't'.* choose another logdir"):
        fake(tmp_path, ["s4wm"], 1, 100, task="other").refuse_another()
    with pytest.raises(ValueError, match="choose another logdir"):
        fake(tmp_path, ["s4wm"], 1, 100, overrides={"kl.free_nats": "3"}).refuse_another()


def test_a_grid(tmp_path: Path) -> None:
    """The product of its values: rows that say what they set; more values extend what is there."""
    first = compare(fake(tmp_path, ["rssm"], 1, 200, grid={"a": ["1"]}))
    assert list(first["results"]) == ["rssm [a=1]"]
    wider = fake(tmp_path, ["s4wm", "rssm"], 2, 200, grid={"a": ["1", "-2/3"], "b.c": ["x"]})
    wider.refuse_another()
    report = compare(wider)
    names = [f"{name} [a={a},b.c=x]" for name in ("s4wm", "rssm") for a in ("1", "-2/3")]
    assert [*report["results"]] == [*report["curves"]] == [*report["runs"]] == names
    got = report["results"]["rssm [a=-2/3,b.c=x]"]
    assert (got["backbone"], got["options"]) == ("rssm", {"a": "-2/3", "b.c": "x"})
    assert got["returns"] == [0.2, 0.0]
    assert starts(tmp_path / "rssm,a=-2%2F3,b.c=x" / "seed1") == 1
    assert (tmp_path / "logs" / "rssm,a=-2%2F3,b.c=x-seed1.stdout").exists()
    assert wider.runs[3].command[-2:] == ["--a=-2/3", "--b.c=x"]
    assert "--grid=a=1,-2/3 --grid=b.c=x" in report["command"]
    assert json.loads((tmp_path / "plan.json").read_text())["grid"] == {"a": ["1", "-2/3"], "b.c": ["x"]}
    assert compare(wider) == report and starts(tmp_path / "s4wm,a=1,b.c=x" / "seed0") == 1
    lines = table(report).splitlines()
    assert lines[2].startswith("s4wm (s5) [a=1,b.c=x] ")
    assert lines[6].startswith(
        "a run of s4wm (s5) [a=1,b.c=x] ends higher than one of s4wm (s5) [a=-2/3,b.c=x]"
    )


def test_options_that_nothing_came_of_can_be_corrected(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the model exploded"):
        compare(fake(tmp_path, ["s4wm"], 1, 100, mode="early"))
    corrected = fake(tmp_path, ["s4wm"], 1, 100, overrides={"a": "3"})
    corrected.refuse_another()
    compare(corrected)
    assert json.loads((tmp_path / "plan.json").read_text())["overrides"] == {"a": "3"}


@pytest.mark.faults("comparison killed, or begun twice")
def test_a_second_one_in_the_folder_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked(), pytest.raises(configs.Mistake, match="is in use: process"):
        compare(fake(tmp_path, ["s4wm"], 1, 100))


def test_the_command_of_a_run() -> None:
    """Runs are started by the command a person would type."""
    chosen = {"log.to": "none", "agent.x": "-1", "a": "b"}
    comparison = Comparison("t:n=3", ["rssm"], 3, 100, Path("d"), 1, ["debug"], chosen, 1)
    assert comparison.runs[2].command[1:] == [
        str(Path(__file__).parents[2] / "run.py"),
        *shlex.split(
            "train --json --backbone rssm --task t:n=3 --seed 2 --steps 100 --logdir d/rssm/seed2 "
            "--threads 1 --configs debug --log.to=none --agent.x=-1 --a=b"
        ),
    ]
    (run,) = Comparison("t", ["rssm"], 1, 100, Path("d"), overrides={"threads": "1"}).runs
    assert "--threads" not in run.command and "--threads=1" in run.command
    comparison = Comparison("t", ["rssm"], 1, 100, Path("d"), processes=2)
    words = "-m torch.distributed.run --standalone --nproc-per-node 2"
    assert comparison.runs[0].command[1:6] == words.split() and "--processes 2" in comparison.command

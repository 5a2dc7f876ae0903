"""A comparison runs everything once, resumes, counts every seed, and stops with the cause of a failure."""

import csv
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from studies import compare as module
from studies.compare import Run, compare, train_command

FAKE = Path(__file__).with_name("fake_train.py")


def fake(mode: str = "normal") -> Callable[[Run], list[str]]:
    """Return a command builder whose runs take no time."""

    def command(run: Run) -> list[str]:
        words = [run.folder, run.backbone, run.task, run.seed, run.steps, mode]
        return [sys.executable, str(FAKE), *map(str, words)]

    return command


@pytest.fixture(autouse=True)
def _known_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks of these tests have the optimum 1."""
    monkeypatch.setattr(module.envs, "optimum", lambda task: 1.0)


def starts(folder: Path) -> int:
    """Return how often a run was started."""
    return sum(not line.startswith("end") for line in (folder / "starts").read_text().splitlines())


def test_every_seed_counts(tmp_path: Path) -> None:
    """The report holds all seeds of all backbones, the failed too, and is written as JSON, CSV, PNG."""
    said: list[str] = []
    report = compare("chain:n=3", ["s4wm", "rssm"], 3, 1000, tmp_path, command=fake(), echo=said.append)
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
    assert report["task"] == "chain:n=3" and report["optimum"] == 1.0
    assert report["hardware"].keys() >= {"platform", "cpus", "torch"} and report["commit"]
    assert ours["commits"] == ["s4wm0", "s4wm1"] and theirs["commits"] == ["rssm0", "rssm1"]
    assert report["command"].startswith("python run.py compare --task chain:n=3 --backbones s4wm rssm ")
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
    assert said[-3].startswith("a run of s4wm ends higher than one of rssm with probability 0.67 [0.50, ")
    final = "\n".join(said[-5:])
    assert "rssm      0.667 [0, 1]" in final and "s4wm      1 [1, 1]" in final
    assert "(6 of 6 runs done)" in "\n".join(said)


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    """The same command again starts nothing; more steps or seeds start what is missing."""
    settings = {"logdir": tmp_path, "command": fake(), "echo": lambda text: None}
    first = compare("t", ["s4wm"], 2, 500, **settings)
    assert compare("t", ["s4wm"], 2, 500, **settings) == first
    assert starts(tmp_path / "s4wm" / "seed0") == 1
    longer = compare("t", ["s4wm"], 3, 800, **settings)
    assert [starts(tmp_path / "s4wm" / f"seed{seed}") for seed in range(3)] == [2, 2, 1]
    assert longer["results"]["s4wm"]["seeds"] == 3
    shorter = compare("t", ["s4wm"], 2, 300, **settings)  # runs that went on further are read up to there
    assert shorter["results"]["s4wm"]["returns"] == [0.6, 0.6]
    assert shorter["results"]["s4wm"]["seconds"] == [6, 7]


def test_one_seed(tmp_path: Path) -> None:
    """A single seed has an interval of no width and still gives all files."""
    result = compare("t", ["rssm"], 1, 100, tmp_path, command=fake(), echo=lambda text: None)
    assert result["results"]["rssm"]["interval"] == [0.1, 0.1]
    assert (tmp_path / "compare.png").exists()


def test_an_unknown_optimum_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a known optimum nothing is compared with it."""
    monkeypatch.setattr(module.envs, "optimum", lambda task: None)
    said: list[str] = []
    result = compare("t", ["s4wm"], 2, 1000, tmp_path, command=fake(), echo=said.append)["results"]["s4wm"]
    assert result["fraction_of_optimum"] is None and result["steps_to_90"] == [None, None]
    assert result["steps_to_90_median"] is None
    assert any(line.split() == ["s4wm", "1", "[1,", "1]", "2", "-", "-", "20"] for line in said)


def test_jobs_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most `jobs` runs at once, each told its share of the cores."""
    monkeypatch.setattr(module, "cores", lambda: 5)
    report = compare("t", ["s4wm", "rssm"], 2, 100, tmp_path, 2, command=fake("slow"), echo=lambda text: None)
    assert report["hardware"]["threads"] == 2
    spans = []
    for path in tmp_path.glob("*/seed*/starts"):
        (threads, begin), (_, end) = (line.split() for line in path.read_text().splitlines())
        assert threads == "2"
        spans.append((float(begin), float(end)))
    for threads, given in ((1, 1), (9, 2)):  # as configured, where there are so many
        folder = tmp_path / str(threads)
        report = compare("t", ["s4wm"], 1, 100, folder, 2, threads=threads, command=fake(), echo=str)
        assert report["hardware"]["threads"] == given
    together = [sum(begin <= at < end for begin, end in spans) for at, _ in spans]
    assert max(together) == 2


def test_a_failing_run_stops_the_comparison(tmp_path: Path) -> None:
    """The error shows command and stderr; the run beside it was told to save."""
    with pytest.raises(RuntimeError, match="s4wm seed 1 failed with exit code 3") as caught:
        compare("t", ["s4wm"], 2, 100, tmp_path, jobs=2, command=fake("fail"), echo=lambda text: None)
    assert "fake_train.py" in str(caught.value) and "the model exploded" in str(caught.value)
    assert (tmp_path / "s4wm" / "seed0" / "saved").exists()
    assert not (tmp_path / "compare.json").exists()
    compare("t", ["s4wm"], 2, 100, tmp_path, command=fake(), echo=lambda text: None)


def test_a_run_without_its_last_evaluation_is_an_error(tmp_path: Path) -> None:
    """A run that ends well but did not get there is not counted as if it had."""
    with pytest.raises(RuntimeError, match=r"without an evaluation at step 500: .* is of step 400"):
        compare("t", ["s4wm"], 1, 500, tmp_path, command=fake("short"), echo=lambda text: None)


def test_another_comparison_is_not_mixed_in(tmp_path: Path) -> None:
    """Runs of another task or other options are not taken for finished ones of this."""
    compare("t", ["s4wm"], 1, 100, tmp_path, command=fake(), echo=lambda text: None)
    with pytest.raises(ValueError, match="holds the comparison .*'task': 't'.* choose another logdir"):
        compare("other", ["s4wm"], 1, 100, tmp_path, command=fake())
    with pytest.raises(ValueError, match="choose another logdir"):
        compare("t", ["s4wm"], 1, 100, tmp_path, overrides={"agent.horizon": 3}, command=fake())


def test_options_that_nothing_came_of_can_be_corrected(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the model exploded"):
        compare("t", ["s4wm"], 1, 100, tmp_path, command=fake("early"), echo=lambda text: None)
    compare("t", ["s4wm"], 1, 100, tmp_path, overrides={"a": 3}, command=fake(), echo=lambda text: None)
    assert json.loads((tmp_path / "plan.json").read_text())["overrides"] == {"a": 3}


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    """And says nothing of how probable it is that another run would be better."""
    said: list[str] = []
    compare("t", ["s4wm", "rssm"], 1, 500, tmp_path / "one", command=fake(), echo=said.append)
    assert not any("probability" in line or "narrow" in line for line in said)
    assert any(line.split()[:3] == ["s4wm", "1", "1"] for line in said)
    compare("t", ["s4wm", "rssm"], 2, 500, tmp_path / "two", command=fake(), echo=said.append)
    assert any("probability" in line for line in said) and any("narrow" in line for line in said)


def test_impossible_arguments_are_refused(tmp_path: Path) -> None:
    """Nothing is created for a comparison that cannot be."""
    with pytest.raises(ValueError, match="at least 1, got 0, 1 and 10"):
        compare("t", ["s4wm"], 0, 10, tmp_path / "x")
    with pytest.raises(ValueError, match="each once"):
        compare("t", ["s4wm", "s4wm"], 1, 10, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_termination_stops_the_runs(tmp_path: Path) -> None:
    """SIGTERM to the comparison reaches its runs, which save."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import envs, test_compare\n"
        "from studies.compare import compare\n"
        "envs.optimum = lambda task: None\n"
        "compare('t', ['s4wm'], 1, 100, sys.argv[3], command=test_compare.fake('hang'))\n"
    )
    words = [sys.executable, "-c", code, str(module.provenance.REPOSITORY), str(FAKE.parent), str(tmp_path)]
    process = subprocess.Popen(words)
    ready = tmp_path / "s4wm" / "seed0" / "ready"
    try:
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
    assert (tmp_path / "s4wm" / "seed0" / "saved").exists()


def test_the_command_of_a_run() -> None:
    """Runs are started by the command a person would type."""
    run = Run(
        "t:n=3", "rssm", 2, 100, Path("d"), 4, ["debug"], {"log.tensorboard": False, "agent.x": -1, "a": "b"}
    )
    assert train_command(run)[2:] == shlex.split(
        "train --json --backbone rssm --task t:n=3 --seed 2 --steps 100 --logdir d --threads 4 "
        "--configs debug --log.tensorboard=false --agent.x=-1 --a=b"
    )
    assert "--threads" not in train_command(Run("t", "rssm", 2, 100, Path("d"), 4, [], {"threads": 1}))

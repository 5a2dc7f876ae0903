"""The command line as a user calls it: train, resume, evaluate, compare, on small models."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).parents[1]
RESULT = {"return_mean", "return_std", "returns", "episodes", "length_mean"}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Run a command with `--json` in this process; the JSON object on the last line."""

    def call(*words: str) -> dict:
        assert run.main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the module of docs/adding_a_task.md: a Dict of image and vector, an episode limit."""
    text = (ROOT / "docs" / "adding_a_task.md").read_text()
    block = re.search(r'^```python\n("""number_recall\.py:.*?)^```', text, re.MULTILINE | re.DOTALL)
    assert block is not None
    (tmp_path / "number_recall.py").write_text(block[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_module_outside_trains_resumes_and_evaluates(outside: Path, call: Callable[..., dict]) -> None:
    words = [
        "--task",
        "number_recall:NumberRecall-v0",
        "--configs",
        "debug",
        "--logdir",
        "run",
        "--seed",
        "1",
    ]
    first = call(*words, "--steps", "200", "--log.pictures", "100")
    assert first.keys() >= RESULT | {"steps", "updates", "seconds", "logdir"}
    assert first["steps"] >= 200 and first["updates"] > 0
    again = call(*words, "--steps", "300", "--log.pictures", "100")
    assert again["steps"] >= 300 and again["updates"] > first["updates"]

    metrics = [json.loads(line) for line in (outside / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == sorted(line["step"] for line in metrics)
    keys = {key for line in metrics for key in line}
    assert keys >= {"episode/return", "eval/return_mean", "train/reward", "train/recall", "time/seconds"}
    assert list((outside / "run").glob("events*"))

    words = ["eval", "--logdir", "run", "--episodes", "3", "--seed", "5"]
    got = call(*words)
    assert got.keys() >= RESULT and got["episodes"] == 3 and len(got["returns"]) == got["episodes"]
    assert got["length_mean"] == 9
    command = [sys.executable, str(ROOT / "run.py"), *words, "--json"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(outside)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == got


@pytest.mark.parametrize(
    ("task", "backbone"),
    [("Pendulum-v1", "s4wm"), ("popgym:AutoencodeEasy", "rssm")],
)
def test_other_actions_and_observations(
    task: str, backbone: str, tmp_path: Path, call: Callable[..., dict]
) -> None:
    if task.startswith("popgym"):
        pytest.importorskip("popgym")
    words = ["--task", task, "--backbone", backbone, "--configs", "debug", "--steps", "250"]
    got = call(*words, "--logdir", str(tmp_path / "run"), "--eval.episodes", "2")
    assert got["updates"] > 0 and got["length_mean"] > 100


def test_compare_writes_its_report_and_does_not_run_twice(tmp_path: Path, call: Callable[..., dict]) -> None:
    words = [
        "compare",
        "--task",
        "memory_chain:n=3",
        "--backbones",
        "s4wm",
        "rssm",
        "--seeds",
        "1",
        "--steps",
        "150",
    ]
    words += ["--logdir", str(tmp_path / "compare"), "--jobs", "2", "--configs", "debug"]
    report = call(*words)
    assert report["results"].keys() == {"s4wm", "rssm"}
    assert all(entry["steps"] >= 150 and entry["seeds"] == 1 for entry in report["results"].values())
    for name in ("compare.json", "compare.csv", "compare.png"):
        assert (tmp_path / "compare" / name).stat().st_size > 0
    assert call(*words)["results"] == report["results"]

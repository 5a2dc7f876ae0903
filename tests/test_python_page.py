"""docs/python.md and docs/tour.ipynb do what they say, and what is said of other packages is so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

import configs
import run

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.MULTILINE | re.DOTALL
)
CELLS = [
    cell
    for cell in json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]
TINY = {"steps": 64, "eval.every": 0, "device": "cpu", "log.pictures": 0, "eval.episodes": 1}


@pytest.mark.filterwarnings("ignore:.*render")
def test_the_blocks_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for key, value in TINY.items() for word in (f"--{key}", str(value))]
    folder = "runs/memory_chain/s4wm/seed0"
    assert run.main(["--task", "memory_chain:n=5", "--configs", "debug", *words, "--logdir", folder]) == 0
    load = configs.load
    tiny = lambda **given: load(backbone=given["backbone"], presets=["debug"], overrides=TINY)  # noqa: E731
    monkeypatch.setattr(configs, "load", tiny)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["result"]["steps"] == 64 and names["agent"].config.task == "python:Echo"
    assert names["dream"].reward.shape == (3,) and names["actions"].shape == (4,)
    monkeypatch.undo()
    load(backbone="s4wm", presets=["small"], overrides={"steps": 20_000, "eval.every": 2_000})


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg")
def test_the_cells_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    load, given = configs.load, []

    def tiny(task: str, presets: list[str], overrides: dict[str, object]) -> configs.Config:
        given.append(load(task, presets=presets, overrides=overrides))
        return load(task, presets=["debug"], overrides={**TINY, "steps": 200, "log.every": 32})

    monkeypatch.setattr(configs, "load", tiny)
    names: dict[str, object] = {}
    for cell in CELLS:
        assert not cell["outputs"] and cell["execution_count"] is None  # to be stored without
        exec(compile("".join(cell["source"]), "docs/tour.ipynb", "exec"), names)
    assert given[0].task == names["agent"].config.task and names["result"]["steps"] == 200
    assert names["expected"].shape == (len(names["right"]), 4) and len(names["cards"]) == 103


@pytest.mark.parametrize("name", ["agent", "envs"])
def test_a_package_of_the_same_name_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    words = [sys.executable, "-c", "from agent import Agent"]
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=found, capture_output=True, text=True, check=False)
    assert done.returncode and "ImportError: cannot import name" in done.stderr
    assert str(tmp_path / name / "__init__.py") in done.stderr


def test_a_wheel_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "bdist_wheel"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode and "pip install -e ." in done.stderr
    assert not (ROOT / "build").exists()

"""Runs of a tiny model as processes of their own, and what they leave."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
RUN = str(ROOT / "run.py")
ENDLESS = 100_000_000
PATIENCE = 240.0
ENVS = 2  # of the preset: a step may overshoot by that
WORDS = ["--task", "memory_chain:n=3", "--configs", "debug", "--device", "cpu", "--threads", "1"]
WORDS += ["--batch_length", "8", "--replay.state_every", "4", "--train_ratio", "2"]
WORDS += ["--eval.every", "0", "--checkpoint.every", "0", "--log.every", "8", "--log.pictures", "0"]
WORDS += ["--log.to", "none"]
ON_DISK = ["--replay.capacity", "300", "--replay.chunk", "8", "--replay.memory_gb", "2e-6"]
"""A replay that drops steps, and that has to read from its chunks."""

Start = Callable[..., subprocess.Popen]


def launch(*words: str, **options: Any) -> subprocess.Popen:
    """Start Python with these words in the project's folder; stderr is a pipe."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for the end; exit code (negative: the signal) and stderr."""
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait until the process has done what is asked; fail if it ends instead."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {process.stderr.read()}")
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def metrics(logdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics; one that a death cut is left out."""
    path = logdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def logged_steps(logdir: Path) -> int:
    """The step of the last line of metrics."""
    lines = metrics(logdir)
    return lines[-1]["step"] if lines else 0


def checkpoints(logdir: Path) -> list[Path]:
    """Folders of checkpoints, oldest first."""
    return sorted(path for path in (logdir / "checkpoints").glob("*") if re.fullmatch(r"\d+", path.name))


def newest_step(logdir: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    return max((int(folder.name) for folder in checkpoints(logdir)), default=0)


def resumed_step(said: str) -> int:
    """The step that a process said it goes on from; 0 where it started anew."""
    found = re.search(r"^going on from step ([\d,]+) ", said, re.MULTILINE)
    return int(found[1].replace(",", "")) if found else 0


def chunks(logdir: Path) -> list[Path]:
    """Chunks of the replay, oldest first in each environment."""
    return sorted((logdir / "replay").glob("chunk-*.npz"))


def assert_same_end(logdir: Path, other: Path) -> None:
    """Two runs ended alike, bit for bit: agent, counters, replay, episodes; times and places may differ."""
    one, two = (_outcome(folder) for folder in (logdir, other))
    assert one.keys() == two.keys()
    for key, value in one.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, two[key], err_msg=key)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, two[key]), key
        else:
            assert value == two[key], key


def _outcome(logdir: Path) -> dict[str, Any]:
    newest = checkpoints(logdir)[-1]
    manifest = json.loads((newest / "manifest.json").read_text())
    loop = json.loads((newest / "loop.json").read_text())
    result = json.loads((logdir / "result.json").read_text())
    for timed in (loop, result):
        del timed["seconds"]
    del result["logdir"]
    lines = [line for line in metrics(logdir) if any(key.startswith(("episode/", "eval/")) for key in line)]
    untimed = [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]
    found = {"step": int(newest.name), "loop": loop, "result": result, "episodes": untimed}
    found |= {"chunks": manifest["chunks"], "files": [path.name for path in chunks(logdir)]}
    agent = torch.load(newest / "agent.pt", map_location="cpu", weights_only=True)
    found |= {f"agent{key}": leaf for key, leaf in _flat(agent).items()}
    for path in newest.glob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            found |= {f"{path.name}/{key}": value for key, value in arrays.items()}
    return found


def _flat(tree: Any) -> dict[str, Any]:
    if isinstance(tree, Mapping):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {"": tree}
    return {f"/{key}{path}": leaf for key, value in items for path, leaf in _flat(value).items()}


def with_path(folder: Path) -> dict[str, str]:
    """The environment of a process which finds modules in `folder`."""
    return {**os.environ, "PYTHONPATH": str(folder)}

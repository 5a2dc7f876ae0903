"""Probes of a maze: what is linear in features is found, what is not in them is guessed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.agent import Agent
from replay import chunk
from studies import collect, foresee, maze_probe, readout
from studies.experiments import EXPERIMENTS
from studies.maze_probe import Moments, guess
from tests.agent.run.episodes import SPACES, rows
from tests.agent.run.house import configure
from tests.studies.conftest import Call


def moments(count: int, hidden: bool = False) -> Moments:
    """Walls are signs, objects sums, of features; one cell depends on the pose; or all of it on nothing."""
    features, pose = torch.randn(count, 6), torch.rand(count, 4)
    seen = torch.randn(count, 6) if hidden else features
    walls = torch.cat([(seen[:, :4] > 0).float(), (pose[:, :1] > 0.5).float()], 1)
    objects = torch.stack([seen[:, :2] + 3, 2 * seen[:, 2:4] - seen[:, 4:]], 1)
    return Moments(10 * features + 5, pose, walls, objects)


def with_truths(told: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An episode in whose second half the agent is elsewhere, and there are no walls."""
    length = len(told["reward"])
    late = (np.arange(length) >= length // 2).astype(np.float32)
    return told | {
        "probe/agent_pos": np.stack([4 * late, 0 * late], 1),
        "probe/agent_dir": np.zeros((length, 2), np.float32),
        "probe/maze_layout": np.tile(late[:, None, None], (1, 4, 4)).astype(np.uint8),
        "probe/targets_vec": np.tile(5 - late[:, None, None], (1, 3, 2)),
    }


def scores(probe: Any, data: Moments) -> tuple[float, float]:
    with torch.no_grad():
        walls, objects = probe(data)
    right = ((walls > 0) == (data.walls > 0)).float().mean()
    return float(right), float(maze_probe._distance(objects, data).mean())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "STEPS", 300)
    monkeypatch.setattr(readout, "RATE", 3e-2)
    monkeypatch.setattr(maze_probe, "UNITS", 16)
    monkeypatch.setattr(maze_probe, "LAYERS", 1)
    monkeypatch.setattr(maze_probe, "EVERY", 1)


@pytest.mark.usefixtures("quick")
def test_what_is_in_the_features_is_found() -> None:
    torch.manual_seed(0)
    data, others = moments(2000), moments(500)
    probe = maze_probe.fit(data, 0)
    right, off = scores(probe, others)
    assert right > 0.95 and off < 0.1
    right, off = scores(guess(data), others)
    assert right < 0.6 and off == pytest.approx((2 + 2 * 5) / 2, rel=0.2)  # the mean of the variances
    hidden = moments(2000, hidden=True)
    right, off = scores(maze_probe.fit(hidden, 0), moments(500, hidden=True))
    assert right < 0.7 and off > 5  # but for the cell that the pose tells


def test_squared_distances_are_averaged_over_objects() -> None:
    data = moments(2)._replace(objects=torch.zeros(2, 3, 2))
    told = torch.tensor([[[3.0, 4], [0, 0], [1, 1]], [[0, 0], [0, 0], [0, 3]]])
    assert maze_probe._distance(told, data).tolist() == [9.0, 3.0]


@pytest.mark.usefixtures("quick")
def test_a_world_model_is_judged_by_the_second_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of several lengths, with their features; walls follow from the pose."""
    agent = Agent(*SPACES, configure())
    given: list[Tensor] = []
    observe = agent.backbone.observe

    def spy(state: Any, embed: Tensor, *more: Any) -> Any:
        given.append(embed)
        return observe(state, embed, *more)

    monkeypatch.setattr(agent.backbone, "observe", spy)
    found = maze_probe.judge(
        agent,
        [with_truths(rows(8 + n % 2, n)) for n in range(20)],
        [with_truths(rows(8 + n)) for n in (0, 1)],
    )
    assert [len(embed) for embed in given] == [8, 8, 4, 2] and given[-1].shape[1] == 9
    assert found.keys() == {
        f"{of}_{probe}" for of in ("walls_accuracy", "objects_error") for probe in maze_probe.PROBES
    }
    assert found["walls_accuracy_linear"] > 0.95
    assert found["walls_accuracy_guess"] in (0, 1)  # all cells are alike
    assert found["objects_error_guess"] == pytest.approx(2 * 0.5**2, rel=0.2)


@pytest.mark.usefixtures("quick")
def test_foresee_probes_what_tells_of_a_maze(tmp_path: Path, call: Call) -> None:
    """The truths are on disk beside the observations, and the model is fitted without them."""
    collect.fill(tmp_path / "played", collect.plan("memory_chain:n=5", "random"), 20, 1)
    shutil.copytree(tmp_path / "played", tmp_path / "data", ignore=shutil.ignore_patterns("*.npz"))
    for path in chunk.paths(tmp_path / "played"):
        chunk.write(tmp_path / "data" / path.name, with_truths(chunk.read(path)))
    words = ["fit", "--data", tmp_path / "data", "--logdir", tmp_path / "run", "--configs", "debug"]
    call(*words, "--updates", "2", "--device", "cpu", "--log.pictures", "0", "--recall.scale", "0")
    found = call("foresee", tmp_path / "run")
    assert {score.key for score in EXPERIMENTS["maze_probe"].scores} <= found.keys()
    assert 0 <= found["walls_accuracy_mlp"] <= 1 and found["objects_error_linear"] > 0
    walls, objects = foresee.more(found)
    assert walls.startswith(f"walls accuracy: {found['walls_accuracy_guess']:.1%} guess, ")
    assert objects.endswith(f"{found['objects_error_mlp']:.3g} mlp")

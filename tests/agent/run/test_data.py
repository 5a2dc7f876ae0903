"""Episodes are split once and for all, and what does not fit is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import configs
from agent.run.data import PARTS, Data, Episode, length_of
from replay import chunk
from tests.agent.run.episodes import SPACES, rows, write


def test_the_split(tmp_path: Path) -> None:
    """80/10/10 over all folders, no episode in two parts, the same every time, and as it was saved."""
    folders = [write(tmp_path / "a", 12), write(tmp_path / "b", 28, seed=1)]
    data = Data.of(folders)
    parts = {part: data.paths(part) for part in PARTS}
    assert {part: len(paths) for part, paths in parts.items()} == {"train": 32, "validation": 4, "test": 4}
    everything = sorted(path for paths in parts.values() for path in paths)
    assert everything == sorted(path for folder in folders for path in chunk.paths(folder))
    assert data.task == "made_up" and data.context == 2 and data.lengths() == [5] * 40
    for again in (Data.of(folders), Data.of_json(json.loads(json.dumps(data.to_json())))):
        assert {part: again.paths(part) for part in PARTS} == parts
    assert parts["train"] != everything[:32], "it is not random"
    few = Data.of([folders[1], write(tmp_path / "c", 1, seed=2)]).folders[1]
    assert few.paths(*PARTS) == chunk.paths(tmp_path / "c")


def test_folders_that_were_moved(tmp_path: Path) -> None:
    data = Data.of([write(tmp_path / "a")])
    moved = (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(ValueError, match="/a/episode-.* is missing"):
        data.lengths()
    assert [path.name for path in data.at([moved]).paths("test")] == [p.name for p in data.paths("test")]
    assert data.at([moved]).lengths() == [5] * 20
    other = write(tmp_path / "c", seed=1)
    with pytest.raises(ValueError, match=r"was fitted to the episodes of .*/a, and not to those of .*/c"):
        data.at([other])


def test_what_is_held_out_of_a_folder(tmp_path: Path) -> None:
    """Of the run's own episodes, wherever they lie, the test part and those that were collected since."""
    folder = write(tmp_path / "a")
    data = Data.of([folder])
    moved = folder.rename(tmp_path / "b")
    chunk.write(chunk.path_of(moved, 20), rows(5))
    names = {path.name for path in data.held_out(moved)}
    assert names == {path.name for path in data.paths("test")} | {"episode-00000020.npz"}
    other = write(tmp_path / "c", 3, seed=1)
    assert data.held_out(other) == chunk.paths(other)


def test_what_is_no_data(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    cases: list[tuple[list[Path], str]] = [
        ([tmp_path / "none"], "no episodes in .*/none: expected .*/none/dataset.json"),
        ([folder, write(tmp_path / "b", task="other")], "of several tasks, made_up, other"),
        ([folder, write(tmp_path / "c", 4)], "hold the same episodes: give one of them"),
        ([write(tmp_path / "d", 9, seed=3)], "9 episodes, of which 10 at least are needed"),
        ([write(tmp_path / "e", format=0)], "format 0, this version of the code reads 1"),
        ([write(tmp_path / "f", context_length="2")], "dataset.json is not as run.py collect writes it"),
    ]
    for folders, said in cases:
        with pytest.raises(ValueError, match=said):
            Data.of(folders)


@pytest.mark.parametrize("saved", [{}, {"folders": []}, {"folders": [{"path": "a"}]}, {"folders": 3}])
def test_a_record_that_is_none(saved: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"data.json is not as a fit writes it"):
        Data.of_json(saved)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"obs/other": np.zeros((5, 1), np.float32)}, "it holds action, obs/other, obs/vector; the task has "),
    ({"obs/vector": np.zeros((5, 3), np.float32)}, "'obs/vector' is float32 .3.; the task's is Box"),
    ({"obs/vector": np.zeros((5, 2), np.uint8)}, "'obs/vector' is uint8 .2.; the task's is Box"),
    ({"action": np.zeros((5, 1), np.float32)}, "'action' is float32 .1.; the task's is Discrete"),
    ({"action": np.full(5, 3)}, "actions that the task does not have, which has Discrete.3."),
    ({"reward": np.full(5, np.nan, np.float32)}, "'reward' has numbers that are not finite"),
]


@pytest.mark.parametrize(("changed", "said"), WRONG)
def test_an_episode_that_does_not_fit_is_named(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    episode = Episode(*SPACES)
    good, bad = (chunk.path_of(tmp_path, number) for number in range(2))
    chunk.write(good, rows(5))
    assert episode.load(good).keys() == rows(5).keys()
    chunk.write(bad, rows(5) | changed)
    with pytest.raises(configs.Mistake, match=f"{bad.name}: .*{said}"):
        episode.load(bad)


def test_several_actions_at_once() -> None:
    episode = Episode(SPACES[0], spaces.MultiDiscrete([3, 2]))
    assert not episode.wrong(rows(5) | {"action": np.tile([2, 1], (5, 1))})
    assert "the task does not have" in episode.wrong(rows(5) | {"action": np.tile([1, 2], (5, 1))})


def test_a_damaged_episode_is_named(tmp_path: Path) -> None:
    path = chunk.paths(write(tmp_path / "a"))[3]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="00000003.npz is damaged"):
        length_of(path)
    with pytest.raises(configs.Mistake, match="00000003.npz is damaged"):
        Episode(*SPACES).load(path)

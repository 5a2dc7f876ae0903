"""Whoever recorded an episode: a row has the action that led to it, and the reward that arrived with it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import configs
from agent.run import sources
from agent.run.data import PARTS, Data, Episode
from tests.agent.run.episodes import write
from tests.agent.run.recorded import maze_files, minari_dataset


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    sources._minari.cache_clear()


def loaded(data: Data, number: int, probes: bool = False) -> dict[str, np.ndarray]:
    """An episode, checked against the spaces of its own dataset."""
    interface = data.interface()
    assert interface is not None
    return Episode(*interface.spaces).load(sources.of(data.folders[0].path).path_of(number), probes)


def test_files_of_memory_maze(tmp_path: Path) -> None:
    data = Data.of([maze_files(tmp_path / "maze")])
    assert (data.task, data.context, data.lengths()) == ("memory_maze:9x9", None, [6] * 12)
    rows = loaded(data, 3)
    done = [0, 4, 5, 0, 1, 2]  # nothing led to the first row
    assert rows["action"].tolist() == done and rows["action"].dtype == np.int64
    assert rows["obs/image"][1:, 0, 0, 0].tolist() == rows["reward"][1:].tolist() == done[1:]
    assert {key: np.flatnonzero(rows[key]).tolist() for key in ("is_first", "is_last", "is_terminal")} == {
        "is_first": [0],
        "is_last": [5],
        "is_terminal": [],
    }
    probed = loaded(data, 3, probes=True)
    truths = {"agent_pos", "agent_dir", "maze_layout", "targets_vec"}
    assert probed.keys() - rows.keys() == {f"probe/{name}" for name in truths}
    assert probed["probe/agent_pos"][4].tolist() == [4, 3]
    ended = Data.of([maze_files(tmp_path / "ended", size=15, terminal=np.arange(6) == 5)])
    assert ended.task == "memory_maze:15x15" and loaded(ended, 0)["is_terminal"].tolist() == [False] * 5 + [
        True
    ]


def test_a_dataset_of_minari() -> None:
    data = Data.of([Path(minari_dataset())])
    assert (data.task, data.context, data.lengths()) == ("minari:made/up-v0", None, [6] * 12)
    rows = loaded(data, 4)  # the actions are (t, 0), in [0, 4] x [-2, 2]
    plain = [[0, 0], [-1, 0], [-0.5, 0], [0, 0], [0.5, 0], [1, 0]]
    np.testing.assert_allclose(rows["action"], plain, atol=1e-6)
    np.testing.assert_allclose(rows["obs/clock"][1:, 0], np.arange(5))
    np.testing.assert_allclose(rows["reward"], [0, 0, 10, 20, 30, 40])
    assert rows["obs/light"].argmax(1).tolist() == [0, 1, 2, 0, 1, 2]
    assert rows["is_first"].tolist() == [True] + [False] * 5 and rows["is_last"].tolist() == [False] * 5 + [
        True
    ]
    assert [loaded(data, number)["is_terminal"][-1] for number in (4, 5)] == [True, False]


@pytest.mark.parametrize("kind", ["maze", "minari"])
def test_they_are_split_and_recorded_as_own_folders_are(kind: str, tmp_path: Path) -> None:
    path = Path(minari_dataset()) if kind == "minari" else maze_files(tmp_path / "maze")
    data = Data.of([path])
    assert {part: len(data.paths(part)) for part in PARTS} == {"train": 10, "validation": 1, "test": 1}
    again = Data.of_json(data.to_json())
    assert {part: again.paths(part) for part in PARTS} == {part: data.paths(part) for part in PARTS}
    if kind == "maze":
        (path / "a.npz").write_bytes(next(path.glob("*.npz")).read_bytes())
        with pytest.raises(ValueError, match="no longer holds the episodes that the run was fitted to"):
            data.paths("test")
        (path / "a.npz").unlink()
    assert data.held_out(path) == data.held_out() == data.paths("test")
    assert data.at([path]).paths(*PARTS) == data.paths(*PARTS)


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    maze, dataset, own = maze_files(tmp_path / "maze"), Path(minari_dataset()), write(tmp_path / "own")
    cases: list[tuple[list[Path], str | None, str]] = [
        ([maze, dataset], None, "of several tasks, memory_maze:9x9, minari:made/up-v0"),
        ([own], "tmaze", "of several tasks, made_up, tmaze"),
        ([maze, maze], None, "hold the same episodes"),
        ([Path("minari:made/up-v1")], None, "no Minari dataset 'made/up-v1' .* Did you mean 'made/up-v0'"),
        ([maze_files(tmp_path / "few", 9)], None, "9 episodes, of which 10 at least are needed"),
    ]
    for paths, task, said in cases:
        with pytest.raises(ValueError, match=said):
            Data.of(paths, task)
    np.savez(tmp_path / "maze" / "0.npz", image=np.zeros(3))
    with pytest.raises(ValueError, match="0.npz has no action, reward: expected an episode of Memory Maze"):
        Data.of([maze])
    one = Episode(spaces.Dict({"clock": spaces.Box(-1, 1, (2,), np.float32)}), spaces.Discrete(2))
    with pytest.raises(configs.Mistake, match="episode-00000002: it holds action, obs/clock, obs/light; the"):
        one.load(dataset / "episode-00000002")
    assert Data.of([maze_files(tmp_path / "more"), dataset], "CartPole-v1").interface() is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"terminations": np.arange(5) == 1}, "terminates at step 2 and goes on to 5"),
        ({"actions": np.full((5, 2), 9, np.float32)}, "episode-00000000: Expected actions of Box"),
        ({"observations": {"clock": np.zeros((6, 2)), "light": np.full(6, 7)}}, "leaf 'light' does not fit"),
    ],
)
def test_minari_s_own_mistakes(changed: dict[str, Any], said: str) -> None:
    source = sources.of(Path(minari_dataset(**changed)))
    with pytest.raises(ValueError, match=said):
        source.load(source.path_of(0))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"action": np.ones((6, 6))}, r"000-run0.npz: 'action' of shape \(6, 6\) is not the last action"),
        ({"image": np.zeros((5, 8, 8, 3), np.uint8)}, r"'obs/image' must have shape \(6, 8, 8, 3\), got"),
        ({"image": np.zeros((6, 8, 8, 3))}, "'obs/image' must be uint8 or float32, got float64"),
    ],
)
def test_memory_maze_s_own_mistakes(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = sources.of(maze_files(tmp_path / "maze", **changed))
    with pytest.raises(ValueError, match=said):
        source.load(source.path_of(0))


def test_an_absent_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(
        ValueError, match=r"minari:x-v0 needs the package minari, .* pip install -e '.\[minari\]'"
    ):
        sources.of(Path("minari:x-v0"))

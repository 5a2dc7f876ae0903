"""Where episodes come from: folders of `run.py collect`, Minari datasets, files of Memory Maze's offline set.

All are read as batches hold them: a row has the action that LED INTO it, and the reward that arrived with it.
Memory Maze's files have it so; Minari's `actions[t]` is taken at `observations[t]`, and `rewards[t]` arrives
with `observations[t + 1]`. An episode is named by a path, whose folder is the source: of Minari's it is
`minari:ID/episode-<number>`. One is read at a time.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from configs.files import read_json
from configs.nearest import did_you_mean
from envs import Interface
from replay import chunk, episodes
from replay.rows import Rows, check

MINARI = "minari:"
MAZE = ("image", "action", "reward")  # in each of Memory Maze's files; the rest are truths to probe for


def of(path: Path) -> Source:
    """The source that a path names: `minari:ID`, or a folder.

    Raises:
        ValueError: there is no such dataset here, or the package minari is not installed.
    """
    if str(path).startswith(MINARI):
        return _minari(str(path))
    own = (path / chunk.RECORD).is_file() or not path.is_dir()
    if own or all(chunk.is_chunk(each) for each in path.glob("*.npz")):
        return Collected(path)
    return MazeFiles(path)


def holding(path: Path) -> Source:
    """The source of an episode, by its name alone; raises ValueError as `of` does."""
    if str(path).startswith(MINARI):
        return _minari(str(path.parent))
    return Collected(path.parent) if chunk.is_chunk(path) else MazeFiles(path.parent)


class Collected:
    """A folder that `run.py collect` wrote. The task's environment tells its spaces.

    Attributes:
        record: what tells it from others: `format`, `task`, `context_length` (None where the task has none)
            and more.
        interface: of its spaces; None where only the task's environment tells them.
    """

    interface = None

    def __init__(self, path: Path) -> None:
        self.path, self._record = path.absolute(), path / chunk.RECORD

    @property
    def record(self) -> dict[str, Any]:
        """What `dataset.json` says; raises ValueError if there are no episodes."""
        if not self._record.is_file() or not self.numbers():
            raise ValueError(
                f"no episodes in {self._record.parent}: expected {self._record} and episode-*.npz, as python "
                f"run.py collect writes them, or the .npz files of Memory Maze's offline set."
            )
        return read_json(self._record)

    def numbers(self) -> list[int]:
        """The episodes' numbers."""
        return [chunk.number_of(path) for path in chunk.paths(self.path)]

    def path_of(self, number: int) -> Path:
        """The name of an episode."""
        return chunk.path_of(self.path, number)

    def length(self, path: Path) -> int:
        """How many rows an episode has; raises ValueError if it is missing or damaged."""
        return chunk.length(_there(path))

    def load(self, path: Path, probes: bool = False) -> Rows:
        """An episode; with `probes` also its `probe/<name>`, the truths that no model is shown.

        Raises:
            ValueError, OSError: it is missing or damaged.
        """
        return episodes.load(path, probes)


class MazeFiles:
    """A folder of Memory Maze's offline set (Pasukonis, Lillicrap, Hafner, 2022): a file an episode.

    As its README says, `image` is uint8 `[T, H, W, C]`, `action` `[T, A]`, the last one, one-hot, `reward`
    `[T]`. `terminal` `[T]` may be there; everything else is a truth to probe for, such as `probe/agent_pos`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @functools.cached_property
    def _files(self) -> list[Path]:
        return sorted(each for each in self.path.glob("*.npz") if not each.name.startswith("."))

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        first = chunk.read_rows(self._files[0])
        if missing := [key for key in MAZE if key not in first]:
            raise ValueError(
                f"{self._files[0]} has no {', '.join(missing)}: expected an episode of Memory Maze's offline "
                f"set, with {', '.join(MAZE)}; {', '.join(first)} are in it."
            )
        return {key: value.shape[1:] for key, value in first.items()}

    @property
    def record(self) -> dict[str, Any]:
        """Its task is Memory Maze of the size that the layout has."""
        layout, files = self._shapes.get("maze_layout"), [path.name for path in self._files]
        task = f"memory_maze:{layout[0]}x{layout[1]}" if layout else "memory_maze"
        held = {"episodes": len(files), "first": files[0], "last": files[-1]}
        return {"format": "memory_maze", "task": task, "context_length": None, **held}

    @property
    def interface(self) -> Interface:
        image, action = self._shapes["image"], self._shapes["action"]
        return Interface(spaces.Box(0, 255, image, np.uint8), spaces.Discrete(action[0]))

    def numbers(self) -> list[int]:
        return list(range(len(self._files)))

    def path_of(self, number: int) -> Path:
        return self._files[number]

    def length(self, path: Path) -> int:
        return chunk.length(_there(path))

    def load(self, path: Path, probes: bool = False) -> Rows:
        found = chunk.read_rows(_there(path))
        steps, action = len(found["reward"]), found["action"]
        if action.ndim != 2 or not (action[1:].sum(1) == 1).all() or not (action.max(1)[1:] == 1).all():
            raise ValueError(f"{path}: 'action' of shape {action.shape} is not the last action, one-hot")
        rows = {
            "obs/image": found["image"],
            "action": np.where(np.arange(steps) == 0, 0, action.argmax(1)),
            "reward": found["reward"].astype(np.float32),
        }
        if probes:
            known = (*MAZE, "terminal", "reset")
            rows |= {f"probe/{key}": value for key, value in found.items() if key not in known}
        return _whole(path, rows, "terminal" in found and bool(found["terminal"][-1]))


class Minari:
    """A dataset of Minari's on this machine (MINARI_DATASETS_PATH, or ~/.minari), with its own spaces."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.path, self._dataset = Path(name), dataset
        self.interface = Interface(dataset.observation_space, dataset.action_space)
        steps = dataset.storage.get_episode_metadata(self.numbers())
        self._lengths = [int(each["total_steps"]) + 1 for each in steps]
        size = {"episodes": len(self._lengths), "rows": sum(self._lengths)}
        self.record: dict[str, Any] = {"format": "minari", "task": name, "context_length": None, **size}

    def numbers(self) -> list[int]:
        return list(range(self._dataset.total_episodes))

    def path_of(self, number: int) -> Path:
        return self.path / f"episode-{number:08d}"

    def length(self, path: Path) -> int:
        return self._lengths[chunk.number_of(path)]

    def load(self, path: Path, probes: bool = False) -> Rows:  # noqa: ARG002 (it holds none)
        try:
            (episode,) = self._dataset.iterate_episodes([chunk.number_of(path)])
        except Exception as error:  # h5py and pyarrow raise a dozen kinds for what they cannot read
            raise ValueError(f"{path} cannot be read ({error!r}): download it again") from error
        steps, ends = len(episode.rewards) + 1, np.asarray(episode.terminations, bool)
        if ends[:-1].any():
            raise ValueError(f"{path} terminates at step {int(ends.argmax()) + 1} and goes on to {steps - 1}")
        try:
            seen = self.interface.observations.flat(episode.observations, steps)
            taken = self.interface.actions.plain(episode.actions)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        rows = {f"obs/{name}": value for name, value in seen.items()} | {
            "action": np.concatenate([np.zeros_like(taken[:1]), taken]),
            "reward": np.concatenate([[0], episode.rewards]).astype(np.float32),
        }
        return _whole(path, rows, bool(ends[-1]))


Source = Collected | MazeFiles | Minari


def _whole(path: Path, rows: Rows, terminal: bool) -> Rows:
    """An episode with its flags; raises ValueError if its parts are not of one length, or of odd types."""
    steps = len(rows["reward"])
    last = np.arange(steps) == steps - 1
    rows |= {"is_first": np.arange(steps) == 0, "is_last": last, "is_terminal": last & terminal}
    check(rows, steps, f"the episode in {path}", extra=("probe/",))
    return rows


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing: the run was fitted to it. Say where it is now: --data DIR.")
    return path


@functools.lru_cache(maxsize=8)
def _minari(name: str) -> Minari:
    """Open a dataset once."""
    dataset = name.removeprefix(MINARI)
    try:
        import h5py  # noqa: F401 (what most datasets are stored with)
        import minari

        return Minari(name, minari.load_dataset(dataset))
    except ImportError as error:
        raise ValueError(
            f"{name} needs the package {error.name}, which is not installed: pip install -e '.[minari]'"
        ) from error
    except FileNotFoundError as error:
        near = did_you_mean(dataset, minari.list_local_datasets())
        raise ValueError(
            f"there is no Minari dataset {dataset!r} on this machine.{near} Get it with: minari download "
            f"{dataset}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error

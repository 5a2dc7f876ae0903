"""Episodes to fit world models to: what they hold, whether it suits, and how it is split.

They come from one or more sources (`agent.run.sources`), here called folders. The split is by episode,
80/10/10, and the same for every run on the same folders, whatever its seed. A run's data.json records it: for
each folder its path, its record and the numbers of the episodes for training, validation and test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import configs
from agent.agent import derive_seed
from agent.run import sources
from envs import Interface
from replay import chunk
from replay.rows import Rows

PARTS = ("train", "validation", "test")
FEWEST = 10  # episodes that can be split


@dataclass
class Folder:
    """A source of episodes.

    Attributes:
        path: where they are.
        record: the source's. Of equal records an episode's number says all of it.
        parts: the numbers of the episodes of each of `PARTS`.
    """

    path: Path
    record: dict[str, Any]
    parts: dict[str, list[int]]

    def paths(self, *parts: str) -> list[Path]:
        """The episodes of parts; raises ValueError if a source of others holds more, fewer, or none now."""
        source = sources.of(self.path)
        if self.record["format"] != chunk.FORMAT and source.record != self.record:
            raise ValueError(f"{self.path} no longer holds the episodes that the run was fitted to.")
        return [source.path_of(number) for part in parts for number in self.parts[part]]


class Data:
    """Folders of one task, split.

    Attributes:
        task: the task.
        brings_spaces: whether the data tell their spaces themselves; else the task's environment does.
        context: its number of context frames, where it has a context.
    """

    def __init__(self, folders: Sequence[Folder], task: str | None = None) -> None:
        self.folders = list(folders)
        record = self.folders[0].record
        self.task, self._named = str(task or record["task"]), task
        self.brings_spaces = task is None and record["format"] != chunk.FORMAT
        self.context: int | None = record["context_length"]

    @classmethod
    def of(cls, paths: Sequence[Path], task: str | None = None) -> Data:
        """Split the episodes in folders, or of `minari:ID`; a `task` replaces what they say it is.

        Raises:
            ValueError: a folder is none of episodes; they are of several tasks, the same twice, or too few.
        """
        found = [sources.of(path) for path in paths]
        records = [_record(source) for source in found]
        own = {record["task"] for record in records if task is None or record["format"] == chunk.FORMAT}
        tasks = sorted(own | {task} if task else own)
        if len(tasks) > 1:
            raise ValueError(f"the data are of several tasks, {', '.join(tasks)}: give folders of one.")
        for number, record in enumerate(records):
            if record in records[:number]:
                first = paths[records.index(record)]
                raise ValueError(f"{first} and {paths[number]} hold the same episodes: give one of them.")
        numbers_of = [source.numbers() for source in found]
        total = sum(map(len, numbers_of))
        if total < FEWEST:
            listed = ", ".join(map(str, paths))
            raise ValueError(f"{listed}: {total} episodes, of which {FEWEST} at least are needed to split.")
        order = np.random.default_rng(derive_seed("split", total)).permutation(total)
        part = np.empty(total, int)
        held = total // 10
        part[order] = np.repeat([0, 1, 2], [total - 2 * held, held, held])
        folders, begin = [], 0
        for source, record, numbers in zip(found, records, numbers_of, strict=True):
            of = part[begin : begin + len(numbers)]
            begin += len(numbers)
            parts = {name: np.array(numbers, int)[of == index].tolist() for index, name in enumerate(PARTS)}
            folders.append(Folder(source.path, record, parts))
        return cls(folders, task)

    @classmethod
    def of_json(cls, saved: Mapping[str, Any]) -> Data:
        """What `to_json` returned.

        Raises:
            ValueError: it did not return that.
        """
        try:
            folders = []
            for each in saved["folders"]:
                parts = {name: [int(number) for number in each[name]] for name in PARTS}
                folders.append(Folder(Path(each["path"]), _checked(each["record"]), parts))
            return cls(folders, saved.get("task"))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"data.json is not as a fit writes it ({error!r}).") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        folders = [
            {"path": str(folder.path), "record": folder.record, **folder.parts} for folder in self.folders
        ]
        return {"folders": folders} | ({"task": self._named} if self._named else {})

    def interface(self) -> Interface | None:
        """Of the spaces that the data bring, if they do."""
        return sources.of(self.folders[0].path).interface if self.brings_spaces else None

    def at(self, paths: Sequence[Path]) -> Data:
        """The same episodes in folders that may lie elsewhere now.

        Raises:
            ValueError: they hold others.
        """
        found = [sources.of(path) for path in paths]
        if [_record(source) for source in found] != [folder.record for folder in self.folders]:
            listed = ", ".join(str(folder.path) for folder in self.folders)
            raise ValueError(
                f"the run was fitted to the episodes of {listed}, and not to those of "
                f"{', '.join(map(str, paths))}: name the same folders in the same order, or another --logdir."
            )
        pairs = zip(self.folders, found, strict=True)
        moved = [Folder(source.path, folder.record, folder.parts) for folder, source in pairs]
        return Data(moved, self._named)

    def paths(self, *parts: str) -> list[Path]:
        """The episodes of parts, folder by folder."""
        return [path for folder in self.folders for path in folder.paths(*parts)]

    def held_out(self, path: Path | None = None) -> list[Path]:
        """The test part; or, of a folder, the episodes on which no run of these data was fitted.

        These are its test part where it is one of these, wherever it lies, and what was collected since; all
        of another one.

        Raises:
            ValueError: it is no folder of episodes, or none is left.
        """
        if path is None:
            return self.paths("test")
        source = sources.of(path)
        record, known = _record(source), set()
        for folder in self.folders:
            if folder.record == record:
                known = {number for part in ("train", "validation") for number in folder.parts[part]}
        found = [source.path_of(number) for number in source.numbers() if number not in known]
        if not found:
            raise ValueError(f"{path} holds no episode that the run was not fitted to.")
        return found

    def lengths(self) -> list[int]:
        """How many rows each episode has.

        Raises:
            ValueError: one is missing or damaged.
        """
        return [length_of(path) for path in self.paths(*PARTS)]


def length_of(path: Path) -> int:
    """The rows of an episode; a ValueError if it is missing or damaged."""
    return sources.holding(path).length(path)


def _record(source: sources.Source) -> dict[str, Any]:
    """What a source says of its episodes; raises ValueError if it has none, or they are of an old format."""
    try:
        return _checked(source.record)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{source.path / chunk.RECORD} is not as run.py collect writes it ({error!r})."
        ) from error


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    if record["format"] not in (chunk.FORMAT, "minari", "memory_maze"):
        raise ValueError(
            f"episodes of format {record['format']}, this version of the code reads {chunk.FORMAT}: collect "
            f"them again."
        )
    context = record["context_length"]
    if not isinstance(record["task"], str) or not (context is None or isinstance(context, int)):
        raise TypeError(f"task {record['task']!r}, context_length {context!r}")
    return record


class Episode:
    """Reads episodes of given spaces.

    Args:
        observations, actions: of the environment that the world model is for.
    """

    def __init__(self, observations: gymnasium.spaces.Dict, actions: gymnasium.Space) -> None:
        self.actions = actions
        self.spaces = {f"obs/{key}": leaf for key, leaf in observations.items()} | {"action": actions}

    def load(self, path: Path, probes: bool = False) -> Rows:
        """An episode, see `agent.run.sources`; with `probes` also what no model is shown, where it is known.

        Raises:
            configs.Mistake: it is damaged, of other spaces, or has numbers that are not finite.
        """
        try:
            rows = sources.holding(path).load(path, probes)
        except (OSError, ValueError) as error:
            raise configs.Mistake(str(error)) from error
        if wrong := self.wrong(rows):
            raise configs.Mistake(f"{path}: {wrong}")
        return rows

    def wrong(self, rows: Rows) -> str:
        """What of an episode does not fit; empty if all does."""
        given = {key for key in rows if key.startswith("obs/") or key == "action"}
        if given != self.spaces.keys():
            return f"it holds {', '.join(sorted(given))}; the task has {', '.join(sorted(self.spaces))}."
        for key, space in self.spaces.items():
            value = rows[key]
            if value.dtype != space.dtype or value.shape[1:] != space.shape:
                return f"'{key}' is {value.dtype} {list(value.shape[1:])}; the task's is {space}."
        number = rows["action"]
        most = getattr(self.actions, "n", getattr(self.actions, "nvec", None))  # choices, where there are any
        if most is not None and ((number < 0).any() or (number >= most).any()):
            return f"it holds actions that the task does not have, which has {self.actions}."
        for key in (*self.spaces, "reward"):
            if rows[key].dtype == np.float32 and not np.isfinite(rows[key]).all():
                return f"'{key}' has numbers that are not finite."
        return ""

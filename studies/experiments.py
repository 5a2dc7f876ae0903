"""The experiments of the S4WM paper (Deng, Park, Ahn, 2023) as declarations: tasks, sizes, what is looked at.

Each is there twice: at sizes that one core of a processor does in hours, and at the paper's, for a GPU. The
paper has 57 to 100 epochs of 8,000 episodes in 2D and 28,000 in 3D; batch sizes are not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from envs.suites import memory_maze
from envs.tasks import multi_doors_keys, rooms
from studies.foresee import CUES
from studies.maze_probe import PROBES

BACKBONES = ("s4wm", "s4wm_published", "rssm_tbtt", "tssm")
BUDGETS = ("cpu", "paper")
SEGMENT = 64  # frames of a window of what is trained on segments: the preset's batch_length
_GPU = ("--configs", "offline", "12m")  # of the paper's sizes
_LONG = (30_000, 200_000, 8, *_GPU)  # in 3D: episodes, updates, episodes in a batch
_JUMP = ",teleport=true"


@dataclass(frozen=True)
class Setting:
    """One task of an experiment, and how world models are fitted to it.

    Attributes:
        name: its folder, and what the table calls it.
        task: as `--task` takes it.
        episodes: how many are collected, by the task's script.
        updates: of each run.
        rows: of a batch, for what sees whole episodes and for what is trained on segments. In all but
            `distracting_memory` an update sees about as many frames of either.
        options: of each run, as `fit` takes them.
        paper: backbone -> what the paper has, in the words of the table.
    """

    name: str
    task: str
    episodes: int
    updates: int
    rows: tuple[int, int] = (16, 16)
    options: Sequence[str] = ()
    paper: Mapping[str, str] = field(default_factory=dict)


class Score(NamedTuple):
    """A number of a run: its key in what `foresee` returns (`a.b` is b in a), its heading and format."""

    key: str
    heading: str
    form: str = ".3g"


ERRORS = (Score("recon_error", "reconstructed"), Score("gen_error", "imagined"))


@dataclass(frozen=True)
class Experiment:
    """What is fitted, and what is looked at.

    Attributes:
        budgets: the settings, by budget.
        scores: of the table.
        paper: heading of what the paper has.
        by: key of a run's errors by something, for the figure, and what that is.
        curve: what evaluations log, for the figure, and its name.
    """

    budgets: Mapping[str, Sequence[Setting]]
    scores: Sequence[Score] = ERRORS
    paper: str = "paper"
    by: tuple[str, str] = ("gen_error_by_step", "frame imagined")
    curve: tuple[str, str] = ("eval/gen_error", "error of a frame")


def _published(s4wm: str, rssm: str, tssm: str) -> dict[str, str]:
    return {"s4wm": s4wm, "s4wm_published": s4wm, "rssm_tbtt": rssm, "tssm": tssm}


def _published_s5(s5wm: str) -> dict[str, str]:
    return {"s4wm": s5wm, "s4wm_published_s5": s5wm}


_REWARDS = {  # by width: accuracy in %, inferred / imagined
    100: _published("100 / 100", "47.9 / 49.6", "100 / 51.2"),
    200: _published("100 / 100", "48.7 / 48.4", "99.9 / 51.3"),
    400: _published("100 / 100", "50.4 / 52.2", "50.4 / 51.0"),
}
_DOORS = {  # by keys: reconstructed / imagined
    3: _published("0.01 / 0.04", "0.05 / 5.16", "0.05 / 1.27"),
    5: _published("0.02 / 0.27", "0.04 / 6.36", "0.03 / 6.05"),
    7: _published("0.02 / 0.10", "0.03 / 6.28", "0.02 / 9.24"),
}
_MAZES = {  # by size: walls in % / objects
    "9x9": _published("88.4 / 8.9", "95.0 / 5.4", "86.4 / 10.2") | _published_s5("98.3 / 1.8"),
    "15x15": _published("80.2 / 34.8", "81.7 / 32.6", "79.8 / 35.1") | _published_s5("81.8 / 25.3"),
}


def _name(observation: str, symbols: str) -> str:
    """What a setting's name begins with: `pixels` where pictures are observed, as in the paper."""
    return "pixels" if observation == "pixels" else symbols


def _rows(batch: int, frames: int) -> tuple[int, int]:
    return batch, max(1, round(batch * frames / SEGMENT))


def _distracting_memory(width: int, updates: int, observation: str, batch: int, *options: str) -> Setting:
    task = f"distracting_memory:width={width},observation={observation}"
    episodes = 10_000 if width in _REWARDS else 1_080
    rows, paper = (batch, max(batch, 8)), _REWARDS.get(width, {})
    return Setting(f"{_name(observation, 'width')}{width}", task, episodes, updates, rows, options, paper)


def _doors(keys: int, updates: int, observation: str, batch: int, *options: str) -> Setting:
    """From symbols the error is a share of doors: no figure of the paper stands beside it."""
    task = f"multi_doors_keys:keys={keys},observation={observation}"
    rows, paper = _rows(batch, sum(multi_doors_keys.FRAMES[keys])), _DOORS[keys]
    name = f"{_name(observation, 'keys')}{keys}"
    return Setting(name, task, 10_000, updates, rows, options, paper if observation == "pixels" else {})


def _rooms(count: int, more: str, episodes: int, updates: int, batch: int, *options: str) -> Setting:
    """What the paper has is known to an order of magnitude only, and stands nowhere."""
    rows = _rows(batch, sum(rooms.FRAMES[count]))
    return Setting(f"rooms{count}", f"rooms:count={count}{more}", episodes, updates, rows, options)


def _maze(size: str, more: str, episodes: int, updates: int, batch: int, *options: str) -> Setting:
    rows = _rows(batch, memory_maze.STEPS + 1)
    return Setting(size, f"memory_maze:{size}{more}", episodes, updates, rows, options, _MAZES[size])


EXPERIMENTS = {
    "distracting_memory": Experiment(
        {
            "cpu": (
                _distracting_memory(20, 3_000, "symbols", 16),
                _distracting_memory(100, 6_000, "symbols", 8),
                _distracting_memory(200, 12_000, "symbols", 4),
                _distracting_memory(400, 16_000, "symbols", 2),
                _distracting_memory(100, 4_000, "pixels", 8),
                _distracting_memory(200, 8_000, "pixels", 4),
                _distracting_memory(400, 12_000, "pixels", 2),
            ),
            "paper": [_distracting_memory(width, 100_000, "pixels", 8, *_GPU) for width in (100, 200, 400)],
        },
        (
            *ERRORS,
            Score("reward_accuracy_inferred", "reward inferred", ".1%"),
            Score("reward_accuracy_imagined", "reward imagined", ".1%"),
        ),
        "paper, inferred / imagined",
        curve=("eval/reward_accuracy_imagined", "imagined reward right"),
    ),
    "multi_doors_keys": Experiment(
        {
            "cpu": (
                _doors(3, 10_000, "symbols", 8),
                _doors(5, 10_000, "symbols", 4),
                _doors(7, 10_000, "symbols", 4),
                _doors(3, 5_000, "pixels", 8),
                _doors(5, 5_000, "pixels", 4),
                _doors(7, 5_000, "pixels", 4),
            ),
            "paper": [_doors(keys, 100_000, "pixels", 8, *_GPU) for keys in (3, 5, 7)],
        },
        (
            *ERRORS,
            Score("door_recon_error", "a door, reconstructed"),
            Score("door_gen_error", "a door, imagined"),
        ),
        "paper, a door",
    ),
    "rooms": Experiment(
        {
            "cpu": (
                _rooms(2, "", 1_080, 10_000, 2),
                _rooms(4, "", 1_080, 5_000, 2),
                _rooms(10, "", 1_080, 5_000, 1),
            ),
            "paper": [_rooms(count, ",renderer=mujoco", *_LONG) for count in (2, 4, 10)],
        },
    ),
    "teleport": Experiment(
        {
            "cpu": (_rooms(2, _JUMP, 1_080, 10_000, 2),),
            "paper": [_rooms(count, f"{_JUMP},renderer=mujoco", *_LONG) for count in (2, 4, 10)],
        },
        (
            *ERRORS,
            *(Score(f"gen_error_by_cue.{cues}", f"after {cues} true frames") for cues in CUES),
        ),
        by=("gen_error_by_cue", "true frames seen after the jump"),
    ),
    "maze_probe": Experiment(
        {
            "cpu": (_maze("9x9", ":fast=true", 500, 5_000, 2),),
            "paper": [_maze(size, "", *_LONG) for size in _MAZES],
        },
        (
            *(Score(f"walls_accuracy_{probe}", f"walls, {probe}", ".1%") for probe in PROBES),
            *(Score(f"objects_error_{probe}", f"objects, {probe}") for probe in PROBES),
        ),
        "paper, walls / objects",
    ),
}
"""By name. `cost`, which fits nothing, is in studies/cost.py."""

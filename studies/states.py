"""Whether training starts its windows in the states that acting would reach, by how old the states are.

An agent is trained on episodes of several windows. Then, for windows from its replay, the state that training
starts from is compared with the one acting would have there now: that of the model run from the episode's
beginning. Both depend on sampled latents, so two runs from the beginning differ too; that is the floor.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import configs
from agent.agent import Agent
from agent.run.folder import RunFolder
from agent.run.loop import Training
from replay import Replay
from studies import tables
from studies.overhead import QUIET
from studies.timing import Configurations, Result

MODES = ("zero", "stored", "burn_in")  # of replay.initial_state
AGES = (0, 8, 32, 128)  # updates since a state was made: where the table's columns begin
REACH = 8  # windows that an episode may last


def variants(configurations: Configurations, lengths: Sequence[int]) -> Configurations:
    """Each configuration with each initial state that it can have, and windows of the first length."""
    return {
        f"{name} {mode}": configs.override(
            config, {"replay.initial_state": mode, "batch_length": lengths[0]}, "bench --what states"
        )
        for name, config in configurations.items()
        for mode in MODES
        if mode != "zero" or not config.replay.consecutive  # which carries the state on
    }


def measure(configurations: Configurations, _lengths: Sequence[int], repeats: int) -> Result:
    """Train with each configuration in a temporary folder, then compare the states of `repeats` batches.

    Returns:
        `rows`, one per configuration: `name`, `backbone`, `initial_state`, `updates`, `floor` and `errors`,
        `windows` by age (from each of `AGES` on): median errors, None without windows, and window counts. See
        `errors`.

    Raises:
        configs.Mistake: no window has its episode's beginning within 8 windows.
    """
    rows = []
    for name, config in configurations.items():
        with tempfile.TemporaryDirectory() as logdir:
            training = Training(configs.override(config, QUIET), RunFolder(logdir))
            training.run()
            found = np.concatenate([errors(training.agent, training.replay) for _ in range(repeats)])
        if not len(found):
            raise configs.Mistake(
                f"none of {repeats} batches has a window whose episode began at most {REACH} windows before: "
                f"give more --steps or --repeats, longer --lengths, or a task of shorter episodes."
            )
        column = np.searchsorted(AGES, found[:, 0], side="right") - 1
        by_age = [found[column == index, 1] for index in range(len(AGES))]
        rows.append(
            {
                "name": name,
                "backbone": config.backbone,
                "initial_state": config.replay.initial_state,
                "updates": training.agent.updates,
                "floor": float(np.median(found[:, 2])),
                "errors": [float(np.median(part)) if part.size else None for part in by_age],
                "windows": [len(part) for part in by_age],
            }
        )
    return {"rows": rows}


@torch.no_grad()
def errors(agent: Agent, replay: Replay) -> np.ndarray:
    """Compare the states at the beginnings of a batch's windows, except those that begin an episode.

    Returns:
        `[n, 3]`, for each window the updates since its state was made (0 without a state), the distance of
        training's start state to that of a run from the episode's beginning, and the distance of another such
        run; distances are divided by the norm of the first run's state.
    """
    windows, reach = replay.sampler.choose(), REACH * replay.options.batch_length + 2
    batch = replay.batch(windows)
    chosen = (windows[:, 1] > reach) & ~batch["is_first"][:, 0]
    stream, start, begin = windows[chosen].T
    keys = [key for key in batch if key.startswith("obs/")]
    before = replay.store.read(stream, start - reach, reach, [*keys, "action"])
    whole = before["is_first"].any(1)  # the episode's beginning is within reach
    if not whole.any():
        return np.zeros((0, 3))
    age = np.zeros(len(start)) if replay.states is None else replay.states.age(stream, begin)
    given = agent.encoded({key: value[chosen][whole] for key, value in batch.items()})
    rows = agent.encoded({key: value[whole] for key, value in before.items()})
    embed = agent.model.encoder({key.removeprefix("obs/"): rows[key] for key in keys})
    nothing = agent.backbone.initial(len(embed))
    true, again = (
        _flat(agent.backbone.observe(nothing, embed, rows["action"], rows["is_first"]).last) for _ in range(2)
    )
    distances = [
        (state - true).norm(dim=1) / true.norm(dim=1) for state in (_flat(agent.start(given)), again)
    ]
    return np.stack([age[whole], *(distance.cpu() for distance in distances)], 1)


def _flat(state: Mapping[str, Tensor]) -> Tensor:
    """A state's leaves as one vector per row."""
    return torch.cat([state[key].flatten(1) for key in sorted(state)], 1)


def _cell(column: int, row: Mapping[str, Any]) -> str:
    """Error and number of windows of an age."""
    error, windows = row["errors"][column], row["windows"][column]
    return "-" if error is None else f"{error:.3f} ({windows:,})"


COLUMNS: tables.Columns = {
    "": lambda row: f"{configs.label(row['backbone'])}, {row['initial_state']}",
    "updates": lambda row: f"{row['updates']}",
    "floor": lambda row: f"{row['floor']:.3f}",
    **{
        f"{low} to {high - 1}" if high else f"{low}+": functools.partial(_cell, column)
        for column, (low, high) in enumerate(itertools.zip_longest(AGES, AGES[1:]))
    },
}


def note(_result: Mapping[str, Any]) -> str:
    """What the columns are."""
    return "error of the states that windows start from, by updates since they were made (windows)"

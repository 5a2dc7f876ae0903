"""Whether training starts its windows in the states that acting would reach, by how old the states are.

An agent is trained on episodes of several windows. Then, for windows from its replay, the state that training
starts from is compared with the one acting would have there now: that of the model run from the episode's
beginning. Both depend on sampled latents, so two runs from the beginning differ too; that is the floor.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent.agent import Agent
from agent.online import Training
from replay import Replay

MODES = ("zero", "stored", "burn_in")
AGES = (0, 8, 32, 128)  # updates since a state was made: where the table's columns begin
REACH = 8  # windows that an episode may last

Config = Mapping[str, Any]
Makers = tuple[Callable[[int, int, int], Any], Callable[..., Any]]


def states(
    configurations: Mapping[str, Config], makers: Mapping[str, Makers], batches: int
) -> dict[str, Any]:
    """Train with each configuration in a temporary folder, then compare the states of its windows.

    Arguments:
        configurations: name -> merged configuration, whose task has episodes of up to 8 windows.
        makers: name -> `make_envs` and `make_replay`, as `agent.online.train` takes them.
        batches: how many to compare.

    Returns: `what` and `rows`, one per configuration: `name`, `updates`, `floor` and `errors`, `windows` by
        age (from each of `AGES` on): median errors, None without windows, and window counts. See `errors`.
    """
    rows = []
    for name, config in configurations.items():
        with tempfile.TemporaryDirectory() as logdir:
            quiet = {
                "eval": {**config["eval"], "every": 0, "episodes": 1, "envs": 1},
                "log": {**config["log"], "pictures": 0, "tensorboard": False},
            }
            training = Training({**config, **quiet}, *makers[name], Path(logdir))
            training.run()
            found = np.concatenate([errors(training.agent, training.replay) for _ in range(batches)])
        column = np.searchsorted(AGES, found[:, 0], side="right") - 1
        by_age = [found[column == index, 1] for index in range(len(AGES))]
        rows.append(
            {
                "name": name,
                "updates": training.agent.updates,
                "floor": float(np.median(found[:, 2])),
                "errors": [float(np.median(part)) if part.size else None for part in by_age],
                "windows": [len(part) for part in by_age],
            }
        )
    return {"what": "states", "rows": rows}


@torch.no_grad()
def errors(agent: Agent, replay: Replay) -> np.ndarray:
    """Compare the states at the beginnings of a batch's windows, except those that begin an episode.

    Returns: [n,3], for each window the updates since its state was made (0 without a state), the distance of
        training's start state to that of a run from the episode's beginning, and the distance of another
        such run; distances are divided by the norm of the first run's state.
    """
    windows, reach = replay.choose(), REACH * replay.batch_length + 2
    batch = replay.complete(windows, replay.rows(windows, replay.store.read))
    chosen = (windows[:, 1] > reach) & ~batch["is_first"][:, 0]
    stream, start, begin = windows[chosen].T
    keys = [key for key in batch if key.startswith("obs/")]
    before = replay.store.read(stream, start - reach, reach, [*keys, "action", "is_first"])
    before["action"][before["is_first"]] = 0
    whole = before["is_first"].any(1)  # the episode's beginning is within reach
    before = {key: value[whole] for key, value in before.items()}
    batch = {key: value[chosen][whole] for key, value in batch.items()}
    age = np.zeros(len(start)) if replay.states is None else replay.states.age(stream, begin)
    rows = {key: torch.as_tensor(value, device=agent.device) for key, value in before.items()}
    embed = agent.model.encoder({key.removeprefix("obs/"): rows[key] for key in keys})
    nothing = agent.backbone.initial(len(embed))
    true, again = (
        agent.backbone.observe(nothing, embed, agent.codec.encode(rows["action"]), rows["is_first"]).last
        for _ in range(2)
    )
    found = agent.start({key: torch.as_tensor(value, device=agent.device) for key, value in batch.items()})
    norm = _flat(true).norm(dim=1)
    distances = [((_flat(state) - _flat(true)).norm(dim=1) / norm).cpu() for state in (found, again)]
    return np.stack([age[whole], *distances], 1)


def _flat(state: Mapping[str, Tensor]) -> Tensor:
    """Return a state's leaves as one vector per row."""
    return torch.cat([state[key].flatten(1) for key in sorted(state)], 1)


def table(result: Mapping[str, Any]) -> str:
    """The rows of `states` as a text table: errors of the start states, in brackets how many windows."""
    labels = [f"{low} to {high - 1}" for low, high in itertools.pairwise(AGES)]
    lines = [
        "error of the states that windows start from, by updates since they were made (windows)",
        f"{'':22} {'updates':>7} {'floor':>6}"
        + "".join(f" {text:>14}" for text in (*labels, f"{AGES[-1]}+")),
    ]
    for row in result["rows"]:
        cells = [
            "-" if error is None else f"{error:.3f} ({count:,})"
            for error, count in zip(row["errors"], row["windows"], strict=True)
        ]
        lines.append(
            f"{row['name']:22} {row['updates']:>7} {row['floor']:>6.3f}"
            + "".join(f" {cell:>14}" for cell in cells)
        )
    return "\n".join(lines)

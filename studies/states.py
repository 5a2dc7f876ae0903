"""Whether training starts windows in the states that acting would have: `python -m studies.states --help`.

An agent is trained on episodes of eight windows, once for each `replay.initial_state`. Then, for windows from
its replay, the state that training starts from is compared with the one acting would have there now: the
model's own, run from the episode's beginning. Both depend on sampled latents, so two runs from the beginning
differ too; that is the floor.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import configs
import envs
from agent.agent import Agent
from agent.online import Training
from replay import Loader, Replay
from worldmodels import State
from worldmodels.world_model import observations

WINDOW, EPISODE = 16, 128  # rows; MemoryChain(n) has n + 2 rows an episode
TASK = f"memory_chain:n={EPISODE - 2}"
MODES: dict[str, dict[str, Any]] = {
    "zero": {},
    "stored": {},
    "burn_in": {"replay.state_every": WINDOW, "replay.burn_in": WINDOW},
}
AGES = (0, 8, 32, 128)  # updates since a state was made: where the table's columns begin


def train(config: configs.Config, logdir: Path) -> Training:
    """Train in `logdir`; return all that the run held."""

    def make_envs(count: int, seed: int, first: int) -> envs.VectorDoor:
        return envs.make_vector(config.task, count, seed, first_index=first)

    def make_replay(streams: int, folder: Path, prepare: Any) -> Loader:
        sizes = {"batch_size": config.batch_size, "batch_length": config.batch_length, "seed": config.seed}
        return Loader(Replay(streams=streams, folder=folder, **sizes, **config.replay), prepare)

    training = Training(config, make_envs, make_replay, logdir)
    training.run()
    return training


@torch.no_grad()
def errors(agent: Agent, replay: Replay) -> np.ndarray:
    """Compare the states at the beginnings of a batch's windows, but for those that begin an episode.

    Returns: [n,3], for each window the updates since its state was made (0 without a state), the distance of
        training's start state to that of a run from the episode's beginning, and the distance of another
        such run; distances over the norm of the first.
    """
    windows = replay.choose()
    batch = replay.complete(windows, replay.rows(windows, replay.store.read))
    chosen = (windows[:, 1] > EPISODE) & ~batch["is_first"][:, 0]
    batch = {key: value[chosen] for key, value in batch.items()}
    stream, start, begin = windows[chosen].T
    age = np.zeros(len(start)) if replay.states is None else replay.states.age(stream, begin)
    keys = [key for key in batch if key.startswith("obs/")]
    before = replay.store.read(stream, start - EPISODE, EPISODE, [*keys, "action", "is_first"])
    before["action"][before["is_first"]] = 0
    rows = {key: torch.as_tensor(value) for key, value in before.items()}
    embed, action = agent.model.encoder(observations(rows)), agent.codec.encode(rows["action"])
    nothing = agent.backbone.initial(len(start))
    true, again = (agent.backbone.observe(nothing, embed, action, rows["is_first"]).last for _ in range(2))
    found = agent.start({key: torch.as_tensor(value) for key, value in batch.items()})
    norm = _flat(true).norm(dim=1)
    distances = [((_flat(state) - _flat(true)).norm(dim=1) / norm).numpy() for state in (found, again)]
    return np.stack([age, *distances], 1)


def _flat(state: State) -> Tensor:
    """Return a state's leaves as one vector a row."""
    return torch.cat([state[key].flatten(1) for key in sorted(state)], 1)


def table(measured: Mapping[str, np.ndarray]) -> str:
    """Return errors [n,3] by mode as a table in Markdown: medians, and how many windows they are of."""
    labels = [
        f"{low} to {high - 1}" if high else f"{low} and more"
        for low, high in zip(AGES, (*AGES[1:], 0), strict=True)
    ]
    lines = [f"| | floor | {' | '.join(labels)} updates |", "|---|---|" + "---|" * len(AGES)]
    for name, found in measured.items():
        column = np.searchsorted(AGES, found[:, 0], side="right") - 1
        cells = [
            f"{np.median(found[column == index, 1]):.3f} ({(column == index).sum()})"
            if (column == index).any()
            else "-"
            for index in range(len(AGES))
        ]
        lines.append(f"| `{name}` | {np.median(found[:, 2]):.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Train with each initial state, and print how far training's states are from acting's, by their age."""
    parser = argparse.ArgumentParser(prog="python -m studies.states", description=main.__doc__)
    parser.add_argument("--backbone", default="s4wm", choices=configs.backbones())
    parser.add_argument(
        "--steps", type=int, default=20_000, metavar="N", help="environment steps of a run [20000]"
    )
    parser.add_argument("--batches", type=int, default=100, metavar="N", help="batches to compare [100]")
    parser.add_argument("--size", default="cpu", choices=configs.presets(), help="preset of the runs [cpu]")
    args = parser.parse_args(argv)
    measured = {}
    for mode, options in MODES.items():
        overrides = {
            "steps": args.steps,
            "batch_length": WINDOW,
            "replay.initial_state": mode,
            "device": "cpu",
            "eval.every": 0,
            "log.pictures": 0,
            "log.tensorboard": False,
        }
        config = configs.load(TASK, args.backbone, [args.size], overrides | options)
        with tempfile.TemporaryDirectory() as logdir:
            training = train(config, Path(logdir))
            found = [errors(training.agent, training.replay) for _ in range(args.batches)]
        measured[mode] = np.concatenate(found)
    print(table(measured))


if __name__ == "__main__":
    main()

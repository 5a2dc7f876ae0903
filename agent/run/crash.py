"""Play the updates again at which a run failed because a loss or gradient was not finite.

    <logdir>/crash/checkpoints/<updates>/   a checkpoint: agent.pt is the agent's state after so many updates,
                                            replay.npz the batches of the updates from there to the failing
                                            one, as <number>/<key>, loop.json the message

Whether an update was finite is known on the device first, and asking after each one would make the loop
wait. So the state is copied, and the device asked, every `EVERY` updates; the batches since then are kept.
An update is a function of state and batch alone (its randomness derives from the counter), so an update that
failed fails again.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.agent import Agent
from agent.run import checkpoint
from agent.run.job import Job
from agent.run.saved import SavedRun
from configs.command_line import Parser, Work, add_device, add_run, run_of
from worldmodels import State

EVERY = 8
FOLDER = "crash"


class FlightRecorder:
    """Updates an agent, and leaves `crash/` in the run's folder if an update is not finite.

    It holds a second copy of the agent's state on the device and up to `EVERY` batches in memory.

    Args:
        agent: what is updated.
        logdir: the run's folder.
        behaviour: see `Agent.update`.
    """

    def __init__(self, agent: Agent, logdir: Path, behaviour: bool = True) -> None:
        self._agent, self._logdir, self._behaviour = agent, logdir, behaviour
        self._state: dict[str, Any] = {}
        self._updates: list[tuple[Mapping[str, np.ndarray], float]] = []  # the arguments of each

    def update(self, batch: Mapping[str, np.ndarray], left: float = 1.0) -> State:
        """`Agent.update`, remembering what is needed to repeat it; raises what `check` does."""
        if len(self._updates) == EVERY:
            self.check()
        if not self._updates:
            self._state = copy.deepcopy(self._agent.state_dict())
        self._updates.append((batch, left))
        return self._agent.update(batch, self._behaviour, left)

    def check(self) -> None:
        """Wait for the device and make sure that all updates so far were finite.

        Raises:
            FloatingPointError: see `Agent.check_finite`; `crash/` is written, and a note says where it is.
        """
        try:
            self._agent.check_finite()
        except FloatingPointError as error:
            if self._updates:
                folder = self._dump(str(error))
                error.add_note(
                    f"The agent's state before the last updates and their batches are in {folder}; to play "
                    f"them again: python run.py reproduce {self._logdir}"
                )
            raise
        self._updates.clear()

    def _dump(self, message: str) -> Path:
        arrays = {
            f"{number}/{key}": value
            for number, (batch, _) in enumerate(self._updates)
            for key, value in batch.items()
        }
        job = Job()
        shares = job.collect(arrays)  # of the rows of each batch
        left = [left for _, left in self._updates]
        loop = {"message": message, "left": left, "behaviour": self._behaviour}
        folder = self._logdir / FOLDER

        def write() -> Path:
            folder.mkdir(exist_ok=True)
            whole = {key: np.concatenate([share[key] for share in shares]) for key in arrays}
            return checkpoint.save(folder, self._state["updates"], self._state, whole, loop, keep=1)

        return job.first(write)


def reproduce(agent: Agent, logdir: Path) -> dict[str, Any]:
    """Run the updates in `crash/` again, up to the first one that is not finite.

    Args:
        agent: built from the run's configuration; the recorded state is loaded into it.
        logdir: the run's folder.

    Returns:
        `recorded`: the message of the original failure. `message`: that of this repetition, or None if every
        update is finite (on another device or version of torch the sums may differ). `update`: the last one
        run. `batch`: the keys of its batch that hold numbers which are not finite.

    Raises:
        ValueError: there is no crash in the folder.
    """
    saved = checkpoint.load_newest(logdir / FOLDER)
    if saved is None or saved.replay_state is None:
        raise ValueError(f"no crash in {logdir}: expected {logdir / FOLDER}, which a run leaves that fails.")
    agent.load_state_dict(saved.agent_state)
    message: str | None = None
    batch: dict[str, np.ndarray] = {}
    for number, left in enumerate(saved.loop_state["left"]):
        prefix = f"{number}/"
        batch = {
            key.removeprefix(prefix): value
            for key, value in saved.replay_state.items()
            if key.startswith(prefix)
        }
        agent.update(batch, saved.loop_state["behaviour"], left)
        try:
            agent.check_finite()
        except FloatingPointError as error:
            message = str(error)
            break
    spoilt = [key for key, value in batch.items() if not np.isfinite(value).all()]
    return {
        "recorded": saved.loop_state["message"],
        "message": message,
        "update": agent.updates,
        "batch": spoilt,
    }


def arguments(parser: Parser) -> None:
    """The run, and where to compute."""
    add_run(parser)
    add_device(parser)


def prepare(args: argparse.Namespace) -> Work:
    """See `reproduce`."""
    logdir = run_of(args)
    if not (logdir / FOLDER).is_dir():
        raise ValueError(f"no crash in {logdir}: expected {logdir / FOLDER}, which a run leaves.")
    run = SavedRun.of(logdir, args.device, checkpoint=False)

    def work() -> tuple[dict[str, Any], str]:
        result = reproduce(run.new_agent(), logdir)
        spoilt = ", ".join(result["batch"]) or "nothing"
        lines = (
            f"then: {result['recorded']}",
            f"now:  {result['message'] or 'every update is finite, up to ' + str(result['update'])}",
            f"not finite in the batch of update {result['update']}: {spoilt}",
        )
        return result, "\n".join(lines)

    return work

"""Acting apart from learning: processes that collect with a copy of the policy while the learner updates.

Each has a block of the environments. The learner hands out permits, one for every row to come, and adds the
rows to the replay in the order of the permits. So how much is learned from how many steps is as in one loop;
which parameters chose an action depends on timing.

Rows and parameters are in memory that all share. A row's place belongs to an actor from the permit on until
it says that the row is there, and from then on to the learner: a row of an actor that dies is there whole, or
not at all.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.multiprocessing  # which lets processes share tensors
from gymnasium.vector.utils import CloudpickleWrapper
from torch import Tensor

import configs
from agent.agent import Agent
from agent.run import machine, memory, seams
from agent.run.collecting import InLoop
from agent.run.evaluation import EpisodeStatistics
from agent.run.progress import Progress, to_numpy
from agent.run.seams import MakeEnvironments
from envs import EnvironmentFailure, guard
from envs.workers import Restarts, how_it_ended, ignore_signals, process_context
from replay import Replay
from replay.rows import Rows
from worldmodels import State, ranks

MOST_AHEAD = 64  # rows that actors may be ahead, however rare updates are


class Permit(NamedTuple):
    """To collect a row."""

    place: int  # where it goes
    counter: int  # decides, with the block, what is random in it
    step: int  # how many steps there will have been at the most: rows that begin an episode are none
    wants_state: bool  # whether the state before it goes there too


@dataclass
class _Part:
    """What an actor's process is given."""

    config: dict[str, Any]
    make_envs: Any  # wrapped, so that it can be sent
    first: int  # number of its first environment in the job
    block: slice  # its environments in a row
    episodes: list[int]  # of the job
    rows: State  # key -> `[ahead, N, ...]`
    parameters: Tensor  # `[2, n]`; that of `version` % 2 is not written to
    version: Tensor  # one number


@dataclass
class _Actor:
    """An actor seen from the learner; `pending` is what it has not done yet: to begin (None), and permits."""

    process: Any
    pipe: connection.Connection
    pending: deque[Permit | None] = field(default_factory=lambda: deque([None]))

    def permit(self, permit: Permit) -> None:
        self.pending.append(permit)
        with contextlib.suppress(OSError):  # that it has died is found where the row is waited for
            self.pipe.send(permit)

    def end(self, patience: float) -> None:
        self.pipe.close()
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Actors:
    """Collects as `agent.run.collecting.InLoop` does, in processes that act while the learner updates.

    They are ahead by two updates' worth of rows, and two, at the most. From a checkpoint new episodes begin.
    An actor that dies is replaced; its open episodes end in the replay as cut off.

    Args:
        config: what this rank does of the job.
        make_envs: makes the environments, in actors; for the spaces, one here.
        first: number of the first of them in the job.

    Raises:
        ValueError: the environments cannot be divided among the actors.
        EnvironmentFailure: in `step`; an environment failed, or actors died too often.
    """

    def __init__(self, config: configs.Config, make_envs: MakeEnvironments, first: int) -> None:
        self.num_envs, self._count = config.envs.count, config.actors.count
        if self.num_envs % self._count:
            raise ValueError(
                f"the {self.num_envs} environments of envs.count (of a rank) cannot be divided among "
                f"{self._count} actors: make envs.count a multiple of actors.count."
            )
        self._config, self._make_envs, self._first = config, make_envs, first
        a_row = max(config.train_ratio * self.num_envs, 1e-9)  # replayed steps that it asks for
        two_updates = 2 * config.batch_size * config.batch_length / a_row
        self.ahead = math.ceil(min(2 + two_updates, MOST_AHEAD))
        self.interface = seams.interface(make_envs, config.seed)
        self.restarted, self.statistics = 0, EpisodeStatistics(self.num_envs)
        self._restarts = Restarts(config.envs.restarts)
        self._actors: list[_Actor] = []

    def begin(
        self, agent: Agent, replay: Replay, progress: Progress, saved: Mapping[str, np.ndarray]
    ) -> None:
        """Begin new episodes; what was saved of open ones is of no use here."""
        del saved
        self._agent, self._replay, self._episodes = agent, replay, np.array(progress.episodes)
        self._mine = self._episodes[self._first : self._first + self.num_envs]
        replay.close_episodes(np.ones(self.num_envs, bool))
        carry = agent.initial(self.num_envs)
        rows = memory.batch(self.interface.spaces, self.num_envs, 1)
        row = {key: value[:, 0] for key, value in rows.items()}
        row |= {f"state/{key}": leaf for key, leaf in to_numpy(carry.state).items()}
        self._rows = {key: _shared(torch.as_tensor(value), self.ahead) for key, value in row.items()}
        self._parameters, self._version = _shared(_flat(agent), 2), _shared(torch.tensor(0), 1)
        self._permitted = self._taken = 0
        self._publish()
        for number in range(self._count):
            self._actors.append(self._start(number))
        for number in range(self._count):
            self._await(number)
        self._permit(progress.step)

    def step(self, step: int) -> Rows:
        """Wait for a row of each environment, after `step` steps; store it, and permit another one."""
        for number in range(self._count):
            self._await(number)
        rows = {key: places[self._taken % self.ahead].numpy().copy() for key, places in self._rows.items()}
        state = {key.removeprefix("state/"): rows.pop(key) for key in [*rows] if key.startswith("state/")}
        self._replay.close_episodes(rows["is_first"])  # those that are open are lost
        self._replay.add(rows, state if self._replay.wants_state() else None)
        self._mine += rows["is_first"]
        self.statistics.add(rows)
        self._taken += 1
        self._permit(step + ranks.place()[1] * int((~rows["is_first"]).sum()))
        return rows

    def learned(self) -> None:
        """Give the actors the parameters after an update, if theirs have become too old."""
        if self._agent.updates - self._published >= self._config.actors.lag:
            self._publish()

    def state(self, restorable: bool) -> tuple[list[int], list[dict[str, Any]], Rows]:
        """Numbers of the episodes; rows that were not taken yet are not saved."""
        del restorable
        return self._mine.tolist(), [], {}

    def close(self) -> None:
        """End the processes, whatever they do."""
        deadline = time.monotonic() + guard.PATIENCE
        for actor in self._actors:
            actor.pipe.close()
        for actor in self._actors:
            actor.end(max(0.0, deadline - time.monotonic()))
        self._actors = []

    def _start(self, number: int) -> _Actor:
        """A new process, which begins the episodes after those that are known of."""
        size, context = self.num_envs // self._count, process_context()
        config = configs.override(self._config, {"compile": False, "envs.count": size}).to_dict()
        made = CloudpickleWrapper(cast(Any, self._make_envs))
        place = self._first + number * size, slice(number * size, (number + 1) * size)
        shared = self._parameters, self._version
        part = _Part(config, made, *place, self._episodes.tolist(), self._rows, *shared)
        here, there = context.Pipe()
        # not a daemon: its environments may be processes too
        process = context.Process(target=_run, args=(there, part), name=f"actor {number}", daemon=False)
        process.start()
        there.close()
        return _Actor(process, here)

    def _permit(self, step: int) -> None:
        """Permit as many rows as actors may be ahead of `step`, the steps of all ranks."""
        a_row = ranks.place()[1] * self.num_envs
        while (ahead := self._permitted - self._taken) < self.ahead:
            then, wanted = step + ahead * a_row, self._replay.wants_state(ahead)
            permit = Permit(self._permitted % self.ahead, self._agent.acts, then, wanted)
            self._agent.acts += 1
            self._permitted += 1
            for actor in self._actors:
                actor.permit(permit)

    def _await(self, number: int) -> None:
        """Wait until an actor has done its oldest permit, or has begun, if it has none."""
        while True:
            try:
                said = self._actors[number].pipe.recv()
            except (EOFError, OSError):
                self._replace(number)
                continue
            if isinstance(said, Exception):
                raise said
            self.restarted += said
            pending = self._actors[number].pending
            if pending.popleft() or not pending:
                return

    def _replace(self, number: int) -> None:
        dead = self._actors[number]
        dead.end(1.0)
        message = f"{self._config.task}: {dead.process.name} {how_it_ended(dead.process)}"
        if too_many := self._restarts.exhausted():
            raise EnvironmentFailure(f"{message}\n{too_many} Without actors.count it is seen where it fails.")
        self.restarted += 1
        warnings.warn(f"{message}\nA new one begins the next episodes of its environments.", stacklevel=3)
        self._actors[number] = self._start(number)
        for permit in filter(None, dead.pending):
            self._actors[number].permit(permit)

    def _publish(self) -> None:
        version = int(self._version) + 1
        self._parameters[version % 2] = _flat(self._agent)
        self._version[0], self._published = version, self._agent.updates


def _flat(agent: Agent) -> Tensor:
    """The parameters that an agent acts with `[n]`."""
    return torch.cat([tensor.flatten() for tensor in agent.acting_tensors()])


def _shared(one: Tensor, copies: int) -> Tensor:
    """Zeros `[copies, ...]`, each like `one`, in memory that a process which is given them shares."""
    return torch.zeros(copies, *one.shape, dtype=one.dtype).share_memory_()


# What runs in an actor's process


def _run(pipe: connection.Connection, part: _Part) -> None:
    """Do what is permitted until the learner closes its end; what fails is told in place of a row."""
    ignore_signals()
    threading.Thread(target=_end_with_learner, daemon=True).start()
    machine.prepare(threads=1)
    config = configs.Config(part.config)
    try:
        collector = InLoop(config, part.make_envs.fn, part.first)
        with contextlib.closing(collector), contextlib.suppress(EOFError, ConnectionError):
            _collect(pipe, part, collector, Agent(*collector.interface.spaces, config))
    except Exception as error:
        failure = error if isinstance(error, EnvironmentFailure) else RuntimeError(repr(error))
        failure.add_note(f"in {multiprocessing.current_process().name}:\n{traceback.format_exc()}")
        pipe.send(failure)
    guard.end_within(guard.PATIENCE / 2, 0)


def _collect(pipe: connection.Connection, part: _Part, collector: InLoop, agent: Agent) -> None:
    tensors, version = agent.acting_tensors(), 0
    sizes = [tensor.numel() for tensor in tensors]
    mine = {key: places.numpy()[:, part.block] for key, places in part.rows.items()}
    outbox = _Outbox(pipe, mine, collector)
    collector.begin(agent, outbox, Progress(episodes=part.episodes), {})
    pipe.send(0)
    while True:
        outbox.permit = pipe.recv()
        while version != (version := int(part.version)):  # again, if it is a new one meanwhile
            for tensor, value in zip(tensors, part.parameters[version % 2].split(sizes), strict=True):
                tensor.copy_(value.view_as(tensor))
        agent.acts = outbox.permit.counter << 20 | part.first
        collector.step(outbox.permit.step, outbox.permit.counter)


class _Outbox:
    """What an actor's rows are put into as if it were the replay."""

    permit: Permit

    def __init__(self, pipe: connection.Connection, places: Rows, collector: InLoop) -> None:
        self._pipe, self._places, self._collector, self._restarted = pipe, places, collector, 0

    def wants_state(self) -> bool:
        return self.permit.wants_state

    def add(self, rows: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None) -> None:
        states = {f"state/{key}": leaf for key, leaf in (state or {}).items()}
        for key, value in {**rows, **states}.items():
            self._places[key][self.permit.place] = value
        restarted = self._collector.restarted
        self._pipe.send(restarted - self._restarted)
        self._restarted = restarted

    def close_episodes(self, streams: np.ndarray) -> None:
        """The learner sees from the rows which episodes are lost."""


def _end_with_learner() -> None:
    learner = multiprocessing.parent_process()
    assert learner is not None
    connection.wait([learner.sentinel])
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)

"""Where a run's steps come from: an agent acts in environments, and what they show goes to the replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

import configs
from agent.agent import Agent, derive_seed
from agent.run.evaluation import EpisodeStatistics
from agent.run.progress import Acting, Progress, to_numpy
from agent.run.seams import MakeEnvironments, close_quietly
from replay.rows import Rows


class TakesRows(Protocol):
    """Where rows are put."""

    def wants_state(self) -> bool:
        """Whether the next `add` takes the recurrent state before its row."""

    def add(self, rows: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None) -> None:
        """Store one row of every environment."""

    def close_episodes(self, streams: np.ndarray) -> None:
        """End the open episodes of these environments, `[N]` bool, without an end of the task."""


class InLoop:
    """Acts in this process, in turn with whatever else it does: what it collects can be repeated.

    Args:
        config: `envs`, `seed` and `prefill` are read.
        make_envs: makes the environments.
        first: number of the first of them in the job.

    Attributes:
        num_envs: how many environments.
        interface: of one.
    """

    acting: Acting

    def __init__(self, config: configs.Config, make_envs: MakeEnvironments, first: int) -> None:
        self._seed, self._prefill = config.seed, config.prefill
        self._envs = make_envs(config.envs.count, config.seed, first)
        self.num_envs, self.interface = self._envs.num_envs, self._envs.interface
        self._mine = slice(first, first + self.num_envs)

    @property
    def restarted(self) -> int:
        """How often processes of environments were started anew."""
        return self._envs.restarted

    @property
    def statistics(self) -> EpisodeStatistics:
        """Returns and lengths of the episodes, up to the newest rows."""
        return self.acting.episodes

    def begin(
        self, agent: Agent, replay: TakesRows, progress: Progress, saved: Mapping[str, np.ndarray]
    ) -> None:
        """Begin new episodes, or go on in those of `progress` and of the arrays that `state` had."""
        self._agent, self._replay, envs = agent, replay, self._envs
        if progress.envs and saved:
            rows, back = envs.restore(progress.envs[self._mine])
        else:
            rows = envs.reset(first_episodes=np.array(progress.episodes[self._mine]) + 1)
            back = np.zeros(self.num_envs, bool)
        replay.close_episodes(~back)
        self.acting = Acting(agent.initial(self.num_envs), rows, EpisodeStatistics(self.num_envs))
        if back.any():
            self.acting.go_on(saved, back)

    def step(self, step: int, draw: int | None = None) -> Rows:
        """Act, store the rows acted on, step the environments, after `step` steps; what they then show.

        `draw` says which random actions are taken in the prefill: those of `step`, where it is None.
        """
        acting, agent = self.acting, self._agent
        before = to_numpy(acting.carry.state) if self._replay.wants_state() else None
        carry, action = agent.act(acting.carry, acting.rows)
        if step < self._prefill:
            action = self._random_actions(step if draw is None else draw)
            carry.action = agent.codec.encode(torch.as_tensor(action).to(agent.device))
        # The call after an episode's end resets the environment and ignores the action: none was taken.
        action[acting.rows["is_last"]] = 0
        self._replay.add({**acting.rows, "action": action}, before)

        ended = acting.rows["is_last"]
        acting.carry, acting.rows = carry, self._envs.step(action)
        lost = acting.rows["is_first"] & ~ended
        if lost.any():  # the environments had to be restarted
            self._replay.close_episodes(lost)
        acting.episodes.add(acting.rows)
        return acting.rows

    def learned(self) -> None:
        """Nothing has to be told after an update: it acts with what has learned."""

    def state(self, restorable: bool) -> tuple[list[int], list[dict[str, Any]], Rows]:
        """Numbers of the episodes; what brings environments back, if they are `restorable`; and arrays."""
        envs = self._envs.state() if restorable else []
        return self._envs.episodes.tolist(), envs, self.acting.arrays()

    def close(self) -> None:
        """End the environments."""
        close_quietly("environments", self._envs.close)

    def _random_actions(self, draw: int) -> np.ndarray:
        """A uniform action for each environment, which depends on seed and number of the draw alone."""
        random = np.random.default_rng(derive_seed(self._seed, "prefill", draw))
        space, actions = self._envs.action_space, []
        for seed in random.integers(2**31, size=self._mine.stop)[self._mine]:
            space.seed(int(seed))
            actions.append(np.asarray(space.sample()))
        return np.stack(actions)

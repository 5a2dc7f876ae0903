"""Offline: the world model alone is fitted to episodes on disk, and judged by what it foresees of others."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np

import configs
from agent.agent import Agent
from agent.run import checkpoint, memory
from agent.run.data import Data, Episode
from agent.run.folder import RunFolder
from agent.run.foresight import foresee
from agent.run.machine import choose_device
from agent.run.progress import Counters
from agent.run.saved import load_agent
from agent.run.seams import close_quietly
from agent.run.session import Result, Session
from replay.episodes import Episodes
from replay.rows import Rows

SHOWN = 4  # episodes in a batch for pictures


class Fitting(Session):
    """One run of fitting: `step` counts updates. No actor or critic learns, and no environment is stepped.

    Args:
        config: the merged configuration; `steps` are updates.
        folder: of the run.
        data: the episodes.
        spaces: of observations and actions.
        whole: whether each window is a whole episode, so that no state is carried.
        context: frames observed in an evaluation.
    """

    unit, score = "update", "imagination's error"
    replay: Episodes

    def __init__(
        self,
        config: configs.Config,
        folder: RunFolder,
        data: Data,
        spaces: tuple[gymnasium.spaces.Dict, gymnasium.Space],
        whole: bool,
        context: int,
    ) -> None:
        device = choose_device(config.device)
        self.needs = memory.on_gpu(spaces, config, device, behaviour=False)
        agent = Agent(*spaces, config, device)
        self.data, self.context = data, context
        self.load = Episode(*spaces).load
        self.held: list[Rows] = []  # the episodes of evaluations, once read
        episodes = Episodes(
            data.paths("train"),
            config.batch_size,
            config.batch_length,
            config.seed,
            carry=not whole,
            memory=int(config.replay.memory_gb * 2**30),
            load=self.load,
            prepare=agent.prepare,
        )
        super().__init__(config, folder, agent, spaces, episodes, Counters(), behaviour=False)

    def close(self) -> None:
        close_quietly("episodes", self.replay.close)

    def restore(self) -> None:
        super().restore()
        self.folder.publish_data(self.data.to_json())

    def take_over(self, saved: checkpoint.Checkpoint) -> None:
        progress = Counters.of(saved.loop_state)
        if progress.step != saved.step:
            raise ValueError(f"it is at step {progress.step}")
        load_agent(self.agent, saved.agent_state)
        self.replay.load_state_dict(saved.replay_state or {})
        self.progress = progress

    def _greeting(self) -> Iterator[str]:
        parts = ", ".join(f"{len(self.data.paths(part)):,} for {part}" for part in self.data.folders[0].parts)
        config, carry = self.config, self.replay.carry
        kind = "windows that follow one another" if carry else "whole episodes"
        yield f"episodes: {parts}; an update sees {config.batch_size} {kind} of {config.batch_length} frames"
        if self.progress.step:
            yield f"going on from update {self.progress.step:,}"

    def _go_on(self) -> None:
        self.begun = True
        progress = self.progress
        while progress.step < self.config.steps:
            self.stop.check()
            self._update()
            progress.step += 1
            self._do_what_is_due()

    def _speed(self) -> dict[str, float]:
        frames = self.progress.step * self.config.batch_size * self.config.batch_length
        return {"time/fps": frames / max(self.progress.seconds, 1e-9)}

    def _evaluate(self) -> None:
        self.recorder.check()
        held = self._held_out(self.config.eval.episodes)
        found = foresee(self.agent, held, self.context).summary()
        self.progress.evaluation = found | {"step": self.progress.step}
        self.newest_score = found["gen_error"]
        names = ("recon_error", "gen_error", "reward_accuracy_inferred", "reward_accuracy_imagined")
        known = {f"eval/{name}": found[name] for name in names if found[name] is not None}
        self.logger.add(self.progress.step, known | {"eval/episodes": found["episodes"]} | self._times())

    def _held_out(self, count: int) -> list[Rows]:
        """The first episodes for validation, read once."""
        paths = self.data.paths("validation")[:count]
        self.held += [self.load(path) for path in paths[len(self.held) :]]
        return self.held[:count]

    def _shown(self) -> tuple[Rows, int]:
        episodes = self._held_out(SHOWN)
        shortest = min(len(episode["reward"]) for episode in episodes)
        return {
            key: np.stack([episode[key][:shortest] for episode in episodes]) for key in episodes[0]
        }, self.context

    def _save(self, restorable: bool = True) -> None:  # noqa: ARG002 (there is nothing that an error leaves open)
        self.folder.check()
        self.recorder.check()
        self._write(self.replay.state_dict())

    def _result(self) -> Result:
        return super()._result() | {"backbone": self.config.backbone}

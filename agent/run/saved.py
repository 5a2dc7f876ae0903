"""A run on disk, opened: its configuration, its environments, and its trained agent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import configs
from agent.agent import Agent
from agent.run import checkpoint, machine, seams, sources
from agent.run.data import Data
from agent.run.folder import RunFolder
from agent.run.seams import MakeEnvironments
from envs import Interface
from envs.arguments import parse_task
from worldmodels import model_of


@dataclass
class SavedRun:
    """A run that has a checkpoint.

    Attributes:
        folder: where it is.
        config: its configuration, with another device if one was named.
        make_envs: environments of its task.
    """

    folder: RunFolder
    config: configs.Config
    make_envs: MakeEnvironments

    @classmethod
    def opened(cls, path: str | Path, device: str | None = None, checkpoint: bool = True) -> SavedRun:
        """Open the run in a folder; its task is not looked up.

        Args:
            path: the folder.
            device: in place of the run's.
            checkpoint: whether the run has to have one.

        Raises:
            ValueError: there is no such run, or no such device here.
        """
        folder = RunFolder(path)
        config = folder.configuration(device, checkpoint)
        machine.choose_device(config.device)
        return cls(folder, config, seams.environments(config))

    @classmethod
    def of(
        cls, path: Path, device: str | None = None, checkpoint: bool = True, task: str | None = None
    ) -> SavedRun:
        """`opened`, and its task looked at, or another one in its place; torch gets its number of threads.

        Raises:
            ValueError: also if there is no such task here, or it has other spaces than the run was trained
                with.
        """
        run = cls.opened(path, device, checkpoint)
        config = configs.Config(run.config.to_dict() | {"task": task}) if task else run.config
        make_envs = seams.environments(config)
        if run.has_environment:
            given = seams.check_task(config.task, config.seed, config.envs.mode)
            given = given or seams.interface(make_envs, config.seed)
            if task is None:
                run.interface = run.folder.interface() or given
            run.check_spaces(config.task, given)
        run.config, run.make_envs = config, make_envs
        machine.prepare(config.threads)
        return run

    @cached_property
    def data(self) -> Data | None:
        """The episodes that the run was fitted to; None of a run in an environment."""
        known = self.folder.data()
        return None if known is None else Data.of_json(known)

    @property
    def has_environment(self) -> bool:
        """Whether the run's task is an environment's; data from elsewhere may bring all that a fit needs."""
        return self.data is None or not self.data.brings_spaces

    @classmethod
    def that_acts(cls, path: Path, device: str | None = None, task: str | None = None) -> SavedRun:
        """`of` a run that trained an actor; raises ValueError also of one fitted to episodes on disk."""
        run = cls.of(path, device, task=task)
        run.check_acts()
        return run

    def check_acts(self) -> None:
        """Raise ValueError if the run is fitted to episodes on disk, so that no actor was trained."""
        if self.data is not None:
            raise ValueError(
                f"{self.folder} holds a world model fitted to episodes on disk, which cannot act: see foresee"
            )

    def say_if_unlike(self, folder: Path) -> None:
        """Say on stderr if episodes are of another task than the run's, or of other arguments."""
        given = sources.of(folder).record["task"]
        own = {self.config.task} | {each.record["task"] for each in (self.data.folders if self.data else ())}
        if parse_task(given) not in map(parse_task, own):
            print(
                f"run.py: the episodes in {folder} are of {given}, the run of {self.config.task}",
                file=sys.stderr,
            )

    @cached_property
    def interface(self) -> Interface:
        """The spaces of the run's task; where earlier code began it, its environment is built to have them.

        Raises:
            ValueError: spaces.json is damaged; or see `envs.make`.
        """
        return self.folder.interface() or seams.interface(self.make_envs, self.config.seed)

    def new_agent(self) -> Agent:
        """An agent for the run's spaces, not trained, on the device of the configuration."""
        return Agent(*self.interface.spaces, self.config, machine.choose_device(self.config.device))

    def agent(self, *, step: int | None = None, best: bool = False) -> tuple[Agent, int]:
        """The agent of the newest valid checkpoint, of that of a step, or of the best; and its step.

        Raises:
            configs.Mistake: there is no such checkpoint, or it cannot be loaded; or both are asked for.
        """
        if best and step is not None:
            raise configs.Mistake(f"step {step} and the best checkpoint were asked for: choose one.")
        place = self.folder.best if best else self.folder.path
        if step is not None:
            places = (self.folder.best, self.folder.path)
            steps = {int(each.name): place for place in places for each in checkpoint.folders(place)}
            if step not in steps:
                there = ", ".join(map(str, sorted(steps)))
                raise configs.Mistake(f"{self.folder} has no checkpoint of step {step}; there are: {there}.")
            place = steps[step]
        agent = self.new_agent()
        saved = checkpoint.load_newest(
            place,
            step=step,
            with_replay=False,
            identity=self.folder.identity(*self.interface.spaces),
            accept=lambda found: load_agent(agent, found.agent_state, learning=False),
        )
        if saved is None:
            raise configs.Mistake(
                f"no checkpoint in {place}/checkpoints can be loaded: train the run first, or again"
            )
        return agent, saved.step

    def agent_for(self, config: configs.Config) -> Agent:
        """The agent of the newest valid checkpoint, whose world model another run is to begin with.

        Args:
            config: of that run.

        Raises:
            ValueError: the spaces, or the options of the world model, are not those of this run.
        """
        groups = ("backbone", "encoder", "decoder", "heads", "recall", model_of(config.backbone))
        changed = configs.differences(self.config, config)
        listed = "\n  ".join(line for key, line in changed.items() if configs.is_free(key, groups))
        if listed:
            raise ValueError(
                f"the world model in {self.folder} was configured otherwise:\n  {listed}\n"
                f"Give the options that it was trained with, its size (--configs) included."
            )
        self.check_spaces(config.task, seams.interface(seams.environments(config), config.seed))
        return self.agent()[0]

    def check_spaces(self, task: str, given: Interface) -> None:
        """Raise ValueError, with the leaves, if a task has other spaces than the run's."""
        if difference := self.interface.difference(given):
            raise ValueError(
                f"{self.folder} was trained on {self.config.task!r}, with other spaces than {task!r} has: "
                f"{difference}."
            )


def load_agent(agent: Agent, state: Mapping[str, Any], learning: bool = True) -> None:
    """`Agent.load_state_dict` of a state that a stranger may have made; its counters are checked first."""
    for name in ("updates", "acts"):
        if not isinstance(state[name], int) or state[name] < 0:
            raise ValueError(f"the agent's '{name}' is {state[name]!r}, expected a whole number")
    agent.load_state_dict(state, learning)

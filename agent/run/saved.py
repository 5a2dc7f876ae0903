"""A run on disk, opened: its configuration, its environments, and its trained agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import configs
from agent.agent import Agent
from agent.run import checkpoint, machine, seams
from agent.run.folder import RunFolder
from agent.run.seams import MakeEnvironments
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
    def of(cls, path: Path, device: str | None = None, checkpoint: bool = True) -> SavedRun:
        """Open the run in a folder; torch gets its number of threads.

        Args:
            path: the folder.
            device: in place of the run's.
            checkpoint: whether the run has to have one.

        Raises:
            ValueError: there is no such run, task or device here.
        """
        folder = RunFolder(path)
        config = folder.configuration(device, checkpoint)
        seams.check_task(config.task, config.seed, config.envs.mode)
        machine.choose_device(config.device)
        machine.prepare(config.threads)
        return cls(folder, config, seams.environments(config))

    @classmethod
    def that_acts(cls, path: Path, device: str | None = None) -> SavedRun:
        """`of` a run that trained an actor; raises ValueError also of one fitted to episodes on disk."""
        run = cls.of(path, device)
        if run.folder.data() is not None:
            raise ValueError(
                f"{run.folder} holds a world model fitted to episodes on disk, which cannot act; see foresee."
            )
        return run

    def new_agent(self, seed: int | None = None) -> Agent:
        """An agent for the run's spaces, not trained, on the device of the configuration.

        Args:
            seed: of the environments that are opened for their spaces; None for the run's.
        """
        return self._untrained(seed)[0]

    def _untrained(self, seed: int | None) -> tuple[Agent, dict[str, str]]:
        """See `new_agent`; and what a checkpoint has to have in common with the run."""
        spaces = seams.spaces(self.make_envs, self.config.seed if seed is None else seed)
        agent = Agent(*spaces, self.config, machine.choose_device(self.config.device))
        return agent, self.folder.identity(*spaces)

    def agent(self, seed: int | None = None) -> tuple[Agent, int]:
        """The agent of the newest valid checkpoint, and its step.

        Raises:
            configs.Mistake: none of the checkpoints can be loaded.
        """
        agent, identity = self._untrained(seed)
        saved = checkpoint.load_newest(
            self.folder.path,
            with_replay=False,
            identity=identity,
            accept=lambda found: load_agent(agent, found.agent_state),
        )
        if saved is None:
            raise configs.Mistake(
                f"no checkpoint in {self.folder}/checkpoints can be loaded: train the run first, or again"
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
        given = seams.spaces(seams.environments(config), config.seed)
        known = seams.spaces(self.make_envs, self.config.seed)
        if given != known:
            raise ValueError(
                f"the world model in {self.folder} is of {self.config.task!r}, which has other spaces than "
                f"{config.task!r}: {known[0]}, {known[1]} there, {given[0]}, {given[1]} here."
            )
        return self.agent()[0]


def load_agent(agent: Agent, state: Mapping[str, Any]) -> None:
    """`Agent.load_state_dict` of a state that a stranger may have made; its counters are checked first."""
    for name in ("updates", "acts"):
        if not isinstance(state[name], int) or state[name] < 0:
            raise ValueError(f"the agent's '{name}' is {state[name]!r}, expected a whole number")
    agent.load_state_dict(state)

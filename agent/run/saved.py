"""A run on disk, opened: its configuration, its environments, and its trained agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import configs
from agent.agent import Agent
from agent.run import checkpoint, machine, seams
from agent.run.folder import RunFolder
from agent.run.seams import MakeEnvironments


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
        seams.check_task(config.task, config.seed)
        machine.choose_device(config.device)
        machine.prepare(config.threads)
        return cls(folder, config, seams.environments(config))

    def new_agent(self, seed: int | None = None) -> Agent:
        """An agent for the run's spaces, not trained, on the device of the configuration.

        Args:
            seed: of the environments that are opened for their spaces; None for the run's.
        """
        envs = self.make_envs(1, self.config.seed if seed is None else seed, 0)
        spaces = envs.observation_space, envs.action_space
        envs.close()
        return Agent(*spaces, self.config, machine.choose_device(self.config.device))

    def agent(self, seed: int | None = None) -> tuple[Agent, int]:
        """The agent of the newest valid checkpoint, and its step.

        Raises:
            ValueError: none of the checkpoints can be loaded.
        """
        saved = checkpoint.load_newest(self.folder.path, with_replay=False)
        if saved is None:
            raise ValueError(
                f"no checkpoint in {self.folder}/checkpoints; train first: python run.py train {self.folder}"
            )
        agent = self.new_agent(seed)
        agent.load_state_dict(saved.agent_state)
        return agent, saved.step

"""dm-control's suite with vector observations, as `dmc:walker_walk`."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import extras
from envs.arguments import Value, check_whole


def _suite() -> ModuleType:
    with warnings.catch_warnings():
        # On a machine without a display glfw warns about it; nothing is drawn here.
        warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
        return extras.load("dm_control.suite", "'dmc:...'", "dmc", "dm_control mujoco")


def _tasks() -> dict[str, tuple[str, str]]:
    return {f"{domain}_{task}": (domain, task) for domain, task in _suite().ALL_TASKS}


def names() -> list[str]:
    """Return the task names, `<domain>_<task>`, sorted.

    Raises:
        ImportError: dm-control is not installed; the message names the extra.
    """
    return sorted(_tasks())


def arguments(_name: str) -> list[str]:
    """Return the names of the arguments that every task of the suite takes."""
    return ["repeat"]


def build(name: str, repeat: Value = 2) -> gymnasium.Env:
    """Build a task of the suite; see `DMControl`."""
    return DMControl(*_tasks()[name], repeat=check_whole(f"dmc:{name}", "repeat", repeat, 1))


class DMControl(gymnasium.Env[Any, np.ndarray]):
    """A dm-control suite task as a gymnasium environment, with the simulator's own quantities as observation.

    - Observation: a Dict of float64 vectors, named as in the suite (`orientations`, `velocity`, ...); scalars
      become vectors of length 1.
    - Action: Box, the suite's own bounds and shape; each action is applied `repeat` times.
    - Reward: the sum over the repeats. An episode lasts 1000 / repeat steps and can bring 1000 at most, which
      no policy reaches: the optimum is not known.
    - End: the suite's time limit ends an episode with discount 1, which is a truncation. Discount 0 (few
      tasks) is a termination.

    Args:
        domain, task: as in `dm_control.suite.load`.
        repeat: control steps an action, at least 1.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(self, domain: str, task: str, repeat: int = 2) -> None:
        self._env = _suite().load(domain, task, task_kwargs={"random": 0})
        self._repeat = repeat
        leaves: dict[str, spaces.Space] = {
            key: spaces.Box(-np.inf, np.inf, spec.shape or (1,), np.float64)
            for key, spec in self._env.observation_spec().items()
        }
        self.observation_space = spaces.Dict(leaves)
        action = self._env.action_spec()
        self.action_space = spaces.Box(
            np.broadcast_to(action.minimum, action.shape).astype(np.float32),
            np.broadcast_to(action.maximum, action.shape).astype(np.float32),
            dtype=np.float32,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; a seed restarts the task's random numbers in place, without loading it anew."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._env.task.random.seed(seed)
        return self._observe(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Apply the action `repeat` times, or until the episode ends."""
        reward = 0.0
        for _ in range(self._repeat):
            moment = self._env.step(action)
            reward += moment.reward
            if moment.last():
                break
        terminated = moment.last() and moment.discount == 0.0
        truncated = moment.last() and not terminated
        return self._observe(moment.observation), reward, terminated, truncated, {}

    def _observe(self, observation: dict[str, Any]) -> dict[str, np.ndarray]:
        return {key: np.atleast_1d(np.asarray(value, np.float64)) for key, value in observation.items()}

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

"""Environments that are stepped one after the other in this process: gymnasium's, closed whatever they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs.guard import PATIENCE


class InProcess(SyncVectorEnv):
    """gymnasium's `SyncVectorEnv` of environments of `envs.make`.

    Args:
        builders: one function for each environment; if one cannot be built, those before it are closed.
    """

    def __init__(self, builders: Sequence[Callable[[], gymnasium.Env]]) -> None:
        self.envs = []
        try:
            for builder in builders:
                self.envs.append(builder())
            built = [lambda env=env: env for env in self.envs]
            super().__init__(built, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        except BaseException:
            self.close_extras()
            self.closed = True
            raise

    def close_extras(self, **_: Any) -> None:
        """Close the environments within `PATIENCE` seconds together; each one has at least a second."""
        deadline = time.monotonic() + PATIENCE
        for env in self.envs:
            if env.has_wrapper_attr("patience"):
                env.set_wrapper_attr("patience", max(1.0, deadline - time.monotonic()))
            env.close()


def without_info(builder: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Build an environment whose `info` is dropped."""
    return _NoInfo(builder())


class _NoInfo(gymnasium.Wrapper):
    """Drop `info`: rows do not carry it, and vector environments spend time, and fail, on padding it."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the info is empty."""
        return self.env.reset(seed=seed, options=options)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the info is empty."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated, {}

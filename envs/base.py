"""What the environments written here share: calls are checked, a picture is drawn where one was asked for."""

from __future__ import annotations

import operator
from typing import Any

import gymnasium
from gymnasium import spaces


class CheckedEnv(gymnasium.Env[Any, Any]):
    """An environment that refuses a step past its end, and an action that does not exist.

    gymnasium's wrappers for that (`OrderEnforcing`, `PassiveEnvChecker`) cost more than a step of ours: these
    environments are registered without. A subclass implements `_begin`, `_act`, `_observe` and `_draw`; `_t`
    is the number of steps since the reset, the present one included.

    Args:
        observation_space: of what `_observe` returns.
        action_space: Discrete, counted from 0; with any other a subclass overrides `_checked`.
        render_mode: None or 'rgb_array'.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self, observation_space: spaces.Space, action_space: spaces.Space, render_mode: str | None
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.render_mode = render_mode
        self._actions = int(action_space.n) if isinstance(action_space, spaces.Discrete) else 0
        self._t = 0
        self._over = True  # until the first reset

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed, options=options)
        self._t = 0
        self._begin()
        self._over = False
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Raises:
            RuntimeError: the episode is over, or has not begun.
            ValueError: there is no such action.
        """
        if self._over:
            raise RuntimeError(
                f"{type(self).__name__}: the episode is over, or has not begun; call reset() first."
            )
        action = self._checked(action)
        self._t += 1
        reward, terminated, truncated = self._act(action)
        self._over = terminated or truncated
        return self._observe(), reward, terminated, truncated, self._info()

    def render(self) -> Any:
        """Draw a picture, uint8 `[height, width, 3]`; None without a render mode."""
        return None if self.render_mode is None else self._draw()

    def _checked(self, action: Any) -> Any:
        """Return an action as `_act` takes it (`Discrete.contains` would cost more than a step)."""
        try:
            number = operator.index(action)
        except TypeError:  # not a whole number
            number = -1
        if not 0 <= number < self._actions:
            raise ValueError(
                f"{type(self).__name__}: an action must be a whole number from 0 to {self._actions - 1}, got "
                f"{action!r}."
            )
        return number

    def _begin(self) -> None:
        """Sample an episode with `np_random`."""
        raise NotImplementedError

    def _act(self, action: Any) -> tuple[float, bool, bool]:
        """Change the state; return the reward, whether the task is done, and whether its time is up."""
        raise NotImplementedError

    def _observe(self) -> Any:
        raise NotImplementedError

    def _info(self) -> dict[str, Any]:
        return {}

    def _draw(self) -> Any:
        raise NotImplementedError

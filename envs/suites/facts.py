"""Facts that a package's task keeps to itself, told as ours are, for `studies.diagnose`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium

Hidden = Callable[[Any], Mapping[str, int]]
"""A bare environment -> facts of its state, -1 where one does not hold; `answer` is the right action."""


class TellFacts(gymnasium.Wrapper):
    """Adds facts of the hidden state to `info`, as `info["probe"]`.

    Args:
        env: an environment of the package.
        hidden: what it keeps.
    """

    def __init__(self, env: gymnasium.Env, hidden: Hidden) -> None:
        super().__init__(env)
        self._hidden = hidden

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As the environment's, with the facts."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, info | {"probe": self._hidden(self.unwrapped)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's, with the facts."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info | {"probe": self._hidden(self.unwrapped)}

"""What the networks cannot tell apart because it is too large: said once, with the option that mends it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from agent.agent import Agent

NEAR = 0.9  # share of the largest value: a mean return beyond it is of values that are clamped


class Limits:
    """The largest reward and value that the two-hot codes of an agent hold."""

    def __init__(self, agent: Agent) -> None:
        self._reward, self._value = agent.model.reward.largest, agent.actor_critic.critic.largest
        self._seen = 0.0
        self._said: set[str] = set()

    def see(self, reward: np.ndarray) -> None:
        """Remember the largest of rewards `[N]`."""
        self._seen = max(self._seen, float(np.abs(reward).max()))

    def passed(self, metrics: Mapping[str, float]) -> list[str]:
        """A line for each limit that is passed for the first time, by a reward or the mean return."""
        found = {
            "heads.resolution": ("reward", self._seen, self._reward),
            "actor_critic.resolution": ("return", abs(metrics.get("train/return", 0.0)), NEAR * self._value),
        }
        lines = []
        for option, (what, value, limit) in found.items():
            if value > limit and option not in self._said:
                self._said.add(option)
                lines.append(
                    f"a {what} of {value:.3g} is beyond what the network can tell apart ({limit:.3g}) and is "
                    f"learned from as that: scale the rewards down, or raise {option} (its limit is 4.85e8 "
                    f"times its value)"
                )
        return lines

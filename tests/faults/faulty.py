"""An environment that does what environments should not, at a step of its own choice."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

EPISODE = 5


class Faulty(gymnasium.Env):
    """Episodes of five steps; rewards are the actions.

    Args:
        fault: `init`, `reset` or `step` raises there; `missing`, `shape`, `dtype`, `bounds`, `number` spoils
            an observation, `reward` a reward; '' is a good environment.
        at: the step since it was built from which on it has the fault.
        once: a file that remembers the fault, so that it happens no more.
        width: of the vector it shows.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, fault: str = "", at: int = 60, once: str = "", width: int = 2) -> None:
        self.fault, self.at, self.once, self.taken = fault, at, once, 0
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
                "place": spaces.Discrete(EPISODE + 1),
                "vector": spaces.Box(-1, 1, (width,), np.float32),
            }
        )
        if fault == "init":
            raise ZeroDivisionError("scripted in __init__")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if self._due("reset"):
            raise ZeroDivisionError("scripted in reset")
        self.place = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        if self.place == EPISODE:
            raise RuntimeError("stepped after the end")
        self.taken += 1
        self.place += 1
        if self._due("step"):
            raise ZeroDivisionError("scripted in step")
        reward = np.nan if self._due("reward") else float(action)
        return self._observe(), reward, self.place == EPISODE, False, {}

    def _observe(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "image": np.full((4, 4, 3), self.place, np.uint8),
            "place": self.place,
            "vector": np.full(self.observation_space["vector"].shape, self.place / EPISODE, np.float32),
        }
        if self._due("missing"):
            del shown["vector"]
        if self._due("shape"):
            shown["vector"] = np.zeros(7, np.float32)
        if self._due("dtype"):
            shown["image"] = shown["image"] / 255
        if self._due("bounds"):
            shown["place"] = EPISODE + 1
        if self._due("number"):
            shown["vector"][0] = np.nan
        return shown

    def _due(self, fault: str) -> bool:
        if fault != self.fault or self.taken < self.at or (self.once and Path(self.once).exists()):
            return False
        if self.once:
            Path(self.once).touch()
        return True


# gymnasium's checker would meet the faults first
gymnasium.register("Faulty-v0", entry_point=Faulty, disable_env_checker=True)

"""Modules of environments outside the project: written to a folder, put on the path, found by name."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium
import pytest

SOURCE = '''
import os
import time
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces


class Scripted(gymnasium.Env):
    """Episodes of 2 to 5 steps, their length drawn from the seed; one set of buffers for all observations.

    At step `crash_at` it raises, dies or hangs; once only where `once` names a file to remember that in.

    Observation: vector = [step in the episode, length, a random number of this episode]; image = the step.
    """

    metadata = {"render_modes": []}

    def __init__(
        self, end="terminated", reward_shape="scalar", bad="", bad_at=2, crash_at=-1, crash="raise", once=""
    ):
        self.end, self.reward_shape = end, reward_shape
        self.bad, self.bad_at, self.crash_at = bad, bad_at, crash_at
        self.crash, self.once = crash, once
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (4, 6, 3), np.uint8),
                "vector": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            }
        )
        self.action_space = spaces.Discrete(3)
        self._buffers = {"image": np.zeros((4, 6, 3), np.uint8), "vector": np.zeros(3)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        self._length = int(self.np_random.integers(2, 6))
        self._tag = self.np_random.random()
        return self._observe(), {"of_any_kind": object(), "t": np.zeros(self._length)}

    def step(self, action):
        assert self._t < self._length, "stepped after the end"
        self._t += 1
        if self._t == self.crash_at and not (self.once and Path(self.once).exists()):
            if self.once:
                Path(self.once).touch()
            if self.crash == "die":
                os._exit(7)
            if self.crash == "hang":
                time.sleep(1000)
            raise ZeroDivisionError("scripted")
        over = self._t == self._length
        observation, reward = self._observe(), 10.0 * self._t + int(action)
        if self._t == self.bad_at:
            if self.bad == "reward":
                reward = np.nan
            elif self.bad:
                observation["vector"][1] = np.inf
        if self.reward_shape == "array":
            reward = np.array([reward], np.float32)
        terminated = over and self.end in ("terminated", "both")
        truncated = over and self.end in ("truncated", "both")
        return observation, reward, terminated, truncated, {"t": np.zeros(self._t)}

    def _observe(self):
        self._buffers["image"][:] = self._t
        self._buffers["vector"][:] = self._t, self._length, self._tag
        return self._buffers


class Counter(gymnasium.Env):
    """Never ends by itself: the registered limit ends it. Box actions of an odd shape and range."""

    metadata = {"render_modes": []}
    observation_space = spaces.Discrete(8, start=-2)
    action_space = spaces.Box(np.array([[0.0], [-3.0]]), np.array([[10.0], [3.0]]), dtype=np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return -2, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._t += 1
        return self._t - 2, float(action.sum()), False, False, {}


# What gymnasium's checker would warn about (shared buffers, array rewards) is what these are for.
gymnasium.register("Scripted-v0", entry_point="outside_tasks:Scripted", disable_env_checker=True)
gymnasium.register("Counter-v0", entry_point=Counter, max_episode_steps=3)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Write a module, name and source, to a folder on the path; it and its ids are gone after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written, known = [], set(gymnasium.registry)

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)
    for env_id in set(gymnasium.registry) - known:
        del gymnasium.registry[env_id]


@pytest.fixture
def outside(module: Callable[[str, str], str]) -> str:
    """Make `outside_tasks:Scripted-v0` and `outside_tasks:Counter-v0` available; the module's name."""
    return module("outside_tasks", SOURCE)

"""MemoryChain: a cue at the start, a wait, a question at the end (bsuite's `memory_len`, `memory_size`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.arguments import check_action, check_whole


class MemoryChain(gymnasium.Env[np.ndarray, np.int64]):
    """Remember a context shown at the start and answer with one bit of it `n` steps later.

    The definition is bsuite's `memory_chain` (Osband et al., 2020), step for step:

    - Observation, float32 `[2 + bits]`: time left `1 - t/n`; the number of the bit asked for, at `t = n-1`
      only (always 0 with one bit); the context bits as -1 or +1, at `t = 0` only. Everything else is 0.
    - As in bsuite, `t = 0` is shown twice: by `reset` and again by the first step. From then on the context
      is out of sight, for the `n - 1` observations up to and including the one that is answered.
    - Action, Discrete(2): the value of the bit asked for. Only the action taken on the observation with
      `t = n-1` counts: +1 if right, -1 if wrong, and the episode terminates. All other rewards are 0.
    - Length: always `n + 1` steps.

    bsuite draws no noise; neither does this. Optimum: 1.0. Any policy without memory: 0.0.

    Args:
        n: the memory length, at least 1.
        bits: the number of context bits, at least 1.
        render_mode: None or 'rgb_array' (64 x 64 x 3: the context in the upper half while it is visible,
            below it the bit asked for, a bar for the time left).

    Raises:
        ValueError: an argument is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium declares it so)
    optimum: float = 1.0

    def __init__(self, n: int = 32, bits: int = 1, render_mode: str | None = None) -> None:
        self.n = check_whole("MemoryChain", "n", n, 1)
        self.bits = check_whole("MemoryChain", "bits", bits, 1)
        self.render_mode = render_mode
        low = np.array([0, 0] + [-1] * bits, np.float32)
        high = np.array([1, max(1, bits - 1)] + [1] * bits, np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)
        self._context = np.zeros(bits, np.int64)
        self._query = 0
        self._t = n + 1  # past the end: step() asks for a reset
        self._shown = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a context and a query; return the observation at t = 0."""
        super().reset(seed=seed, options=options)
        self._context = self.np_random.integers(0, 2, self.bits)
        self._query = int(self.np_random.integers(self.bits))
        self._t = 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Return the observation at the present t, then advance the time, as bsuite does.

        Raises:
            RuntimeError: the episode is over, or has not begun.
            ValueError: there is no such action.
        """
        if self._t > self.n:
            raise RuntimeError("MemoryChain: the episode is over, or has not begun; call reset() first.")
        check_action("MemoryChain", 2, action)
        obs = self._observe()
        self._t += 1
        if self._t <= self.n:
            return obs, 0.0, False, False, {}
        right = int(action) == self._context[self._query]
        return obs, 1.0 if right else -1.0, True, False, {}

    def solution(self) -> Iterator[int]:
        """Yield the actions of an optimal episode, from its start to its end."""
        yield from [int(self._context[self._query])] * (self.n + 1)

    def _observe(self) -> np.ndarray:
        t = self._shown = self._t
        obs = np.zeros(2 + self.bits, np.float32)
        obs[0] = 1 - t / self.n
        if t == self.n - 1:
            obs[1] = self._query
        if t == 0:
            obs[2:] = 2 * self._context - 1
        return obs

    def render(self) -> np.ndarray | None:
        """Draw the last observation, uint8 [64, 64, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        picture = np.full((64, 64, 3), 24, np.uint8)
        edges = np.linspace(0, 64, self.bits + 1).astype(int)
        for bit, (left, right) in enumerate(itertools.pairwise(edges)):
            if self._shown == 0:
                picture[4:28, left:right] = (64, 160, 255) if self._context[bit] else (255, 128, 32)
            if self._shown == self.n - 1 and bit == self._query:
                picture[32:44, left:right] = (240, 240, 240)
        picture[52:60, : round(64 * (1 - self._shown / self.n))] = (96, 200, 96)
        return picture

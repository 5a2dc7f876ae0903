"""MemoryChain: a cue at the start, a wait, a question at the end (bsuite's `memory_len`, `memory_size`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from gymnasium import spaces

from envs.arguments import check_whole
from envs.base import CheckedEnv


class MemoryChain(CheckedEnv):
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

    optimum: float = 1.0

    def __init__(self, n: int = 32, bits: int = 1, render_mode: str | None = None) -> None:
        self.n = check_whole("MemoryChain", "n", n, 1)
        self.bits = check_whole("MemoryChain", "bits", bits, 1)
        low = np.array([0, 0] + [-1] * bits, np.float32)
        high = np.array([1, max(1, bits - 1)] + [1] * bits, np.float32)
        super().__init__(spaces.Box(low, high), spaces.Discrete(2), render_mode)

    def _begin(self) -> None:
        self._context = self.np_random.integers(0, 2, self.bits)
        self._query = int(self.np_random.integers(self.bits))

    def _act(self, action: int) -> tuple[float, bool, bool]:
        if self._t <= self.n:
            return 0.0, False, False
        return 1.0 if action == self._context[self._query] else -1.0, True, False

    def solution(self) -> Iterator[int]:
        """Yield the actions of an optimal episode, from its start to its end."""
        yield from [int(self._context[self._query])] * (self.n + 1)

    def _observe(self) -> np.ndarray:
        t = self._shown = self._t - 1 if self._t else 0  # the t that the action was taken at
        obs = np.zeros(2 + self.bits, np.float32)
        obs[0] = 1 - t / self.n
        if t == self.n - 1:
            obs[1] = self._query
        if t == 0:
            obs[2:] = 2 * self._context - 1
        return obs

    def _draw(self) -> np.ndarray:
        picture = np.full((64, 64, 3), 24, np.uint8)
        edges = np.linspace(0, 64, self.bits + 1).astype(int)
        for bit, (left, right) in enumerate(itertools.pairwise(edges)):
            if self._shown == 0:
                picture[4:28, left:right] = (64, 160, 255) if self._context[bit] else (255, 128, 32)
            if self._shown == self.n - 1 and bit == self._query:
                picture[32:44, left:right] = (240, 240, 240)
        picture[52:60, : round(64 * (1 - self._shown / self.n))] = (96, 200, 96)
        return picture

"""MemoryChain: a cue at the start, a wait, a question at the end (bsuite's `memory_len`, `memory_size`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.arguments import check_whole
from envs.tasks.vector_or_pixels import SIDE, VectorOrPixels, blank

# In a picture, rows of: the context, the bit asked for, the time left
CONTEXT, QUERY, TIME = slice(4, 20), slice(22, 28), slice(31, 39)
FINEST = SIDE * (TIME.stop - TIME.start) * 255  # steps that a picture tells apart


class MemoryChain(VectorOrPixels):
    """Remember a context shown at the start and answer with one bit of it `n` steps later.

    The definition is bsuite's `memory_chain` (Osband et al., 2020), step for step:

    - Observation, float32 `[2 + bits]`: time left `1 - t/n`; the number of the bit asked for, at `t = n-1`
      only (always 0 with one bit); the context bits as -1 or +1, at `t = 0` only. Everything else is 0.
    - With `observation='pixels'` the same as a picture, uint8 `[40, 40, 3]`: the context as blue (1) and
      orange (0) columns, a white mark below the bit asked for (never with one bit), and a green bar as long
      as the time left, which shrinks pixel by pixel.
    - As in bsuite, `t = 0` is shown twice: by `reset` and again by the first step. From then on the context
      is out of sight, for the `n - 1` observations up to and including the one that is answered.
    - Action, Discrete(2): the value of the bit asked for. Only the action taken on the observation with
      `t = n-1` counts: +1 if right, -1 if wrong, and the episode terminates. All other rewards are 0.
    - Length: always `n + 1` steps.

    bsuite draws no noise; neither does this. Optimum: 1.0. Any policy without memory: 0.0.

    Args:
        n: the memory length, at least 1.
        bits: the number of context bits, at least 1.
        observation: 'vectors' or 'pixels'; pictures show at most 40 bits and 81,600 steps.
        render_mode: None or 'rgb_array' (the picture, whatever is observed).

    Raises:
        ValueError: an argument is out of range.
    """

    optimum: float = 1.0
    guess: float = 0.0

    def __init__(
        self, n: int = 32, bits: int = 1, observation: str = "vectors", render_mode: str | None = None
    ) -> None:
        self.n = check_whole("MemoryChain", "n", n, 1)
        self.bits = check_whole("MemoryChain", "bits", bits, 1)
        low = np.array([0, 0] + [-1] * bits, np.float32)
        high = np.array([1, max(1, bits - 1)] + [1] * bits, np.float32)
        super().__init__(spaces.Box(low, high), 2, observation, render_mode)
        if self._pixels:
            check_whole("MemoryChain:observation=pixels", "n", n, 1, FINEST)
            check_whole("MemoryChain:observation=pixels", "bits", bits, 1, SIDE)
        edges = np.linspace(0, SIDE, bits + 1).astype(int).tolist()
        self._columns = [slice(left, right) for left, right in itertools.pairwise(edges)]

    def _begin(self) -> None:
        self._context = self.np_random.integers(0, 2, self.bits)
        self._query = int(self.np_random.integers(self.bits))

    def _act(self, action: int) -> tuple[float, bool, bool]:
        if self._t <= self.n:
            return 0.0, False, False
        return 1.0 if action == self._context[self._query] else -1.0, True, False

    def _info(self) -> dict[str, Any]:
        bit = int(self._context[self._query])
        asked = self._shown() == self.n - 1
        return {"probe": {"cue": bit, "answer": bit if asked else -1}}

    def solution(self) -> Iterator[int]:
        """Yield the actions of an optimal episode, from its start to its end."""
        yield from [int(self._context[self._query])] * (self.n + 1)

    def _shown(self) -> int:
        """The t that is shown: the one that the action was taken at."""
        return self._t - 1 if self._t else 0

    def _vector(self) -> np.ndarray:
        t = self._shown()
        obs = np.zeros(2 + self.bits, np.float32)
        obs[0] = 1 - t / self.n
        if t == self.n - 1:
            obs[1] = self._query
        if t == 0:
            obs[2:] = 2 * self._context - 1
        return obs

    def _picture(self) -> np.ndarray:
        t, picture = self._shown(), blank()
        if t == 0:
            for bit, columns in zip(self._context, self._columns, strict=True):
                picture[CONTEXT, columns] = (64, 160, 255) if bit else (255, 128, 32)
        if t == self.n - 1 and self.bits > 1:
            picture[QUERY, self._columns[self._query]] = 240
        _draw_bar(picture[TIME], 1 - t / self.n)
        return picture


def _draw_bar(bar: np.ndarray, share: float) -> None:
    """Fill a share of `[height, width, 3]`: whole columns, pixels of the next, a part of the next pixel."""
    bar[:] = 0
    pixels, part = divmod(round(share * 255 * bar.shape[0] * bar.shape[1]), 255)
    column, row = divmod(pixels, bar.shape[0])
    bar[:, :column] = (96, 255, 96)
    if column < bar.shape[1]:
        bar[:row, column] = (96, 255, 96)
        bar[row, column] = (96 * part // 255, part, 96 * part // 255)

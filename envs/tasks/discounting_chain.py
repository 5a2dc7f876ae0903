"""DiscountingChain: the first action decides when the reward comes and how much (bsuite)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from gymnasium import spaces

from envs.arguments import check_one_of
from envs.base import CheckedEnv

DELAYS = (1, 3, 10, 30, 100)
LENGTH = 100
BONUS = 0.1


class DiscountingChain(CheckedEnv):
    """Choose one of five chains: each pays once, after 1, 3, 10, 30 or 100 steps, and one pays 10 % more.

    The definition is bsuite's `discounting_chain` (Osband et al., 2020):

    - Observation, float32 `[2]`: the chain chosen, 0 to 4, or -1 before the first action; and `t / 100`.
    - Action, Discrete(5): only the first one of an episode counts. It chooses the chain.
    - Reward: chain i pays at step (1, 3, 10, 30, 100)[i], once: 1.1 on the chain with the bonus, 1.0 on
      others.
    - Length: always 100 steps, then the episode terminates.

    bsuite draws the bonus chain from a mapping seed; here `delay` names it by its delay, so that a run asks
    one question: does credit reach back `delay` steps? Every policy gets at least 1.0, so a share of the
    optimum says little here. Compare success rates by delay, such as those of Samsami et al. (2024), with the
    share of episodes on the bonus chain: the mean of `(return - 1) / 0.1`.

    Optimum: 1.1. Uniformly random: 1.02.

    Args:
        delay: the delay of the chain with the bonus: 1, 3, 10, 30 or 100.
        render_mode: None or 'rgb_array' (64 x 64 x 3: a column per chain as tall as its delay on a log scale,
            the chosen one bright, the bonus one tipped; a bar for the time).

    Raises:
        ValueError: `delay` is not one of the five.
    """

    optimum: float = 1.0 + BONUS

    def __init__(self, delay: int = 10, render_mode: str | None = None) -> None:
        self.delay = check_one_of("DiscountingChain", "delay", delay, DELAYS)
        low, high = np.array([-1, 0], np.float32), np.array([len(DELAYS) - 1, 1], np.float32)
        super().__init__(spaces.Box(low, high), spaces.Discrete(len(DELAYS)), render_mode)

    def _begin(self) -> None:
        self._chain = -1

    def _act(self, action: int) -> tuple[float, bool, bool]:
        if self._t == 1:
            self._chain = action
        reward = 0.0
        if self._t == DELAYS[self._chain]:
            reward = 1.0 + BONUS if self._t == self.delay else 1.0
        return reward, self._t == LENGTH, False

    def solution(self) -> Iterator[int]:
        """Yield the actions of an optimal episode, from its start to its end."""
        yield from [DELAYS.index(self.delay)] * LENGTH

    def _observe(self) -> np.ndarray:
        return np.array([self._chain, self._t / LENGTH], np.float32)

    def _draw(self) -> np.ndarray:
        picture = np.full((64, 64, 3), 24, np.uint8)
        for chain, delay in enumerate(DELAYS):
            top = 48 - round(8 + 34 * np.log(delay) / np.log(LENGTH))
            left = 4 + 12 * chain
            picture[top:48, left : left + 8] = (64, 160, 255) if chain == self._chain else (80, 80, 80)
            if delay == self.delay:
                picture[top : top + 4, left : left + 8] = (255, 208, 64)
        picture[54:60, : round(64 * self._t / LENGTH)] = (96, 200, 96)
        return picture

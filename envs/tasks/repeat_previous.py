"""RepeatPrevious: cards are dealt one by one, and each step asks for the suit of an earlier one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.arguments import check_whole
from envs.base import CheckedEnv

SUITS = 4
DECK = 52
COLOURS = np.array([(64, 160, 255), (255, 208, 64), (96, 200, 96), (224, 48, 48)], np.uint8)


class RepeatPrevious(CheckedEnv):
    """Name the suit of a card dealt earlier, at every step, while new ones are dealt.

    The definition is POPGym's `RepeatPrevious` (Morad et al., 2023), step for step, with its seeds: k = 4 and
    1 deck are its `Easy`, 32 and 2 its `Medium` and the default here, 64 and 3 its `Hard`.

    - Observation, Discrete(4): the suit of the card just dealt. `reset` deals the first one.
    - Action, Discrete(4): the suit of the k-th newest card, the one on show being the first.
    - Reward: 1 / (cards - k) if right, as much less if wrong; 0 while fewer than k cards lie there.
    - Length: one step fewer than there are cards, then the episode terminates.

    Optimum: 1.0. Any policy without memory: about -0.5.

    Args:
        k: how many cards have to be kept in mind, at least 1.
        decks: how many decks of 52 are shuffled together; more than k cards.
        render_mode: None or 'rgb_array' (64 rows, 2 columns a card: the cards dealt so far, from the left, by
            the colour of their suit; the one asked for is tall).

    Raises:
        ValueError: an argument is out of range.
    """

    optimum: float = 1.0
    guess: float = -0.5

    def __init__(self, k: int = 32, decks: int = 2, render_mode: str | None = None) -> None:
        self.decks = check_whole("RepeatPrevious", "decks", decks, 1)
        self.k = check_whole("RepeatPrevious", "k", k, 1, DECK * decks - 1)
        self._reward = 1 / (DECK * decks - k)
        super().__init__(spaces.Discrete(SUITS), spaces.Discrete(SUITS), render_mode)

    def _begin(self) -> None:
        cards = np.arange(DECK * self.decks)
        self.np_random.shuffle(cards)
        self._suits: list[int] = (cards[::-1] % SUITS).tolist()

    def _act(self, action: int) -> tuple[float, bool, bool]:
        reward = 0.0
        if self._t >= self.k:
            reward = self._reward if action == self._suits[self._t - self.k] else -self._reward
        return reward, self._t == len(self._suits) - 1, False

    def _info(self) -> dict[str, Any]:
        asked = self._t + 1 - self.k
        return {"probe": {"answer": self._suits[asked] if asked >= 0 else -1}}

    def solution(self) -> Iterator[int]:
        """Yield the actions of an optimal episode, from its start to its end."""
        yield from [0] * (self.k - 1) + self._suits[: len(self._suits) - self.k]

    def _observe(self) -> int:
        return self._suits[self._t]

    def _draw(self) -> np.ndarray:
        picture = np.full((64, 2 * len(self._suits), 3), 24, np.uint8)
        dealt = self._suits[: self._t + 1]
        picture[24:40, : 2 * len(dealt)] = COLOURS[dealt].repeat(2, 0)
        if (asked := self._t + 1 - self.k) >= 0:
            picture[8:56, 2 * asked : 2 * asked + 2] = COLOURS[dealt[asked]]
        return picture

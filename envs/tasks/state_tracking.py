"""State tracking: symbols move a hidden state that has to be named at every step; `state_tracking:parity`.

Each symbol picks how the state moves. That is what a recurrence with transitions that do not depend on its
inputs cannot do, however long it remembers (Merrill, Petty, Sabharwal, 2024, "The Illusion of State in
State-Space Models"; Grazzi et al., 2025, for parity).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.arguments import Value, check_whole
from envs.base import CheckedEnv

HOLD = 0.9  # share of the flip-flop's symbols that leave its state as it is
COLOURS = np.random.default_rng(0).integers(64, 256, (128, 3), np.uint8)


def cyclic(modulus: int) -> np.ndarray:
    """Sums modulo `modulus`, `[modulus, modulus]`: state and symbol to the next state."""
    return np.add.outer(np.arange(modulus), np.arange(modulus)) % modulus


def symmetric(items: int) -> np.ndarray:
    """Products of the permutations of some items, in lexicographic order, `[items!, items!]`.

    A symbol rearranges what the state has arranged.
    """
    every = list(itertools.permutations(range(items)))
    number = {permutation: index for index, permutation in enumerate(every)}
    return np.array(
        [[number[tuple(state[i] for i in symbol)] for symbol in every] for state in every], np.int64
    )


def words(
    table: np.ndarray, count: int, length: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw symbols as `StateTracking` does, and follow them: symbols and states, `[count, length]` each."""
    states, held = len(table), table.shape[1] > len(table)
    symbols = rng.integers(0, states, (count, length))
    if held:
        symbols[:, 1:][rng.random((count, length - 1)) < HOLD] = states
    followed = np.zeros((count, length + 1), np.int64)
    for t in range(length):
        followed[:, t + 1] = table[followed[:, t], symbols[:, t]]
    return symbols, followed[:, 1:]


class StateTracking(CheckedEnv):
    """Name the state after each symbol: s_t = table[s_{t-1}, x_t], from s_0 = 0.

    - Observation, Discrete(symbols): x_t. `reset` shows the first one. They are drawn alike often and
      independently, but for one that holds the state, where there is one; the first is never that.
    - Action, Discrete(states): s_t, the symbol on show included.
    - Reward: 1 / length if right, -1 / (length (states - 1)) if not: answers at random return 0.
    - Length: always `length` steps, then the episode terminates. The symbol shown after the last one is not
      asked for.

    Optimum: 1.0. The best policy without memory, `guess`: 1 / length, for the first symbol is the state; of
    the flip-flop, whose symbols say the state unless they hold it, 1 / length + (1 - 1 / length) (1 - HOLD).

    Args:
        table: `[states, symbols]` of states; a symbol beyond the number of states holds the state.
        length: steps, at least 1.
        render_mode: None or 'rgb_array' (a column a step: above the symbols so far, below their states).

    Raises:
        ValueError: `length` is out of range.
    """

    optimum: float = 1.0

    def __init__(self, table: np.ndarray, length: int = 24, render_mode: str | None = None) -> None:
        self.length = check_whole("StateTracking", "length", length, 1)
        self.table = table
        self._states, symbols = table.shape
        told = 1 - HOLD if symbols > self._states else 0.0
        self.guess = told + (1 - told) / length
        super().__init__(spaces.Discrete(symbols), spaces.Discrete(self._states), render_mode)

    def _begin(self) -> None:
        drawn = words(self.table, 1, self.length + 1, self.np_random)
        self._symbols, self._answers = (part[0].tolist() for part in drawn)

    def _act(self, action: int) -> tuple[float, bool, bool]:
        right = action == self._answers[self._t - 1]
        return (1.0 if right else -1 / (self._states - 1)) / self.length, self._t == self.length, False

    def _info(self) -> dict[str, Any]:
        return {"probe": {"answer": self._answers[self._t] if self._t < self.length else -1}}

    def solution(self) -> Iterator[int]:
        """Yield the actions of an optimal episode, from its start to its end."""
        yield from self._answers[: self.length]

    def _observe(self) -> int:
        return self._symbols[self._t]

    def _draw(self) -> np.ndarray:
        picture = np.full((64, 4 * (self.length + 1), 3), 24, np.uint8)
        for row, shown in ((8, self._symbols[: self._t + 1]), (36, self._answers[: self._t])):
            picture[row : row + 20, : 4 * len(shown)] = COLOURS[shown].repeat(4, 0)
        return picture


# Name -> the table, and of its argument the name, the default and the largest value (the smallest is 2)
_FAMILY: dict[str, tuple[Callable[[int], np.ndarray], tuple[str, int, int] | None]] = {
    "parity": (lambda _: cyclic(2), None),
    "modular": (cyclic, ("modulus", 3, 64)),
    "permutation": (symmetric, ("items", 3, 5)),
    "flip_flop": (
        lambda n: np.column_stack([np.tile(np.arange(n), (n, 1)), np.arange(n)]),
        ("values", 2, 64),
    ),
}


def names() -> list[str]:
    """Return the names of the tasks."""
    return list(_FAMILY)


def arguments(name: str) -> list[str]:
    """Return the names of the arguments that `name` takes."""
    own = _FAMILY[name][1]
    return ["length", "render_mode", *([own[0]] if own else [])]


def build(name: str, length: int = 24, render_mode: str | None = None, **own: Value) -> StateTracking:
    """Build one of the family.

    Raises:
        ValueError: an argument is out of range.
    """
    make, argument = _FAMILY[name]
    size = 2
    if argument:
        key, default, most = argument
        size = check_whole(f"state_tracking:{name}", key, own.get(key, default), 2, most)
    return StateTracking(make(size), length, render_mode)

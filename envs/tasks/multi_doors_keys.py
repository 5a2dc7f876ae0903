"""Multi Doors Keys (S4WM, Deng, Park, Ahn, 2023): keep track of which keys are taken and which doors open."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from envs.arguments import check_one_of
from envs.tasks.gridworld import EAST, EMPTY, KEY, LOCKED, NORTH, OPEN, SOUTH, WALL, WEST, GridWorld

PICK_UP, USE = 3, 4
# Frames of the paper's trajectories, by the number of keys: context, query.
FRAMES: dict[int, tuple[int, int]] = {3: (76, 174), 5: (170, 380), 7: (296, 654)}

HEIGHT = 13
IS_DOOR = np.isin(np.arange(KEY + 4), range(LOCKED, KEY))  # by cell content
DOORS, CORRIDOR, GAPS, KEYS = 4, (5, 6, 7), 8, 9  # rows


class MultiDoorsKeys(GridWorld):
    """Collect keys and open the doors of their colours.

    A corridor of 3 rows runs from west to east. Behind its north wall lie as many rooms as there are keys,
    each behind a locked door; behind its south wall as many alcoves, each with a gap in the wall and a key
    behind the gap. Door and gap of a column are opposite each other, columns are 4 cells apart. Doors have
    random colours out of four, so colours repeat; the keys have the doors' colours in a random order, so
    every door can be opened.

    - Observation: see `GridWorld`. A door and the key opposite are never seen together, and keys in hand are
      not shown.
    - Action, Discrete(5): turn left, turn right, forward, pick up the key ahead, open the door ahead. Any
      number of keys can be held. Opening uses up a key of the door's colour; without one nothing happens. An
      open door stays open and can be walked through.
    - Start: in the middle of the corridor, heading east.
    - Reward: 1 for each door opened.
    - Time limit: `limit` steps, then the episode is truncated. It never terminates.

    `info["probe"]` holds `doors`, bool `[5, 5]`: which of the tiles in view are doors, locked or open.

    Optimum: `keys`.

    The paper's data come from `script`. In the first `context_length` frames (76, 170, 296 for 3, 5, 7 keys)
    the agent visits the keys and doors of all columns, in a random order, again and again. In the query (174,
    380, 654 frames) it takes the keys in a random order and tries the doors still locked, in a random order,
    until one opens; when all are open it goes on visiting. The paper gives the numbers of frames and says
    that keys are picked up and doors tried in varying order. The rest is chosen here: rooms and alcoves 3
    cells deep, that several keys can be held, the order of visits, and the online task (reward, time limit).

    Args:
        keys: 3, 5 or 7.
        limit: the time limit in steps, at least 1; by default the length of the paper's trajectory.
        observation: 'pixels' or 'symbols', see `GridWorld`.
        render_mode: None or 'rgb_array'.

    Raises:
        ValueError: an argument is out of range.
        ImportError: minigrid is not installed; the message names the extra.
    """

    KINDS = (EMPTY, WALL, *range(LOCKED, KEY + 4))

    def __init__(
        self,
        keys: int = 3,
        limit: int | None = None,
        observation: str = "pixels",
        render_mode: str | None = None,
    ) -> None:
        self.keys = check_one_of("MultiDoorsKeys", "keys", keys, FRAMES)
        self.context_length, query = FRAMES[keys]
        self._script_steps = self.context_length + query - 1
        super().__init__(5, self._script_steps if limit is None else limit, observation, render_mode)
        self.optimum = float(keys)
        self._columns = 4 * np.arange(keys) + 2

    def _world(self) -> tuple[np.ndarray, int, int, int]:
        grid = np.full((HEIGHT, 4 * self.keys + 1), EMPTY, np.uint8)
        grid[[0, DOORS, GAPS, -1]] = grid[:, ::4] = WALL  # with the walls between rooms and between alcoves
        grid[CORRIDOR, 1:-1] = EMPTY
        colours = self.np_random.integers(4, size=self.keys)
        grid[DOORS, self._columns] = LOCKED + colours
        grid[GAPS, self._columns] = EMPTY
        grid[KEYS, self._columns] = KEY + self.np_random.permutation(colours)
        self.held = np.zeros(4, np.int64)  # keys in hand, by colour
        return grid, 2 * self.keys, CORRIDOR[1], EAST

    def _outcome(self, action: int) -> tuple[float, bool]:
        if action not in (PICK_UP, USE):
            return 0.0, False
        x, y = self._ahead()
        thing = self.grid[y, x]
        if action == PICK_UP and KEY <= thing < KEY + 4:
            self.held[thing - KEY] += 1
            self.grid[y, x] = EMPTY
        elif action == USE and LOCKED <= thing < LOCKED + 4 and self.held[thing - LOCKED]:
            self.held[thing - LOCKED] -= 1
            self.grid[y, x] = OPEN + thing - LOCKED
            return 1.0, False
        return 0.0, False

    def _info(self) -> dict[str, Any]:
        return {"probe": {"doors": IS_DOOR[self._seen()]}}

    def script(self) -> Iterator[int]:
        """Yield the actions of the paper's trajectory, from the start of an episode to its end.

        The next action depends on the state of the world: step the environment after each.
        """
        context = self.context_length - 1
        yield from islice(self._visit(), context)
        yield from islice(self._query(), self._script_steps - context)

    def solution(self) -> Iterator[int]:
        """Yield the actions that fetch all keys, then open all doors."""
        for x in self._columns.tolist():
            yield from self._face_key(x)
            yield PICK_UP
        for x in self._columns[::-1].tolist():
            yield from self._face_door(x)
            yield USE

    def _visit(self) -> Iterator[int]:
        """Look at the key and the door of every column, in a new random order each time."""
        while True:
            for x in self._shuffled(self._columns):
                yield from self._face_key(x)
                yield from self._face_door(x)

    def _query(self) -> Iterator[int]:
        for x in self._shuffled(self._columns):
            yield from self._face_key(x)
            yield PICK_UP
            locked = self._columns[self.grid[DOORS, self._columns] < OPEN]
            for door in self._shuffled(locked):
                yield from self._face_door(door)
                yield USE
                if not self.held.any():  # it opened
                    break
        yield from self._visit()

    def _shuffled(self, columns: np.ndarray) -> list[int]:
        return self.np_random.permutation(columns).tolist()

    def _face_key(self, x: int) -> Iterator[int]:
        yield from self._to_column(x)
        yield from self._walk(SOUTH, GAPS - self.y)
        yield from self._turn(SOUTH)

    def _face_door(self, x: int) -> Iterator[int]:
        yield from self._to_column(x)
        yield from self._walk(NORTH, self.y - CORRIDOR[0])
        yield from self._turn(NORTH)

    def _to_column(self, x: int) -> Iterator[int]:
        if x == self.x:
            return
        yield from self._walk(NORTH, max(0, self.y - CORRIDOR[-1]))  # out of a gap
        yield from self._walk(EAST if x > self.x else WEST, abs(x - self.x))

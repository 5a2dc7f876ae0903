"""Distracting Memory (S4WM, Deng, Park, Ahn, 2023): recall one colour after a long walk over many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from envs.arguments import check_whole
from envs.tasks.gridworld import EAST, EMPTY, FORWARD, LEFT, NORTH, RIGHT, TILE, WALL, WEST, GridWorld

HEIGHT, MIDDLE = 9, 4
CUE = (3, 5)  # x, y


class DistractingMemory(GridWorld):
    """Look up the cue's colour at one end of a hallway and choose the tile of that colour at the other.

    The world is `width` x 9 cells. A small room at the west end holds the cue; a hallway of one row leads to
    a junction at the east end, with a coloured tile north and one south of it: two different colours, one of
    them the cue's, which is one of four. Each cell of the hallway holds a tile of a random one of the four
    colours with probability 1/2.

    - Observation: see `GridWorld`; the two ends of the hallway are never seen together.
    - Action, Discrete(3): turn left, turn right, forward.
    - Start: in the middle of the hallway, at x = width / 2 - 1, heading east.
    - The choice is the first step north or south out of the junction. Reward: 1 if the tile then faced has
      the cue's colour, 0 for the other one; the episode terminates.
    - Time limit: `limit` steps, then the episode is truncated.

    Optimum: 1.0. Choosing without memory: 0.5.

    The paper's data come from `script`: the first `context_length` = 2 width - 1 frames walk to the junction,
    to the cue and back to the start; the last width / 2 + 1 (the query) walk to the junction and choose,
    north or south with equal chance. Widths in the paper: 100, 200 and 400. The paper's task is to predict
    the reward; that the agent may also walk by itself is this project's addition, and so is the time limit.
    The layout was read off the paper's video at width 100.

    Args:
        width: an even number of cells, at least 10.
        limit: the time limit in steps, at least 1; by default 4 x width.
        observation: 'pixels' or 'symbols', see `GridWorld`.
        render_mode: None or 'rgb_array'.

    Raises:
        ValueError: an argument is out of range.
        ImportError: minigrid is not installed; the message names the extra.
    """

    optimum: float = 1.0
    guess: float = 0.5

    KINDS = (EMPTY, WALL, *range(TILE, TILE + 4))

    def __init__(
        self,
        width: int = 100,
        limit: int | None = None,
        observation: str = "pixels",
        render_mode: str | None = None,
    ) -> None:
        self.width = check_whole("DistractingMemory", "width", width, 10)
        if width % 2:
            raise ValueError(
                f"DistractingMemory: argument 'width' must be even (the paper has 100, 200 and 400), got "
                f"{width}."
            )
        super().__init__(3, 4 * width if limit is None else limit, observation, render_mode)
        self.context_length = 2 * width - 1

    def _world(self) -> tuple[np.ndarray, int, int, int]:
        width, random = self.width, self.np_random
        grid = np.full((HEIGHT, width), EMPTY, np.uint8)
        grid[[0, -1]] = grid[:, [0, -1]] = WALL
        grid[[2, 6], 1:5] = WALL  # the room with the cue
        grid[[3, 5], 4 : width - 2] = WALL  # the hallway
        grid[1:-1, width - 3] = WALL
        hallway = grid[MIDDLE, 4 : width - 2]
        hallway[:] = np.where(
            random.random(width - 6) < 0.5, TILE + random.integers(4, size=width - 6), EMPTY
        )
        cue = int(random.integers(4))
        other = (cue + int(random.integers(1, 4))) % 4
        self.cue_north = bool(random.integers(2))
        grid[CUE[1], CUE[0]] = TILE + cue
        grid[2, width - 2] = TILE + (cue if self.cue_north else other)
        grid[6, width - 2] = TILE + (other if self.cue_north else cue)
        return grid, width // 2 - 1, MIDDLE, EAST

    def _outcome(self, _action: int) -> tuple[float, bool]:
        if self.x != self.width - 2 or self.y == MIDDLE:
            return 0.0, False
        return float((self.y < MIDDLE) == self.cue_north), True

    def _info(self) -> dict[str, Any]:
        return {"probe": {"cue": int(self.grid[CUE[1], CUE[0]]) - TILE, "north": int(self.cue_north)}}

    def script(self) -> Iterator[int]:
        """Yield the actions of the paper's trajectory, from the start of an episode to its end."""
        yield from self._script(north=bool(self.np_random.integers(2)))

    def solution(self) -> Iterator[int]:
        """Yield the same trajectory with the right choice at its end."""
        yield from self._script(north=self.cue_north)

    def _script(self, north: bool) -> Iterator[int]:
        start = self.width // 2 - 1
        yield from self._walk(EAST, self.width - 2 - start)
        yield from self._walk(WEST, self.width - 3)
        yield from [LEFT, LEFT]
        yield from self._walk(EAST, start - 1)
        yield from self._walk(EAST, self.width - 2 - start)
        yield from self._turn(NORTH) if north else [RIGHT]
        yield FORWARD

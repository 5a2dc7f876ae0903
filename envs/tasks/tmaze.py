"""TMaze: a cue at the start, a corridor to walk, a turn to the side that the cue named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.arguments import check_whole
from envs.tasks.vector_or_pixels import BACKGROUND, VectorOrPixels, blank

FORWARD, LEFT, RIGHT = range(3)
FLOOR, AGENT, CUE = (96, 96, 96), (224, 48, 48), (255, 208, 64)


class TMaze(VectorOrPixels):
    """Walk a corridor of `corridor` cells and turn, at its end, to the side that the cue named.

    After Bakker (2001). Unlike in a chain, it depends on the agent when the cue is asked for: it has to
    walk there.

    - Observation, float32 `[3]`: the cue, -1 (left) or +1 (right), in the first observation only, 0
      otherwise; 1 while in the corridor; 1 at the junction. The position is not observed. In an arm all three
      are 0.
    - With `observation='pixels'` the same as a picture, uint8 `[40, 40, 3]`: what is around the agent, seen
      from above with left on top. In the corridor a floor from edge to edge; at the junction it ends, and
      one runs up and down; in an arm, the same in both, that one alone. The cue is in the wall beside the
      agent.
    - Action, Discrete(3): forward, turn left, turn right. Turning inside the corridor and walking on at the
      junction change nothing, but take a step. (Bakker's step back is left out: a random walk then needs
      about 3 x corridor steps to the junction rather than its square, and the task measures memory, not
      exploration.)
    - Reward: 1 for turning to the side of the cue, and the episode terminates; 0 for the other side, and it
      terminates too. No step penalty.
    - Time limit: `limit` steps, then the episode is truncated (never terminated).

    Optimum: 1.0, in corridor + 1 steps. Turning to either side without memory: 0.5.

    Args:
        corridor: steps from the start to the junction, at least 1: the cue is last seen that many steps
            before the turn.
        limit: the time limit in steps, at least corridor + 1; by default 4 x (corridor + 1).
        observation: 'vectors' or 'pixels'.
        render_mode: None or 'rgb_array' (64 x 64 x 3: the maze from above with the left arm on top, the
            agent, the cue while it is visible).

    Raises:
        ValueError: an argument is out of range.
    """

    optimum: float = 1.0
    guess: float = 0.5

    def __init__(
        self,
        corridor: int = 10,
        limit: int | None = None,
        observation: str = "vectors",
        render_mode: str | None = None,
    ) -> None:
        self.corridor = check_whole("TMaze", "corridor", corridor, 1)
        limit = 4 * (corridor + 1) if limit is None else limit
        self.limit = check_whole("TMaze", "limit", limit, corridor + 1)
        space = spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))
        super().__init__(space, 3, observation, render_mode)
        self._cue = 1  # -1 left, +1 right
        self._cell = 0
        self._arm = 0  # as the cue; 0: not turned yet

    def _begin(self) -> None:
        self._cue = 2 * int(self.np_random.integers(2)) - 1
        self._cell = self._arm = 0

    def _act(self, action: int) -> tuple[float, bool, bool]:
        if action == FORWARD:
            self._cell = min(self._cell + 1, self.corridor)
        elif self._cell == self.corridor:
            self._arm = -1 if action == LEFT else 1
        terminated = self._arm != 0
        return float(self._arm == self._cue), terminated, not terminated and self._t >= self.limit

    def _info(self) -> dict[str, Any]:
        junction = self._cell == self.corridor and not self._arm
        side = LEFT if self._cue < 0 else RIGHT
        return {"probe": {"cue": int(self._cue > 0), "answer": side if junction else -1}}

    def solution(self) -> Iterator[int]:
        """Yield the actions of an optimal episode, from its start to its end."""
        yield from [FORWARD] * self.corridor
        yield LEFT if self._cue < 0 else RIGHT

    def _vector(self) -> np.ndarray:
        junction = self._cell == self.corridor
        cue = self._cue if self._t == 0 else 0
        return np.array([cue, not self._arm and not junction, not self._arm and junction], np.float32)

    def _picture(self) -> np.ndarray:
        picture = blank()
        junction = self._cell == self.corridor
        if junction:
            picture[:, 14:26] = FLOOR
        if not self._arm:
            picture[14:26, : 26 if junction else 40] = FLOOR
        if self._t == 0:
            row = 3 if self._cue < 0 else 29
            picture[row : row + 8, 16:24] = CUE
        picture[16:24, 16:24] = AGENT
        return picture

    def _draw(self) -> np.ndarray:
        picture = np.full((64, 64, 3), BACKGROUND, np.uint8)
        picture[28:36, 2:62] = picture[8:56, 54:62] = FLOOR
        if self._t == 0:
            row = 20 if self._cue < 0 else 38
            picture[row : row + 6, 2:10] = CUE
        row = 28 + 20 * self._arm
        column = 2 + round(52 * self._cell / self.corridor)
        picture[row : row + 8, column : column + 8] = AGENT
        return picture

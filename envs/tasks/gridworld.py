"""What the 2D tasks share: a MiniGrid world in numbers, its picture from a cache of tiles, walking.

MiniGrid draws its objects, once each; after that a picture is a table look-up, several times faster than
MiniGrid's own renderer (tests/envs/tasks/test_gridworld.py checks that the two are equal).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.arguments import check_one_of, check_whole
from envs.base import CheckedEnv
from envs.suites import extras

COLOURS = ("green", "blue", "purple", "yellow")
# What a cell can hold; the coloured ones are followed by the other three colours.
EMPTY, WALL, TILE, LOCKED, OPEN, KEY = 0, 1, 2, 6, 10, 14
WALKABLE = np.array([True, False] + [True] * 4 + [False] * 4 + [True] * 4 + [False] * 4)

LEFT, RIGHT, FORWARD = range(3)
EAST, SOUTH, WEST, NORTH = range(4)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # (x, y) of a step, by heading

PIXELS = 8  # a tile
VIEW = 5  # tiles seen, the agent in the middle
MARGIN = VIEW // 2
OBSERVATIONS = ("pixels", "symbols")


@cache
def tiles() -> tuple[np.ndarray, np.ndarray]:
    """Return the picture of every cell content, uint8 `[18, 8, 8, 3]`, and with the agent `[18, 4, 8, 8, 3]`.

    The second is indexed by heading too, and is black where the agent cannot stand.

    Raises:
        ImportError: minigrid is not installed; the message names the extra.
    """
    needs = "of the 2D family", "minigrid", "minigrid"
    things, grid = (extras.load(f"minigrid.core.{name}", *needs) for name in ("world_object", "grid"))
    locked, opened = partial(things.Door, is_locked=True), partial(things.Door, is_open=True)
    kinds = [things.Goal, locked, opened, things.Key]  # a Goal is MiniGrid's coloured tile to walk on
    objects = [None, things.Wall(), *(kind(colour) for kind in kinds for colour in COLOURS)]
    draw = partial(grid.Grid.render_tile, tile_size=PIXELS)
    plain = np.stack([draw(thing) for thing in objects]).astype(np.uint8)
    agent = np.zeros((len(objects), 4, PIXELS, PIXELS, 3), np.uint8)
    for number in np.flatnonzero(WALKABLE):
        for heading in range(4):
            agent[number, heading] = draw(objects[number], agent_dir=heading)
    return plain, agent


class GridWorld(CheckedEnv):
    """A walled grid seen from above around the agent: base of the 2D tasks.

    - Observation: 5 x 5 tiles centred on the agent, north up whatever its heading, with nothing hidden by
      walls; beyond the outer wall are walls. As `pixels`, uint8 `[40, 40, 3]`, where the agent is a red
      triangle that points ahead; or as `symbols`, a Dict of `tiles`, MultiDiscrete `[5, 5]`, each one of the
      task's `KINDS` by its place among them, and `heading`, Discrete(4): east, south, west, north.
    - Actions: 0 turn left, 1 turn right, 2 forward; a task may add more. Walking into what cannot be walked
      on changes nothing, but takes a step.

    A task samples a grid and the agent's place in `_world`, and handles its own actions and rewards in
    `_outcome`. `grid` is uint8 `[height, width]`, numbers of cell contents.

    Args:
        actions: number of actions.
        limit: steps after which an episode is truncated, at least 1.
        observation: one of `OBSERVATIONS`.
        render_mode: None or 'rgb_array' (the whole world, `[8 height, 8 width, 3]`).

    Raises:
        ValueError: an argument is out of range.
        ImportError: minigrid is not installed; the message names the extra.
    """

    KINDS: tuple[int, ...]
    """The cell contents that the task has, in ascending order."""

    def __init__(self, actions: int, limit: int, observation: str, render_mode: str | None) -> None:
        name = type(self).__name__
        self.limit = check_whole(name, "limit", limit, 1)
        self.observation = check_one_of(name, "observation", observation, OBSERVATIONS)
        shown: spaces.Space = spaces.Box(0, 255, (VIEW * PIXELS, VIEW * PIXELS, 3), np.uint8)
        if observation == "symbols":
            kinds = spaces.MultiDiscrete(np.full((VIEW, VIEW), len(self.KINDS)))
            shown = spaces.Dict({"tiles": kinds, "heading": spaces.Discrete(4)})
        super().__init__(shown, spaces.Discrete(actions), render_mode)
        self._plain, self._agent = tiles()

    def _world(self) -> tuple[np.ndarray, int, int, int]:
        """Sample an episode: the grid, and x, y and heading of the agent."""
        raise NotImplementedError

    def _outcome(self, action: int) -> tuple[float, bool]:
        """Apply what an action does beyond moving; return the reward and whether the episode ends here."""
        raise NotImplementedError

    def _begin(self) -> None:
        grid, self.x, self.y, self.heading = self._world()
        self._padded = np.pad(grid, MARGIN, constant_values=WALL)
        self.grid = self._padded[MARGIN:-MARGIN, MARGIN:-MARGIN]

    def _act(self, action: int) -> tuple[float, bool, bool]:
        if action == LEFT:
            self.heading = (self.heading - 1) % 4
        elif action == RIGHT:
            self.heading = (self.heading + 1) % 4
        elif action == FORWARD:
            x, y = self._ahead()
            if WALKABLE[self.grid[y, x]]:
                self.x, self.y = x, y
        reward, terminated = self._outcome(action)
        return reward, terminated, not terminated and self._t >= self.limit

    def _ahead(self) -> tuple[int, int]:
        dx, dy = STEPS[self.heading]
        return self.x + dx, self.y + dy

    def _seen(self) -> np.ndarray:
        """The cell contents in view, `[5, 5]`."""
        return self._padded[self.y : self.y + VIEW, self.x : self.x + VIEW]

    def _observe(self) -> np.ndarray | dict[str, Any]:
        seen = self._seen()
        if self.observation == "symbols":
            return {"tiles": np.searchsorted(self.KINDS, seen), "heading": self.heading}
        return self._picture(seen, MARGIN, MARGIN, self.heading)

    def picture_of(self, symbols: Mapping[str, np.ndarray]) -> np.ndarray:
        """Draw what one-hot `tiles` and `heading`, or probabilities of them, show: uint8 `[40, 40, 3]`."""
        kinds = symbols["tiles"].reshape(VIEW, VIEW, len(self.KINDS)).argmax(-1)
        return self._picture(np.array(self.KINDS)[kinds], MARGIN, MARGIN, int(symbols["heading"].argmax()))

    def _picture(self, cells: np.ndarray, x: int, y: int, heading: int) -> np.ndarray:
        """Draw cells `[h, w]` with the agent at (x, y): uint8 `[8 h, 8 w, 3]`."""
        picture = self._plain[cells]  # [h, w, 8, 8, 3]
        picture[y, x] = self._agent[cells[y, x], heading]
        height, width = cells.shape
        return picture.swapaxes(1, 2).reshape(height * PIXELS, width * PIXELS, 3)

    def _draw(self) -> np.ndarray:
        return self._picture(self.grid, self.x, self.y, self.heading)

    def _turn(self, heading: int) -> Iterator[int]:
        """Yield the turns to a heading, the shorter way; right where both are equal."""
        right = (heading - self.heading) % 4
        yield from [LEFT] if right == 3 else [RIGHT] * right

    def _walk(self, heading: int, cells: int) -> Iterator[int]:
        """Yield the actions that turn to a heading and walk on from there."""
        if cells:
            yield from self._turn(heading)
            yield from [FORWARD] * cells

"""What the 2D tasks share: a MiniGrid world in numbers, its picture from a cache of tiles, walking.

MiniGrid draws its objects, once each; after that a picture is a table look-up, several times faster than
MiniGrid's own renderer (tests/envs/test_gridworld.py checks that the two are equal).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import extras
from envs.arguments import check_action, check_whole

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


@functools.cache
def tiles() -> tuple[np.ndarray, np.ndarray]:
    """Return the picture of every cell content, uint8 `[18, 8, 8, 3]`, and with the agent `[18, 4, 8, 8, 3]`.

    The second is indexed by heading too, and is black where the agent cannot stand.

    Raises:
        ImportError: minigrid is not installed; the message names the extra.
    """

    def module(name: str) -> Any:
        return extras.load(f"minigrid.core.{name}", "of the 2D family", "minigrid", "minigrid")

    things = module("world_object")
    kinds = [
        lambda colour: things.Goal(colour),  # MiniGrid's tile of one colour that can be walked on
        lambda colour: things.Door(colour, is_locked=True),
        lambda colour: things.Door(colour, is_open=True),
        lambda colour: things.Key(colour),
    ]
    objects = [None, things.Wall(), *(kind(colour) for kind in kinds for colour in COLOURS)]
    draw = functools.partial(module("grid").Grid.render_tile, tile_size=PIXELS)
    plain = np.stack([draw(thing) for thing in objects]).astype(np.uint8)
    agent = np.zeros((len(objects), 4, PIXELS, PIXELS, 3), np.uint8)
    for number in np.flatnonzero(WALKABLE):
        for heading in range(4):
            agent[number, heading] = draw(objects[number], agent_dir=heading)
    return plain, agent


class GridWorld(gymnasium.Env[np.ndarray, np.int64]):
    """A walled grid seen from above around the agent: base of the 2D tasks.

    - Observation, uint8 `[40, 40, 3]`: 5 x 5 tiles centred on the agent, north up whatever its heading, with
      nothing hidden by walls; the agent is a red triangle that points ahead. Beyond the outer wall are walls.
    - Actions: 0 turn left, 1 turn right, 2 forward; a task may add more. Walking into what cannot be walked
      on changes nothing, but takes a step.

    A task fills `grid` (uint8 `[height, width]`, numbers of cell contents) and places the agent in `_begin`,
    and handles its own actions and rewards in `_outcome`.

    Args:
        actions: number of actions.
        limit: steps after which an episode is truncated, at least 1.
        render_mode: None or 'rgb_array' (the whole world, `[8 height, 8 width, 3]`).

    Raises:
        ValueError: `limit` is out of range.
        ImportError: minigrid is not installed; the message names the extra.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(self, actions: int, limit: int, render_mode: str | None) -> None:
        self.limit = check_whole(type(self).__name__, "limit", limit, 1)
        self.render_mode = render_mode
        side = VIEW * PIXELS
        self.observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.action_space = spaces.Discrete(actions)
        self._actions = actions
        self._plain, self._agent = tiles()
        self._over = True  # step() asks for a reset

    def _begin(self) -> tuple[np.ndarray, int, int, int]:
        """Sample an episode: the grid, and x, y and heading of the agent."""
        raise NotImplementedError

    def _outcome(self, action: int) -> tuple[float, bool]:
        """Apply what an action does beyond moving; return the reward and whether the episode ends here."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Sample a new world and place the agent."""
        super().reset(seed=seed, options=options)
        grid, self.x, self.y, self.heading = self._begin()
        self._padded = np.pad(grid, MARGIN, constant_values=WALL)
        self.grid = self._padded[MARGIN:-MARGIN, MARGIN:-MARGIN]
        self._t, self._over = 0, False
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Turn, walk, or apply an action of the task's own.

        Raises:
            RuntimeError: the episode is over, or has not begun.
            ValueError: there is no such action.
        """
        if self._over:
            raise RuntimeError(
                f"{type(self).__name__}: the episode is over, or has not begun; call reset() first."
            )
        check_action(type(self).__name__, self._actions, action)
        self._t += 1
        if action == LEFT:
            self.heading = (self.heading - 1) % 4
        elif action == RIGHT:
            self.heading = (self.heading + 1) % 4
        elif action == FORWARD:
            x, y = self._ahead()
            if WALKABLE[self.grid[y, x]]:
                self.x, self.y = x, y
        reward, terminated = self._outcome(int(action))
        truncated = not terminated and self._t >= self.limit
        self._over = terminated or truncated
        return self._observe(), reward, terminated, truncated, {}

    def _ahead(self) -> tuple[int, int]:
        dx, dy = STEPS[self.heading]
        return self.x + dx, self.y + dy

    def _observe(self) -> np.ndarray:
        return self._picture(self._padded[self.y : self.y + VIEW, self.x : self.x + VIEW], MARGIN, MARGIN)

    def _picture(self, cells: np.ndarray, x: int, y: int) -> np.ndarray:
        """Draw cells `[h, w]` with the agent at (x, y): uint8 `[8 h, 8 w, 3]`."""
        picture = self._plain[cells]  # [h, w, 8, 8, 3]
        picture[y, x] = self._agent[cells[y, x], self.heading]
        height, width = cells.shape
        return picture.swapaxes(1, 2).reshape(height * PIXELS, width * PIXELS, 3)

    def render(self) -> np.ndarray | None:
        """Draw the whole world from above, uint8 `[8 height, 8 width, 3]`; None without a render mode."""
        return None if self.render_mode is None else self._picture(self.grid, self.x, self.y)

    def _turn(self, heading: int) -> Iterator[int]:
        """Yield the turns to a heading, the shorter way; right where both are equal."""
        right = (heading - self.heading) % 4
        yield from [LEFT] if right == 3 else [RIGHT] * right

    def _walk(self, heading: int, cells: int) -> Iterator[int]:
        """Yield the actions that turn to a heading and walk on from there."""
        if cells:
            yield from self._turn(heading)
            yield from [FORWARD] * cells

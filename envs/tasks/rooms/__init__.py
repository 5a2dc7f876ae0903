"""Two, Four and Ten Rooms (S4WM, Deng, Park, Ahn, 2023), in 3D, with and without teleport."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from gymnasium import spaces

from envs import ball
from envs.arguments import check_flag, check_one_of, check_whole
from envs.ball import FORWARD, FORWARD_LEFT, FORWARD_RIGHT, LEFT, RIGHT, STAY
from envs.base import CheckedEnv
from envs.tasks.rooms.mujoco_renderer import MujocoRenderer
from envs.tasks.rooms.raycaster import Raycaster
from envs.tasks.rooms.scene import CELL, SPHERE, Plan, sample

FRAMES: dict[int, tuple[int, int]] = {2: (301, 200), 4: (501, 500), 10: (1101, 900)}  # context, query
CUE = 20  # true frames that a model is given after a teleport
RENDERERS = ("raycast", "mujoco")

# Memory Maze's rolling ball, as it was measured there: steady speed and turn, and how fast they are reached.
CONTROL = 0.25  # seconds per step
SUBSTEPS = 5
SUBSTEP = CONTROL / SUBSTEPS
SPEED, TURN = 2.1, ball.TURN / CONTROL  # metres and radians per second
SPEED_SHARE = 1 - math.exp(
    -SUBSTEP / 0.208
)  # of the way to the steady speed in a substep; the lag in seconds
TURN_SHARE = 1 - math.exp(-SUBSTEP / 0.038)
BODY = 0.25  # half the width of the agent


class Rooms(CheckedEnv):
    """Walk through rooms; remember what stands where, and how the rooms look.

    2, 4 (2 x 2) or 10 (2 x 5) rooms of 5 x 5 cells, each joined to its neighbours by doorways. Every episode
    samples a wall colour for each room, and the colours and places of its objects.

    - Observation, uint8 `[64, 64, 3]`: first person, 80 degrees.
    - Action, Discrete(6): stay, forward, left, right, forward and left, forward and right; 4 per second.
      Walls and objects are solid.
    - Reward: always 0. This is a task for world models, measured by the error of the predicted pictures.
    - Length: always `context_length` + query frames, then the episode is truncated.

    `info["probe"]` holds what no agent is shown, in cells: `agent_pos` `[2]`, `agent_dir` `[2]`, `objects`
    `[n, 2]`, float32.

    `script` walks as the paper's agent does: in the context (301, 501, 1101 frames) it enters every room,
    nearest first, and turns round in it once, then it walks to random places; in the query (200, 500, 900
    frames) it goes on doing so. With `teleport`, the first frame of the query is seen from a pose drawn
    uniformly from those of the context, at rest; the action that leads there is ignored. A model is then
    given 20 true frames (`cue_length`) and has to recall the rest.

    From the paper: the numbers of rooms and frames, that places and colours are drawn for each episode, that
    the context sees every room. The look and the scale are Memory Maze's. Chosen here: 5 x 5 cells and the
    doorways, one object a room, solid objects, the order of visits, `cue_length`, what is drawn uniformly,
    and the motion: speed and turn follow the action with a lag, fitted to Memory Maze's rolling ball.

    Args:
        count: number of rooms: 2, 4 or 10.
        objects: objects in each room, 1 or 2.
        teleport: see above.
        renderer: 'raycast' (NumPy alone) or 'mujoco' (the look of Memory Maze; needs GL and the extra
            memory3d).
        render_mode: None or 'rgb_array' (what the agent sees).

    Raises:
        ValueError: an argument is out of range.
        ImportError: the renderer lacks a package or GL; the message says what to install.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium declares it so)
    optimum: float = 0.0

    def __init__(
        self,
        count: int = 2,
        objects: int = 1,
        teleport: bool = False,
        renderer: str = "raycast",
        render_mode: str | None = None,
    ) -> None:
        self.count = check_one_of("Rooms", "count", count, FRAMES)
        self.objects = check_whole("Rooms", "objects", objects, 1, 2)
        self.teleport = check_flag("Rooms", "teleport", teleport)
        self.renderer = check_one_of("Rooms", "renderer", renderer, RENDERERS)
        super().__init__(spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(6), render_mode)
        self.context_length, query = FRAMES[count]
        self.cue_length = CUE if teleport else 0
        self._steps = self.context_length + query - 1
        self._plan = Plan(count)
        self._open: list[list[bool]] = (self._plan.room >= 0).tolist()
        self._renderer: Raycaster | MujocoRenderer = (
            Raycaster(self._plan) if renderer == "raycast" else MujocoRenderer(self._plan, objects * count)
        )

    def _begin(self) -> None:
        """Sample a world, and place the agent in the middle of a free cell, in a random direction."""
        self.scene = sample(self._plan, self.objects, self.np_random)
        self._renderer.load(self.scene)
        self._free = self._plan.room >= 0
        self._spheres: list[tuple[float, float]] = [(x, y) for x, y in self.scene.places.tolist()]
        for x, y in self._spheres:
            self._free[int(y / CELL), int(x / CELL)] = False
        self._cells = [(row, column) for row, column in np.argwhere(self._free).tolist()]
        row, column = self._cells[self.np_random.integers(len(self._cells))]
        self.x, self.y = CELL * (column + 0.5), CELL * (row + 0.5)
        self.heading = float(self.np_random.uniform(-math.pi, math.pi))
        self._speed = self._turn = 0.0
        self._poses = [(self.x, self.y, self.heading)]

    def _act(self, action: int) -> tuple[float, bool, bool]:
        if self.teleport and self._t == self.context_length:
            self.x, self.y, self.heading = self._poses[self.np_random.integers(len(self._poses))]
            self._speed = self._turn = 0.0
        else:
            self._move(action)
            self._poses.append((self.x, self.y, self.heading))
        return 0.0, False, self._t >= self._steps

    def _move(self, action: int) -> None:
        speed = SPEED if action in (FORWARD, FORWARD_LEFT, FORWARD_RIGHT) else 0.0
        turn = TURN * ((action in (LEFT, FORWARD_LEFT)) - (action in (RIGHT, FORWARD_RIGHT)))
        for _ in range(SUBSTEPS):
            self._speed += (speed - self._speed) * SPEED_SHARE
            self._turn += (turn - self._turn) * TURN_SHARE
            self.heading += self._turn * SUBSTEP
            ahead = self._speed * SUBSTEP
            if ahead > 1e-6:
                self._slide(ahead * math.cos(self.heading), ahead * math.sin(self.heading))
        self.heading = math.remainder(self.heading, math.tau)

    def _slide(self, dx: float, dy: float) -> None:
        """Slide along walls and around objects that are in the way."""
        x, y = self.x, self.y
        if self._fits(x + dx, y):
            x += dx
        if self._fits(x, y + dy):
            y += dy
        for sphere_x, sphere_y in self._spheres:
            away = math.hypot(x - sphere_x, y - sphere_y)
            if away < SPHERE + BODY:
                x = sphere_x + (x - sphere_x) * (SPHERE + BODY) / away
                y = sphere_y + (y - sphere_y) * (SPHERE + BODY) / away
                if not self._fits(x, y):
                    return
        self.x, self.y = x, y

    def _fits(self, x: float, y: float) -> bool:
        south, north = self._open[int((y - BODY) / CELL)], self._open[int((y + BODY) / CELL)]
        west, east = int((x - BODY) / CELL), int((x + BODY) / CELL)
        return south[west] and south[east] and north[west] and north[east]

    def _observe(self) -> np.ndarray:
        return self._renderer.render(self.x, self.y, self.heading)

    _draw = _observe

    def _info(self) -> dict[str, Any]:
        probe = {
            "agent_pos": np.array([self.x, self.y], np.float32) / np.float32(CELL),
            "agent_dir": np.array([math.cos(self.heading), math.sin(self.heading)], np.float32),
            "objects": (self.scene.places / CELL).astype(np.float32),
        }
        return {"probe": probe}

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()

    def script(self) -> Iterator[int]:
        """Yield the actions of the paper's agent, from the start of an episode on, without end.

        The next action depends on where the agent is: step the environment after each.
        """
        yield from islice(self._tour(), self.context_length)
        yield from self._wander()  # from where the agent is then, teleported or not

    def _tour(self) -> Iterator[int]:
        """Enter every room, nearest first, and turn round in it once; then walk to random places."""
        waiting = set(self._plan.centres)
        while waiting:
            paths = self._paths()
            nearest = min(waiting, key=lambda cell: (len(paths[cell]), cell))
            waiting.remove(nearest)
            yield from self._follow(paths[nearest])
            side = LEFT if self.np_random.integers(2) else RIGHT
            yield from [side] * math.ceil(math.tau / ball.TURN)
        yield from self._wander()

    def _wander(self) -> Iterator[int]:
        while True:
            cell = self._cells[self.np_random.integers(len(self._cells))]
            yield from self._follow(self._paths()[cell])
            yield STAY

    def _paths(self) -> dict[ball.Cell, list[ball.Cell]]:
        """Return the shortest path (cells after the present one) to every free cell."""
        return ball.paths(self._free, (int(self.y / CELL), int(self.x / CELL)))

    def _follow(self, path: list[ball.Cell]) -> Iterator[int]:
        """Walk from the middle of one cell to the next."""
        for row, column in path:
            x, y = CELL * (column + 0.5), CELL * (row + 0.5)
            while math.hypot(x - self.x, y - self.y) > CELL / 5:
                yield ball.steer(x - self.x, y - self.y, self.heading)

"""Memory Maze (Pasukonis, Lillicrap, Hafner, 2022), as `memory_maze:9x9`, id `MemoryMaze-9x9-v0`."""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces

from envs import ball
from envs.arguments import Value, check_flag, check_one_of
from envs.base import CheckedEnv
from envs.suites import extras, gl
from envs.suites.maze_view import NEEDS, MazeView

SIZES = ("9x9", "11x11", "13x13", "15x15")
# What the constructor of a labmaze is given: a maze can be seeded by its constructor only.
MAZE = "height width max_rooms room_min_size room_max_size max_variations spawns_per_room objects_per_room"
NOISE = 0.2  # share of the script's steps whose action is random
STEPS = 1000  # of the script
REACH = 3.0  # metres: an object's radius and the ball's are 0.85 together, and a step goes 0.5 at most


def _package() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Import the package's task constructors, bypassing its __init__, which needs old gym; mjcf, mujoco."""
    gl.require("Memory Maze")
    if "memory_maze" not in sys.modules:
        found = importlib.util.find_spec("memory_maze")
        if found is None:
            extras.load("memory_maze", *NEEDS)  # which says what to install
        assert found is not None
        sys.modules["memory_maze"] = importlib.util.module_from_spec(found)  # not executed
    tasks = extras.load("memory_maze.tasks", *NEEDS)
    return tasks, extras.load("dm_control.mjcf", *NEEDS), extras.load("mujoco", *NEEDS)


def names() -> list[str]:
    """Return the names of the tasks, the sizes of the mazes, from small to large."""
    return list(SIZES)


class MemoryMaze(CheckedEnv):
    """Again and again find the object that has the colour of the picture's border.

    The package's task, step for step and pixel for pixel (a test checks that they are equal), several times
    faster: contacts are looked for near objects only, walls that cannot be seen are not drawn, a new maze
    reuses the textures of the first one, and observables that are not used are not computed.

    - Observation, uint8 `[64, 64, 3]`: first person, the border in the colour of the object wanted.
    - Action, Discrete(6): stay, forward, left, right, forward and left, forward and right; 4 per second.
    - Reward: 1 for touching the wanted object; then the next one is drawn.
    - Time limit: 1000, 2000, 3000, 4000 steps at 9x9, 11x11, 13x13, 15x15; then the episode is truncated. It
      never terminates.

    `info["probe"]` holds what no agent is shown, in cells, x to the east and y to the north: `agent_pos`
    float32 `[2]`, `agent_dir` float32 `[2]`, `targets_pos` float32 `[objects, 2]`, `maze_layout` uint8
    `[size, size]`, indexed y, x, 1 where one can walk; and `targets_vec` float32 `[objects, 2]`, how far to
    the right and ahead of the agent the objects are.

    `script` walks as in the benchmark's offline data: 1000 steps at every size, to random places on shortest
    paths, with noise in the actions (here one in five is random; how many were there is not known).

    Episodes are seeded: `reset(seed=s)` begins the episode that the package's `seed=s` begins with. A process
    should hold only one of these environments: use mode 'async' for vectors of them.

    Args:
        name: one of `SIZES`.
        fast: draw without multisampling: faster, but not quite the same pictures.
        render_mode: None or 'rgb_array' (what the agent sees).

    Raises:
        ValueError: an argument is out of range.
        ImportError: the package is not installed, or nothing can draw here; the message says what to install.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(self, name: str, fast: Value = False, render_mode: str | None = None) -> None:
        self.name = check_one_of("MemoryMaze", "name", name, SIZES)
        self.fast = check_flag(f"memory_maze:{name}", "fast", fast)
        super().__init__(spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(6), render_mode)
        tasks, self._mjcf, self._mujoco = _package()
        logging.getLogger("absl").addFilter(_is_news)
        env = getattr(tasks, f"memory_maze_{name}")(seed=0)
        self._controls = env.action_set
        while hasattr(env, "env"):
            env = env.env  # past the wrappers: `_observe` does what they do
        self._env, self._task = env, env.task
        for observable in self._task.observables.values():
            observable.enabled = False
        env._recompile_physics = self._recompile
        self._camera = self._task._walker.observables.egocentric_camera._mjcf_element.full_identifier
        self._view = MazeView(64, self.fast)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in a new maze."""
        if seed is not None:
            random, maze = np.random.RandomState(seed), self._task._maze_arena.maze
            known = {key: getattr(maze, key) for key in MAZE.split()}
            maze.__init__(**known, simplify=True, random_seed=random.randint(2**31))
            self._env.random_state.set_state(random.get_state())
        return super().reset(seed=seed, options=options)

    def _begin(self) -> None:
        self._env.reset()
        physics = self._env.physics
        self._model, self._data = physics.model.ptr, physics.data.ptr
        self._view.load(physics, self._camera)
        self._body = physics.model.name2id(self._task._walker.root_body.full_identifier, "body")
        self._spheres = [target._geom_id for target in self._task._targets]
        cells = np.flip(
            self._task._maze_arena.maze.entity_layer[1:-1, 1:-1], 0
        )  # without the outer walls, south first
        self._layout = np.isin(cells, [" ", "P", "G"]).astype(np.uint8)

    def _recompile(self) -> None:
        """Do what dm-control's environment does for a new maze, leaving the textures to the view."""
        self._env._physics.free()
        root = self._task.root_entity.mjcf_model
        xml = self._view.hollow(root.to_xml_string(), root.get_assets())
        self._env._physics = self._mjcf.Physics.from_xml_string(xml)

    def _act(self, action: int) -> tuple[float, bool, bool]:
        physics, random = self._env.physics, self._env.random_state
        self._env._hooks.before_step(physics, self._controls[action], random)
        with physics.check_invalid_state():
            self._simulate(self._task.physics_steps_per_control_step)
        self._env._hooks.after_step(physics, random)
        return float(self._task.get_reward(physics)), False, bool(self._data.time >= self._env._time_limit)

    def _simulate(self, substeps: int) -> None:
        """Do what dm-control does in a control step, but look at contacts only where an object is near."""
        mujoco, model, data = self._mujoco, self._model, self._data
        places = data.geom_xpos[self._spheres] - data.xpos[self._body]
        if (places**2).sum(1).min() > REACH**2:
            mujoco.mj_step2(model, data)
            mujoco.mj_step(model, data, substeps - 1)
            mujoco.mj_step1(model, data)
            return
        for _ in range(substeps):
            mujoco.mj_step2(model, data)
            mujoco.mj_step1(model, data)
            if data.ncon:
                self._touch(set(data.contact.geom.ravel().tolist()))

    def _touch(self, geoms: set[int]) -> None:
        for geom, target in zip(self._spheres, self._task._targets, strict=True):
            if geom in geoms and not target._activated:
                target._activated = True
                self._env.physics.bind(target._material).rgba[-1] = 0

    def _observe(self) -> np.ndarray:
        image = self._view.picture()
        border = (self._task._target_colors[self._task._current_target_ix] * 255 * 0.7).astype(np.uint8)
        image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = border
        self._image = image
        return image

    def _draw(self) -> np.ndarray:
        return self._image.copy()

    def _info(self) -> dict[str, Any]:
        middle = np.array(self._layout.shape[::-1]) / 2
        cell = self._task._maze_arena.xy_scale
        turned = self._data.xmat[self._body].reshape(3, 3)
        away = self._data.geom_xpos[self._spheres] - self._data.xpos[self._body]
        probe = {
            "agent_pos": (self._data.xpos[self._body, :2] / cell + middle).astype(np.float32),
            "agent_dir": turned[:2, 1].astype(np.float32),
            "targets_pos": (self._data.geom_xpos[self._spheres, :2] / cell + middle).astype(np.float32),
            "targets_vec": (away @ turned)[:, :2].astype(np.float32) / np.float32(cell),
            "maze_layout": self._layout.copy(),
        }
        return {"probe": probe}

    def script(self) -> Iterator[int]:
        """Yield the actions of a walk from random place to random place.

        The next action depends on where the agent is: step the environment after each.
        """
        random, cells = self.np_random, [(row, column) for row, column in np.argwhere(self._layout).tolist()]
        goal, ways = (-1, -1), dict[ball.Cell, list[ball.Cell]]()
        for _ in range(STEPS):
            probe = self._info()["probe"]
            x, y = probe["agent_pos"].tolist()
            here = int(y), int(x)
            if here == goal or not ways:
                goal = cells[random.integers(len(cells))]
                ways = ball.paths(self._layout, goal)  # from there, to be walked the other way
            if random.random() < NOISE or not ways.get(here):
                yield int(random.integers(6))
                continue
            row, column = [goal, *ways[here]][-2]
            heading = math.atan2(probe["agent_dir"][1], probe["agent_dir"][0])
            yield ball.steer(column + 0.5 - x, row + 0.5 - y, heading)

    def close(self) -> None:
        """Free the simulator."""
        if self._env._physics is not None:
            self._view.close()
            self._env.close()
        self._over = True


def _is_news(record: logging.LogRecord) -> bool:
    return "Cannot set velocity on Entity with no free joint" not in record.getMessage()  # at every reset


build = MemoryMaze

"""Memory Maze (Pasukonis, Lillicrap, Hafner, 2022), as `memory_maze:9x9`."""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import extras, gl
from envs.arguments import Value

SIZES = ("9x9", "11x11", "13x13", "15x15")
_NEEDS = ("'memory_maze:...'", "memory3d", "memory_maze dm_control mujoco labmaze")


def _tasks() -> ModuleType:
    """Import the package's task constructors past its __init__, which wants the gym of old."""
    gl.require("Memory Maze")
    if "memory_maze" not in sys.modules:
        found = importlib.util.find_spec("memory_maze")
        if found is None:
            return extras.load("memory_maze", *_NEEDS)  # which says what to install
        sys.modules["memory_maze"] = importlib.util.module_from_spec(found)  # not executed
    return extras.load("memory_maze.tasks", *_NEEDS)


def names() -> list[str]:
    """Return the names of the tasks, the sizes of the mazes, from small to large."""
    return list(SIZES)


def arguments(_name: str) -> list[str]:
    """Return the names of the arguments that every size takes."""
    return ["fast"]


def build(name: str, fast: Value = False) -> gymnasium.Env:
    """Build a maze; see `MemoryMaze`.

    Raises:
        ValueError: `fast` is not a bool.
        ImportError: the package is not installed, or nothing can draw here; the message says what to install.
    """
    if not isinstance(fast, bool):
        raise ValueError(f"memory_maze:{name}: argument 'fast' must be true or false, got {fast!r}.")
    return MemoryMaze(name, fast)


class MemoryMaze(gymnasium.Env[np.ndarray, np.int64]):
    """Find again and again the object that has the colour of the picture's border.

    The package's task, step for step (a test holds the two equal), with contacts looked up at once and one
    camera an episode, which is several times faster.

    - Observation, uint8 `[64, 64, 3]`: first person, the border in the colour of the object wanted.
    - Action, Discrete(6): stay, forward, left, right, forward and left, forward and right; 4 a second.
    - Reward: 1 for touching the wanted object; the next one is drawn then.
    - Time limit: 1000, 2000, 3000, 4000 steps at 9x9, 11x11, 13x13, 15x15; then the episode is truncated. It
      never terminates.

    `info["probe"]` holds what no agent is shown, in cells, x to the east and y to the north: `agent_pos`
    float32 `[2]`, `agent_dir` float32 `[2]`, `targets` float32 `[objects, 2]`, `maze_layout` uint8
    `[size, size]`, indexed y, x, 1 where one can walk.

    Episodes are seeded: `reset(seed=s)` begins what the package's `seed=s` begins with. A process should hold
    one of these environments (it takes over 1 GB): vectors of them in mode 'async'.

    Args:
        name: one of `SIZES`.
        fast: draw without shadows, reflections and multisampling: faster, but not quite the same pictures.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(self, name: str, fast: bool = False) -> None:
        tasks = _tasks()
        logging.getLogger("absl").addFilter(_is_news)
        make = getattr(tasks, f"memory_maze_{name}")
        self._env = make(global_observables=True, seed=0)
        self._task = self._env.task
        for target in self._task._targets:
            target._update_activation = functools.partial(_update_activation, target)
        egocentric = self._task._walker.observables.egocentric_camera
        egocentric._callable = functools.partial(_draw, egocentric, fast)
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(6)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in a new maze."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            random = np.random.RandomState(seed)
            maze = self._task._maze_arena.maze
            maze.__init__(  # a labmaze can be seeded by its constructor only
                **{key: getattr(maze, key) for key in _MAZE}, simplify=True, random_seed=random.randint(2**31)
            )
            self._env.random_state.set_state(random.get_state())
        return self._observe(self._env.reset())

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move for a quarter of a second.

        Raises:
            ValueError: there is no such action.
            RuntimeError: the episode is over, or has not begun.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"MemoryMaze: an action must be a whole number from 0 to 5, got {action!r}.")
        if self._env._reset_next_step:
            raise RuntimeError("MemoryMaze: the episode is over, or has not begun; call reset() first.")
        moment = self._env.step(int(action))
        observation, info = self._observe(moment)
        return observation, float(moment.reward), False, moment.last(), info

    def _observe(self, moment: Any) -> tuple[np.ndarray, dict[str, Any]]:
        seen = moment.observation
        probe = {
            "agent_pos": seen["agent_pos"].astype(np.float32),
            "agent_dir": seen["agent_dir"].astype(np.float32),
            "targets": seen["targets_pos"].astype(np.float32),
            "maze_layout": seen["maze_layout"],
        }
        return seen["image"], {"probe": probe}

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


_MAZE = (
    "height",
    "width",
    "max_rooms",
    "room_min_size",
    "room_max_size",
    "max_variations",
    "spawns_per_room",
    "objects_per_room",
)


def _is_news(record: logging.LogRecord) -> bool:
    return "Cannot set velocity on Entity with no free joint" not in record.getMessage()  # at every reset


def _update_activation(target: Any, physics: Any) -> None:
    """Do what dm-control's TargetSphere does at every substep, without its loop over contacts."""
    if not target._activated and (physics.data.ptr.contact.geom == target._geom_id).any():
        target._activated = True
        physics.bind(target._material).rgba[-1] = 0


def _draw(observable: Any, fast: bool, physics: Any) -> Any:
    """Return the function that draws an observable's picture, with one camera for the whole episode."""
    camera = gl.camera(physics, observable._mjcf_element.full_identifier, observable.width, fast)
    return lambda: camera.render().copy()

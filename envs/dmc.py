"""dm-control's suite, from vectors or pixels, as `dmc:walker_walk`, `dmc:walker_walk:observation=pixels`.

With gymnasium: `gymnasium.make("DMControl-v0", name="walker_walk")`.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import extras, gl
from envs.arguments import Value, check_one_of, check_whole, did_you_mean

OBSERVATIONS = ("vectors", "masked", "pixels")

# The entries that are not velocities in quantities that hold some: (domain, key) -> slices.
_PARTS: dict[tuple[str, str], tuple[slice, ...]] = {
    ("quadruped", "egocentric_state"): (slice(0, 16), slice(32, 44)),  # joint angles, actuators
    ("quadruped", "imu"): (slice(0, 3),),  # accelerometer
    ("quadruped", "ball_state"): (slice(0, 3),),
    ("dog", "inertial_sensors"): (slice(0, 3),),  # accelerometer
    ("dog", "ball_state"): (slice(0, 3),),
}
_RENDERED = 240  # pixels of `render()`, height and width
_CAMERAS = {"quadruped": 2}  # its camera 0 does not follow it


def _positions(domain: str, key: str, every: np.ndarray) -> np.ndarray:
    """Return those of the indices `every` of a quantity that are not velocities."""
    if "vel" in key:
        return every[:0]
    parts = _PARTS.get((domain, key))
    return every if parts is None else np.concatenate([every[part] for part in parts])


def _suite() -> ModuleType:
    gl.backend()  # before mujoco is imported, which settles it for the process
    with warnings.catch_warnings():
        # On a machine without a display glfw warns about it; nothing is drawn here.
        warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
        return extras.load("dm_control.suite", "'dmc:...'", "dmc", "dm_control mujoco")


def _tasks() -> dict[str, tuple[str, str]]:
    return {f"{domain}_{task}": (domain, task) for domain, task in _suite().ALL_TASKS}


def names() -> list[str]:
    """Return the task names, `<domain>_<task>`, sorted.

    Raises:
        ImportError: dm-control is not installed; the message names the extra.
    """
    return sorted(_tasks())


def arguments(_name: str) -> list[str]:
    """Return the names of the arguments that every task of the suite takes."""
    return ["fast", "observation", "repeat", "size"]


def build(
    name: str = "",
    repeat: Value = 2,
    observation: Value = "vectors",
    size: Value | None = None,
    fast: Value | None = None,
    render_mode: str | None = None,
) -> gymnasium.Env:
    """Build a task of the suite, one of `names()`; see `DMControl`.

    Raises:
        ValueError: there is no such task, an argument is out of range, or `size` or `fast` is given without
            pixels.
        ImportError: pixels are asked for and nothing can draw them; the message says what to install.
    """
    tasks = _tasks()
    if name not in tasks:
        near = did_you_mean(name, tasks) or f" There are: {', '.join(sorted(tasks))}."
        raise ValueError(f"DMControl: argument 'name' must be a task of the suite, got {name!r}.{near}")
    observation = check_one_of(f"dmc:{name}", "observation", observation, OBSERVATIONS)
    if observation == "pixels":
        gl.require(f"Task 'dmc:{name}:observation=pixels'")
    elif size is not None or fast is not None:
        raise ValueError(f"dmc:{name}: arguments 'size' and 'fast' are for observation=pixels only.")
    if fast not in (None, True, False):
        raise ValueError(f"dmc:{name}: argument 'fast' must be true or false, got {fast!r}.")
    return DMControl(
        *tasks[name],
        repeat=check_whole(f"dmc:{name}", "repeat", repeat, 1),
        observation=observation,
        size=check_whole(f"dmc:{name}", "size", 64 if size is None else size, 8, 480),
        fast=bool(fast),
        render_mode=render_mode,
    )


class DMControl(gymnasium.Env[Any, np.ndarray]):
    """A dm-control suite task (Tunyasuvunakool et al., 2020) as a gymnasium environment.

    - Observation 'vectors': a Dict of float64 vectors, the simulator's own quantities, named as in the suite
      (`orientations`, `velocity`, ...), flattened; scalars become vectors of length 1.
      Observation 'masked': the same without velocities, which have to be inferred from several steps. Sensors
      of acceleration, force and touch stay, and so do the actuators' states.
      Observation 'pixels': uint8 `[size, size, 3]` from the suite's camera 0 (2 for the quadruped).
    - Action: Box, the suite's own bounds and shape; each action is applied `repeat` times.
    - Reward: the sum over the repeats. An episode lasts 1000 / repeat steps and its return is at most 1000,
      which no policy reaches: the optimum is not known.
    - End: the suite's time limit ends an episode with discount 1, which is a truncation. Discount 0 (in few
      tasks) is a termination.

    Args:
        domain, task: as in `dm_control.suite.load`.
        repeat: control steps per action, at least 1.
        observation: one of `OBSERVATIONS`.
        size: height and width of the picture, 8 to 480.
        fast: draw without shadows, reflections and multisampling: several times faster in software, but the
            pictures are not quite those of published results.
        render_mode: None or 'rgb_array': the picture that is observed with 'pixels', else 240 x 240 from the
            same camera.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        domain: str,
        task: str,
        repeat: int = 2,
        observation: str = "vectors",
        size: int = 64,
        fast: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self._env = _suite().load(domain, task, task_kwargs={"random": 0})
        self._repeat = repeat
        self._over = True  # step() asks for a reset
        self.render_mode = render_mode
        self.metadata = self.metadata | {"render_fps": round(1 / (repeat * self._env.control_timestep()))}
        self._pixels, self._fast = observation == "pixels", fast
        self._number, self._size = _CAMERAS.get(domain, 0), size if self._pixels else _RENDERED
        self._camera: Any = None  # made when something is to be drawn
        self._kept: dict[str, np.ndarray] = {}  # key -> indices into the flattened quantity
        for key, spec in self._env.observation_spec().items():
            every = np.arange(int(np.prod(spec.shape)))
            kept = _positions(domain, key, every) if observation == "masked" else every
            if len(kept):
                self._kept[key] = kept
        self.observation_space: spaces.Space
        if self._pixels:
            self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        else:
            self.observation_space = spaces.Dict(
                {key: spaces.Box(-np.inf, np.inf, kept.shape, np.float64) for key, kept in self._kept.items()}
            )
        action = self._env.action_spec()
        self.action_space: spaces.Box = spaces.Box(
            np.broadcast_to(action.minimum, action.shape).astype(np.float32),
            np.broadcast_to(action.maximum, action.shape).astype(np.float32),
            dtype=np.float32,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; a seed restarts the task's random numbers in place, without reloading it."""
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._env.task.random.seed(seed)
        self._over = False
        return self._observe(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply the action `repeat` times, or until the episode ends.

        Raises:
            RuntimeError: the episode is over, or has not begun.
            ValueError: the action has another shape, is out of bounds, or is NaN.
        """
        if self._over:
            raise RuntimeError("DMControl: the episode is over, or has not begun; call reset() first.")
        action, space = np.asarray(action), self.action_space
        if action.shape != space.shape or not ((space.low <= action) & (action <= space.high)).all():
            raise ValueError(f"DMControl: an action must be in {space}, got {action!r}.")
        reward = 0.0
        for _ in range(self._repeat):
            moment = self._env.step(action)
            reward += moment.reward
            if moment.last():
                break
        self._over = moment.last()
        terminated = moment.last() and moment.discount == 0.0
        truncated = moment.last() and not terminated
        return self._observe(moment.observation), reward, terminated, truncated, {}

    def _observe(self, observation: dict[str, Any]) -> Any:
        if self._pixels:
            return self._draw()
        return {key: np.ravel(observation[key])[kept] for key, kept in self._kept.items()}

    def _draw(self) -> np.ndarray:
        if self._camera is None:
            gl.require("A picture of a dm-control task")
            self._camera = gl.camera(self._env.physics, self._number, self._size, self._fast)
        return self._camera.render().copy()  # it draws into one buffer

    def render(self) -> np.ndarray | None:
        """Draw the scene, uint8 `[height, width, 3]`; None without a render mode.

        Raises:
            ImportError: nothing can draw here; the message says what to install.
        """
        return None if self.render_mode is None else self._draw()

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

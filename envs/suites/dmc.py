"""dm-control's suite, from vectors or pixels, as `dmc:walker_walk`, `dmc:walker_walk:observation=pixels`.

With gymnasium: `gymnasium.make("DMControl-v0", name="walker_walk")`.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.arguments import Value, check_flag, check_one_of, check_whole
from envs.base import CheckedEnv
from envs.suites import extras, gl

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


def _loaded(domain: str, task: str) -> Any:
    try:
        return _suite().load(domain, task, task_kwargs={"random": 0})
    except AttributeError as error:  # it looks for each of MuJoCo's structures, which differ between versions
        raise ImportError(
            f"dm-control {version('dm-control')} does not work with mujoco {version('mujoco')} ({error}): "
            f"pip install -e '.[dmc]'"
        ) from error


def names() -> list[str]:
    """Return the task names, `<domain>_<task>`, sorted.

    Raises:
        ImportError: dm-control is not installed; the message names the extra.
    """
    return sorted(_tasks())


class DMControl(CheckedEnv):
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
        name: one of `names()`.
        repeat: control steps per action, at least 1.
        observation: one of `OBSERVATIONS`.
        size: height and width of the picture, 8 to 480; by default 64.
        fast: draw without shadows, reflections and multisampling: several times faster in software, but the
            pictures are not quite those of published results.
        render_mode: None or 'rgb_array': the picture that is observed with 'pixels', else 240 x 240 from the
            same camera.

    Raises:
        ValueError: there is no such task, an argument is out of range, or `size` or `fast` is given without
            pixels.
        ImportError: pixels are asked for and nothing can draw them, or dm-control and MuJoCo are of versions
            that do not fit; the message says what to install.
    """

    def __init__(
        self,
        name: str = "",
        repeat: Value = 2,
        observation: Value = "vectors",
        size: Value | None = None,
        fast: Value | None = None,
        render_mode: str | None = None,
    ) -> None:
        tasks, owner = _tasks(), f"dmc:{name}"
        check_one_of("DMControl", "name", name, sorted(tasks))
        self._repeat = check_whole(owner, "repeat", repeat, 1)
        observation = check_one_of(owner, "observation", observation, OBSERVATIONS)
        self._pixels = observation == "pixels"
        if self._pixels:
            gl.require(f"Task '{owner}:observation=pixels'")
        elif size is not None or fast is not None:
            raise ValueError(f"{owner}: arguments 'size' and 'fast' are for observation=pixels only.")
        size = check_whole(owner, "size", 64 if size is None else size, 8, 480)
        self._fast = check_flag(owner, "fast", False if fast is None else fast)
        domain, task = tasks[name]
        self._env = _loaded(domain, task)
        self.metadata = self.metadata | {
            "render_fps": round(1 / (self._repeat * self._env.control_timestep()))
        }
        self._number, self._size = _CAMERAS.get(domain, 0), size if self._pixels else _RENDERED
        self._camera: Any = None  # made when something is to be drawn
        self._kept: dict[str, np.ndarray] = {}  # key -> indices into the flattened quantity
        for key, spec in self._env.observation_spec().items():
            every = np.arange(int(np.prod(spec.shape)))
            kept = _positions(domain, key, every) if observation == "masked" else every
            if len(kept):
                self._kept[key] = kept
        space: spaces.Space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        if not self._pixels:
            space = spaces.Dict(
                {key: spaces.Box(-np.inf, np.inf, kept.shape, np.float64) for key, kept in self._kept.items()}
            )
        action = self._env.action_spec()
        low, high = np.broadcast_arrays(action.minimum, action.maximum, np.empty(action.shape))[:2]
        super().__init__(space, spaces.Box(low.astype(np.float32), high.astype(np.float32)), render_mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; a seed restarts the task's random numbers in place, without reloading it."""
        if seed is not None:
            self._env.task.random.seed(seed)
        return super().reset(seed=seed, options=options)

    def _begin(self) -> None:
        self._values = self._env.reset().observation

    def _checked(self, action: Any) -> np.ndarray:
        action, space = np.asarray(action), self.action_space
        assert isinstance(space, spaces.Box)
        if action.shape != space.shape or not ((space.low <= action) & (action <= space.high)).all():
            raise ValueError(f"DMControl: an action must be in {space}, got {action!r}.")
        return action

    def _act(self, action: np.ndarray) -> tuple[float, bool, bool]:
        reward = 0.0
        for _ in range(self._repeat):
            moment = self._env.step(action)
            reward += moment.reward
            if moment.last():
                break
        self._values = moment.observation
        terminated = moment.last() and moment.discount == 0.0
        return reward, terminated, moment.last() and not terminated

    def _observe(self) -> Any:
        if self._pixels:
            return self._draw()
        return {key: np.ravel(self._values[key])[kept] for key, kept in self._kept.items()}

    def _draw(self) -> np.ndarray:
        if self._camera is None:
            gl.require("A picture of a dm-control task")
            self._camera = gl.camera(self._env.physics, self._number, self._size, self._fast)
        return self._camera.render().copy()  # it draws into one buffer

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


build = DMControl

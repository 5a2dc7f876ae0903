"""Classic control with the velocities taken away: what is left has to be integrated over time."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

# Short name -> gymnasium id, and the entries that stay: all others in these observations are velocities.
MASKED: dict[str, tuple[str, list[int]]] = {
    "cartpole_masked": ("CartPole-v1", [0, 2]),
    "pendulum_masked": ("Pendulum-v1", [0, 1]),
    "acrobot_masked": ("Acrobot-v1", [0, 1, 2, 3]),
    "mountain_car_masked": ("MountainCar-v0", [0]),
    "mountain_car_continuous_masked": ("MountainCarContinuous-v0", [0]),
}


def masked_id(source: str) -> str:
    """Return the id that the masked `source` is registered under: 'CartPoleMasked-v0' for 'CartPole-v1'."""
    return f"{source.split('-')[0]}Masked-v0"


def make_masked(source: str, keep: list[int], render_mode: str | None = None) -> gymnasium.Env:
    """Build gymnasium's `source` with only the entries `keep` of its observation, `[len(keep)]`.

    The source's time limit is left out: the registered id has it.

    Optimum of the masked CartPole: 500, the time limit. The others' optima are not known in closed form.
    """
    env = gymnasium.make(source, max_episode_steps=-1, disable_env_checker=True, render_mode=render_mode)
    whole, entries = env.observation_space, np.array(keep)
    assert isinstance(whole, spaces.Box)
    part: spaces.Box = spaces.Box(whole.low[entries], whole.high[entries], dtype=np.float32)
    return TransformObservation(env.unwrapped, lambda observation: observation[entries], part)

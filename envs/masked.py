"""Classic control with the velocities taken away: what is left has to be integrated over time."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

# Short name -> gymnasium id, and the entries that stay: all others in these observations are velocities.
MASKED: dict[str, tuple[str, tuple[int, ...]]] = {
    "cartpole_masked": ("CartPole-v1", (0, 2)),
    "pendulum_masked": ("Pendulum-v1", (0, 1)),
    "acrobot_masked": ("Acrobot-v1", (0, 1, 2, 3)),
    "mountain_car_masked": ("MountainCar-v0", (0,)),
    "mountain_car_continuous_masked": ("MountainCarContinuous-v0", (0,)),
}


class MaskObservation(gymnasium.ObservationWrapper[np.ndarray, Any, np.ndarray], RecordConstructorArgs):
    """Keep some entries of a vector observation and drop the rest.

    Observation: `[len(keep)]`, the entries `keep` of the wrapped `[d]`, in that order.

    Args:
        env: an environment with a Box observation of rank 1.
        keep: indices into it, each once.

    Raises:
        ValueError: the observation is not a vector, or `keep` does not index it.
    """

    def __init__(self, env: gymnasium.Env, keep: tuple[int, ...]) -> None:
        RecordConstructorArgs.__init__(self, keep=keep)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"MaskObservation needs a Box observation of rank 1, got {space} from {env}.")
        if not keep or len(set(keep)) != len(keep) or not all(0 <= i < space.shape[0] for i in keep):
            raise ValueError(
                f"MaskObservation: 'keep' must hold different indices from 0 to {space.shape[0] - 1}, got "
                f"{keep}."
            )
        self._keep = np.array(keep)
        self.observation_space = spaces.Box(space.low[self._keep], space.high[self._keep], dtype=space.dtype)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return the entries kept, `[len(keep)]`."""
        return observation[self._keep]


def masked_id(source: str) -> str:
    """Return the id that the masked `source` is registered under: 'CartPoleMasked-v0' for 'CartPole-v1'."""
    return f"{source.split('-')[0]}Masked-v0"


def make_masked(source: str, keep: tuple[int, ...], render_mode: str | None = None) -> gymnasium.Env:
    """Build gymnasium's `source` with only the entries `keep` of its observation.

    The source's time limit is left out: the registered id has it.

    Optimum of the masked CartPole: 500, the time limit. The others' optima are not known in closed form.
    """
    env = gymnasium.make(source, max_episode_steps=-1, disable_env_checker=True, render_mode=render_mode)
    return MaskObservation(env.unwrapped, keep)

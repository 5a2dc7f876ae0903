"""What the tasks share that are observed as a vector, or as a picture that says the same."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from envs.arguments import check_one_of
from envs.base import CheckedEnv

OBSERVATIONS = ("vectors", "pixels")
SIDE = 40
BACKGROUND = 24


class VectorOrPixels(CheckedEnv):
    """A task whose observation is `_vector()`, or `_picture()`, uint8 `[40, 40, 3]`.

    The picture is a function of the vector, and the vector of the picture: neither says more. A subclass
    implements both; it may draw more on `render` than the picture that is observed.

    Args:
        vector: the space of the vector.
        actions: number of actions.
        observation: one of `OBSERVATIONS`.
        render_mode: None or 'rgb_array'.

    Raises:
        ValueError: there is no such observation.
    """

    def __init__(self, vector: spaces.Box, actions: int, observation: str, render_mode: str | None) -> None:
        self.observation = check_one_of(type(self).__name__, "observation", observation, OBSERVATIONS)
        self._pixels = self.observation == "pixels"
        picture = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        super().__init__(picture if self._pixels else vector, spaces.Discrete(actions), render_mode)

    def _observe(self) -> np.ndarray:
        return self._picture() if self._pixels else self._vector()

    def _vector(self) -> np.ndarray:
        raise NotImplementedError

    def _picture(self) -> np.ndarray:
        raise NotImplementedError

    def _draw(self) -> np.ndarray:
        return self._picture()


def blank() -> np.ndarray:
    """Return a picture with nothing in it."""
    return np.full((SIDE, SIDE, 3), BACKGROUND, np.uint8)

"""Observation spaces of all kinds, and observations in them."""

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from worldmodels.encoder_decoder import is_image

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
OTHER = spaces.Box(-1, 1, (2,), np.float32)
SPACES = {
    "vector": {"vector": VECTOR},
    "vectors": {"position": VECTOR, "clock": OTHER},
    "image": {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)},
    "gray": {"image": spaces.Box(0, 255, (84, 84, 1), np.uint8)},
    "small": {"image": spaces.Box(0, 255, (7, 7, 3), np.uint8)},
    "not square": {"image": spaces.Box(0, 255, (40, 24, 3), np.uint8)},
    "two images": {
        "left": spaces.Box(0, 255, (16, 16, 3), np.uint8),
        "right": spaces.Box(0, 255, (40, 40, 1), np.uint8),
    },
    "mix": {"camera": spaces.Box(0, 255, (20, 16, 3), np.uint8), "clock": OTHER, "position": VECTOR},
}


def observations(space: spaces.Dict, *lead: int, seed: int = 0) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)
    return {
        key: torch.as_tensor(
            random.integers(0, 256, (*lead, *leaf.shape), np.uint8)
            if is_image(leaf)
            else random.normal(size=(*lead, *leaf.shape)).astype(np.float32)
        )
        for key, leaf in space.items()
    }

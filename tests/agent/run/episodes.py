"""Episodes on disk of a task without an environment: what fits, and what does not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from replay import chunk

SPACES = spaces.Dict({"vector": spaces.Box(-1, 1, (2,), np.float32)}), spaces.Discrete(3)


def rows(length: int, number: int = 0) -> dict[str, np.ndarray]:
    """One episode."""
    t = np.arange(length)
    return {
        "obs/vector": np.full((length, 2), number % 2, np.float32),
        "action": np.where(t == length - 1, 0, t % 3),
        "reward": (t == length - 1).astype(np.float32) * (number % 2),
        "is_first": t == 0,
        "is_last": t == length - 1,
        "is_terminal": t == length - 1,
    }


def write(folder: Path, episodes: int = 20, length: int = 5, **record: Any) -> Path:
    """A folder of episodes of one length, as `run.py collect` leaves it."""
    folder.mkdir(parents=True)
    known = {"format": chunk.FORMAT, "task": "made_up", "policy": "random", "seed": 0, "context_length": 2}
    (folder / chunk.RECORD).write_text(json.dumps(known | record))
    for number in range(episodes):
        chunk.write(chunk.path_of(folder, number), rows(length, number))
    return folder

"""MiniGrid tasks, from pictures of what the agent sees or from its symbols, as `minigrid:MemoryS7`."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.arguments import Value, check_one_of, check_whole
from envs.suites import extras
from envs.suites.facts import TellFacts

OBSERVATIONS = ("pixels", "symbols")

# The package registers size 17 with random corridor lengths only.
_ADDED: dict[str, tuple[str, dict[str, int]]] = {"MemoryS17": ("MiniGrid-MemoryS13-v0", {"size": 17})}


def _package() -> ModuleType:
    return extras.load("minigrid.wrappers", "'minigrid:...'", "minigrid", "minigrid")


def _registered() -> dict[str, str]:
    _package()
    found = (re.fullmatch(r"MiniGrid-(.+)-v0", env_id) for env_id in gymnasium.registry)
    return {match[1]: match[0] for match in found if match}


def names() -> list[str]:
    """Return the task names: MiniGrid's ids without 'MiniGrid-' and '-v0', sorted.

    Raises:
        ImportError: minigrid is not installed; the message names the extra.
    """
    return sorted({*_registered(), *_ADDED})


def build(
    name: str, tile: Value | None = None, observation: Value = "pixels", render_mode: str | None = None
) -> gymnasium.Env:
    """Build a MiniGrid task whose observation is the agent's 7 x 7 view.

    Observation 'pixels': uint8 `[7 tile, 7 tile, 3]`, the drawn view. Observation 'symbols': see `Symbols`.
    In both the direction is left out (the view turns with the agent), and so is the mission: it is the same
    sentence in every episode of the tasks that are allowed here. The Memory tasks tell facts, see `_memory`.

    Args:
        name: one of `names()`.
        tile: side of a tile in pixels, at least 1, for 'pixels' only; 8, the default, gives 56 x 56.
        observation: one of `OBSERVATIONS`.
        render_mode: the package's: None or 'rgb_array' (the whole world).

    Raises:
        ValueError: an argument is out of range, `tile` is given without pixels, or the mission changes from
            episode to episode.
    """
    owner = f"minigrid:{name}"
    observation = check_one_of(owner, "observation", observation, OBSERVATIONS)
    if observation == "symbols" and tile is not None:
        raise ValueError(f"{owner}: argument 'tile' is for observation=pixels only.")
    tile = check_whole(owner, "tile", 8 if tile is None else tile, 1)
    wrappers = _package()
    env_id, kwargs = _ADDED.get(name) or (_registered()[name], {})
    env = gymnasium.make(env_id, disable_env_checker=True, render_mode=render_mode, **kwargs)
    if env.observation_space["mission"].ordered_placeholders:  # type: ignore[index]
        env.close()
        raise ValueError(
            f"Task {owner!r} tells in words what to do, and the words change from episode to episode: the "
            "view alone is not enough. Tasks with one fixed mission work, such as 'minigrid:MemoryS7'."
        )
    if name.startswith("Memory"):
        env = TellFacts(env, _memory)
    if observation == "symbols":
        return Symbols(env)
    return wrappers.ImgObsWrapper(wrappers.RGBImgPartialObsWrapper(env, tile_size=tile))


def _memory(env: Any) -> dict[str, int]:
    """Facts of a Memory task.

    `cue`: the object in the first room, 0 for a ball and 1 for a key. `answer`: at the end of the corridor,
    with an object on either side, 0 to turn left or 1 to turn right.
    """
    (x, y), middle = env.agent_pos, env.height // 2
    cue = env.grid.get(1, middle - 1)
    at_the_end = env.agent_dir == 0 and (x, y) == (env.success_pos[0], middle)
    return {"cue": int(cue.type == "key"), "answer": int(env.success_pos[1] > y) if at_the_end else -1}


class Symbols(gymnasium.ObservationWrapper):
    """MiniGrid's own observation: what each tile of the view holds, as numbers instead of a picture.

    Observation: Dict of `object`, `color` and `state` (open, closed, locked), MultiDiscrete `[7, 7]` each,
    numbered as in `minigrid.core.constants`. What the agent carries is on its own tile.

    Args:
        env: a MiniGrid environment that observes the agent's view.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        known = extras.load("minigrid.core.constants", "'minigrid:...'", "minigrid", "minigrid")
        shape = env.observation_space["image"].shape[:2]  # type: ignore[index]
        numbers = {"object": known.OBJECT_TO_IDX, "color": known.COLOR_TO_IDX, "state": known.STATE_TO_IDX}
        self._layers = tuple(numbers)  # in the order of the image's last axis; spaces.Dict sorts its keys
        self.observation_space = spaces.Dict(
            {key: spaces.MultiDiscrete(np.full(shape, len(index))) for key, index in numbers.items()}
        )

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the layers of the view, `[7, 7]` each."""
        layers = np.moveaxis(observation["image"].astype(np.int64), -1, 0)
        return dict(zip(self._layers, layers, strict=True))

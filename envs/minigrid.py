"""MiniGrid tasks as pictures of what the agent sees, as `minigrid:MemoryS7`."""

from __future__ import annotations

import re
from types import ModuleType

import gymnasium

from envs import extras
from envs.arguments import Value, check_whole, did_you_mean

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


def arguments(_name: str) -> list[str]:
    """Return the names of the arguments that every MiniGrid task takes here."""
    return ["tile"]


def build(name: str, tile: Value = 8) -> gymnasium.Env:
    """Build a MiniGrid task whose observation is the picture of the agent's 7 x 7 view.

    Observation: uint8 `[7 tile, 7 tile, 3]`. The direction is left out (the view turns with the agent), and
    so is the mission: it is the same sentence in every episode of the tasks that are allowed here.

    Args:
        name: one of `names()`.
        tile: pixels a tile, at least 1; 8 gives 56 x 56.

    Raises:
        ValueError: `tile` is out of range, or the mission changes from episode to episode.
    """
    tile = check_whole(f"minigrid:{name}", "tile", tile, 1)
    wrappers = _package()
    env_id, kwargs = _ADDED.get(name) or (_registered()[name], {})
    env = gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    if env.observation_space["mission"].ordered_placeholders:  # type: ignore[index]
        env.close()
        raise ValueError(
            f"Task 'minigrid:{name}' tells in words what to do, and the words change from episode to "
            f"episode: a picture alone is not enough.{did_you_mean('MemoryS7', names())} Tasks with one "
            "fixed mission work."
        )
    return wrappers.ImgObsWrapper(wrappers.RGBImgPartialObsWrapper(env, tile_size=tile))

"""Plain actions: what a learner chooses in place of the actions of any supported space, and back.

gymnasium's `RescaleAction` is not enough: what it rounds can lie past a bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import ClipAction

from envs.spaces import check_number

HUGE = 1e9
"""Action bounds from here on stand for no bound; unbounded spaces may have float32's largest number."""


class Actions:
    """Any supported action space in the form that the agent expects.

    - Discrete, counted from 0: int64.
    - MultiDiscrete of rank 1, counted from 0: int64 `[k]`. One of another rank is flattened, and MultiBinary
      becomes MultiDiscrete of twos.
    - Box in [-1, 1]: float32, shape kept, mapped linearly onto the bounds of the environment.

    Attributes:
        given: the environment's own space.
        space: the plain one.
        raw: a plain action -> one of the environment's own, of its dtype.

    Raises:
        ValueError: any other space, a Box without finite bounds, or a Box of whole numbers; nothing to
            choose, or too much to choose from.
    """

    def __init__(self, given: spaces.Space) -> None:
        if given.shape is not None and math.prod(given.shape) == 0:
            raise ValueError(f"The action space {given} is empty: there is nothing to choose.")
        if isinstance(given, spaces.Discrete | spaces.MultiDiscrete):
            check_number("the action space", given)
        self.given = given
        self.space, convert = _plain_action(given)
        self.raw: Callable[[Any], Any] = (lambda action: action) if is_plain(given) else convert

    def plain(self, actions: Any) -> np.ndarray:
        """The environment's own actions `[..., *given.shape]` -> plain ones `[..., *space.shape]`.

        Raises:
            ValueError: they are not of the space.
        """
        given, shape = self.given, self.given.shape or ()
        array = np.asarray(actions, given.dtype if isinstance(given, spaces.Box) else None)
        lead = max(0, array.ndim - len(shape))
        right = array.shape[lead:] == shape
        if not right or not all(given.contains(action) for action in array.reshape(-1, *shape)):
            raise ValueError(f"Expected actions of {given}, got {actions!r}.")
        if isinstance(given, spaces.Box):
            width = np.where(given.high > given.low, given.high - given.low, 1)
            array = np.clip(2 * (array - given.low) / width - 1, -1, 1)
        else:
            array = array - getattr(given, "start", 0)
        return np.reshape(array, (*array.shape[:lead], *(self.space.shape or ()))).astype(self.space.dtype)


def is_plain(space: spaces.Space) -> bool:
    """Whether an action space needs no conversion."""
    if isinstance(space, spaces.Discrete):
        return bool(space.start == 0) and space.dtype == np.int64
    if isinstance(space, spaces.MultiDiscrete):
        return len(space.shape) == 1 and not space.start.any() and space.dtype == np.int64
    if isinstance(space, spaces.Box):
        return space.dtype == np.float32 and bool((space.low == -1).all() and (space.high == 1).all())
    return False


def action_check(space: spaces.Space, num_envs: int) -> Callable[[np.ndarray], np.ndarray]:
    """What checks the plain actions of several environments, `[N, ...]`, and gives them the right dtype."""
    shape = (num_envs, *(space.shape or ()))
    low: Any
    high: Any
    if isinstance(space, spaces.Box):
        kinds, dtype, low, high = "f", "float32", -1, 1
    else:
        assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
        kinds, dtype, low = "iu", "int64", 0
        high = (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1
    tolerance = 1e-6 * (kinds == "f")

    def check(actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != shape or actions.dtype.kind not in kinds:
            raise ValueError(
                f"Actions for {num_envs} environments with {space} must be {dtype} of shape {shape}, got "
                f"{actions.dtype} of shape {actions.shape}."
            )
        if not ((actions >= low - tolerance) & (actions <= high + tolerance)).all():
            raise ValueError(
                f"Actions for {space} must be finite and from {low} to {high}, got {actions.tolist()}."
            )
        return actions.astype(dtype, copy=False)

    return check


def given_actions(env: gymnasium.Env) -> spaces.Space:
    """The action space, or the one that a `ClipAction` clips to where only wrappers that keep it hide it."""
    space = env.action_space
    while isinstance(env, gymnasium.Wrapper) and env.action_space is space:
        if isinstance(env, ClipAction):
            return env.env.action_space
        env = env.env
    return space


def _plain_action(space: spaces.Space) -> tuple[spaces.Space, Callable[[Any], Any]]:
    if isinstance(space, spaces.Discrete):
        start, dtype = space.start, space.dtype
        return spaces.Discrete(int(space.n)), lambda action: dtype.type(action + start)
    shape: Any = space.shape
    if isinstance(space, spaces.MultiDiscrete):
        offsets, dtype = space.start, space.dtype
        return (
            spaces.MultiDiscrete(space.nvec.reshape(-1)),
            lambda action: (action.reshape(shape) + offsets).astype(dtype),
        )
    if isinstance(space, spaces.MultiBinary):
        dtype = space.dtype
        twos = spaces.MultiDiscrete(np.full(math.prod(shape), 2))
        return twos, lambda action: action.reshape(shape).astype(dtype)
    if isinstance(space, spaces.Box):
        return _plain_box(space)
    raise ValueError(
        f"Actions of type {type(space).__name__} are not supported: {space}. Discrete, MultiDiscrete, "
        "MultiBinary and bounded Box work. Convert with a gymnasium.ActionWrapper in the environment's "
        "registration."
    )


def _plain_box(space: spaces.Box) -> tuple[spaces.Box, Callable[[Any], Any]]:
    if space.dtype is None or np.dtype(space.dtype).kind != "f":
        raise ValueError(
            f"A Box action space of whole numbers is not supported: {space}. Use Discrete or MultiDiscrete "
            "for numbered choices, or a Box of floats."
        )
    if not (np.abs(space.low) < HUGE).all() or not (np.abs(space.high) < HUGE).all():
        raise ValueError(
            f"The Box action space {space} has no finite bounds (below {HUGE:g}): actions are chosen in "
            "[-1, 1] and mapped onto the bounds. Give it finite low and high, or register the "
            "environment in a wrapper that does: gymnasium.wrappers.TransformAction(env, lambda action: "
            f"action, gymnasium.spaces.Box(-1.0, 1.0, {space.shape}))."
        )
    low, high, dtype = space.low.astype(np.float64), space.high.astype(np.float64), space.dtype

    def convert(action: np.ndarray) -> np.ndarray:
        # Rounding may step past a bound by one unit in the last place; environments assert on that.
        return np.clip((low + (action + 1.0) * (0.5 * (high - low))).astype(dtype), space.low, space.high)

    return spaces.Box(-1, 1, space.shape, np.float32), convert

"""Where environment and learner meet: the spaces of both, conversions between them, and these on disk."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.actions import Actions, given_actions
from envs.spaces import Observations

ARGUMENTS = {
    "Dict": ("spaces",),
    "Tuple": ("spaces",),
    "Box": ("low", "high", "shape"),
    "Discrete": ("n", "start"),
    "MultiDiscrete": ("nvec", "start"),
    "MultiBinary": ("n",),
}
"""Of the constructors of what can be seen or acted in, beside the dtype."""
MOST = 1 << 24
"""Numbers of a leaf that is read from a file."""


class Interface:
    """The spaces of an environment, and those that a learner has in their place; picklable.

    Args:
        observation_space, action_space: the environment's own.

    Attributes:
        observations, actions: the conversions.

    Raises:
        ValueError: see `Observations` and `Actions`.
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.actions = Actions(action_space)
        self.observations = Observations(observation_space)

    @property
    def spaces(self) -> tuple[spaces.Dict, spaces.Space]:
        """The learner's: a flat Dict of images and vectors, and plain actions."""
        return self.observations.space, self.actions.space

    def difference(self, other: Interface) -> str:
        """How the environments' own spaces differ, leaf by leaf, this one `there`; empty if they do not."""
        there, here = (
            {f"observation leaf {name!r}": leaf.given for name, leaf in each.observations.leaves.items()}
            | {"the action space": each.actions.given}
            for each in (self, other)
        )
        return "; ".join(
            f"{name} is {there.get(name, 'missing')} there, {here.get(name, 'missing')} here"
            for name in {**there, **here}
            if there.get(name) != here.get(name)
        )

    def to_json(self) -> dict[str, Any]:
        """The environment's own spaces, as JSON has it."""
        given = {"observation": self.observations.given, "action": self.actions.given}
        return {name: space_to_json(space) for name, space in given.items()}

    @classmethod
    def of_json(cls, saved: Mapping[str, Any]) -> Interface:
        """What `to_json` returned, without the warnings of the first time.

        Raises:
            ValueError: it did not return that.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return cls(*(_of_json(saved[name]) for name in ("observation", "action")))
        except (KeyError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError) as error:
            raise ValueError(f"it holds no spaces of an environment ({error!r})") from error

    def __reduce__(self) -> tuple[Callable[..., Interface], tuple[dict[str, Any]]]:
        return Interface.of_json, (self.to_json(),)


class Plain(gymnasium.Wrapper):
    """An environment with flat observations and plain actions, rewards and flags as plain scalars.

    gymnasium's `ClipAction` has no bounds itself, and is looked through to those it clips to. Rewards may
    come as arrays of one element.

    Attributes:
        interface: of the environment.

    Raises:
        ValueError: see `Observations` and `Actions`; an observation does not fit its space.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.interface = Interface(env.observation_space, given_actions(env))
        self.observation_space, self.action_space = self.interface.spaces

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; return the flat observation and the info."""
        reply = self.env.reset(seed=seed, options=options)
        if not (isinstance(reply, tuple) and len(reply) == 2 and isinstance(reply[1], Mapping)):
            raise ValueError(
                f"reset() must return (observation, info), info a dict, and returned {reply!r}. Environments "
                "of the old gym return the observation alone: add an empty dict."
            )
        return self._flat(reply[0]), reply[1]

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Step; return the flat observation and plain scalars."""
        observation, reward, terminated, truncated, info = self.env.step(self.interface.actions.raw(action))
        if type(reward) is not float:
            reward = _scalar(reward)
        return self._flat(observation), reward, bool(terminated), bool(truncated), info

    def _flat(self, observation: Any) -> dict[str, np.ndarray]:
        try:
            return self.interface.observations.flat(observation)
        except ValueError as error:
            raise ValueError(
                f"{error} Correct the environment's observation_space, or what it returns."
            ) from error


def _scalar(reward: Any) -> float:
    value = np.asarray(reward, np.float64)
    if value.size != 1:
        raise ValueError(f"The reward must be one number, got {reward!r} of shape {value.shape}.")
    return float(value.item())


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """A space as its type and the arguments that make it."""
    kind = next(name for name in ARGUMENTS if isinstance(space, getattr(spaces, name)))
    if isinstance(space, spaces.Dict):
        return {"type": kind, "spaces": [[key, space_to_json(each)] for key, each in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": kind, "spaces": [space_to_json(each) for each in space.spaces]}
    found = {name: np.asarray(getattr(space, name)).tolist() for name in ARGUMENTS[kind]}
    if isinstance(space, spaces.Box):
        found |= {"low": _numbers(space.low), "high": _numbers(space.high)}
    return {"type": kind, **found, "dtype": np.dtype(space.dtype).name}


def _numbers(bound: np.ndarray) -> list[float | str]:
    """A bound's numbers, or one if all are the same; infinities, which JSON lacks, as text."""
    flat: list[float] = bound.reshape(-1).tolist()
    return [
        str(each) if abs(each) == math.inf else each for each in (flat[:1] if len({*flat}) == 1 else flat)
    ]


def _of_json(saved: Mapping[str, Any]) -> spaces.Space:
    """What `space_to_json` returned."""
    kind, parts = saved["type"], saved.get("spaces", ())
    if kind == "Dict":
        return spaces.Dict([(key, _of_json(each)) for key, each in parts])
    if kind == "Tuple":
        return spaces.Tuple([_of_json(each) for each in parts])
    found = {name: np.array(saved[name]) for name in ARGUMENTS[kind]}
    dtype = np.dtype(saved["dtype"]).type
    if math.prod(found.get("shape", np.ravel(found.get("n", 1))).tolist()) > MOST:
        raise ValueError(f"a leaf of more than {MOST:,} numbers")
    if kind == "Box":
        shape = tuple(found["shape"])
        flat = [found[end].astype(dtype) for end in ("low", "high")]
        low, high = (np.broadcast_to(end.reshape(() if end.size == 1 else shape), shape) for end in flat)
        return spaces.Box(low, high, dtype=dtype)
    if kind == "Discrete":
        return spaces.Discrete(int(found["n"]), start=int(found["start"]), dtype=dtype)
    if kind == "MultiBinary":
        return spaces.MultiBinary(saved["n"])
    return spaces.MultiDiscrete(found["nvec"], dtype, start=found["start"])

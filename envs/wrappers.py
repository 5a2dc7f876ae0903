"""What stands between any gymnasium environment and our rows: seeds, flat observations, plain actions.

    environment -> PlainAction -> FlatObservation -> SeedEpisodes [-> NoInfo in vectors]

Time limits are gymnasium's own (`TimeLimit`, put there by `gymnasium.make`): they arrive as `truncated`.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Convert = Callable[[Any], np.ndarray]
LARGE = 1024
"""A Box of rank 2 or more that becomes a vector of more elements than this is probably an image."""
HUGE = 1e9
"""Action bounds from here on stand for no bound; unbounded spaces may have float32's largest number."""
LONGEST = 50_000
"""Actions of an episode that are remembered; a longer episode cannot be resumed."""
NO_CHECKSUM = -1
"""A checksum that no observations have: a CRC-32 is not negative."""


def episode_seed(seed: int, index: int, episode: int) -> int:
    """Return the seed of one episode, below 2**31: the same for the same three numbers, unrelated otherwise.

    Args:
        seed: the run's seed, not negative.
        index: the environment's number, not negative.
        episode: how many episodes this environment began before.
    """
    return int(np.random.SeedSequence([seed, index, episode]).generate_state(1)[0]) >> 1


class SeedEpisodes(gymnasium.Wrapper):
    """Seed every episode from (seed, index, episode): each can be repeated without the ones before it.

    Args:
        env: the environment.
        seed: the run's seed, not negative.
        index: the environment's number in the run, not negative.

    `next_episode` is the number of the episode that the next `reset` begins. An explicit `reset(seed=...)`
    replaces the derived seed for that one episode.

    `next_actions` are taken at once by the next `reset`, which then returns what the last of them showed: an
    environment that its seed and actions determine is then back where `history` was read. If they end the
    episode, the next step begins the following one and ignores its action. An exception from one of them
    becomes a warning, since they were taken before: the environment then differs, as `checksum` says.
    """

    def __init__(self, env: gymnasium.Env, seed: int, index: int) -> None:
        super().__init__(env)
        self._seed, self._index = seed, index
        self.next_episode = 0
        self.next_actions: list[Any] = []
        self._actions: list[np.ndarray] = []
        self._checksum = 0
        self._replayed_to_the_end = False

    @property
    def history(self) -> dict[str, Any]:
        """What brings the environment back to where it is, as JSON-compatible data.

        Number of the `episode`, `actions` taken in it, `checksum` of all the observations and rewards. After
        more than `LONGEST` steps there are no actions, and a checksum that no environment has.
        """
        known = len(self._actions) <= LONGEST
        actions = [action.tolist() for action in self._actions] if known else []
        checksum = self._checksum if known else NO_CHECKSUM
        return {"episode": self.next_episode - 1, "actions": actions, "checksum": checksum}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode with its own seed."""
        if seed is None:
            seed = episode_seed(self._seed, self._index, self.next_episode)
        self.next_episode += 1
        actions, self.next_actions = self.next_actions, []
        self._actions, self._checksum, self._replayed_to_the_end = [], 0, False
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            error.add_note(self._whereabouts(f"reset(seed={seed})"))
            raise
        self._remember(observation, 0.0)
        for action in actions:
            # [()]: a Discrete action is a scalar, as a vector of environments hands it out, not an array
            again = np.array(action, self.action_space.dtype)[()]
            try:
                observation, _, terminated, truncated, info = self.step(again)
            except Exception as error:
                warnings.warn(
                    f"An action that was taken before raised when it was taken again, so the episode cannot "
                    f"be gone on with: {error!r}. {self._whereabouts(f'step({again!r})')}",
                    stacklevel=2,
                )
                self._checksum = NO_CHECKSUM
                break
            if terminated or truncated:
                self._replayed_to_the_end = True
                break
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; an exception from the environment gets a note of where it happened."""
        if self._replayed_to_the_end:
            observation, info = self.reset()
            return observation, 0.0, False, False, info
        if len(self._actions) <= LONGEST:
            self._actions.append(np.array(action))
        try:
            reply = self.env.step(action)
        except Exception as error:
            error.add_note(self._whereabouts(f"step({action!r})"))
            raise
        self._remember(reply[0], float(reply[1]))
        return reply

    def _remember(self, observation: Any, reward: float) -> None:
        leaves = observation.values() if isinstance(observation, Mapping) else [observation]
        for leaf in leaves:
            self._checksum = zlib.crc32(np.asarray(leaf).tobytes(), self._checksum)
        self._checksum = zlib.crc32(np.float64(reward).tobytes(), self._checksum)

    def _whereabouts(self, call: str) -> str:
        return (
            f"In {call} of environment {self._index}, episode {self.next_episode - 1}, run seed "
            f"{self._seed}: {self.env}"
        )


class OneHot(spaces.Box):
    """Vectors of concatenated one-hot codes: what a Discrete or MultiDiscrete space becomes.

    Args:
        classes: how many values each of the coded numbers has, and thus how many elements its code has.
    """

    def __init__(self, classes: Iterable[int]) -> None:
        self.classes = tuple(int(number) for number in classes)
        super().__init__(0, 1, (sum(self.classes),), np.float32)


class FlatObservation(gymnasium.Wrapper):
    """Turn any observation into a flat dict of images and vectors, and rewards and flags into plain scalars.

    Leaves of nested Dict and Tuple observations are named by the path to them, joined by '.' (Tuple entries
    by their number); an observation that is neither is named 'image' or 'vector'. A leaf is

    - an image, uint8 `[H, W, C]` from 0 to 255, where it is a Box of uint8 of rank 3, or of rank 2 with at
      least 8 rows and columns. Channels that come first, if at most 4, are moved last, and bounds other than
      0 and 255 (a grid of tile numbers) are stretched to these;
    - a vector, float32 `[d]`, otherwise: Box and MultiBinary as they are, Discrete and MultiDiscrete one-hot
      (their space is then `OneHot`). A Box of rank 2 or more that is large for a vector gets a warning.

    Every leaf returned is a new array. Rewards may come as arrays of one element.

    Raises:
        ValueError: a leaf of the space is of another kind (Text, Graph, Sequence, ...), two leaves get the
            same name, or an observation does not fit its space. The message names the leaf.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        flat: dict[str, spaces.Space] = {}
        self._leaves: list[tuple[str, tuple[str | int, ...], Convert]] = []
        for path, space in _walk(env.observation_space):
            leaf_space, convert = _leaf(path, space)
            name = ".".join(map(str, path)) or ("image" if leaf_space.dtype == np.uint8 else "vector")
            if name in flat:
                raise ValueError(
                    f"Two leaves of the observation space are both named {name!r}: {env.observation_space}. "
                    "Rename one key: '.' joins the names of nested keys."
                )
            flat[name] = leaf_space
            self._leaves.append((name, path, convert))
        if not flat:
            raise ValueError(
                f"The observation space {env.observation_space} has no leaf: there is nothing to see."
            )
        self.observation_space = spaces.Dict(flat)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; return the flat observation."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._flat(observation), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Step; return the flat observation and plain scalars."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if type(reward) is not float:
            reward = _scalar(reward)
        return self._flat(observation), reward, bool(terminated), bool(truncated), info

    def _flat(self, observation: Any) -> dict[str, np.ndarray]:
        flat = {}
        for name, path, convert in self._leaves:
            leaf = observation
            try:
                for key in path:
                    leaf = leaf[key]
                flat[name] = convert(leaf)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ValueError(
                    f"Observation leaf {name!r} does not fit the observation space: {_reason(error)}. "
                    f"Correct the environment's observation_space ({self.env.observation_space}) or what it "
                    "returns."
                ) from error
        return flat


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError | IndexError):
        return f"{error} is missing from what the environment returned"
    return str(error)


def _scalar(reward: Any) -> float:
    value = np.asarray(reward, np.float64)
    if value.size != 1:
        raise ValueError(f"The reward must be one number, got {reward!r} of shape {value.shape}.")
    return float(value.item())


def _walk(
    space: spaces.Space, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], spaces.Space]]:
    """Yield (path, space) of every leaf of a nested space, in the space's own order."""
    if isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            yield from _walk(child, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for number, child in enumerate(space.spaces):
            yield from _walk(child, (*path, number))
    else:
        yield path, space


def _leaf(path: tuple[str | int, ...], space: spaces.Space) -> tuple[spaces.Box, Convert]:
    """Return the Box that a leaf becomes, and the function that turns its values into that Box's."""
    if isinstance(space, spaces.Box):
        rank = len(space.shape)
        if space.dtype == np.uint8 and (rank == 3 or (rank == 2 and min(space.shape) >= 8)):
            return _image(space)
        if rank >= 2 and math.prod(space.shape) > LARGE:
            warnings.warn(
                f"{_name(path)} is {space}: {math.prod(space.shape):,} numbers, which are learned from as a "
                f"vector. If it is an image, give it as uint8 from 0 to 255, [H, W] or [H, W, C]: "
                f"convolutions see these alone.",
                stacklevel=2,
            )
        low, high = (bound.astype(np.float32).reshape(-1) for bound in (space.low, space.high))
        return spaces.Box(low, high, dtype=np.float32), _vector(space.shape)
    if isinstance(space, spaces.MultiBinary):
        return spaces.Box(0, 1, (int(np.prod(space.shape)),), np.float32), _vector(space.shape)
    if isinstance(space, spaces.Discrete):
        return OneHot([space.n]), _one_hot(np.array([space.n]), np.array([space.start]), ())
    if isinstance(space, spaces.MultiDiscrete):
        classes = space.nvec.reshape(-1)
        return OneHot(classes), _one_hot(classes, space.start.reshape(-1), space.shape)
    raise ValueError(
        f"Observations of type {type(space).__name__} cannot be learned from: {_name(path)} is {space}. Box, "
        "Discrete, MultiDiscrete and MultiBinary work, also nested in Dict and Tuple. Drop or encode this "
        "leaf with a gymnasium.ObservationWrapper."
    )


def _name(path: tuple[str | int, ...]) -> str:
    return f"leaf {'.'.join(map(str, path))!r}" if path else "the observation"


def _image(space: spaces.Box) -> tuple[spaces.Box, Convert]:
    """Box of uint8, `[H, W, C]`, `[C, H, W]` with at most 4 channels or `[H, W]` -> `[H, W, C]`, 0 to 255."""
    shape, low, high = space.shape, int(space.low.min()), int(space.high.max())
    channels_first = len(shape) == 3 and shape[0] <= 4 < min(shape[1:])
    stretch = None
    if (low, high) != (0, 255) and low < high:
        stretch = np.rint(np.clip((np.arange(256.0) - low) / (high - low), 0, 1) * 255).astype(np.uint8)

    def convert(value: Any) -> np.ndarray:
        image = np.array(value)
        if image.dtype != np.uint8 or image.shape != shape:
            raise ValueError(f"expected uint8 of shape {shape}, got {image.dtype} of shape {image.shape}")
        if len(shape) == 2:
            image = image[..., None]
        elif channels_first:
            image = np.ascontiguousarray(image.transpose(1, 2, 0))
        return image if stretch is None else stretch[image]

    arranged = (*shape, 1) if len(shape) == 2 else (*shape[1:], shape[0]) if channels_first else shape
    return spaces.Box(0, 255, arranged, np.uint8), convert


def _vector(shape: tuple[int, ...]) -> Convert:
    def convert(value: Any) -> np.ndarray:
        vector = np.array(value, np.float32)
        if vector.shape != shape:
            raise ValueError(f"expected shape {shape}, got shape {vector.shape}")
        return vector if len(shape) == 1 else vector.reshape(-1)

    return convert


def _one_hot(classes: np.ndarray, start: np.ndarray, shape: tuple[int, ...]) -> Convert:
    first = np.concatenate([[0], np.cumsum(classes)[:-1]])
    size = int(classes.sum())

    def convert(value: Any) -> np.ndarray:
        number = np.asarray(value)
        if number.size != len(classes):
            raise ValueError(f"expected {len(classes)} whole number(s) of shape {shape}, got {value!r}")
        number = number.reshape(-1) - start
        if number.dtype.kind not in "iu" or (number < 0).any() or (number >= classes).any():
            raise ValueError(
                f"expected whole numbers from {start.tolist()} to {(start + classes - 1).tolist()}, got "
                f"{value!r}"
            )
        vector = np.zeros(size, np.float32)
        vector[first + number] = 1
        return vector

    return convert


class PlainAction(gymnasium.ActionWrapper):
    """Give any supported action space the form that the agent expects.

    - Discrete, counted from 0: int64.
    - MultiDiscrete of rank 1, counted from 0: int64 `[k]`. MultiBinary becomes MultiDiscrete of twos.
    - Box in [-1, 1]: float32, shape kept, mapped linearly onto the bounds of the environment.

    The environment gets actions of its own space's dtype.

    Raises:
        ValueError: any other space, a Box without finite bounds, or a Box of whole numbers.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.action_space, self._convert = _plain_action(env.action_space)

    def action(self, action: Any) -> Any:
        """Return the action in the environment's own form."""
        return self._convert(action)


def is_plain(space: spaces.Space) -> bool:
    """Whether an action space needs no conversion."""
    if isinstance(space, spaces.Discrete):
        return bool(space.start == 0) and space.dtype == np.int64
    if isinstance(space, spaces.MultiDiscrete):
        return len(space.shape) == 1 and not space.start.any() and space.dtype == np.int64
    if isinstance(space, spaces.Box):
        return space.dtype == np.float32 and bool((space.low == -1).all() and (space.high == 1).all())
    return False


def _plain_action(space: spaces.Space) -> tuple[spaces.Space, Callable[[Any], Any]]:
    if isinstance(space, spaces.Discrete):
        start, dtype = space.start, space.dtype
        return spaces.Discrete(int(space.n)), lambda action: dtype.type(action + start)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        offsets, dtype = space.start, space.dtype
        return spaces.MultiDiscrete(space.nvec), lambda action: (action + offsets).astype(dtype)
    if isinstance(space, spaces.MultiBinary):
        shape, dtype = space.shape, space.dtype
        return spaces.MultiDiscrete(np.full(int(np.prod(shape)), 2)), lambda action: action.reshape(
            shape
        ).astype(dtype)
    if isinstance(space, spaces.Box):
        return _plain_box(space)
    raise ValueError(
        f"Actions of type {type(space).__name__} are not supported: {space}. Discrete, MultiDiscrete of rank "
        "1, MultiBinary and bounded Box work. Convert with a gymnasium.ActionWrapper in the environment's "
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
            "[-1, 1] and mapped onto the bounds. Give it finite low and high, or wrap the environment in "
            "gymnasium.wrappers.RescaleAction or ClipAction around a bounded space before registering it."
        )
    low, high, dtype = space.low.astype(np.float64), space.high.astype(np.float64), space.dtype

    def convert(action: np.ndarray) -> np.ndarray:
        # Rounding may step past a bound by one unit in the last place; environments assert on that.
        return np.clip((low + (action + 1.0) * (0.5 * (high - low))).astype(dtype), space.low, space.high)

    return spaces.Box(-1, 1, space.shape, np.float32), convert


class NoInfo(gymnasium.Wrapper):
    """Drop `info`: rows do not carry it, and vector environments spend time, and fail, on padding it."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the info is empty."""
        return self.env.reset(seed=seed, options=options)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the info is empty."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated, {}

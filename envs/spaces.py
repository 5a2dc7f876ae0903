"""Flat observations: what those of any gymnasium space become before a learner meets them.

gymnasium's `spaces.flatten` is not enough: it takes a Discrete value that is out of range without a word (-1
becomes the last class).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

Keys = tuple[str | int, ...]
Convert = Callable[[Any], np.ndarray]
Axes = tuple[int, ...]
LARGE = 1024
"""A Box of rank 2 or more that becomes a vector of more elements than this is probably an image."""
MOST = 1_000_000
"""Values of a Discrete space, each of which has an element of its own in a vector and in a layer."""
COARSE = 2**24
"""From here on float32 does not tell whole numbers apart."""
FRAMES = (2, 3, 4)
CHANNELS = (1, 3, 4)
STACKS = sorted({1, 2, 3, 4} | {frames * channels for frames in FRAMES for channels in CHANNELS})
"""How many channels pictures have, as stacks of the usual numbers of frames of the usual kinds."""


class OneHot(spaces.Box):
    """Vectors of concatenated one-hot codes: what a Discrete or MultiDiscrete space becomes.

    Args:
        classes: how many values each of the coded numbers has, and thus how many elements its code has.
    """

    def __init__(self, classes: Iterable[int]) -> None:
        self.classes = tuple(int(number) for number in classes)
        super().__init__(0, 1, (sum(self.classes),), np.float32)


class Leaf(NamedTuple):
    """A leaf of an observation space: where it is, its space, the Box it becomes, and the way there.

    `axes` are an image's: in what order its rows, its columns, and its channels or frames and channels are.
    """

    path: Keys
    given: spaces.Space
    box: spaces.Box
    convert: Convert
    axes: Axes | None = None


class Observations:
    """Any observation as a flat dict of images and vectors.

    Leaves of nested Dict and Tuple observations are named by the path to them, joined by '.' (Tuple entries
    by their number); an observation that is neither is named 'image' or 'vector'. A leaf is

    - an image, uint8 `[H, W, C]` from 0 to 255, where it is a Box of uint8 of rank 3, of rank 2 with at least
      8 rows and columns, or of rank 4 where that is a stack of 2 to 4 pictures. Channels that come first, as
      many as a picture or a stack of them has, are moved last, frames become channels, and bounds other than
      0 and 255 (a grid of tile numbers) are stretched to these. A warning says how an uncommon shape is read;
    - a vector, float32 `[d]`, otherwise: Box and MultiBinary as they are, Discrete and MultiDiscrete one-hot
      (their space is then `OneHot`). A Box of rank 2 or more that is large for a vector gets a warning.

    Every leaf returned is a new array.

    Attributes:
        given: the environment's own space.
        space: the flat one.

    Raises:
        ValueError: a leaf of the space is of another kind (Text, Graph, Sequence, ...), or two leaves get the
            same name. The message names the leaf.
    """

    def __init__(self, given: spaces.Space) -> None:
        self.given = given
        self.leaves: dict[str, Leaf] = {}
        for path, space in _walk(given):
            leaf = Leaf(path, space, *_leaf(path, space))
            name = ".".join(map(str, path)) or ("image" if leaf.box.dtype == np.uint8 else "vector")
            if name in self.leaves:
                raise ValueError(
                    f"Two leaves of the observation space are both named {name!r}: {given}. "
                    "Rename one key: '.' joins the names of nested keys."
                )
            self.leaves[name] = leaf
        if not any(math.prod(leaf.box.shape) for leaf in self.leaves.values()):
            raise ValueError(
                f"The observation space {given} has no leaf, or only empty ones: there is nothing to see."
            )
        self.space = spaces.Dict({name: leaf.box for name, leaf in self.leaves.items()})

    def flat(self, observation: Any, count: int | None = None) -> dict[str, np.ndarray]:
        """The flat observation of one, or of a batch of `count`, whose leaves have a leading axis.

        Raises:
            ValueError: it does not fit the space. The message names the leaf, what was expected and given.
        """
        found = {}
        for name, leaf in self.leaves.items():
            try:
                value = at(observation, leaf.path)
                if count is not None and np.shape(value)[:1] != (count,):
                    raise ValueError(f"expected {count} of them, got shape {np.shape(value)}")
                convert = leaf.convert
                found[name] = convert(value) if count is None else np.stack([convert(each) for each in value])
            except (KeyError, IndexError, TypeError, ValueError) as error:
                missing = isinstance(error, KeyError | IndexError)
                reason = f"{error} is missing" if missing else error
                raise ValueError(
                    f"Observation leaf {name!r} does not fit the observation space: {reason}. The space is "
                    f"{self.given}."
                ) from error
        return found

    def count(self, observation: Any) -> int | None:
        """How many a batch holds, as gymnasium's vector environments give it; None of a single one."""
        leaf = next(iter(self.leaves.values()))
        try:
            value = np.asarray(at(observation, leaf.path))
        except (KeyError, IndexError, TypeError, ValueError):
            return None  # `flat` says what is wrong with it
        return len(value) if value.ndim == len(leaf.given.shape or ()) + 1 else None


def at(observation: Any, path: Keys) -> Any:
    """The part of a nested observation that is a leaf's."""
    for key in path:
        observation = observation[key]
    return observation


def _walk(space: spaces.Space, path: Keys = ()) -> Iterator[tuple[Keys, spaces.Space]]:
    """Yield (path, space) of every leaf of a nested space, in the space's own order."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, child in children:
            yield from _walk(child, (*path, key))
    else:
        yield path, space


def _leaf(path: Keys, space: spaces.Space) -> tuple[spaces.Box, Convert, Axes | None]:
    """What `Leaf` has of a leaf, from its Box on."""
    called = f"leaf {'.'.join(map(str, path))!r}" if path else "the observation"
    shape = space.shape or ()
    if isinstance(space, spaces.Box):
        if space.dtype == np.uint8 and (axes := _axes(shape, called)):
            return *_image(space, axes), axes
        if len(shape) >= 2 and math.prod(shape) > LARGE:
            warnings.warn(
                f"{called} is {space}: {math.prod(shape):,} numbers, which are learned from as a vector. If "
                "it is an image, give it as uint8 from 0 to 255, [H, W] or [H, W, C]: convolutions see these "
                "alone.",
                stacklevel=2,
            )
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        flat: Any = spaces.flatten_space(space)
        with np.errstate(over="ignore"):  # what is past float32's bounds has none
            low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
        narrows = isinstance(space, spaces.Box) and np.dtype(space.dtype).itemsize >= 4
        named = called if narrows and space.dtype != np.float32 else ""
        return spaces.Box(low, high), _vector(shape, named), None
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        classes = np.reshape(space.n if isinstance(space, spaces.Discrete) else space.nvec, -1)
        check_number(called, space)
        return OneHot(classes), _one_hot(classes, np.reshape(space.start, -1), shape), None
    raise ValueError(
        f"Observations of type {type(space).__name__} cannot be learned from: {called} is {space}. Box, "
        "Discrete, MultiDiscrete and MultiBinary work, also nested in Dict and Tuple. Drop or encode this "
        "leaf with a gymnasium.ObservationWrapper."
    )


def check_number(called: str, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
    """Raise a ValueError for a space of too many values."""
    number = int(np.sum(space.n if isinstance(space, spaces.Discrete) else space.nvec))
    if number > MOST:
        raise ValueError(
            f"{called} is {space}: {number:,} values, each of which would have an element of its own; "
            f"{MOST:,} are the most. Encode it with fewer, for example as a MultiDiscrete of its digits."
        )


def _axes(shape: tuple[int, ...], called: str) -> Axes | None:
    """In what order an image's axes are (rows, columns, channels or frames and channels); None if it is none.

    A warning says how a shape is read that is not that of one picture.
    """
    axes: Axes | None = None
    if len(shape) == 2 and min(shape) >= 8:
        axes = (0, 1)
    elif len(shape) == 3:
        # More than 4 may be rows, unless there are many rows and columns beside them.
        few, last = shape[0] <= 4 < min(shape[1:]), shape[2] in STACKS
        many = shape[0] in STACKS and 2 * shape[0] <= min(shape[1:])
        axes = (1, 2, 0) if few or (many and not last) else (0, 1, 2)
    elif len(shape) == 4 and shape[0] in FRAMES and shape[3] in CHANNELS:
        axes = (1, 2, 0, 3)
    elif len(shape) == 4 and shape[0] in FRAMES and shape[1] in CHANNELS and min(shape[2:]) > 4:
        axes = (2, 3, 0, 1)
    elif len(shape) == 4 and shape[2] in CHANNELS and shape[3] in FRAMES:
        axes = (0, 1, 2, 3)
    if axes and (len(shape) == 4 or (len(shape) == 3 and shape[axes[2]] > 4)):
        rows, columns, *rest = (shape[axis] for axis in axes)
        warnings.warn(
            f"{called}, uint8 of shape {shape}, is read as {math.prod(rest)} channels of {rows} rows and "
            f"{columns} columns. If that is wrong, give it as [H, W, C].",
            stacklevel=2,
        )
    return axes


def stretch(space: spaces.Box) -> np.ndarray | None:
    """What an image's numbers 0 to 255 become where other bounds are stretched to these, `[256]` uint8."""
    low, high = int(space.low.min()), int(space.high.max())
    if (low, high) == (0, 255) or low >= high:
        return None
    return np.rint(np.clip((np.arange(256.0) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _image(space: spaces.Box, axes: Axes) -> tuple[spaces.Box, Convert]:
    """Box of uint8 whose `axes` are rows, columns and what else there is -> `[H, W, C]`, 0 to 255."""
    shape, table = space.shape, stretch(space)
    arranged = (*(shape[axis] for axis in axes[:2]), math.prod(shape[axis] for axis in axes[2:]))
    in_order = axes == tuple(sorted(axes))

    def convert(value: Any) -> np.ndarray:
        image = np.array(value)
        if image.dtype != np.uint8 or image.shape != shape:
            raise ValueError(f"expected uint8 of shape {shape}, got {image.dtype} of shape {image.shape}")
        if not in_order:
            image = np.ascontiguousarray(image.transpose(axes))
        if shape != arranged:
            image = image.reshape(arranged)
        return image if table is None else table[image]

    return spaces.Box(0, 255, arranged, np.uint8), convert


def _vector(shape: tuple[int, ...], narrows: str = "") -> Convert:
    """Anything of this shape -> float32; `narrows` names what has numbers that float32 may not tell apart."""
    said = False

    def narrow(value: Any) -> np.ndarray:
        nonlocal said
        with np.errstate(over="ignore"):  # the infinity it becomes is named by who gets it
            vector = np.array(value, np.float32)
        if not said and (np.abs(vector) >= COARSE).any():
            said = True
            worst = np.asarray(value).flat[np.abs(vector).argmax()]
            warnings.warn(
                f"{narrows} has numbers such as {worst}. Numbers are learned from as float32, which from "
                f"{COARSE:,} on does not tell whole numbers apart: show the difference to a first value, or "
                "a scaled one.",
                stacklevel=2,
            )
        return vector

    def convert(value: Any) -> np.ndarray:
        vector = narrow(value) if narrows else np.array(value, np.float32)
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

"""What the loop asks of environments and of replay, and the ones of this house that fulfil it."""

from __future__ import annotations

import importlib.util
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np

import configs
import envs
import replay
from agent.agent import derive_seed
from agent.run.folder import REPOSITORY
from agent.run.job import Job
from agent.run.machine import choose_device
from agent.run.pictures import PictureOf
from replay.files import Fingerprint
from worldmodels.encoder_decoder import is_image

Rows = dict[str, np.ndarray]
Chunks = Mapping[str, Fingerprint]
"""Size and CRC-32 of files, by name."""


class Environments(Protocol):
    """N environments that are stepped together and return rows, leading axis N: `envs.VectorDoor`."""

    num_envs: int
    observation_space: gymnasium.spaces.Dict
    action_space: gymnasium.Space
    restarted: int
    fps: float

    @property
    def interface(self) -> envs.Interface:
        """Their own spaces, and the conversions to those above."""

    @property
    def episodes(self) -> np.ndarray:
        """Number of each environment's episode, `[N]`."""

    def reset(self, first_episodes: np.ndarray | None = None) -> Rows:
        """Begin an episode in each, of these numbers if given."""

    def step(self, actions: np.ndarray) -> Rows:
        """Step each, or reset it where its last row was `is_last`."""

    def render(self) -> list[np.ndarray] | None:
        """What each draws of where it is, uint8 `[H, W, 3]`; None if they draw nothing."""

    def state(self) -> list[dict[str, Any]]:
        """What brings each back to where it is, as JSON has it; empty if nothing does."""

    def restore(self, states: Sequence[Mapping[str, Any]]) -> tuple[Rows, np.ndarray]:
        """Bring each back; rows, and `[N]` bool, which are back. The others begin an episode."""

    def close(self) -> None:
        """End them."""


class Source(Protocol):
    """Where batches come from."""

    def ready(self) -> bool:
        """Whether a batch can be had."""

    def next(self) -> dict[str, Any]:
        """The next batch, `[B, T, ...]`; with `window` if it wants the states that an update reaches."""

    def refresh(self, window: np.ndarray, state: Mapping[str, np.ndarray], update: int) -> None:
        """Keep the states that training reached in a batch's windows."""

    def close(self) -> None:
        """End the threads."""


class TakesRows(Protocol):
    """Where rows are put."""

    def wants_state(self) -> bool:
        """Whether the next `add` takes the recurrent state before its row."""

    def add(self, rows: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] | None = None) -> None:
        """Store one row of every environment."""

    def close_episodes(self, streams: np.ndarray) -> None:
        """End the open episodes of these environments, `[N]` bool, without an end of the task."""


class Batches(Source, TakesRows, Protocol):
    """The replay, with its batches read ahead: `replay.Replay`."""

    @property
    def orphaned(self) -> int:
        """Files found in the folder that no checkpoint knew."""

    def __len__(self) -> int:
        """Steps stored."""

    def describe(self) -> str:
        """One line on capacity and memory."""

    def disk(self, rows: int) -> tuple[int, int]:
        """Bytes of the files that hold so many rows, and of a `state_dict`."""

    def wants_state(self, ahead: int = 0) -> bool:
        """Whether the `add` after so many more takes the recurrent state before its row."""

    def peek(self, number: int) -> Rows:
        """A batch for reports, on which nothing later depends."""

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint, beside the `chunks`."""

    def load_state_dict(self, state: Mapping[str, Any], chunks: Chunks | None = None) -> list[str]:
        """Go on as the saved one; a message for each chunk that is lost."""

    def chunks(self) -> Chunks:
        """Fingerprints of the files that go with `state_dict`."""

    def prune(self, keep: set[str]) -> None:
        """Remove the files that neither the replay nor `keep` needs."""


MakeEnvironments = Callable[[int, int, int], Environments]
"""(count, seed, number of the first one) -> environments."""
Prepare = Callable[[Rows], Mapping[str, Any]]
MakeBatches = Callable[[int, Path | None, Prepare], Batches]
"""(number of environments, folder of the chunks, what to do with rows that were read) -> batches."""


class Closes(Protocol):
    """What is closed when it is no longer needed."""

    def close(self) -> None:
        """End it."""


def close_quietly(what: str, part: Closes) -> None:
    """Close what is no longer needed; that it cannot be closed is a warning, as nothing is lost by it."""
    try:
        part.close()
    except Exception as error:
        warnings.warn(f"closing the {what} failed, which loses nothing: {error!r}", stacklevel=3)


def environments(
    config: configs.Config, render: bool = False, make_env: Callable[[], gymnasium.Env] | None = None
) -> MakeEnvironments:
    """Those of a configuration's task, which with `render` draw, where they can; or that `make_env` makes."""

    def make(count: int, seed: int, first_index: int) -> envs.VectorDoor:
        options = config.envs
        return envs.make_vector(
            *(config.task, count, seed, options.mode, first_index, options.timeout, options.restarts, render),
            make_env,
        )

    return make


def interface(make: MakeEnvironments, seed: int) -> envs.Interface:
    """The spaces of an environment that is built for it, and their conversions."""
    built = make(1, seed, 0)
    found = built.interface
    close_quietly("environments", built)
    return found


def spaces(make: MakeEnvironments, seed: int) -> tuple[gymnasium.spaces.Dict, gymnasium.Space]:
    """The learner's spaces of observations and actions, of an environment that is built for it."""
    return interface(make, seed).spaces


def picture_of(task: str, observed: Iterable[str]) -> PictureOf | None:
    """What draws the symbols of a task's observations; None where there are none, or it cannot draw them.

    Nor can one that a program made: no name makes its environment again.
    """
    if "tiles" not in {*observed} or task.startswith(f"{envs.PYTHON}:"):
        return None
    env = envs.make(task)
    return env.get_wrapper_attr("picture_of") if env.has_wrapper_attr("picture_of") else None


def batches(config: configs.Config, held: Iterable[gymnasium.Space] = ()) -> MakeBatches:
    """The replay of a configuration, whose memory holds rows of these spaces (observations and action)."""
    rank = Job().number

    def make(streams: int, folder: Path | None, prepare: Prepare) -> replay.Replay:
        seed = derive_seed(config.seed, "replay", rank) if rank else config.seed
        sizes = {"batch_size": config.batch_size, "batch_length": config.batch_length, "seed": seed}
        place = {"streams": streams, "first_stream": rank * streams, "folder": folder}
        rows = replay.Replay(prepare=prepare, **sizes, **place, **config.replay)  # type: ignore[arg-type]
        if held:
            rows.check_memory(held)
        return rows

    return make


def configure(
    task: str | None,
    backbone: str | None,
    presets: Sequence[str],
    overrides: Mapping[str, Any],
    saved: configs.Config | None = None,
    known: envs.Interface | None = None,
) -> configs.Config:
    """The configuration of one run, checked against what is installed and at hand here.

    Where no preset is named, the device and the task's observations decide the size: see `configs.load`.
    With the `saved` configuration of a run that has begun, what is not named is as it was. Where the
    interface is `known`, from data, no environment is looked for.

    Raises:
        ValueError: see `configs.load`; no such task or device.
    """
    named = task, backbone, presets, overrides
    config = configs.load(*named) if saved is None else configs.resume(saved, *named)
    found = known or check_task(config.task, config.seed, config.envs.mode)
    gpu = choose_device(config.device).type == "cuda"
    if saved is not None:
        return config
    if presets or gpu:
        return configs.load(*named, cuda_available=gpu)
    found = found or interface(environments(config), config.seed)
    return configs.load(*named, pictures=any(map(is_image, found.observations.space.values())))


def check_task(task: str, seed: int = 0, mode: str = "sync") -> envs.Interface | None:
    """Build one environment; in mode 'async' only look it up, as this is not the process to build it in.

    Returns:
        its interface, None if it was not built.

    Raises:
        ValueError: there is no such task, its extra is not installed, or it cannot be built; what other
            people's code raised is printed with its traceback.
    """
    try:
        if mode == "async":
            envs.check(task)
            return None
        env = envs.make(task, seed)
        close_quietly(f"environment of task '{task}'", env)
    except (ImportError, ValueError) as error:
        if _of_others(error):
            traceback.print_exception(error)
            raise ValueError(f"the environment of task '{task}' cannot be made: {error}") from error
        raise ValueError(str(error)) from error
    found: envs.Interface = env.get_wrapper_attr("interface")
    return found


def _of_others(error: BaseException) -> bool:
    """Whether an error involves code other than ours, gymnasium's and Python's import system."""
    ours = (str(REPOSITORY), str(Path(gymnasium.__file__).parent))
    known = (*ours, importlib.__path__[0], "<frozen importlib")
    return not all(frame.filename.startswith(known) for frame in traceback.extract_tb(error.__traceback__))

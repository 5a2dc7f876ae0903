"""What a configuration makes: environments and a replay; and how it comes about, by what is at hand here."""

from __future__ import annotations

import importlib.util
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium

import configs
import envs
from agent.agent import derive_seed
from agent.run.folder import REPOSITORY
from agent.run.job import Job
from agent.run.machine import choose_device
from agent.run.pictures import PictureOf
from replay import Replay
from replay.rows import Rows
from worldmodels.encoder_decoder import is_image

MakeEnvironments = Callable[[int, int, int], envs.VectorDoor]
"""(count, seed, number of the first one) -> environments."""
Prepare = Callable[[Rows], Mapping[str, Any]]
"""What to do with rows that were read."""


def close_quietly(what: str, close: Callable[[], object]) -> None:
    """Close what is no longer needed; that it cannot be closed is a warning, as nothing is lost by it."""
    try:
        close()
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
    close_quietly("environments", built.close)
    return found


def picture_of(task: str, observed: Iterable[str]) -> PictureOf | None:
    """What draws the symbols of a task's observations; None where there are none, or it cannot draw them.

    Nor can one that a program made: no name makes its environment again.
    """
    if "tiles" not in {*observed} or task.startswith(f"{envs.PYTHON}:"):
        return None
    env = envs.make(task)
    return env.get_wrapper_attr("picture_of") if env.has_wrapper_attr("picture_of") else None


def new_replay(
    config: configs.Config, held: Iterable[gymnasium.Space], streams: int, folder: Path, prepare: Prepare
) -> Replay:
    """The replay of a rank's configuration, whose chunks are in a folder.

    Its memory holds rows of the spaces `held`, observations and action, or it raises ValueError.
    """
    rank = Job().number
    made = Replay(
        streams=streams,
        batch_size=config.batch_size,
        batch_length=config.batch_length,
        seed=derive_seed(config.seed, "replay", rank) if rank else config.seed,
        folder=folder,
        first_stream=rank * streams,
        prepare=prepare,
        **config.replay,
    )
    made.check_memory(held)
    return made


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
    if presets or saved is not None:
        return config
    if gpu:
        return configs.load(*named, cuda_available=True)
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
        close_quietly(f"environment of task '{task}'", env.close)
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

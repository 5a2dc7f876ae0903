"""Environments: from a task's name to rows.

A task is `name` or `name:key=value,key=value`, where the name is one of ours (`TASKS`), `family:Name`
(`FAMILIES`), or any gymnasium id, `module:Id-v0` included. docs/environments.md lists the tasks,
docs/adding_a_task.md says how to add one.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import gymnasium

from envs import gym
from envs.arguments import check_names, check_whole, did_you_mean, parse_task
from envs.masked import MASKED, make_masked, masked_id
from envs.vector import Rows, VectorDoor, WorkerError
from envs.wrappers import FlatObservation, NoInfo, PlainAction, SeedEpisodes, is_plain

__all__ = [
    "FAMILIES",
    "TASKS",
    "Rows",
    "VectorDoor",
    "WorkerError",
    "check",
    "make",
    "make_vector",
    "optimum",
    "task_names",
]

# Our own tasks: short name -> (gymnasium id, class). Nothing is imported before a task is asked for.
_OWN: dict[str, tuple[str, str]] = {
    "memory_chain": ("MemoryChain-v0", "envs.memory_chain:MemoryChain"),
    "discounting_chain": ("DiscountingChain-v0", "envs.discounting_chain:DiscountingChain"),
    "tmaze": ("TMaze-v0", "envs.tmaze:TMaze"),
    "distracting_memory": ("DistractingMemory-v0", "envs.distracting_memory:DistractingMemory"),
    "rooms": ("Rooms-v0", "envs.rooms:Rooms"),
    "multi_doors_keys": ("MultiDoorsKeys-v0", "envs.multi_doors_keys:MultiDoorsKeys"),
}

# Tasks of packages that come without usable ids: gymnasium id -> (constructor, its arguments).
_PACKAGED: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"MemoryMaze-{size}-v0": ("envs.memory_maze:MemoryMaze", {"name": size})
        for size in ("9x9", "11x11", "13x13", "15x15")
    },
    "DMControl-v0": ("envs.dmc:build", {}),
}

# Short name -> gymnasium id.
TASKS: dict[str, str] = {name: env_id for name, (env_id, _) in _OWN.items()} | {
    name: masked_id(source) for name, (source, _) in MASKED.items()
}

# Packages of tasks: prefix -> our module with `names()`, `arguments(name)` and `build(name, **arguments)`.
FAMILIES: dict[str, str] = {
    "popgym": "envs.popgym",
    "minigrid": "envs.minigrid",
    "dmc": "envs.dmc",
    "memory_maze": "envs.memory_maze",
}


def _register() -> None:
    def ours(env_id: str, entry_point: str | Callable[..., gymnasium.Env], **options: Any) -> None:
        if env_id not in gymnasium.registry:  # importing this module again must not warn
            gymnasium.register(env_id, entry_point, disable_env_checker=True, **options)

    for env_id, where in _OWN.values():
        ours(env_id, where, order_enforce=False)  # they refuse a step without a reset themselves
    for env_id, (where, arguments) in _PACKAGED.items():
        ours(env_id, where, kwargs=arguments, order_enforce=False)
    for source, keep in MASKED.values():
        limit = gymnasium.registry[source].max_episode_steps
        ours(masked_id(source), functools.partial(make_masked, source, keep), max_episode_steps=limit)


_register()


def task_names() -> list[str]:
    """Return our short names and, for each family, '<family>:Name'; gymnasium ids work as well."""
    return [*TASKS, *(f"{family}:Name" for family in FAMILIES)]


def check(task: str) -> None:
    """Look a task up without building it.

    Raises:
        ValueError: the task, or an argument's name, is unknown; the message has the nearest matches.
        ImportError: the task's package is not installed; the message names the extra.
    """
    _constructor(task)


def make(task: str, seed: int = 0, index: int = 0) -> gymnasium.Env:
    """Build one environment, wrapped for the learner.

    Args:
        task: see the module.
        seed: the run's seed, at least 0.
        index: the environment's number in the run, at least 0. Episode seeds derive from (seed, index,
            episode).

    Returns:
        an environment whose observations are a flat dict of uint8 images `[H, W, C]` and float32 vectors
        `[d]`, and whose action space is Discrete from 0, MultiDiscrete of rank 1 from 0, or Box in [-1, 1].

    Raises:
        ValueError: unknown task or argument, an argument out of range, an unsupported observation or action
            space.
        ImportError: the task's package is not installed; the message names the extra.
    """
    return _wrap(
        _constructor(task), check_whole("make", "seed", seed, 0), check_whole("make", "index", index, 0)
    )


def make_vector(
    task: str,
    num_envs: int,
    seed: int,
    mode: str = "sync",
    first_index: int = 0,
    timeout: float = 300.0,
    restarts: int = 3,
) -> VectorDoor:
    """Build `num_envs` environments behind one door: see `VectorDoor` for its rows, `make` for its errors.

    Args:
        task: see the module.
        num_envs: how many, at least 1.
        seed: the run's seed, at least 0.
        mode: 'sync' (one process) or 'async' (a process for each).
        first_index: number of the first environment in the run, at least 0; the others follow.
        timeout: seconds a process may take to answer; 0 waits for ever.
        restarts: how often in 300 s the processes are restarted after one raised, died or hung; at least 0.
    """
    check_whole("make_vector", "num_envs", num_envs, 1)
    check_whole("make_vector", "seed", seed, 0)
    check_whole("make_vector", "first_index", first_index, 0)
    check_whole("make_vector", "restarts", restarts, 0)
    if timeout < 0:
        raise ValueError(f"make_vector: argument 'timeout' must be at least 0 seconds, got {timeout}.")
    build = _constructor(task)
    indices = range(first_index, first_index + num_envs)
    return VectorDoor(
        [functools.partial(_wrap_bare, build, seed, i) for i in indices],
        task,
        mode,
        first_index,
        seed,
        timeout,
        restarts,
    )


def optimum(task: str) -> float | None:
    """Return the optimal policy's mean return where it is known, None elsewhere; builds the task once.

    It is not known if the task's arguments set `max_episode_steps`, except where that limit is the optimum.
    """
    env = _constructor(task)()
    try:
        if env.has_wrapper_attr("optimum"):
            value = env.get_wrapper_attr("optimum")
            cut = "max_episode_steps" in parse_task(task)[1]
            return None if value is None or cut else float(value)
        return gym.optimum(env.spec) if env.spec else None
    finally:
        env.close()


def _constructor(task: str) -> Callable[[], gymnasium.Env]:
    """Return the picklable function that builds the bare environment of a task."""
    name, arguments = parse_task(task)
    if name in TASKS:
        return gym.constructor(task, TASKS[name], arguments)
    prefix, _, member = name.partition(":")
    if prefix not in FAMILIES:
        return gym.constructor(task, name, arguments, others=task_names())
    family = importlib.import_module(FAMILIES[prefix])
    members = family.names()
    if member not in members:
        near = did_you_mean(member, members) or f" It has: {', '.join(members)}."
        raise ValueError(f"Unknown task {task!r}: the family {prefix!r} has no {member!r}.{near}")
    check_names(task, arguments, family.arguments(member))
    return functools.partial(family.build, member, **arguments)


def _wrap(build: Callable[[], gymnasium.Env], seed: int, index: int) -> gymnasium.Env:
    env = build()
    if not is_plain(env.action_space):
        env = PlainAction(env)
    return SeedEpisodes(FlatObservation(env), seed, index)


def _wrap_bare(build: Callable[[], gymnasium.Env], seed: int, index: int) -> gymnasium.Env:
    return NoInfo(_wrap(build, seed, index))

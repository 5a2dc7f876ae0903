"""Environments: from a task's name to rows.

A task is `name` or `name:key=value,key=value`, where the name is one of ours (`TASKS`), `family:Name`
(`FAMILIES`), or any gymnasium id, `module:Id-v0` included. docs/environments.md lists the tasks,
docs/adding_a_task.md says how to add one.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium

from configs.nearest import did_you_mean
from envs import guard, gym
from envs.arguments import check_names, parse_task
from envs.episodes import SeedEpisodes, episode_seed
from envs.guard import EnvironmentFailure
from envs.interface import Interface, Plain
from envs.suites import gl
from envs.tasks.masked import MASKED, make_masked, masked_id
from envs.vector import Rows, VectorDoor

__all__ = [
    "FAMILIES",
    "TASKS",
    "EnvironmentFailure",
    "Interface",
    "Rows",
    "VectorDoor",
    "check",
    "guess",
    "make",
    "make_raw",
    "make_vector",
    "optimum",
    "task_names",
]

# Our own tasks: short name -> (gymnasium id, class). Nothing is imported before a task is asked for.
_OWN: dict[str, tuple[str, str]] = {
    "repeat_previous": ("RepeatPrevious-v0", "envs.tasks.repeat_previous:RepeatPrevious"),
    "memory_chain": ("MemoryChain-v0", "envs.tasks.memory_chain:MemoryChain"),
    "discounting_chain": ("DiscountingChain-v0", "envs.tasks.discounting_chain:DiscountingChain"),
    "tmaze": ("TMaze-v0", "envs.tasks.tmaze:TMaze"),
    "distracting_memory": ("DistractingMemory-v0", "envs.tasks.distracting_memory:DistractingMemory"),
    "rooms": ("Rooms-v0", "envs.tasks.rooms:Rooms"),
    "multi_doors_keys": ("MultiDoorsKeys-v0", "envs.tasks.multi_doors_keys:MultiDoorsKeys"),
}

# Tasks of packages that come without usable ids: gymnasium id -> (class, arguments).
_PACKAGED: dict[str, tuple[str, dict[str, Any]]] = {"DMControl-v0": ("envs.suites.dmc:DMControl", {})} | {
    f"MemoryMaze-{size}-v0": ("envs.suites.memory_maze:MemoryMaze", {"name": size})
    for size in ("9x9", "11x11", "13x13", "15x15")
}

# Short name -> gymnasium id.
TASKS: dict[str, str] = {name: env_id for name, (env_id, _) in _OWN.items()} | {
    name: masked_id(source) for name, (source, _) in MASKED.items()
}

# Prefix of tasks that a program made, and no name can make again
PYTHON = "python"

# Families of tasks: prefix -> our module with `names()` and `build(name, **arguments)`; where these arguments
# are not what the signature says, or not the same for all names, also with `arguments(name)`.
FAMILIES: dict[str, str] = {
    "popgym": "envs.suites.popgym",
    "minigrid": "envs.suites.minigrid",
    "dmc": "envs.suites.dmc",
    "memory_maze": "envs.suites.memory_maze",
    "state_tracking": "envs.tasks.state_tracking",
}


def _register() -> None:
    def ours(env_id: str, entry_point: str | Callable[..., gymnasium.Env], **options: Any) -> None:
        if env_id not in gymnasium.registry:  # importing this module again must not warn
            gymnasium.register(env_id, entry_point, disable_env_checker=True, **options)

    for env_id, where in _OWN.values():
        ours(env_id, where, order_enforce=False)  # a CheckedEnv refuses a step without a reset itself
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


def make(task: str, seed: int = 0, index: int = 0, render: bool = False) -> gymnasium.Env:
    """Build one environment, wrapped for the learner.

    Args:
        task: see the module.
        seed: the run's seed, at least 0.
        index: the environment's number in the run, at least 0. Episode seeds derive from (seed, index,
            episode).
        render: whether it is built with `render_mode="rgb_array"`, where it knows that mode.

    Returns:
        an environment whose observations are a flat dict of uint8 images `[H, W, C]` and float32 vectors
        `[d]`, and whose action space is Discrete from 0, MultiDiscrete of rank 1 from 0, or Box in [-1, 1].

    Raises:
        ValueError: unknown task or argument, an argument out of range, an unsupported observation or action
            space.
        ImportError: the task's package is not installed; the message names the extra.
    """
    return _wrap(_constructor(task, render), seed, index)


def make_raw(task: str, render: bool = False) -> gymnasium.Env:
    """Build one environment as it is, with its own observations, actions and seeds; see `make` for errors."""
    return _constructor(task, render)()


def make_vector(
    task: str,
    num_envs: int,
    seed: int,
    mode: str = "sync",
    first_index: int = 0,
    timeout: float = 300.0,
    restarts: int = 3,
    render: bool = False,
    make_env: Callable[[], gymnasium.Env] | None = None,
) -> VectorDoor:
    """Build `num_envs` environments as one: see `VectorDoor` for rows and arguments, `make` for errors.

    Args:
        task: see the module.
        num_envs: how many, at least 1.
        seed: the run's seed, at least 0.
        mode, timeout, restarts: see `VectorDoor`.
        first_index: number of the first environment in the run, at least 0; the others follow.
        render: see `make`.
        make_env: builds one, in place of the task, which is then for messages.
    """
    build = make_env or _constructor(task, render)
    indices = range(first_index, first_index + num_envs)
    builders = [functools.partial(_wrap, build, seed, index) for index in indices]
    return VectorDoor(builders, task, mode, first_index, seed, timeout, restarts)


def optimum(task: str) -> float | None:
    """Return the optimal policy's mean return where it is known, None elsewhere; builds the task once.

    It is not known if the task's arguments set `max_episode_steps`, except where that limit is the optimum.
    """
    return _stated(task, "optimum")


def guess(task: str) -> float | None:
    """Return the mean return of the best policy that remembers nothing, where it is known; see `optimum`."""
    return _stated(task, "guess")


def _stated(task: str, name: str) -> float | None:
    env = _constructor(task)()
    try:
        if env.has_wrapper_attr(name):
            value = env.get_wrapper_attr(name)
            cut = "max_episode_steps" in parse_task(task)[1]
            return None if value is None or cut else float(value)
        return gym.optimum(env.spec) if name == "optimum" and env.spec else None
    finally:
        guard.close(env.close, f"{task}: the environment")


def _constructor(task: str, render: bool = False) -> Callable[[], gymnasium.Env]:
    """Return the picklable function that builds the bare environment of a task."""
    name, arguments = parse_task(task)
    if name in TASKS:
        return gym.constructor(task, TASKS[name], arguments, render=render)
    prefix, _, member = name.partition(":")
    if prefix == PYTHON:
        raise ValueError(
            f"Task {task!r} is what `agent.train` was given to make environments with: only it can make them "
            "again, given the same. `agent.Agent.load` needs none."
        )
    if prefix not in FAMILIES:
        return gym.constructor(task, name, arguments, others=task_names(), render=render)
    family = importlib.import_module(FAMILIES[prefix])
    members = family.names()
    if member not in members:
        near = did_you_mean(member, members, most=3) or f" It has: {', '.join(members)}."
        raise ValueError(f"Unknown task {task!r}: the family {prefix!r} has no {member!r}.{near}")
    signature = inspect.signature(family.build)
    allowed = family.arguments(member) if hasattr(family, "arguments") else [*signature.parameters][1:]
    check_names(task, arguments, allowed)
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if render and "render_mode" in allowed else {}
    return functools.partial(family.build, member, **mode | arguments)


def _wrap(build: Callable[[], gymnasium.Env], seed: int, index: int) -> gymnasium.Env:
    gl.load_triton_before_mesa()  # whatever it draws with
    guard.seed_globals(episode_seed(seed, index, 0))
    with guard.Contained(f"Environment {index}"):
        try:
            env = build()
        except (SystemExit, KeyboardInterrupt) as error:
            if not guard.is_its_own(error):
                raise
            what = f"environment {index} {guard.did(error)} while it was built (run seed {seed})"
            raise EnvironmentFailure(what) from error
        return SeedEpisodes(Plain(env), seed, index)

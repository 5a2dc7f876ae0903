"""Any gymnasium id, `module:Id-v0` included: a gymnasium environment needs nothing more."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import gymnasium
import gymnasium.error
from gymnasium.envs.registration import EnvSpec, load_env_creator

from configs.nearest import did_you_mean
from envs.arguments import Value, check_names

T = TypeVar("T")

# Reward 1 per step until the episode ends: the time limit is the optimum
ONE_A_STEP = ("CartPole-v0", "CartPole-v1", "CartPoleMasked-v0")

# Package of environments in gymnasium -> gymnasium's extra that installs what they need
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "phys2d": "jax", "tabular": "jax"}


def optimum(spec: EnvSpec) -> float | None:
    """The optimal policy's return in one of gymnasium's own environments, where it is known."""
    limit = spec.max_episode_steps
    return float(limit) if spec.id in ONE_A_STEP and limit else None


def constructor(
    task: str, name: str, arguments: dict[str, Value], others: Iterable[str] = ()
) -> Callable[[], gymnasium.Env]:
    """Look `name` up and return a picklable function that builds it.

    The specification travels with the function, so that a worker process builds the same environment without
    having run the registration itself.

    Args:
        task: the whole task, for messages.
        name: a registered id, or `module:Id-v0` for one that importing `module` registers.
        arguments: for the environment's constructor, and `max_episode_steps` for gymnasium.
        others: names to compare an unknown one with, besides the registered ids.

    Raises:
        ValueError: unknown module, id or argument, with the nearest matches.
        ImportError: a package that gymnasium's own environment needs is not installed; the message names
            gymnasium's extra.
    """
    module, colon, env_id = name.rpartition(":")
    if colon:
        _import(task, module, env_id, others)
    spec = gymnasium.registry.get(env_id)
    if spec is None:
        near = did_you_mean(env_id, [*others, *gymnasium.registry], most=3)
        raise ValueError(
            f"Unknown task {task!r}: gymnasium has no environment {env_id!r} "
            f"registered{f' after importing {module!r}' if colon else ''}.{near} Tasks are our short names, "
            f"{', '.join(repr(other) for other in others if ':' in other)}, a gymnasium id with its version, "
            "or 'module:Id-v0' for an id that importing the module registers (docs/environments.md)."
        )
    if spec.entry_point is None:
        raise ValueError(
            f"Task {task!r} is registered as a vector environment only. Register an 'entry_point' for "
            f"{env_id!r}: one environment at a time is what is needed here."
        )
    allowed = _naming_the_extra(spec, functools.partial(_takes, spec.entry_point))
    if allowed is not None:
        check_names(task, arguments, allowed)
    return functools.partial(_build, module if colon else None, spec, dict(arguments))


def _import(task: str, module: str, env_id: str, others: Iterable[str]) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != module and not module.startswith(f"{missing}."):
            raise  # the module was found; what it imports itself was not
        near = did_you_mean(module, [other.partition(":")[0] for other in others])
        raise ValueError(
            f"Unknown task {task!r}: there is no module {missing!r} to import that would register "
            f"{env_id!r}.{near} For a module of your own, put its folder on the path: PYTHONPATH=/folder "
            "python run.py ..."
        ) from error


def _takes(creator: str | Callable[..., Any]) -> list[str] | None:
    """Names of the arguments that a task may give, or None where the constructor takes any."""
    function = load_env_creator(creator) if isinstance(creator, str) else creator
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return ["max_episode_steps", *(name for name in parameters if name != "render_mode")]


def _build(module: str | None, spec: EnvSpec, arguments: dict[str, Any]) -> gymnasium.Env:
    if module is not None:
        importlib.import_module(module)
    return _naming_the_extra(spec, functools.partial(gymnasium.make, spec, **arguments))


def _naming_the_extra(spec: EnvSpec, call: Callable[[], T]) -> T:
    """What `call` returns; if gymnasium's own environment lacks a package, an error that names the extra."""
    try:
        return call()
    except (ModuleNotFoundError, gymnasium.error.DependencyNotInstalled) as error:
        family = re.match(r"gymnasium\.envs\.(\w+)", str(spec.entry_point))
        if family is None or family[1] not in EXTRAS:
            raise
        raise ImportError(
            f"Task {spec.id!r} needs a package that is not installed: "
            f"pip install 'gymnasium[{EXTRAS[family[1]]}]' ({error})"
        ) from error

"""Any gymnasium id, `module:Id-v0` included: a gymnasium environment needs nothing more."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import gymnasium.error
from gymnasium.envs.registration import EnvSpec, load_env_creator

from configs.nearest import did_you_mean
from envs.arguments import Value, check_names

# Namespace of ids -> the module that registers them, and what installs it
PACKAGES = {"ALE": ("ale_py", "ale-py")}
# Names that a project of one's own cannot have, beside this one
OURS = ("agent", "configs", "envs", "replay", "studies", "worldmodels")

# Reward 1 per step until the episode ends: the time limit is the optimum
ONE_A_STEP = ("CartPole-v0", "CartPole-v1", "CartPoleMasked-v0")

# Package of environments in gymnasium -> gymnasium's extra that installs what they need
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "phys2d": "jax", "tabular": "jax"}


def optimum(spec: EnvSpec) -> float | None:
    """The optimal policy's return in one of gymnasium's own environments, where it is known."""
    limit = spec.max_episode_steps
    return float(limit) if spec.id in ONE_A_STEP and limit else None


def constructor(
    task: str, name: str, arguments: dict[str, Value], others: Iterable[str] = (), render: bool = False
) -> Callable[[], gymnasium.Env]:
    """Look `name` up and return a picklable function that builds it.

    The specification travels with the function, so that a worker process builds the same environment without
    having run the registration itself.

    Args:
        task: the whole task, for messages.
        name: a registered id, or `module:Id-v0` for one that importing `module` registers; `module` may be a
            file, `folder/module.py`.
        arguments: for the environment's constructor and gymnasium's.
        others: names to compare an unknown one with, besides the registered ids.
        render: whether `render_mode="rgb_array"` is one of the arguments where it can be and no mode is
            given.

    Raises:
        ValueError: unknown module, id or argument, with the nearest matches.
        ImportError: a package that gymnasium's own environment needs is not installed; the message names
            gymnasium's extra.
    """
    module, colon, env_id = name.rpartition(":")
    if colon:
        module = _find(module)
        _import(task, module, env_id, others)
    spec = gymnasium.registry.get(env_id)
    if spec is None:
        near = _near(env_id, others)
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
    creator: Any = spec.entry_point
    if isinstance(creator, str):
        with _naming_the_extra(spec):
            creator = load_env_creator(creator)
    allowed = _takes(creator)
    if allowed is not None:
        check_names(task, arguments, allowed)
    mode: dict[str, Any] = {"render_mode": "rgb_array"} if render and _draws(creator, allowed) else {}
    return functools.partial(_build, module if colon else None, spec, mode | arguments)


def _near(env_id: str, others: Iterable[str]) -> str:
    """A hint at what was meant by an id that is not registered."""
    space, slash, _ = env_id.rpartition("/")
    if slash and not any(known.startswith(f"{space}/") for known in gymnasium.registry):
        module, package = PACKAGES.get(space, ("", ""))
        how = f": pip install {package}, then '{module}:{env_id}'" if module else f": 'module:{env_id}'"
        return f" Ids of {space!r} are registered by a package of their own, which has to be imported{how}."
    return did_you_mean(env_id, [*others, *gymnasium.registry], most=3)


def _find(module: str) -> str:
    """A module's name as it is, a file's as an absolute path, so that other processes find it too."""
    if not module.endswith(".py") and not re.search(r"[/\\]|^\.", module):
        return module
    path = Path(module)
    return str((path if path.suffix == ".py" else path.with_name(f"{path.name}.py")).expanduser().resolve())


def _imported(module: str) -> ModuleType:
    """Import a module by its name, or by its file, whose folder then joins the path, last."""
    path = Path(module)
    if path.suffix != ".py":
        return importlib.import_module(module)
    if not path.is_file():
        raise ModuleNotFoundError(f"there is no file {path}", name=module)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    found = importlib.import_module(path.stem)
    if Path(found.__file__ or "").resolve() != path:
        raise ValueError(
            f"{path} cannot be imported: the name {path.stem!r} is taken by {found.__file__ or 'Python'}. "
            "Rename the file."
        )
    return found


def _import(task: str, module: str, env_id: str, others: Iterable[str]) -> None:
    try:
        _imported(module)
    except SystemExit as error:
        ended = f"tried to end the program (sys.exit({error.code!r}))"
        raise ValueError(f"Task {task!r}: importing {module!r} {ended}.") from error
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != module and not module.startswith(f"{missing}."):
            raise  # the module was found; what it imports itself was not
        if module.endswith(".py"):
            raise ValueError(f"Unknown task {task!r}: {error}.") from error
        for known, package in PACKAGES.values():
            if module == known:
                raise ValueError(f"Task {task!r} needs: pip install {package} ({error})") from error
        if module.partition(".")[0] in OURS:
            raise ValueError(
                f"Unknown task {task!r}: the name {module.partition('.')[0]!r} is taken by a package of this "
                f"project, which has no {missing!r}. Rename your package, or move the module out of it and "
                f"name its file: 'folder/module.py:{env_id}'."
            ) from error
        if ":" in module:
            raise ValueError(
                f"Task {task!r}: {env_id!r} is not of the form key=value, as arguments are, such as "
                f"{module}:{env_id}=1."
            ) from error
        near = did_you_mean(module, [other.partition(":")[0] for other in others])
        raise ValueError(
            f"Unknown task {task!r}: there is no module {missing!r} to import that would register "
            f"{env_id!r}.{near} For a module of your own, put its folder on the path: PYTHONPATH=/folder "
            "python run.py ..."
        ) from error


def _takes(creator: Callable[..., Any]) -> list[str] | None:
    """Names of the arguments that a task may give, or None where the constructor takes any."""
    parameters = inspect.signature(creator).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return ["max_episode_steps", "disable_env_checker", *parameters]


def _draws(creator: Callable[..., Any], allowed: list[str] | None) -> bool:
    """Whether an environment can be asked for pictures when it is built."""
    if allowed is not None and "render_mode" not in allowed:
        return False
    metadata = getattr(creator, "metadata", None)  # a function, which has none, may name the argument
    return allowed is not None if metadata is None else "rgb_array" in metadata.get("render_modes", [])


def _build(module: str | None, spec: EnvSpec, arguments: dict[str, Any]) -> gymnasium.Env:
    if module is not None:
        _imported(module)
    with _naming_the_extra(spec):
        return gymnasium.make(spec, **arguments)


@contextlib.contextmanager
def _naming_the_extra(spec: EnvSpec) -> Iterator[None]:
    """If gymnasium's own environment lacks a package, raise an error that names the extra."""
    try:
        yield
    except (ModuleNotFoundError, gymnasium.error.DependencyNotInstalled) as error:
        family = re.match(r"gymnasium\.envs\.(\w+)", str(spec.entry_point))
        if family is None or family[1] not in EXTRAS:
            raise
        raise ImportError(
            f"Task {spec.id!r} needs a package that is not installed: "
            f"pip install 'gymnasium[{EXTRAS[family[1]]}]' ({error})"
        ) from error

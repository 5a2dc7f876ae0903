"""POPGym's memory tasks (Morad et al., ICLR 2023), as `popgym:RepeatPreviousEasy`."""

from __future__ import annotations

import inspect
from types import ModuleType

import gymnasium

from envs.arguments import Value
from envs.suites import extras

# Checked with policies that see the hidden state (test_popgym.py). Other optima depend on luck.
OPTIMA: dict[str, float] = {"RepeatPrevious": 1.0, "RepeatFirst": 1.0, "Autoencode": 1.0, "CountRecall": 1.0}
# One suit of four is right
GUESSES: dict[str, float] = {"RepeatPrevious": -0.5, "RepeatFirst": -0.5, "Autoencode": -0.5}


def _package() -> ModuleType:
    return extras.load("popgym.envs", "'popgym:...'", "popgym", "popgym")


def names() -> list[str]:
    """Return the task names, such as 'RepeatPreviousEasy', sorted.

    Raises:
        ImportError: popgym is not installed; the message names the extra.
    """
    return sorted(env.__name__ for env in _package().ALL)


def arguments(name: str) -> list[str]:
    """Return the names of the arguments that `name` takes (few do: the difficulty is in the name)."""
    parameters = inspect.signature(getattr(_package(), name)).parameters
    return [key for key, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def build(name: str, **kwargs: Value) -> gymnasium.Env:
    """Build `popgym.envs.<name>()`, bare: POPGym's own wrappers refuse what `gymnasium.make` returns."""
    env = getattr(_package(), name)(**kwargs)
    for family, optimum in OPTIMA.items():
        if name.startswith(family):
            env.optimum, env.guess = optimum, GUESSES.get(family)
    return env

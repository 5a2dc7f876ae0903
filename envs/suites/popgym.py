"""POPGym's memory tasks (Morad et al., ICLR 2023), as `popgym:RepeatPreviousEasy`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import gymnasium

from envs.arguments import Value
from envs.suites import extras
from envs.suites.facts import TellFacts

# One suit of four is right
GUESSES: dict[str, float] = {"RepeatPrevious": -0.5, "RepeatFirst": -0.5, "Autoencode": -0.5}


def _repeat_previous(env: Any) -> int:
    dealt = env.deck["player"]
    return env.deck.suits_idx[dealt[-env.k]] if len(dealt) >= env.k else -1


def _autoencode(env: Any) -> int:
    left = env.deck["system"]  # of what was dealt, to be played back
    return env.deck.suits_idx[left[-1]] if env.mode.name == "PLAY" and left else -1


# The action that is right, -1 where none is: a policy that takes it returns 1 (test_popgym.py). The optima of
# other families depend on luck.
ANSWERS: dict[str, Callable[[Any], int]] = {
    "RepeatPrevious": _repeat_previous,
    "RepeatFirst": lambda env: env.card,
    "Autoencode": _autoencode,
    "CountRecall": lambda env: env.counts[env.query],
}


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
    """Build `popgym.envs.<name>()`, without POPGym's wrappers: they refuse what `gymnasium.make` returns.

    Where the right action is known it is `info["probe"]["answer"]`, see `ANSWERS`.
    """
    env = getattr(_package(), name)(**kwargs)
    family = name.removesuffix("Easy").removesuffix("Medium").removesuffix("Hard")
    if family not in ANSWERS:
        return env
    env.optimum, env.guess = 1.0, GUESSES.get(family)
    answer = ANSWERS[family]
    return TellFacts(env, lambda hidden: {"answer": int(answer(hidden))})

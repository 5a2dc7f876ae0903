"""The task grammar `name:key=value,key=value`, and the error messages that its checks share."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Sequence

Value = bool | int | float | str

_WORDS: dict[str, bool] = {"true": True, "false": False}


def parse_task(task: str) -> tuple[str, dict[str, Value]]:
    """Split a task into its head and its arguments.

    Only a last part that contains '=' is a list of arguments, so `module:Id-v0` is a head and
    `module:Id-v0:size=3` is a head with one argument.

    Raises:
        ValueError: the task is empty, or an argument is not `key=value` or is given twice.
    """
    if not isinstance(task, str) or not task.strip():
        raise ValueError(
            f"A task must be a name such as 'memory_chain' or 'memory_chain:n=64', got {task!r}. "
            "docs/environments.md lists the names."
        )
    head, colon, last = task.strip().rpartition(":")
    if not colon or "=" not in last:
        return task.strip(), {}
    arguments: dict[str, Value] = {}
    for pair in last.split(","):
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not key.isidentifier() or not text:
            raise ValueError(
                f"Argument {pair!r} of task {task!r} is not of the form key=value. Write arguments after the "
                f"last colon, separated by commas and without quotes: '{head}:key=value,key=value'."
            )
        if key in arguments:
            raise ValueError(f"Argument {key!r} of task {task!r} is given twice; give it once.")
        arguments[key] = parse_value(text)
    return head, arguments


def parse_value(text: str) -> Value:
    """Read `text` as the first of bool (true, false), int, float, str that fits."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def did_you_mean(word: str, choices: Iterable[str], most: int = 3) -> str:
    """Return ' Did you mean ...?' with the nearest of `choices`, or '' where none is near."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), by_lower, n=most, cutoff=0.5)
    if not near:
        return ""
    return f" Did you mean {' or '.join(repr(by_lower[name]) for name in near)}?"


def check_names(task: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse an argument that the task does not take.

    Raises:
        ValueError: names the argument, what the task takes, and the nearest match.
    """
    allowed = sorted(allowed)
    for name in given:
        if name not in allowed:
            takes = f"takes {', '.join(allowed)}" if allowed else "takes no arguments"
            raise ValueError(
                f"Unknown argument {name!r} in task {task!r}: this task {takes}.{did_you_mean(name, allowed)}"
            )


def check_whole(owner: str, name: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` if it is a whole number within [low, high].

    Raises:
        ValueError: it is not; the message names owner and argument.
    """
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not fits or (high is not None and value > high):  # type: ignore[operator]
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{owner}: argument {name!r} must be a whole number {bounds}, got {value!r}.")
    return value  # type: ignore[return-value]


def check_one_of(owner: str, name: str, value: object, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises:
        ValueError: it is not; the message names owner, argument, choices and the nearest of them.
    """
    if value not in choices:
        known = f"{', '.join(choices[:-1])} or {choices[-1]}"
        near = did_you_mean(str(value), choices)
        raise ValueError(f"{owner}: argument {name!r} must be {known}, got {value!r}.{near}")
    return value  # type: ignore[return-value]


def check_action(owner: str, count: int, action: object) -> None:
    """Refuse all but the action numbers 0 to `count` - 1 (`Discrete.contains` would cost more than a step).

    Raises:
        ValueError: it is none of these; the message names the environment and the range.
    """
    try:
        known = 0 <= operator.index(action) < count  # type: ignore[arg-type]
    except TypeError:  # not a whole number
        known = False
    if not known:
        raise ValueError(f"{owner}: an action must be a whole number from 0 to {count - 1}, got {action!r}.")

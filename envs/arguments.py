"""The task grammar `name:key=value,key=value`, and the checks of arguments that tasks share."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from configs.nearest import did_you_mean

Value = bool | int | float | str | list[Any] | tuple[Any, ...] | dict[str, Any]
T = TypeVar("T", int, str)

_QUOTES = tuple("\"'([{")
_WORDS: dict[str, bool] = {"true": True, "false": False}


def parse_task(task: str) -> tuple[str, dict[str, Value]]:
    """Split a task into its name and its arguments.

    Arguments begin after the first colon that `key=` follows, so `module:Id-v0` is a name and
    `module:Id-v0:size=3` is a name with one argument. A value that begins with a quote or bracket is one of
    JSON or of Python (`size=(3,4)`, `text="a,b"`, `options={"a": [1, true]}`) and may have commas; any other
    is the first of bool (true, false), int, float, str that its text fits.

    Raises:
        ValueError: the task is empty, or an argument is not `key=value` or is given twice.
    """
    if not isinstance(task, str) or not task.strip():
        raise ValueError(
            f"A task must be a name such as 'memory_chain' or 'memory_chain:n=64', got {task!r}. "
            "docs/environments.md lists the names."
        )
    name, *last = re.split(r":(?=[^:=,]*=)", task.strip(), maxsplit=1)
    if not last:
        return name, {}
    arguments: dict[str, Value] = {}
    parts = last[0].split(",")
    while parts:
        pair = parts.pop(0)
        key, equals, text = (part.strip() for part in pair.partition("="))
        while text[:1] in _QUOTES and text and not _is_literal(text) and parts:
            text += "," + parts.pop(0)
        if not equals or not key.isidentifier() or not text or (text[0] in _QUOTES and not _is_literal(text)):
            raise ValueError(
                f"Argument {pair!r} of task {task!r} is not of the form key=value. Write arguments after a "
                f"colon, separated by commas: '{name}:key=value,key=value'. A value with commas is quoted or "
                f"in brackets, as in JSON or Python, and all of it quoted for the shell: "
                f"'{name}:size=(3,4),text=\"a,b\"'."
            )
        if key in arguments:
            raise ValueError(f"Argument {key!r} of task {task!r} is given twice; give it once.")
        arguments[key] = _value(text)
    return name, arguments


def _literal(text: str) -> Value:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def _is_literal(text: str) -> bool:
    try:
        _literal(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _value(text: str) -> Value:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text[0] in _QUOTES:
        return _literal(text)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


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


def check_whole(owner: str, name: str, value: Value, low: int, high: int | None = None) -> int:
    """Return `value` if it is a whole number within [low, high].

    Raises:
        ValueError: it is not; the message names owner and argument.
    """
    if type(value) is not int or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{owner}: argument {name!r} must be a whole number {bounds}, got {value!r}.")
    return value


def check_flag(owner: str, name: str, value: Value) -> bool:
    """Return `value` if it is a bool.

    Raises:
        ValueError: it is not; the message names owner and argument.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{owner}: argument {name!r} must be true or false, got {value!r}.")
    return value


def check_one_of(owner: str, name: str, value: Value, choices: Iterable[T]) -> T:
    """Return `value` if it is one of `choices`, all ints or all words.

    Raises:
        ValueError: it is not; the message names owner, argument, choices and the nearest of them.
    """
    for choice in choices:
        if value == choice and type(value) is type(choice):  # True is no 1
            return choice
    words = [str(choice) for choice in choices]
    near = did_you_mean(value, words) if isinstance(value, str) else ""
    raise ValueError(
        f"{owner}: argument {name!r} must be {', '.join(words[:-1])} or {words[-1]}, got {value!r}.{near}"
    )

"""The values of options: parsed to the type of their default, and shown in messages."""

from collections.abc import Iterable, Mapping
from typing import Any

# The smallest and largest allowed numbers, by an option's key or its last part; otherwise 0 and no bound.
_LEAST = {"batch_length": 2, "bins": 3} | dict.fromkeys(
    [
        *("batch_size", "count", "episodes", "eval.envs", "max_steps", "keep", "horizon", "positions"),
        *("depth", "units", "layers", "hidden_layers", "prior_layers", "posterior_layers", "stoch", "deter"),
        *("s4wm.width", "tssm.width", "tssm.heads", "tssm.memory", "feed_forward", "blocks"),
        *("state_size", "head_size", "state_every", "chunk"),
    ],
    1,
)
_MOST = dict.fromkeys(("unimix", "discount", "lam", "slow_rate"), 1)

_BOOLS = {"true": True, "yes": True, "false": False, "no": False}
_NONES = ("", "null", "none", "~")


def as_type_of(default: Any, value: Any) -> Any:
    """The value in the default's type; text is parsed to it. Raises a bare ValueError if it does not fit."""
    if isinstance(default, tuple):
        if isinstance(value, str):
            inner = value.strip().removeprefix("[").removesuffix("]")
            value = [item.strip().strip("'\"") for item in inner.split(",")] if inner.strip() else []
        if not isinstance(value, list | tuple):
            raise ValueError
        kind = next((item for item in default if isinstance(item, float)), default[0] if default else None)
        return tuple(as_type_of(kind, item) for item in value)
    if isinstance(value, list | tuple | Mapping):
        raise ValueError
    if isinstance(default, bool):
        if not isinstance(value, bool | str) or str(value).lower() not in _BOOLS:
            raise ValueError
        return _BOOLS[str(value).lower()]
    if default is None:
        return _guessed(value)
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError
        return str(value)
    if value is None or isinstance(value, bool):
        raise ValueError
    if isinstance(default, int):
        return _as_int(value)
    number = float(value)
    if number != number:
        raise ValueError
    return number


def outside(key: str, value: Any) -> str:
    """What is expected of option `key`, if its value is a number out of range; otherwise ''."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    names = key, key.rsplit(".", 1)[-1]
    least, most = (next((of[name] for name in names if name in of), None) for of in (_LEAST, _MOST))
    if (least or 0) <= value and (most is None or value <= most):
        return ""
    return f"{least or 0} or more" if most is None else f"a number from {least or 0} to {most}"


def _as_int(value: Any) -> int:
    """An integer from 3, 3.0, '3', '1e5' or '1_000_000'."""
    if isinstance(value, str) and not set(value.lower()) & {"e", "."}:
        return int(value)
    if int(float(value)) != float(value):
        raise ValueError
    return int(value) if isinstance(value, int) else int(float(value))


def _guessed(value: Any) -> Any:
    """The value of an option that has no type of its own (default null): text is read as YAML would."""
    if not isinstance(value, str):
        return plain(value, "")
    if value.lower() in _NONES:
        return None
    if value.lower() in _BOOLS:
        return _BOOLS[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return str(value)


def plain(value: Any, source: str) -> Any:
    """The value in built-in types; ruamel's own types carry layout along."""
    if isinstance(value, list):
        return tuple(plain(item, source) for item in value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise ValueError(
        f"{source}: expected bool, int, float, str, null or a list of these, got {shown(value)}."
    )


def type_name(default: Any) -> str:
    if isinstance(default, tuple):
        return f"list of {type_name(default[0])}" if default else "list"
    return "bool, int, float, str or null" if default is None else type(default).__name__


def typed(default: Any) -> str:
    """A value as one would type it."""
    if isinstance(default, tuple):
        return ",".join(map(typed, default)) or "[]"
    if isinstance(default, bool):
        return "true" if default else "false"
    return "null" if default is None else str(default) or "''"


def shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown

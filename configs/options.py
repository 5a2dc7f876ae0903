"""One option: its default, what it means, what values it takes; read from a line of `defaults.yaml`.

The comment of an option may end in what is allowed: `{auto, cpu, cuda}`, the words of a choice, or an
interval such as `[1, inf)` or `(0, 1]`, in which a square bracket includes the end. A number without one is
finite and not below 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

LISTED = 12  # names in a message
Value = bool | int | float | str

_BOOLS = {"true": True, "yes": True, "false": False, "no": False}
_ALLOWED = re.compile(
    r"^(?P<meaning>.*?)\s*(?:\{(?P<words>[^{}]+)\}|(?P<interval>[\[(][^\[\](){},]+, ?[^\[\](){},]+[\])]))$"
)


@dataclass(frozen=True)
class Option:
    """One line of `defaults.yaml`.

    Attributes:
        key: dotted name.
        default: whose type is the option's.
        meaning: the comment, without what is allowed.
        choices: the words it may be, or () for any.
        interval: a number's bounds as written, such as '[0, inf)'.
    """

    key: str
    default: Value
    meaning: str = ""
    choices: tuple[str, ...] = ()
    interval: str = "[0, inf)"

    @classmethod
    def of(cls, key: str, default: Value, comment: str) -> Option:
        """The option of a comment that may end in what is allowed.

        Raises ValueError if the default is not allowed itself.
        """
        match = _ALLOWED.match(comment)
        option = cls(key, default, comment)
        if match and match["words"]:
            words = tuple(word.strip() for word in match["words"].split(","))
            option = cls(key, default, match["meaning"], words)
        elif match:
            option = cls(key, default, match["meaning"], (), match["interval"])
        option.value(default, "its default")
        return option

    @property
    def allowed(self) -> str:
        """What values it takes, as `--help` and messages say it; '' where its type says all."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if isinstance(self.default, bool | str) or self.interval == "[0, inf)":
            return ""
        low, high = self._ends
        if math.isinf(high):
            return f"above {low:g}" if self.interval[0] == "(" else f"{low:g} or more"
        return f"a number in {self.interval}"

    def value(self, given: object, source: str) -> Value:
        """`given`, or the text of it, in the option's type.

        Raises ValueError that names source, key, what was expected and what was given.
        """
        try:
            value = self._typed(given)
            fits = self._fits(value)
        except (ValueError, OverflowError):
            raise ValueError(
                f"{source}: option '{self.key}' expects {type(self.default).__name__} (such as "
                f"{typed(self.default)}), got {shown(given)}."
            ) from None
        if not fits:
            expected = self.allowed or "a finite number of 0 or more"
            raise ValueError(f"{source}: option '{self.key}' expects {expected}, got {shown(given)}.")
        return value

    def _typed(self, given: object) -> Value:
        if isinstance(self.default, bool):
            return _BOOLS[str(given).lower()] if str(given).lower() in _BOOLS else _refuse()
        if isinstance(self.default, str):
            return str(given) if isinstance(given, str) else _refuse()
        if isinstance(given, bool) or not isinstance(given, int | float | str):
            return _refuse()
        if isinstance(self.default, float):
            return float(given)
        if isinstance(given, str) and set(given.lower()) & {"e", "."}:  # 1e5, 2.0
            given = float(given)
        return _refuse() if isinstance(given, float) and given != int(given) else int(given)

    def _fits(self, value: Value) -> bool:
        if isinstance(value, bool):
            return True
        if isinstance(value, str):
            return not self.choices or value in self.choices
        low, high = self._ends
        above = low < value if self.interval[0] == "(" else low <= value
        return above and (value < high if self.interval[-1] == ")" else value <= high)

    @property
    def _ends(self) -> tuple[float, float]:
        low, high = self.interval[1:-1].split(",")
        return float(low), float(high)


def _refuse() -> Value:
    raise ValueError


def typed(value: object) -> str:
    """A value as one would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) or "''"


def shown(value: object) -> str:
    """A value as messages show it."""
    return f"{value!r} ({type(value).__name__})"


def listed(names: Iterable[str]) -> str:
    """Names as messages list them."""
    names = list(names)
    text = ", ".join(f"'{name}'" for name in names[:LISTED])
    return f"{text} and {len(names) - LISTED} more" if len(names) > LISTED else text

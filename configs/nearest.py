"""The known name nearest to a mistyped one, for messages."""

import difflib
import re
from collections.abc import Collection

RENAMED = {"log.tensorboard": "log.to"}
"""Old name of an option -> the new one."""


def did_you_mean(name: str, known: Collection[str], most: int = 1) -> str:
    """' Did you mean 'x'?' for the `most` known names nearest to this one, or ''; upper and lower case alike.

    A dotted name is compared as a whole, then by its last part; one without a dot, by last parts only. Where
    none is near, one of whose words is in the name is taken for near: 's4wm_lru' for 'lruwm'.
    """
    if (now := RENAMED.get(name.lstrip("-"))) in {key.lstrip("-") for key in known}:
        return f" It is '{now}' now."
    whole: dict[str, str] = {}
    by_end: dict[str, str] = {}
    for key in known:
        whole.setdefault(key.lower(), key)
        by_end.setdefault(_end(key), key)
    close: list[str] = []
    if "." in name:
        close = [whole[key] for key in difflib.get_close_matches(name.lower(), whole, most)]
    close = close or [by_end[end] for end in difflib.get_close_matches(_end(name), by_end, most)]
    close = close or [key for end, key in by_end.items() if _shares_a_word(end, name.lower())][:most]
    return f" Did you mean {' or '.join(repr(key) for key in close)}?" if close else ""


def _end(name: str) -> str:
    return name.lower().lstrip("-").rpartition(".")[2]


def _shares_a_word(known: str, name: str) -> bool:
    return any(len(word) > 2 and word in name for word in re.split(r"[\W_]", known))

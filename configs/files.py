"""Small files that may have been cut, changed or made by a stranger: read up to a limit, errors say where."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MOST = 16 << 20  # bytes of a small file, or of one line of a log


def to_stderr(message: str) -> None:
    """Print a line there."""
    print(message, file=sys.stderr, flush=True)


def read_text(path: str | Path, most: int = MOST) -> str:
    """A file of UTF-8 text.

    Raises:
        ValueError: it cannot be read, has more than `most` bytes, or is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}).") from error
    if len(content) > most:
        raise ValueError(f"{path} has more than {most:,} bytes: it is not what this program writes there.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: it is not UTF-8 text; the file was damaged.") from error


def read_json(path: str | Path, most: int = MOST) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        ValueError: see `read_text`; it is cut, or no object.
    """
    return _object(read_text(path, most), path, 0)


def read_lines(path: str | Path, report: Callable[[str], None] = to_stderr) -> Iterator[dict[str, Any]]:
    """The lines of a file of JSON objects, one a line; none if there is no file.

    A line that is cut or damaged is left out, and `report` gets a message with its number.

    Raises:
        OSError: the file cannot be read.
    """
    if not Path(path).is_file():
        return
    with Path(path).open("rb") as file:
        number = 0
        while content := file.readline(MOST):
            number += 1
            try:
                found = _object(content.decode("utf-8"), path, number)
            except ValueError as error:
                text = str(error) if str(path) in str(error) else f"{path}, line {number}: {error}"
                report(f"left out {text}")
            else:
                yield found


def _object(text: str, path: str | Path, number: int) -> dict[str, Any]:
    """Parse line `number` of a file, or a whole one (0)."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        at = number or error.lineno
        raise ValueError(
            f"{path}, line {at}, column {error.colno}: no JSON ({error.msg}); it was cut or damaged."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise ValueError(f"{path}, line {number or 1}: no JSON of this program ({error}).") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}, line {number or 1}: expected a JSON object, got {type(found).__name__}.")
    return found

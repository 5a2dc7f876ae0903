"""Tables of what was measured, as aligned text or as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Columns = Mapping[str, Callable[[Any], str]]
"""Heading -> what stands below it for a row."""


def text(rows: Iterable[Any], columns: Columns) -> str:
    """Columns side by side: the first aligned to the left, the others to the right."""
    lines = _cells(rows, columns)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def markdown(rows: Iterable[Any], columns: Columns) -> str:
    """The same as a table of a Markdown document."""
    head, *body = (f"| {' | '.join(line)} |" for line in _cells(rows, columns))
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def number(value: float | None, form: str = ".3g") -> str:
    """A number in a format of Python's; '-' for none."""
    return "-" if value is None else format(value, form)


def _cells(rows: Iterable[Any], columns: Columns) -> list[list[str]]:
    return [list(columns), *([cell(row) for cell in columns.values()] for row in rows)]

"""Writing files so that a power cut leaves the old one or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path, what: str, besides: str = "") -> Iterator[None]:
    """Give an OSError of writing (a full disk does not name itself) what was written, and where."""
    try:
        yield
    except OSError as error:
        message = f"writing {what} failed ({error.strerror}){besides}"
        raise OSError(error.errno, message, str(path)) from error


def publish(path: Path, text: str, what: str) -> None:
    """Write a text file through to the disk under a dot name, then give it its own.

    Raises OSError with `what` and the path if the disk does not take it; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}")
    with naming(temporary, what):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make sure that the names of new files in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

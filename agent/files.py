"""Writing files so that a power cut leaves the old one or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path, what: str, besides: str = "") -> Iterator[None]:
    """Add to an OSError what was being written, and where (that of a full disk does not name the file)."""
    try:
        yield
    except OSError as error:
        message = f"writing {what} failed ({error.strerror}){besides}"
        raise OSError(error.errno, message, str(path)) from error


def publish(path: Path, text: str, what: str) -> None:
    """Write a text file under a dot name, sync it to disk, then rename it.

    Raises OSError with `what` and the path if writing fails; what was there before stays.
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

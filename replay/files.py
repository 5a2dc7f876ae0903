"""Writing files so that a power cut leaves the old one or the new one, never half of it."""

import contextlib
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

Fingerprint = Mapping[str, int]  # `size` and `crc32` of a file's bytes


@contextlib.contextmanager
def naming(path: Path, what: str, besides: str = "") -> Iterator[None]:
    """Add to an OSError what was being written, and where (that of a full disk does not name the file)."""
    try:
        yield
    except OSError as error:
        message = f"writing {what} failed ({error.strerror or error}){besides}"
        raise OSError(error.errno, message, str(path)) from error


@contextlib.contextmanager
def atomic(path: Path, what: str) -> Iterator[Path]:
    """Yield a path to write a file to, which takes the place of `path` once every byte is on disk.

    It is in the same folder under a dot name, and has the suffix of `path`. If the block raises, or the disk
    takes no more, `path` is as it was and nothing else is left behind; an OSError names `what` and `path`.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        with naming(path, what):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def publish(path: Path, text: str, what: str) -> None:
    """Write a text file in UTF-8; see `atomic`."""
    with atomic(path, what) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Make sure that what was written to a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint(path: Path) -> Fingerprint:
    """Return `size` and `crc32` of a file's bytes."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return {"size": size, "crc32": checksum}

"""Writing files so that a power cut leaves the old one or the new one, never half of it."""

import contextlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

Fingerprint = Mapping[str, int]  # `size` and `crc32` of a file's bytes
LONGEST = 255  # bytes of one name, on all usual file systems
ASIDE = "aside-"  # begins the name of a folder of what was put aside
UNPACKED, RATIO = 64 << 20, 200  # bytes that any archive may unpack to, and how many times its own size


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
    temporary = path.with_name(f".{path.stem[:50]}-{os.getpid()}{path.suffix}")
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


def writable(path: str | Path, suffixes: Iterable[str] = (), folder: bool = False) -> Path:
    """Check before the work that its result can be written to `path`; nothing is created.

    Arguments:
        suffixes: those the file may have, such as `.png`; () for any.
        folder: the result is a folder of files, which may be there.

    Returns: the path, absolute.

    Raises ValueError, which names the path, if it cannot.
    """
    try:
        path = Path(path).absolute()
        if any(len(os.fsencode(part)) > LONGEST for part in path.parts):
            raise ValueError(f"{path} has a name of more than {LONGEST} bytes; choose a shorter one.")
        expected = "folder" if folder else "file"
        if path.exists() and not (path.is_dir() if folder else path.is_file()):
            raise ValueError(f"{path} is there and no {expected}; expected the name of a {expected}.")
        if suffixes and path.suffix.lower() not in suffixes:
            raise ValueError(f"{path} must end in one of {', '.join(suffixes)}.")
        there = next(each for each in (path, *path.parents) if each.exists())
        if there == path and not folder:
            with path.open("ab"):  # nothing is written to it
                there = path.parent
        if not there.is_dir():
            raise ValueError(f"{path} cannot be written: {there} is a file; choose another.")
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror or error}); choose another.") from error
    return path


def append(path: Path, lines: bool = True) -> TextIO:
    """Open a text file of ours to append to; a link, which a stranger may have put there, is an OSError.

    With `lines`, what is written begins a line of its own, though the last one was cut.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    file = open(path, "a+", encoding="utf-8", opener=opener)  # noqa: SIM115 (the caller closes it)
    size = os.fstat(file.fileno()).st_size
    if lines and size and os.pread(file.fileno(), 1, size - 1) != b"\n":
        file.write("\n")
    return file


def put_aside(paths: Iterable[Path], folder: Path) -> Path:
    """Move files and folders into the first `aside-<n>` of a folder that is not there yet; return it."""
    number = 1
    while (place := folder / f"{ASIDE}{number}").exists():
        number += 1
    place.mkdir()
    for path in paths:
        os.replace(path, place / path.name)
    sync(folder)
    return place


def readable(path: Path) -> bool:
    """Whether `check_unpacked` lets an archive pass."""
    with zipfile.ZipFile(path) as archive, contextlib.suppress(ValueError):
        check_unpacked(archive, path)
        return True
    return False


def check_unpacked(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise ValueError if an archive promises to unpack to far more than it holds: a zip bomb."""
    size, most = sum(member.file_size for member in archive.infolist()), RATIO * path.stat().st_size
    if size > max(UNPACKED, most):
        raise ValueError(f"{path} unpacks to {size:,} bytes, more than {RATIO} times its own size")

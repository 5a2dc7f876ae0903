"""Files are the old ones or the new ones, nothing else is left behind, and errors name them."""

import errno
import re
import resource
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from replay.files import append, atomic, fingerprint, naming, publish, put_aside, writable

Writer = Callable[[Path], object]
WRITERS: dict[str, tuple[str, Writer]] = {
    "text": ("result.json", lambda path: path.write_text("x" * 100_000)),
    "arrays": ("chunk.npz", lambda path: np.savez(path, x=np.zeros(20_000))),
    "picture": ("curve.png", lambda path: Figure(dpi=300).savefig(path)),
    "no suffix": ("notes", lambda path: path.write_bytes(bytes(100_000))),
}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Writer]:
    """A path, and what writes more than 4 kB to one."""
    name, write = WRITERS[request.param]
    return tmp_path / name, write


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 4 kB; only in here, since pytest may print to a longer one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_the_new_one_alone(writer: tuple[Path, Writer]) -> None:
    """While it is written the old one is there, afterwards nothing but the new one."""
    path, write = writer
    path.write_text("old")
    with atomic(path, "a file") as temporary:
        write(temporary)
        assert temporary.name.startswith(".") and temporary.suffix == path.suffix
        assert path.read_text() == "old"
    assert path.stat().st_size > 4096 and list(path.parent.iterdir()) == [path]


@pytest.mark.faults("disk full")
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_leaves_what_was_there(writer: tuple[Path, Writer], old: bool) -> None:
    path, write = writer
    if old:
        path.write_text("old")
    with pytest.raises(OSError, match=r"writing a file failed \(File too large\)") as caught:  # noqa: SIM117
        with full_disk(), atomic(path, "a file") as temporary:
            write(temporary)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert [found.read_text() for found in path.parent.iterdir()] == ["old"] * old


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    """It comes through as it is."""
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error, match="mine"), atomic(path, "a file") as temporary:
        temporary.write_text("half")
        raise error("mine")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_text_is_published(tmp_path: Path) -> None:
    for text in ("old", "né"):
        publish(tmp_path / "result.json", text, "the result")
        assert (tmp_path / "result.json").read_text(encoding="utf-8") == text


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    """The error is of its own kind, and says what was to be written."""
    path = tmp_path / "gone" / "result.json"
    with pytest.raises(FileNotFoundError, match=r"writing the result failed .*gone/result\.json"):
        publish(path, "text", "the result")
    with (
        pytest.raises(PermissionError, match=r"writing it failed \(Operation not permitted\); calm"),
        naming(path, "it", "; calm"),
    ):
        raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    content = bytes(3 << 20) + b"end"
    (tmp_path / "file").write_bytes(content)
    assert fingerprint(tmp_path / "file") == {"size": len(content), "crc32": zlib.crc32(content)}


@pytest.mark.faults("output that cannot be written")
def test_what_cannot_be_written_is_seen_before_the_work(tmp_path: Path) -> None:
    """And what can be is not created by asking."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for path, options in (
        (tmp_path / "folder", {}),
        (tmp_path / "file", {"folder": True}),
        (tmp_path / "file" / "curve.png", {}),
        (tmp_path / "curve.xyz", {"suffixes": (".png", ".svg")}),
        (tmp_path / "new" / ("x" * 256), {}),
        (tmp_path / ("\N{SNOWMAN}" * 100), {}),
        (Path("/proc/nothing/curve.png"), {}),
        (Path("/proc/self/curve.png"), {}),
        (Path("/proc/cpuinfo"), {}),
        (Path("/dev/null"), {}),
        (Path("/proc/nothing"), {"folder": True}),
    ):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            writable(path, **options)
    assert writable(tmp_path / "file") == tmp_path / "file"
    assert writable(tmp_path / "a" / "b" / "curve.PNG", [".png"]) == tmp_path / "a" / "b" / "curve.PNG"
    assert writable(tmp_path / "folder", folder=True) == writable(tmp_path / "folder", folder=True)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "mine"


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = writable(tmp_path / ("x" * 251 + ".txt"))
    publish(path, "text", "a file")
    assert path.read_text() == "text" and list(tmp_path.iterdir()) == [path]


@pytest.mark.faults("link in a folder of ours")
def test_nothing_is_appended_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "log").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        append(tmp_path / "log")
    assert (tmp_path / "mine").read_text() == "mine"
    for text in ("a", "b"):
        with append(tmp_path / "own") as file:
            file.write(text)
    assert (tmp_path / "own").read_text() == "a\nb"
    with append(tmp_path / "own", lines=False) as file:
        file.write("c")
    assert (tmp_path / "own").read_text() == "a\nbc"


def test_nothing_that_was_put_aside_is_overwritten(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "log").write_text(str(number))
        assert put_aside([tmp_path / "log"], tmp_path) == tmp_path / f"aside-{number}"
    assert (tmp_path / "aside-1" / "log").read_text() == "1"

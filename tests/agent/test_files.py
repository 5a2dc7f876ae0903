"""Files are the old ones or the new ones, and errors name them."""

import errno
import os
from pathlib import Path

import pytest

from agent.files import publish


def test_a_published_file_is_the_new_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for text in ("old", "new"):
        publish(path, text, "the result")
        assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


@pytest.mark.faults("disk full")
def test_a_disk_that_does_not_take_it_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    publish(path, "old", "the result")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"writing the result failed \(No space left.*result\.json"):
        publish(path, "new", "the result")
    assert path.read_text() == "old"

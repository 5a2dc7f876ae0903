"""What environments do to a process while episodes are collected: see `tests/faults/hostile.py`."""

import time
from pathlib import Path

import pytest

from tests.faults.processes import RUN, Start, finish


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize(
    ("deed", "code", "said"),
    [
        ("exit", 1, "tried to end the whole program"),
        ("raise", 1, "the simulator has gone"),
        ("chdir", 0, "changed the working directory"),
        ("handler", 0, "set its own handler for SIGINT"),
        ("thread", 0, ""),
    ],
)
@pytest.mark.faults("environment misbehaves while it is collected", full=True)
def test_collecting(deed: str, code: int, said: str, jobs: str, tmp_path: Path, start: Start) -> None:
    """An error says where; what is put right is said; whole episodes are kept, and nothing waits for ever."""
    task = f"tests.faults.hostile:Hostile-v0:do={deed},at=7"
    words = ["collect", "--task", task, "--policy", "random", "--episodes", "6", "--jobs", jobs]
    began = time.monotonic()
    ended, stderr = finish(start(RUN, *words, "--out", str(tmp_path / "out")))
    assert ended == code and said in stderr, stderr
    assert time.monotonic() - began < 60
    episodes = len(list((tmp_path / "out").glob("episode-*.npz")))
    assert episodes == 6 if code == 0 else 1 <= episodes < 6
    assert not list((tmp_path / "out").glob(".*"))
    if code:
        assert "episode" in stderr and "step" in stderr

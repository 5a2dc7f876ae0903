"""A disk that takes no more, and folders that cannot be written."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.processes import RUN, WORDS, Start, finish, newest_step, resumed_step
from tests.faults.table import Tally

TASK = [
    "--task",
    "tests.faults.faulty:Faulty-v0:width=128",
    "--train_ratio",
    "0.1",
    "--replay.capacity",
    "10000",
]
# what grows -> what to log and save, the bytes a file may have, what the error names
FULL = {
    "checkpoint": (["--checkpoint.every", "60"], 100_000, "agent.pt"),
    "replay": (["--checkpoint.every", "0"], 450_000, "chunk-0000-00000000.npz"),
    "metrics": (["--log.every", "2"], 10_000, "metrics.jsonl"),
    "pictures": (["--log.to", "tensorboard", "--log.pictures", "20"], 40_000, "writing the log"),
}


def at_most(size: int) -> Callable[[], None]:
    """Let no file of the process that is started grow beyond so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.faults("disk full", full=True)
@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_is_named_and_costs_no_checkpoint(where: str, tmp_path: Path, start: Start) -> None:
    more, size, name = FULL[where]
    words = [RUN, *WORDS, *TASK, *more, "--logdir", str(tmp_path)]
    code, said = finish(start(*words, "--steps", "30"))
    assert code == 0, said
    saved = newest_step(tmp_path)
    code, said = finish(start(*words, "--steps", "4000", preexec_fn=at_most(size)))
    assert code == 1, said
    named = [line for line in said.splitlines() if line.startswith("OSError: ")]
    assert any("failed (File too large)" in line and f"{tmp_path}" in line and name in line for line in named)
    assert newest_step(tmp_path) == saved
    code, said = finish(start(*words, "--steps", "60"))
    assert code == 0 and resumed_step(said) == saved, said


@pytest.mark.faults("logdir that cannot be written", full=True)
def test_a_folder_that_cannot_be(tmp_path: Path, start: Start, tally: Tally) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/nothing/run")):
        tally.attempt()
        code, said = finish(start(RUN, *WORDS, "--steps", "30", "--logdir", str(folder)))
        assert code == 2 and said.startswith("run.py: ") and str(folder) in said, said
        assert "Traceback" not in said
        tally.survive()
    assert (tmp_path / "file").read_text() == "mine"

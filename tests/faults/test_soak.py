"""Long enough to see what grows."""

import time
from pathlib import Path

import pytest

from tests.faults.processes import RUN, WORDS, Start, logged_steps

STEPS = 200_000
GROWTH = 8 << 20


@pytest.mark.timeout(3600)
@pytest.mark.faults("200,000 steps: memory, handles, threads", full=True)
def test_nothing_grows_once_the_replay_is_full(tmp_path: Path, start: Start) -> None:
    """From a quarter of the run on, with evaluations, checkpoints and pictures on the way."""
    words = [*WORDS, "--envs.count", "16", "--train_ratio", "0.25", "--replay.capacity", "10000"]
    words += ["--replay.chunk", "64", "--replay.memory_gb", "1e-4"]
    words += ["--log.every", "1000", "--eval.every", "10000", "--checkpoint.every", "10000"]
    words += ["--log.to", "tensorboard", "--log.pictures", "10000"]
    process = start(RUN, *words, "--steps", str(STEPS), "--logdir", str(tmp_path))
    seen: list[tuple[int, int, int, int]] = []
    folder = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            handles = len(list((folder / "fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            break
        if "VmRSS" in status and (step := logged_steps(tmp_path)) >= STEPS // 4:
            memory = 1024 * int(status["VmRSS"].split()[0])
            seen.append((step, memory, handles, int(status["Threads"])))
        time.sleep(0.2)
    assert process.wait() == 0, process.stderr.read()
    early, late = (
        [row[1:] for row in seen if low * STEPS <= row[0] < high * STEPS]
        for low, high in ((0.25, 0.5), (0.75, 1.0))
    )
    assert min(len(early), len(late)) > 20
    memory, handles, threads = (
        tuple(max(row[what] for row in part) for part in (early, late)) for what in range(3)
    )
    assert memory[1] - memory[0] < GROWTH, f"{memory[0]:,} bytes early, {memory[1]:,} late"
    assert handles[0] == handles[1] and threads[0] == threads[1]

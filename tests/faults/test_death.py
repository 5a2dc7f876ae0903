"""A run that is killed goes on, loses at most one interval of checkpoints, and ends as if nothing were."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.processes import (
    ENDLESS,
    ENVS,
    ON_DISK,
    RUN,
    WORDS,
    Start,
    assert_same_end,
    finish,
    logged_steps,
    newest_step,
    resumed_step,
)
from tests.faults.table import Tally

EVERY = 40
SAVING = [*WORDS, *ON_DISK, "--checkpoint.every", str(EVERY)]


def kill_and_compare(kills: int, tmp_path: Path, start: Start, tally: Tally) -> None:
    """Kill so many processes of a run, let the last one end, and compare with a run that was left alone."""
    draw = random.Random(0)
    logdir = tmp_path / "killed"
    words = [RUN, *SAVING, "--logdir", str(logdir)]
    saved = 0
    for _ in range(kills):
        tally.attempt()
        process = start(*words, "--steps", str(ENDLESS))
        early = draw.random() < 0.2  # while it starts or loads, perhaps
        target, later = saved + draw.randrange(2 * EVERY), draw.uniform(0, 4 if early else 0.2)
        deadline = time.monotonic() + 120
        while not early and logged_steps(logdir) < target:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "it does not get on"
            time.sleep(0.01)
        time.sleep(later)
        process.kill()
        code, said = finish(process)
        assert code == -signal.SIGKILL, said
        assert resumed_step(said) in (0, saved), said
        reached, saved = max(logged_steps(logdir), saved), newest_step(logdir)
        assert reached - saved <= EVERY + ENVS
        tally.survive(lost=reached - saved)
    last = ["--steps", str(saved + 2 * EVERY)]
    process = start(*words, *last)
    code, said = finish(process)
    assert code == 0, said
    assert resumed_step(said) == saved
    code, said = finish(start(RUN, *SAVING, "--logdir", str(tmp_path / "whole"), *last))
    assert code == 0, said
    assert_same_end(logdir, tmp_path / "whole")


@pytest.mark.timeout(300)
@pytest.mark.faults("kill -9 at a random moment")
def test_killed_twice(tmp_path: Path, start: Start, tally: Tally) -> None:
    kill_and_compare(2, tmp_path, start, tally)


@pytest.mark.timeout(1800)
@pytest.mark.faults("kill -9 at a random moment", full=True)
def test_killed_thirty_times(tmp_path: Path, start: Start, tally: Tally) -> None:
    kill_and_compare(30, tmp_path, start, tally)


@pytest.mark.timeout(1800)
@pytest.mark.faults("death before each operation on a file", full=True)
def test_death_between_any_two_operations_on_files(tmp_path: Path, start: Start, tally: Tally) -> None:
    """Also in configuration, metrics and result; checkpoints are written, synced, renamed and pruned."""
    logdir, seen = tmp_path / "dying", tmp_path / "seen"
    child = str(Path(__file__).with_name("dying.py"))
    words = [*SAVING, "--steps", str(400), "--logdir", str(logdir)]
    code = -signal.SIGKILL
    while True:
        saved = newest_step(logdir)
        code, said = finish(start(child, str(seen), str(logdir), *words))
        assert resumed_step(said) in (0, saved), said
        if code != -signal.SIGKILL:
            break
        tally.attempt()
        reached = max(logged_steps(logdir), saved)
        assert reached - newest_step(logdir) <= EVERY + ENVS
        tally.survive(lost=reached - newest_step(logdir))
    assert code == 0, said
    met = seen.read_text()
    for operation in ("open", "fsync"):
        assert f"{operation} checkpoints/.tmp-N/manifest.json" in met
    assert "fsync checkpoints\n" in met and "replace checkpoints/N\n" in met, "not atomic"
    assert "replace replay/chunk-N-N.npz\n" in met and "replace replay/orphaned/chunk-N-N.npz\n" in met
    for pruned in ("os.rmdir checkpoints/.tmp-pruned-N\n", "os.remove replay/chunk-N-N.npz\n"):
        assert pruned in met, "nothing was pruned"
    code, said = finish(start(RUN, *words[:-1], str(tmp_path / "whole")))
    assert code == 0, said
    assert_same_end(logdir, tmp_path / "whole")

"""Signals and one run a folder: what a user meets at a terminal or under a scheduler."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.run import checkpoint
from tests.faults.processes import ENDLESS, PATIENCE, RUN, WORDS, Start, finish, logged_steps, wait_for


@pytest.mark.timeout(900)
@pytest.mark.faults("one signal, a second run in the folder")
def test_a_signal_saves_and_a_second_run_is_refused(tmp_path: Path, start: Start) -> None:
    logdir = tmp_path / "run"
    words = [RUN, *WORDS, "--steps", str(ENDLESS), "--logdir", str(logdir)]
    reached = 0
    for number, code in (
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 138),
    ):
        first = start(*words)
        wait_for(lambda: logged_steps(logdir) > reached + 100, first)  # noqa: B023 (called here)
        if not reached:
            files = {path.name for path in logdir.iterdir()}
            second = start(*words)
            _, said = second.communicate(timeout=PATIENCE)
            assert second.returncode == 2
            assert said.startswith(f"run.py: {logdir} is in use: process {first.pid} on ")
            assert {path.name for path in logdir.iterdir()} == files
        first.send_signal(number)
        ended, said = finish(first)
        assert ended == code, said
        assert said.splitlines()[-1].startswith(
            f"run.py: stopped by {number.name} and saved in {logdir}; to go"
        )
        assert f"--logdir {logdir}" in said.splitlines()[-1] and "Traceback" not in said
        assert (f"going on from step {reached:,}" in said) == bool(reached)
        saved = checkpoint.load_newest(logdir)
        assert saved is not None and saved.step > reached + 100
        assert saved.step == logged_steps(logdir), "steps were lost"
        assert saved.agent_state["updates"] > 0
        reached = saved.step


@pytest.mark.faults("two signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_does_not_wait(number: int, start: Start) -> None:
    code = """
import sys, time
from agent.run.stopping import StopRequest
with StopRequest() as stop:
    for _ in range(1000):
        print("alive", file=sys.stderr, flush=True)
        time.sleep(0.1)
"""
    process = start("-c", code)
    assert process.stderr.readline() == "alive\n"
    process.send_signal(number)
    time.sleep(0.5)
    assert [process.stderr.readline() for _ in range(3)] == ["alive\n"] * 3, "the first one is kept"
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -number


@pytest.mark.faults("terminal or pipe closed")
@pytest.mark.parametrize("closed", ["stderr", "stdout"])
def test_nobody_listens(closed: str, tmp_path: Path) -> None:
    """What cannot be printed is dropped; the run ends as it would."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, RUN, *WORDS, "--steps", "120", "--logdir", str(tmp_path)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, closed: write}
    assert subprocess.run(words, **streams, timeout=PATIENCE).returncode == 0
    os.close(write)
    assert (tmp_path / "result.json").exists()

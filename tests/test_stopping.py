"""Signals and one run a folder, with real processes: what a user meets at a terminal or under a scheduler."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import checkpoint

ROOT = Path(__file__).parents[1]
WORDS = ["--task", "memory_chain:n=3", "--configs", "debug", "--device", "cpu", "--steps", "100000000"]
WORDS += ["--eval.every", "0", "--checkpoint.every", "0", "--log.pictures", "0", "--log.every", "64"]
PATIENCE = 240.0


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a process with its stderr in a pipe; whatever is left of it at the end is killed."""
    started = []

    def start(*words: str) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait until the process has done what is asked; fail if it ends instead."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {process.stderr.read()}")
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


def logged_steps(logdir: Path) -> int:
    """The step of the last line of metrics."""
    path = logdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.timeout(900)
def test_a_signal_saves_and_a_second_run_is_refused(
    tmp_path: Path, start: Callable[..., subprocess.Popen]
) -> None:
    logdir = tmp_path / "run"
    words = [str(ROOT / "run.py"), *WORDS, "--logdir", str(logdir)]
    reached = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
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
        _, said = first.communicate(timeout=PATIENCE)
        assert first.returncode == code, said
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_does_not_wait(number: int, start: Callable[..., subprocess.Popen]) -> None:
    code = """
import sys, time
from agent.stopping import StopRequest
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

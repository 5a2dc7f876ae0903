"""What environments do to their process; tests/faults/test_environments.py has whole runs with them."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import envs
from envs import guard
from envs.guard import EnvironmentFailure

TASK = "tests.faults.hostile:Hostile-v0"
DEEDS = "environment exits, hangs, or changes its process"


def task(do, where, at=0):
    return f"{TASK}:do={do},where={where},at={at}"


def play(door, steps=8):
    rows = door.reset()
    for _ in range(steps):
        rows = door.step(np.zeros(door.num_envs, np.int64))
    return rows


@pytest.fixture(autouse=True)
def process_as_it_was():
    """What a test breaks ends with it."""
    folder, handlers = Path.cwd(), {number: signal.getsignal(number) for number in guard.SIGNALS}
    yield
    os.chdir(folder)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    guard.Contained._dropped = None


@pytest.mark.faults(DEEDS)
@pytest.mark.parametrize("do", ["exit", "raise"])
@pytest.mark.parametrize("where", ["init", "reset", "step"])
def test_what_ends_a_program_is_a_failure_that_says_where(do, where):
    says = {"exit": r"tried to end the whole program \(sys.exit\(0\)\)", "raise": "BrokenPipeError"}[do]
    if where == "init":
        with pytest.raises(EnvironmentFailure if do == "exit" else BrokenPipeError):
            envs.make_vector(task(do, where), 2, seed=0)
        return
    with envs.make_vector(task(do, where, 1), 1, seed=3, first_index=4) as door:
        assert door.reset()["is_first"].all() and len(door.state()) == 1
        with pytest.raises(
            EnvironmentFailure, match=f"environment 4 .*{says}.*\nin .*episode 1, .*run seed 3"
        ):
            play(door)
        episode = door.episodes[0]
        assert episode == 1 and door.state() == []
        with pytest.raises(RuntimeError, match="call reset"):
            door.step(np.zeros(1, np.int64))
        assert door.reset()["is_first"].all() and door.episodes[0] == episode + 1


@pytest.mark.faults(DEEDS)
def test_an_interrupt_of_an_environment_is_not_the_users():
    signal.signal(signal.SIGINT, lambda *_: None)  # as a run has it
    with envs.make_vector(task("interrupt", "step"), 1, seed=0) as door:
        with pytest.raises(EnvironmentFailure, match="KeyboardInterrupt"):
            play(door)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with envs.make_vector(task("interrupt", "step"), 1, seed=0) as door, pytest.raises(KeyboardInterrupt):
        play(door)


@pytest.mark.faults(DEEDS)
@pytest.mark.parametrize("do", ["ignore", "default", "handler"])
@pytest.mark.parametrize("where", ["init", "reset", "step", "close"])
def test_handlers_are_taken_back(do, where):
    def ours(*_):
        pass

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ours)
    with pytest.warns(UserWarning, match="its own handler for SIGINT, SIGTERM"):
        with envs.make_vector(task(do, where), 1, seed=0) as door:
            play(door)
        if do == "default" and where == "close":  # taken back as soon as an environment is used again
            envs.make("tmaze").close()
    assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == ours


def test_a_signal_that_comes_during_a_step_is_not_the_environments():
    def once(*_):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, once)
    with warnings.catch_warnings(), guard.Contained("it"):
        warnings.simplefilter("error")
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.faults(DEEDS)
@pytest.mark.parametrize("where", ["init", "reset", "step", "close"])
def test_the_working_directory_is_put_back(where):
    folder = Path.cwd()
    with (
        pytest.warns(UserWarning, match="changed the working directory"),
        envs.make_vector(task("chdir", where), 1, seed=0) as door,
    ):
        play(door)
    assert Path.cwd() == folder


@pytest.mark.faults(DEEDS)
@pytest.mark.parametrize("do", ["raise", "exit", "hang"])
def test_close_can_neither_raise_nor_hang(do, monkeypatch):
    monkeypatch.setattr("envs.inprocess.PATIENCE", 0.2)
    says = "did not close within" if do == "hang" else "while it was closed"
    door = envs.make_vector(task(do, "close"), 2, seed=0)
    play(door)
    began = time.monotonic()
    with pytest.warns(UserWarning, match=f"Environment 1 .*{says}"):
        door.close()
    assert time.monotonic() - began < 5
    door.close()


@pytest.mark.faults(DEEDS)
def test_the_first_ones_are_closed_if_a_later_one_cannot_be_built(monkeypatch):
    closed = []
    build = envs.SeedEpisodes

    def fails(env, seed, index):
        if index == 2:
            raise OSError("no more memory")
        made = build(env, seed, index)
        made.env.close = lambda: closed.append(index)
        return made

    monkeypatch.setattr(envs, "SeedEpisodes", fails)
    with pytest.raises(OSError, match="no more memory"):
        envs.make_vector("tmaze", 4, seed=0)
    assert closed == [0, 1]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_global_generators_are_seeded_by_the_run(mode):
    def rewards(seed):
        with envs.make_vector(TASK, 2, seed, mode) as door:
            door.reset()
            return np.stack([door.step(np.zeros(2, np.int64))["reward"] for _ in range(14)])

    one, same, other = rewards(1), rewards(1), rewards(2)
    np.testing.assert_array_equal(one, same)
    assert not np.isin(one[one != 0], other).any()
    assert len(np.unique(one[one != 0])) == (one != 0).sum(), "episodes repeat each other"


@pytest.mark.faults(DEEDS)
@pytest.mark.parametrize(
    ("do", "where", "says"),
    [
        ("exit", "init", r"raised\n(.|\n)*tried to end the whole program"),
        ("os_exit", "init", "lost its process with exit code 0"),
        ("exit", "step", r"raised\n(.|\n)*tried to end the whole program"),
        ("os_exit", "step", "lost its process with exit code 0"),
        ("unpicklable", "step", r"raised\n(.|\n)*Unpicklable"),
        ("hang", "init", "gave no answer for 2 s"),
    ],
)
def test_workers_that_end_are_named(do, where, says):
    with (
        pytest.raises(EnvironmentFailure, match=f"environment 0 {says}"),
        envs.make_vector(task(do, where), 1, seed=0, mode="async", timeout=2, restarts=0) as door,
    ):
        play(door)


@pytest.mark.faults(DEEDS)
@pytest.mark.parametrize(
    ("do", "where"),
    [("child", "init"), ("child", "step"), ("os_exit", "close"), ("raise", "close"), ("thread", "step"),
     ("default", "step"), ("chdir", "step")],
)  # fmt: skip
def test_workers_do_as_they_like(do, where):
    """They may have children and threads, and no environment is ever built or closed in this process."""
    began = time.monotonic()
    with envs.make_vector(task(do, where), 2, seed=0, mode="async") as door:
        play(door)
        assert door.restarted == 0
    assert time.monotonic() - began < guard.PATIENCE


def test_what_cannot_be_built_in_a_worker_is_said_with_its_traceback():
    with pytest.raises(EnvironmentFailure, match=r"environment 0 raised\n(.|\n)*hostile.py(.|\n)*BrokenPipe"):
        envs.make_vector(task("raise", "init"), 2, seed=0, mode="async")
    with pytest.raises(ValueError, match="Text cannot be learned from"):
        envs.make_vector("tests.faults.hostile:Talks-v0", 1, seed=0, mode="async")


def test_looks_cost_little():
    """Two of them a call of all environments: some microseconds, where a step of a run takes milliseconds."""
    contained, count = guard.Contained("it"), 2000
    began = time.perf_counter()
    for _ in range(count):
        with contained:
            pass
    assert (time.perf_counter() - began) / count < 100e-6


def test_elsewhere_than_in_the_main_thread_there_is_no_limit():
    closed: list[bool] = []
    thread = threading.Thread(target=guard.close, args=(lambda: closed.append(True), "it"))
    thread.start()
    thread.join()
    assert closed == [True]


@pytest.mark.faults(DEEDS)
@pytest.mark.parametrize(
    "deed", ["threading.Thread(target=forever)", "multiprocessing.Process(target=forever)"]
)
def test_a_program_ends_with_its_own_code_whatever_is_left(deed, tmp_path):
    script = tmp_path / "leaves.py"
    script.write_text(
        "import multiprocessing, threading, time\n"
        "from envs import guard\n"
        "def forever(): time.sleep(1000)\n"
        "if __name__ == '__main__':\n"
        f"    {deed}.start()\n    print('result')\n    guard.end_within(0.5, 3)\n    raise SystemExit(3)\n"
    )
    variables = os.environ | {"PYTHONPATH": str(Path(envs.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=variables
    )
    assert (ended.returncode, ended.stdout) == (3, "result\n")
    assert "left by an environment, and ended now" in ended.stderr

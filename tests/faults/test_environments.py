"""Environments that raise, lie, die or hang under a run; what they leave when the run itself is killed."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.faults.processes import (
    ENDLESS,
    PATIENCE,
    RUN,
    WORDS,
    Start,
    finish,
    logged_steps,
    metrics,
    newest_step,
    resumed_step,
    wait_for,
)
from tests.faults.table import Tally

TASK = "tests.faults.faulty:Faulty-v0:fault="
ASYNC = ["--envs.mode", "async", "--envs.timeout", "10"]
WRONG = {
    "missing": r"'vector' is missing",
    "shape": r"'vector'.*expected shape \(2,\), got shape \(7,\)",
    "dtype": r"'image'.*expected uint8",
    "bounds": r"'place'.*from \[0\] to \[5\], got 6",
    "number": r"environment 0 returned obs/vector = .*not finite.*at step \d+ ",
    "reward": r"environment 0 returned reward = nan, .*at step \d+ ",
}


def words(logdir: Path, task: str, *more: str) -> list[str]:
    """A run of 200 steps; later words override earlier ones of the same option."""
    return [RUN, *WORDS, "--task", task, "--steps", "200", "--logdir", str(logdir), *more]


@pytest.mark.faults("environment raises", full=True)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_raises_in_init(mode: str, tmp_path: Path, start: Start) -> None:
    code, said = finish(start(*words(tmp_path / "run", f"{TASK}init", "--envs.mode", mode)))
    assert code == 1 and "ZeroDivisionError: scripted in __init__" in said
    assert not (tmp_path / "run").exists(), "something was created"


@pytest.mark.faults("environment raises", full=True)
@pytest.mark.parametrize("where", ["reset", "step"])
def test_raises_later(where: str, tmp_path: Path, start: Start, tally: Tally) -> None:
    """In this process it ends the run, which can go on from its checkpoint; in others they start anew."""
    for mode in ("sync", "async"):
        tally.attempt()
        logdir, once = tmp_path / mode, tmp_path / f"{mode}.once"
        given = words(logdir, f"{TASK}{where},once={once}", "--envs.mode", mode, "--checkpoint.every", "40")
        code, said = finish(start(*given))
        assert f"ZeroDivisionError: scripted in {where}" in said
        if mode == "async":
            assert code == 0 and re.search(r"environment \d raised", said), said
            assert [line["env/restarts"] for line in metrics(logdir) if "env/restarts" in line] == [1]
            tally.survive(lost=0)
            continue
        assert code == 1, said
        reached, saved = logged_steps(logdir), newest_step(logdir)
        assert saved >= 80
        code, said = finish(start(*given))
        assert code == 0 and resumed_step(said) == saved, said
        tally.survive(lost=reached - saved)


@pytest.mark.faults("wrong key, shape, dtype, range or number shown", full=True)
@pytest.mark.parametrize("fault", WRONG)
def test_what_does_not_fit_ends_the_run_by_name(fault: str, tmp_path: Path, start: Start) -> None:
    code, said = finish(start(*words(tmp_path / "run", f"{TASK}{fault}", "--checkpoint.every", "40")))
    assert code == 1 and re.search(WRONG[fault], said, re.DOTALL), said
    assert newest_step(tmp_path / "run") >= 80


HOSTILE = "tests.faults.hostile:Hostile-v0"
DEEDS = "environment exits, hangs, or changes its process"


def hostile(logdir: Path, do: str, where: str, at: int, *more: str) -> list[str]:
    return words(logdir, f"{HOSTILE}:do={do},where={where},at={at}", "--checkpoint.every", "40", *more)


@pytest.mark.faults(DEEDS, full=True)
@pytest.mark.parametrize("do", ["exit", "raise", "interrupt"])
def test_what_would_end_the_program_ends_the_run_by_name(do: str, tmp_path: Path, start: Start) -> None:
    code, said = finish(start(*hostile(tmp_path / "run", do, "step", 60)))
    assert code == 1 and re.search(
        r"environment 0 (raised|tried).*\nin step\(.*, episode 12, step 1, ", said
    ), said
    assert newest_step(tmp_path / "run") >= 80


@pytest.mark.faults(DEEDS, full=True)
@pytest.mark.parametrize(
    ("do", "where", "mode"),
    [
        ("raise", "close", "sync"),
        ("exit", "close", "sync"),
        ("hang", "close", "sync"),
        ("thread", "step", "sync"),
        ("chdir", "step", "sync"),
        ("print", "step", "sync"),
        ("print_fd", "close", "sync"),
        ("child", "init", "async"),
        ("os_exit", "close", "async"),
        ("thread", "step", "async"),
        ("print", "step", "async"),
    ],
)
def test_what_is_extra_does_not_undo_a_run(
    do: str, where: str, mode: str, tmp_path: Path, start: Start
) -> None:
    """It ends by itself, with its result alone on stdout and in its folder."""
    process = start(*hostile(tmp_path / "run", do, where, 0, "--envs.mode", mode, "--json"))
    out, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert json.loads(out)["steps"] >= 200 and (tmp_path / "run" / "result.json").exists()


@pytest.mark.faults(DEEDS, full=True)
@pytest.mark.parametrize("do", ["ignore", "default", "handler"])
def test_a_run_stops_in_order_whatever_handlers_are_set(do: str, tmp_path: Path, start: Start) -> None:
    process = start(*hostile(tmp_path / "run", do, "step", 0, "--steps", str(ENDLESS)))
    wait_for(lambda: logged_steps(tmp_path / "run") > 50, process)
    process.terminate()
    code, said = finish(process)
    assert code == 143 and "set its own handler for SIGINT, SIGTERM" in said, said
    assert newest_step(tmp_path / "run") >= 50


def family(pid: int) -> dict[int, int]:
    """Processes of the session that `pid` leads, as pid -> parent's pid."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if int(session) == pid and state != "Z":
            found[int(stat.parent.name)] = int(parent)
    return found


def workers(pid: int) -> list[int]:
    """Worker processes of a run: children of its fork server."""
    members = family(pid)
    servers = {child for child, parent in members.items() if parent == pid}
    return sorted(child for child, parent in members.items() if parent in servers)


@pytest.mark.timeout(900)
@pytest.mark.faults("worker process raises, dies or hangs", full=True)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs(number: signal.Signals, tmp_path: Path, start: Start) -> None:
    """The others go on in new processes; nothing is left when the run is stopped."""
    process = start(
        *words(tmp_path / "run", "memory_chain:n=3", *ASYNC, "--steps", str(ENDLESS)), start_new_session=True
    )
    wait_for(lambda: logged_steps(tmp_path / "run") > 50, process)
    before = workers(process.pid)
    assert len(before) == 2
    os.kill(before[1], number)
    wait_for(lambda: any("env/restarts" in line for line in metrics(tmp_path / "run")), process)
    reached = logged_steps(tmp_path / "run")
    wait_for(lambda: logged_steps(tmp_path / "run") > reached + 50, process)
    assert len(workers(process.pid)) == 2 and not set(before) & set(workers(process.pid))
    process.terminate()
    code, said = finish(process)
    assert code == 143, said
    what = "lost its process with exit code -9" if number == signal.SIGKILL else "gave no answer for 10 s"
    assert f"memory_chain:n=3: environment 1 {what}" in said
    gone(process.pid)


@pytest.mark.faults("kill -9 of a run with worker processes", full=True)
def test_a_killed_run_leaves_no_process(tmp_path: Path, start: Start) -> None:
    process = start(
        *words(tmp_path / "run", "memory_chain:n=3", *ASYNC, "--steps", str(ENDLESS)), start_new_session=True
    )
    wait_for(lambda: logged_steps(tmp_path / "run") > 20, process)
    assert len(workers(process.pid)) == 2
    process.kill()
    gone(process.pid)


@pytest.mark.timeout(900)
@pytest.mark.faults("actor or learner killed", full=True)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_actors_are_replaced_and_end_with_the_learner(mode: str, tmp_path: Path, start: Start) -> None:
    """Whether it is asked to stop or killed, with environments in the actors or in workers of theirs."""
    logdir = tmp_path / "run"
    given = ["--actors.count", "2", "--envs.mode", mode, "--steps", str(ENDLESS)]
    process = start(*words(logdir, "memory_chain:n=3", *given), start_new_session=True)
    wait_for(lambda: logged_steps(logdir) > 50, process)
    if mode == "async":
        process.kill()
        gone(process.pid)
        return
    actors = workers(process.pid)
    assert len(actors) == 2
    os.kill(actors[1], signal.SIGKILL)
    wait_for(lambda: any("env/restarts" in line for line in metrics(logdir)), process)
    reached = logged_steps(logdir)
    wait_for(lambda: logged_steps(logdir) > reached + 50, process)
    os.killpg(process.pid, signal.SIGTERM)
    code, said = finish(process)
    assert code == 143 and "lost its process with exit code -9" in said, said
    assert newest_step(logdir) >= reached + 50
    gone(process.pid)


def gone(pid: int) -> None:
    """Every process of the session ends by itself."""
    deadline = time.monotonic() + 20
    while family(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = family(pid)
    for member in left:
        os.kill(member, signal.SIGKILL)
    assert not left

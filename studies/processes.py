"""Training runs as processes of their own: several at once, and told to save when all must stop."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np

from agent.run.folder import RunFolder
from studies.curves import METRIC, Curve, read_curve

Launch = Callable[[Sequence["Run"], int, Path], None]
"""What runs runs to their end: `run_all`, or another of its kind."""
PATIENCE = 60.0  # seconds a run is given to save when all must stop
TAIL = 30  # lines of a failed run's stderr that are shown


@dataclass(frozen=True)
class Run:
    """One training run: up to which step, in which folder, with how many threads, by which command.

    `name` is the row that it is of in tables, a backbone; `metric` is what its evaluations log; each of its
    `processes` has these threads.
    """

    name: str
    seed: int
    steps: int
    folder: Path
    threads: int
    command: Sequence[str]
    metric: str = METRIC
    processes: int = 1

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"

    def finished(self) -> bool:
        """Whether it has ended at or after its last step: evaluated, saved, and its result written."""
        return int((RunFolder(self.folder).result() or {}).get("steps", 0)) >= self.steps

    def curve(self) -> Curve:
        """Its evaluations, up to the first one that is not before its last step.

        Raises:
            RuntimeError: there is none.
        """
        curve = read_curve(self.folder, self.metric)
        end = int(np.searchsorted(curve.steps, self.steps)) + 1
        if end > curve.steps.size:
            last = curve.steps[-1] if curve.steps.size else "nothing"
            raise RuntimeError(
                f"{self} ended without an evaluation at step {self.steps:,}: the last {self.metric} in "
                f"{self.folder / 'metrics.jsonl'} is of step {last}."
            )
        return Curve(*(values[:end] for values in curve))


def run_all(runs: Sequence[Run], jobs: int, logs: Path) -> None:
    """Run to the end what is not finished, `jobs` at once, with what they print in a folder.

    On any error those still running are told to save and stop.

    Raises:
        RuntimeError: a run failed, with its command and the end of its stderr.
    """
    waiting, running = deque(runs), dict[subprocess.Popen, tuple[Run, float, int]]()
    logs.mkdir(parents=True, exist_ok=True)
    done = 0

    def say(text: str) -> None:
        print(f"{text} ({done} of {len(runs)} runs done)", flush=True)

    with termination_raises():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    if run.finished():
                        done += 1
                        say(f"already finished: {run}")
                    else:
                        logged = log(logs, run, "stderr")
                        before = logged.stat().st_size if logged.exists() else 0
                        running[start(run, logs)] = run, time.monotonic(), before
                        say(f"started {run}")
                for process in [process for process in running if process.poll() is not None]:
                    run, began, before = running.pop(process)
                    if process.returncode:
                        fail(run, process.returncode, log(logs, run, "stderr"), before)
                    value, took = run.curve().values[-1], time.monotonic() - began
                    done += 1
                    say(f"finished {run} in {took:,.0f} s: {run.metric} {value:.4g}")
                time.sleep(0.1)
        finally:
            stop(list(running))


def log(logs: Path, run: Run, stream: str) -> Path:
    """Where what a run prints is appended, `stdout` or `stderr`."""
    return logs / f"{run.folder.parent.name}-{run.folder.name}.{stream}"


def start(run: Run, logs: Path) -> subprocess.Popen:
    """Start a run whose output is appended to files, in a session of its own.

    Ctrl-C on a terminal then reaches this process alone, which passes it on once: a run that gets two signals
    exits without saving. On Linux a run saves and stops, too, when this process is gone, however it went.
    """
    variables = os.environ | {"OMP_NUM_THREADS": str(run.threads)}
    with log(logs, run, "stdout").open("ab") as out, log(logs, run, "stderr").open("ab") as err:
        return subprocess.Popen(
            run.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=variables,
            start_new_session=True,
            preexec_fn=_end_with_the_parent if sys.platform == "linux" else None,
        )


def _end_with_the_parent() -> None:
    """In a child on Linux: ask for a SIGTERM when the parent is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ask the processes to save and stop, and end those that do not."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def fail(run: Run, code: int, stderr: Path, before: int) -> NoReturn:
    """Raise what a run ended with; `before` bytes of its stderr are of earlier tries."""
    cause = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    lines = stderr.read_bytes()[before:].decode(errors="replace").splitlines()
    said = next((line for line in lines if line.startswith("run.py: ")), "")
    raise RuntimeError(
        f"{run} failed with {cause}. Run the same command again to go on once the cause is removed.\n"
        + f"{said}\n" * bool(said)
        + f"command: {shlex.join(run.command)}\n"
        + f"end of {stderr}:\n"
        + "\n".join(f"  {line}" for line in lines[-TAIL:])
    )


@contextmanager
def termination_raises() -> Iterator[None]:
    """Make SIGTERM exit through the `finally` blocks, where the runs are stopped."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

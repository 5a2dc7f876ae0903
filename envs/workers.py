"""Worker processes of environments: gymnasium's, with tracebacks, time limits and a reliable end."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing import forkserver, resource_tracker

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

PATIENCE = 10.0
"""Seconds that worker processes have to close their environments."""


class Raised(Exception):  # noqa: N818
    """An environment raised in its worker process."""

    def __init__(self, index: int, trace: str) -> None:
        super().__init__(trace)
        self.index, self.trace = index, trace


class NotBuilt(Exception):  # noqa: N818
    """Worker processes failed before their first answer; `failed` says what went wrong in each row."""

    def __init__(self, failed: dict[int, str]) -> None:
        super().__init__(failed)
        self.failed = failed


FAULTS = (Raised, NotBuilt, EOFError, ConnectionError, multiprocessing.TimeoutError)
"""What a worker process that raised, died or hangs looks like from here."""


class Workers(AsyncVectorEnv):
    """gymnasium's worker processes, with a traceback for what they raise; closing them always ends them."""

    def __init__(self, builders: Sequence[Callable[[], gymnasium.Env]], timeout: float | None) -> None:
        self._timeout = timeout
        methods = multiprocessing.get_all_start_methods()
        if "forkserver" in methods:
            # A SIGTERM to the whole group must not end the server, as its workers count as dead without it.
            # The server inherits that it is blocked here, and so do the workers until `_Quiet` unblocks it.
            resource_tracker.ensure_running()  # else the server's start begins it, which unblocks SIGTERM
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            try:
                forkserver.ensure_running()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        super().__init__(
            [_Quiet(builder) for builder in builders],
            shared_memory=True,
            copy=False,
            context="forkserver" if "forkserver" in methods else "spawn",
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )

    def diagnose(self, error: Exception) -> dict[int, str]:
        """Return what went wrong in each row that failed."""
        if isinstance(error, Raised):
            return {error.index: f"raised\n{error.trace.rstrip()}\n"}
        if isinstance(error, multiprocessing.TimeoutError):
            silent = [row for row, pipe in enumerate(self.parent_pipes) if not pipe.poll(0)]
            return dict.fromkeys(silent, f"gave no answer for {self._timeout:g} s (envs.timeout)")
        dead = {}
        for row, process in enumerate(self.processes):
            process.join(timeout=1.0)
            if not process.is_alive():
                dead[row] = (
                    f"lost its process with exit code {process.exitcode} (a negative one is the signal that "
                    f"killed it; -9 is often a lack of memory)"
                )
        return dead

    def close_extras(self, timeout: float | None = PATIENCE, terminate: bool = False) -> None:
        """Let the environments close; kill the processes of those that do not, or that owe an answer."""
        answering = self._state.value == "default" and not terminate
        for process, pipe in zip(self.processes, self.parent_pipes, strict=True):
            if answering and process.is_alive():
                with contextlib.suppress(OSError):  # it died meanwhile
                    pipe.send(("close", None))
        deadline = time.monotonic() + (PATIENCE if timeout is None else timeout) * answering
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.parent_pipes:
            pipe.close()
        atexit.unregister(self._at_exit)

    def _check_spaces(self) -> None:
        """The end of gymnasium's constructor: its check has no time limit, so a call with one comes first."""
        # At exit multiprocessing sends SIGTERM to processes that were not closed, and waits for their end.
        self._at_exit = partial(_kill, self.processes)
        atexit.register(self._at_exit)
        try:
            self.call_async("has_wrapper_attr", "reset")
            self.call_wait(self._timeout)
            super()._check_spaces()
        except FAULTS as error:
            failed = self.diagnose(error)
            self.close(terminate=True)
            raise NotBuilt(failed) from error

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise the first failure with its traceback; gymnasium would raise the bare exception."""
        if not all(successes):
            index, _, _, trace = self.error_queue.get()
            raise Raised(index, trace)


def _kill(processes: Sequence[multiprocessing.Process]) -> None:
    for process in processes:
        process.kill()


class _Quiet:
    """Build an environment in a worker process that leaves SIGINT and SIGTERM to its parent.

    Processes that the environment itself starts can be terminated: a handler, unlike SIG_IGN and a blocked
    signal, does not survive exec.
    """

    def __init__(self, builder: Callable[[], gymnasium.Env]) -> None:
        self._builder = builder

    def __call__(self) -> gymnasium.Env:
        if multiprocessing.current_process().daemon:  # not for the one that gymnasium builds in the parent
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return self._builder()

"""Worker processes of environments: gymnasium's, with tracebacks, time limits and a reliable end.

Some of what is overridden and read here is private to gymnasium: pyproject.toml allows the versions tried.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import forkserver, resource_tracker
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

PATIENCE = 10.0
"""Seconds that worker processes have to close their environments."""


class WorkerFault(Exception):  # noqa: N818 (what ends a run is a WorkerError)
    """Worker processes raised, died or hang; `failed` says what went wrong, by number in the vector."""

    def __init__(self, failed: dict[int, str]) -> None:
        super().__init__(failed)
        self.failed = failed


class Workers(AsyncVectorEnv):
    """gymnasium's worker processes; whatever one of them does wrong is a `WorkerFault`.

    After a fault only `close` may be called: it always ends the processes.

    Args:
        builders: one picklable function for each environment.
        timeout: seconds that a process may take to answer; None waits for ever.

    Attributes:
        answers: how often `timeout` the next `reset` may take: every action that is taken again in it
            (`SeedEpisodes.next_actions`) counts as an answer.
    """

    def __init__(self, builders: Sequence[Callable[[], gymnasium.Env]], timeout: float | None) -> None:
        self._timeout = timeout
        self.answers = 1
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

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments; see `answers` for the time that they have."""
        with self._faults_named():
            self.reset_async(seed, options)
            return self.reset_wait(self._timeout and self._timeout * self.answers)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments within `timeout`."""
        with self._faults_named():
            self.step_async(actions)
            return self.step_wait(self._timeout)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method, or read an attribute, of all environments within `timeout`."""
        with self._faults_named():
            self.call_async(name, *args, **kwargs)
            return self.call_wait(self._timeout)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of all environments."""
        with self._faults_named():
            super().set_attr(name, values)

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

    @contextlib.contextmanager
    def _faults_named(self) -> Iterator[None]:
        """Turn what a dead or silent process looks like from here into a `WorkerFault`."""
        try:
            yield
        except multiprocessing.TimeoutError as error:
            silent = [number for number, pipe in enumerate(self.parent_pipes) if not pipe.poll(0)]
            said = f"gave no answer for {self._timeout:g} s (envs.timeout)"
            raise WorkerFault(dict.fromkeys(silent, said)) from error
        except (EOFError, ConnectionError) as error:
            dead = {}
            for number, process in enumerate(self.processes):
                process.join(timeout=1.0)
                if not process.is_alive():
                    dead[number] = (
                        f"lost its process with exit code {process.exitcode} (a negative one is the signal "
                        f"that killed it; -9 is often a lack of memory)"
                    )
            raise WorkerFault(dead) from error

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise the first failure with its traceback; gymnasium would raise the bare exception."""
        if not all(successes):
            number, _, _, trace = self.error_queue.get()
            raise WorkerFault({number: f"raised\n{trace.rstrip()}\n"})

    def _check_spaces(self) -> None:
        """The end of gymnasium's constructor: its check has no time limit, so a call with one comes first."""
        # At exit multiprocessing sends SIGTERM to processes that were not closed, and waits for their end.
        self._at_exit = partial(_kill, self.processes)
        atexit.register(self._at_exit)
        try:
            self.call("has_wrapper_attr", "reset")
            with self._faults_named():
                super()._check_spaces()
        except WorkerFault:
            self.close(terminate=True)
            raise


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

"""Worker processes of environments: gymnasium's, with tracebacks, time limits and a reliable end.

Some of what is overridden and read here is private to gymnasium: pyproject.toml allows the versions tried.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import forkserver, resource_tracker
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.utils import CloudpickleWrapper

from envs import guard
from envs.guard import PATIENCE

WINDOW = 300.0
"""Seconds within which too many faults of processes end a run."""
WARNINGS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
"""Signals by which job systems warn a run, and maybe all of its processes, that time is almost up."""

Builder = Callable[[], gymnasium.Env]


class WorkerFault(Exception):  # noqa: N818 (what ends a run is a WorkerError)
    """Worker processes raised, died or hang; `failed` says what went wrong, by number in the vector."""

    def __init__(self, failed: dict[int, str]) -> None:
        super().__init__(failed)
        self.failed = failed


class Restarts:
    """Processes may be started anew so often within `WINDOW` seconds."""

    def __init__(self, allowed: int) -> None:
        self._allowed, self._times = allowed, deque[float]()

    def exhausted(self) -> str:
        """Count a fault; what to say where it is one too many, else ''."""
        now = time.monotonic()
        self._times.append(now)
        while self._times[0] < now - WINDOW:
            self._times.popleft()
        faults = f"These were {len(self._times)} faults in {WINDOW:g} s"
        too_many = len(self._times) > self._allowed
        return f"{faults}, {self._allowed} are allowed (envs.restarts)." if too_many else ""


def how_it_ended(process: Any) -> str:
    """What became of a process, as a part of a sentence."""
    return (
        f"lost its process with exit code {process.exitcode} (a negative one is the signal that killed it; "
        f"-9 is often a lack of memory)"
    )


def process_context() -> Any:
    """How processes are started: by a fork server that outlives what stops a run, where there is one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    # A signal to the whole group must not end the server, as its processes count as dead without it.
    # The server inherits that they are blocked here, and so do these processes until `ignore_signals`.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, *WARNINGS})
    try:
        resource_tracker.ensure_running()  # its start unblocks SIGTERM, which it ignores
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return multiprocessing.get_context("forkserver")


class Workers(AsyncVectorEnv):
    """gymnasium's worker processes; whatever one of them does wrong is a `WorkerFault`.

    No environment is built in this process: one is asked for its spaces in a process of its own. After a
    fault only `close` may be called: it always ends the processes. They may have children.

    Args:
        builders: one picklable function for each environment.
        timeout: seconds that a process may take to answer; None waits for ever.
        shown: what one of the environments says of itself, where it is known; then none is asked.

    Attributes:
        answers: how often `timeout` the next `reset` may take: every action that is taken again in it
            (`SeedEpisodes.next_actions`) counts as an answer.
    """

    def __init__(
        self, builders: Sequence[Builder], timeout: float | None, shown: Shown | None = None
    ) -> None:
        self._timeout = timeout
        self.answers = 1
        context = process_context()
        self.shown = shown or _shown_by(builders[0], context, timeout)
        super().__init__(
            [_InWorker(builder, self.shown) for builder in builders],
            shared_memory=True,
            copy=False,
            context=context.get_start_method(),
            daemon=False,
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
                    dead[number] = how_it_ended(process)
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


class Shown(gymnasium.Env):
    """What an environment in a process of its own says of itself, in its place."""

    def __init__(self, env: gymnasium.Env) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.metadata, self.render_mode = dict(env.metadata), env.render_mode


class _BuildError(Exception):
    """The traceback, from its process, of an environment that could not be built."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _shown_by(builder: Builder, context: Any, timeout: float | None) -> Shown:
    """Build an environment in a process of its own, and close it.

    Raises:
        ValueError, ImportError: as raised there, with the traceback from there as its cause.
        WorkerFault: it raised anything else, gave no answer in time, or lost its process.
    """
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_show, args=(CloudpickleWrapper(builder), there))
    process.start()
    there.close()
    try:
        if not here.poll(timeout):
            raise WorkerFault({0: f"gave no answer for {timeout:g} s (envs.timeout) while it was built"})
        shown, trace = here.recv()
        process.join(PATIENCE)
    except EOFError as error:
        process.join(PATIENCE)
        raise WorkerFault({0: f"lost its process with exit code {process.exitcode}"}) from error
    finally:
        here.close()
        if process.is_alive():
            process.kill()
            process.join()
    if isinstance(shown, Shown):
        return shown
    if isinstance(shown, ValueError | ImportError):
        raise shown from _BuildError(trace)
    raise WorkerFault({0: f"raised\n{trace.rstrip()}\n"})


def _show(builder: CloudpickleWrapper, pipe: Any) -> None:
    shown: Shown | Exception
    ignore_signals()
    try:
        env = builder()
        shown, trace = Shown(env), ""
    except BaseException as error:
        kind = next((kind for kind in (ValueError, ImportError) if isinstance(error, kind)), Exception)
        shown, trace = kind(str(error)), traceback.format_exc()  # a plain one, which can be sent
    pipe.send((shown, trace))
    guard.end_within(PATIENCE / 2, 0)
    if not trace:
        env.close()


def ignore_signals() -> None:
    """Make this process ignore what stops a run, and what warns it that its time is almost up.

    Processes that an environment itself starts can be terminated: a handler, unlike SIG_IGN and a blocked
    signal, does not survive exec.
    """
    ignored = *guard.SIGNALS, *WARNINGS
    for number in ignored:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)


class _InWorker:
    """Build an environment in a worker process; gymnasium's constructor, in the parent, gets `shown`."""

    def __init__(self, builder: Builder, shown: Shown) -> None:
        self._builder, self._shown = builder, shown

    def __call__(self) -> gymnasium.Env:
        if not multiprocessing.current_process().name.startswith("Worker<"):
            return self._shown
        ignore_signals()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the process that was asked for its spaces has said it
                return _Last(self._builder())
        except BaseException as error:
            return _Unbuilt(error)


class _Unbuilt(gymnasium.Env):
    """Takes the place of an environment that could not be built, and tells the parent so when it is asked."""

    def __init__(self, error: BaseException) -> None:
        self.observation_space = self.action_space = gymnasium.spaces.Discrete(1)
        self._error = error

    def get_wrapper_attr(self, name: str) -> Any:  # noqa: ARG002 (whatever is asked)
        """Raise what building raised."""
        raise guard.EnvironmentFailure("it could not be built") from self._error


class _Last(gymnasium.Wrapper):
    """Ends its process soon after it was closed, whatever threads and children the environment left."""

    def close(self) -> None:
        """Close the environment."""
        super().close()
        guard.end_within(1.0, 0)

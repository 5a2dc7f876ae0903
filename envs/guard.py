"""What an environment may do to the process it lives in: nothing that outlasts its call, or ends it unsaid.

Environments are other people's code in our process. What they raise, `sys.exit` included, becomes an
`EnvironmentFailure`; what they change (signal handlers, working directory) is put back with a warning; what
they do while they close, and the threads that they leave, cannot undo a run that is done. `os._exit` cannot
be caught: it ends a worker process in mode 'async', and everything in mode 'sync'.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

PATIENCE = 10.0
"""Seconds that environments have to close, and that threads have to end after everything else has."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that stop a run: their handlers are not an environment's to set."""


class EnvironmentFailure(RuntimeError):  # noqa: N818 (EnvironmentError is Python's own, for the system's)
    """An environment raised, showed what cannot be learned from, or lost its process.

    The message says which one in the run, in which of its episodes, at which step, with which run seed.
    """


def is_its_own(error: BaseException) -> bool:
    """Whether an exception is an environment's, and not the user's Ctrl-C or a test's time limit."""
    if isinstance(error, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    return isinstance(error, Exception | SystemExit)


def did(error: BaseException) -> str:
    """What an environment did that raised `error`, as a part of a sentence."""
    if isinstance(error, SystemExit):
        return f"tried to end the whole program (sys.exit({error.code!r}))"
    return f"raised {type(error).__name__}: {error}"


def seed_globals(seed: int) -> None:
    """Seed the global generators that environments may draw from; torch's only if somebody imported it."""
    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules and (generator := getattr(sys.modules["torch"], "default_generator", None)):
        generator.manual_seed(seed)


class Contained:
    """Within `with`, an environment's code runs: signal handlers and working directory are put back after it.

    Args:
        whose: for the warning.
    """

    _dropped: dict[int, Any] | None = None  # handlers that all fell back to the system's in one call

    def __init__(self, whose: str) -> None:
        self._whose = whose

    def __enter__(self) -> None:
        handlers = [signal.getsignal(number) for number in SIGNALS]
        if Contained._dropped:  # no stop request did that: it would have stopped us before this call
            if all(signal.getsignal(number) == signal.SIG_DFL for number in Contained._dropped):
                self._put_back(Contained._dropped)
                handlers = [signal.getsignal(number) for number in SIGNALS]
            Contained._dropped = None
        self._handlers, self._folder = handlers, _folder()

    def __exit__(self, *_: object) -> None:
        handlers = [signal.getsignal(number) for number in SIGNALS]
        if handlers != self._handlers:
            pairs = zip(SIGNALS, self._handlers, handlers, strict=True)
            changed = {number: (was, now) for number, was, now in pairs if was != now}
            before = {number: was for number, (was, _) in changed.items()}
            # A request to stop that came during the call leaves all its signals to the system: wait and see.
            if all(now == signal.SIG_DFL and callable(was) for was, now in changed.values()):
                Contained._dropped = before
            else:
                self._put_back(before)
        if self._folder is not None and self._folder != _folder():
            warnings.warn(
                f"{self._whose} changed the working directory from {self._folder} to {_folder()}; it is put "
                f"back. Let the environment use absolute paths.",
                stacklevel=3,
            )
            with contextlib.suppress(OSError):  # it was removed meanwhile
                os.chdir(self._folder)

    def _put_back(self, handlers: dict[int, Any]) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # nor can an environment have set them from here
        names = ", ".join(signal.Signals(number).name for number in handlers)
        warnings.warn(
            f"{self._whose} set its own handler for {names}, which would keep the run from stopping in "
            f"order; the run's own is put back.",
            stacklevel=4,
        )
        for number, handler in handlers.items():
            if handler is not None:  # None: it was not set from Python
                signal.signal(number, handler)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 (a Path costs more than a look)
    except OSError:  # it was removed
        return None


class _TimeUp(BaseException):
    pass


def close(closing: Callable[[], object], whose: str, limit: float = PATIENCE) -> None:
    """Call an environment's `close`; what goes wrong in it, or takes more than `limit` seconds, is a warning.

    The limit holds in the main thread, where the system has timers, for what waits in Python.
    """
    try:
        with Contained(whose), _time_limit(limit):
            closing()
    except _TimeUp:
        warnings.warn(f"{whose} did not close within {limit:.0f} s and was left as it is.", stacklevel=3)
    except BaseException as error:
        if not is_its_own(error):
            raise
        warnings.warn(f"{whose} {did(error)} while it was closed; the run goes on without it.", stacklevel=3)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> NoReturn:
        raise _TimeUp

    handler, began = signal.signal(signal.SIGALRM, stop), time.monotonic()
    # again and again, as `except: pass` in a loop would outlive one
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's alarm
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


def end_within(seconds: float, code: int) -> None:
    """End the process with `code` in so many seconds at the latest, whatever threads or children remain.

    Children that `multiprocessing` started are killed.
    """

    def watch() -> None:
        time.sleep(seconds)
        left = [thread.name for thread in threading.enumerate() if not thread.daemon]
        names = ", ".join(name for name in left if name != "MainThread")
        try:
            print(f"left by an environment, and ended now: {names or 'its processes'}", file=sys.stderr)
            sys.stdout.flush()
            for child in multiprocessing.active_children():
                child.kill()
        finally:
            os._exit(code)

    threading.Thread(target=watch, name="end", daemon=True).start()

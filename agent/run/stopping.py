"""How a signal ends a run cleanly: between two steps, with all saved; a second one ends it at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """A run was asked to stop by `signal`, or by its callback (None)."""

    def __init__(self, number: signal.Signals | None = None) -> None:
        super().__init__(f"stopped by {number.name if number else 'the callback'}")
        self.signal = number

    def __reduce__(self) -> tuple[type[Stopped], tuple[signal.Signals | None]]:
        return Stopped, (self.signal,)


class StopRequest:
    """Within `with`, in the main thread: the first of its signals waits for the next `check`.

    From then on all of them have the system's default effect again: the next one ends the process without
    running any Python code, even where that hangs.

    Args:
        warning: a further signal, by which a job system says that time is almost up: USR1, USR2 or none.
    """

    def __init__(self, warning: str = "none") -> None:
        further = () if warning == "none" else (signal.Signals[f"SIG{warning}"],)
        self._signals = (*SIGNALS, *further)
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._keep) for number in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Stopped if a signal was received; to be called where a run can be interrupted."""
        if self.received is not None:
            raise Stopped(self.received)

    def _keep(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the system's signature)
        for each in self._signals:
            signal.signal(each, signal.SIG_DFL)
        self.received = signal.Signals(number)

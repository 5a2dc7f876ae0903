"""An environment that does to its process what environments should not."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


def _forever() -> None:
    time.sleep(10_000)


def _handlers(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handler)


class UnpicklableError(Exception):
    def __init__(self) -> None:
        super().__init__(threading.Lock())


def _raise(error: BaseException) -> None:
    raise error


DEEDS = {
    "exit": lambda: sys.exit(0),
    "os_exit": lambda: os._exit(0),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "raise": lambda: _raise(BrokenPipeError("the simulator has gone")),
    "unpicklable": lambda: _raise(UnpicklableError()),
    "hang": _forever,
    "ignore": lambda: _handlers(signal.SIG_IGN),
    "default": lambda: _handlers(signal.SIG_DFL),
    "handler": lambda: _handlers(lambda *_: None),
    "chdir": lambda: os.chdir("/"),
    "thread": lambda: threading.Thread(target=_forever, name="forever").start(),
    "child": lambda: multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0.1,)).start(),
    "print": lambda: print("no newline", end=""),
    "print_fd": lambda: os.write(1, b"no newline"),
}


class Hostile(gymnasium.Env):
    """Episodes of five steps; rewards are draws from the global generators.

    Args:
        do: one of `DEEDS`, or nothing.
        where: `init`, `reset`, `step` or `close`.
        at: the how many-th call there that does it, from 0.
    """

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, do: str = "", where: str = "step", at: int = 0) -> None:
        self.do, self.where, self.at = do, where, at
        self.calls = {"init": 0, "reset": 0, "step": 0, "close": 0}
        self._call("init")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.place = 0
        self._call("reset")
        return np.float32([np.random.rand(), 0]), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.place += 1
        self._call("step")
        return np.float32([np.random.rand(), self.place / 5]), np.random.rand(), self.place == 5, False, {}

    def close(self) -> None:
        self._call("close")

    def _call(self, where: str) -> None:
        self.calls[where] += 1
        if where == self.where and self.calls[where] == self.at + 1 and self.do:
            DEEDS[self.do]()


gymnasium.register("Hostile-v0", entry_point=Hostile, disable_env_checker=True)


class Talks(Hostile):
    """What it shows cannot be learned from."""

    observation_space = spaces.Text(5)


gymnasium.register("Talks-v0", entry_point=Talks, disable_env_checker=True)

"""MemoryChain, each step of which costs processor time."""

import time
from typing import Any

import gymnasium

import envs


class Slow(gymnasium.Wrapper):
    """Compute for `seconds` at each step."""

    def __init__(self, seconds: float) -> None:
        super().__init__(envs.make_raw("memory_chain:n=10"))
        self.seconds = seconds

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            sum(range(1000))
        return self.env.step(action)


gymnasium.register("Slow-v0", entry_point=Slow, disable_env_checker=True)

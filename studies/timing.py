"""Timing: what calls cost in seconds, memory, arithmetic, launches; and agents with made-up data to call."""

from __future__ import annotations

import ctypes
import platform
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import configs
from agent.agent import Agent
from agent.imagination import choose_starts
from agent.run import machine, seams
from agent.run.job import Job

WARM_UP = 2
COMPILATIONS = 8  # of one function for one subject, after which torch gives up, by its own default
EPISODE = 200  # steps an episode of the made-up batches lasts on average

Call = Callable[[], object]
Configurations = Mapping[str, configs.Config]
Result = dict[str, Any]


@dataclass
class Cost:
    """What a call costs: seconds of each timed one, and what `peak_memory` and `operations` say."""

    seconds: list[float]
    memory: int | None
    operations: int

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds)


def measure(calls: Sequence[Call], repeats: int, device: str) -> list[Cost]:
    """The cost of each call, after a warm-up; timed in turn, so that a busy machine affects all alike.

    Raises:
        torch._dynamo.exc.FailOnRecompileLimitHit: what is to be compiled would run uncompiled from now on.
    """
    # Agents share functions that are compiled anew for each; torch gives up on one after 8 times, in silence.
    torch.compiler.reset()
    limits = {"recompile_limit": COMPILATIONS * len(calls), "fail_on_recompile_limit_hit": True}
    costs = []
    with torch._dynamo.config.patch(limits):
        for call in calls:
            for _ in range(WARM_UP):
                call()
            costs.append(Cost([], peak_memory(call, device), operations(call)))
        for _ in range(repeats):
            for cost, call in zip(costs, calls, strict=True):
                cost.seconds.append(seconds(call, device))
    return costs


def seconds(call: Call, device: str) -> float:
    """How long a call takes; on a GPU by its own clock, from before the first kernel to after the last."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def peak_memory(call: Call, device: str) -> int | None:
    """Bytes that a call needs at its peak beyond what is in use before it; None if not measurable here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    clear = Path("/proc/self/clear_refs")
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or not clear.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # free memory goes back, so that it counts when it is taken again
    clear.write_text("5")  # the peak starts anew from what is in use now
    before = _kibibytes("VmRSS")
    call()
    return 1024 * max(_kibibytes("VmHWM") - before, 0)


def _kibibytes(field: str) -> int:
    """A field of what the kernel says of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{field}:"))


def operations(call: Call) -> int:
    """Floating-point operations of the matrix products and convolutions in a call."""
    # Uncompiled, as the counter cannot look into compiled code: torch would give up compiling for good.
    with torch.compiler.set_stance("force_eager"), _Operations() as counter:
        call()
    return counter.total


class _Operations(TorchDispatchMode):
    """Torch's `FlopCounterMode` also tracks modules, and fails at one called with a view without gradient."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def traced(call: Call, device: str) -> Result:
    """`launches` of kernels or graphs in a call, the seconds they take `on_device`, and its `waits` for them.

    Waits are counted by the line that made them, as far as torch knows of them. On a CPU there is none of it,
    and `on_device` is None.
    """
    for _ in range(WARM_UP):
        call()
    gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as seen:
        call()
    events = seen.events() or []
    there = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    with warnings.catch_warnings(record=True) as warned, _waits_warn() if gpu else nullcontext():
        warnings.simplefilter("always")
        call()
    return {
        "launches": sum("LaunchKernel" in e.name or "GraphLaunch" in e.name for e in events),
        "on_device": sum(e.time_range.elapsed_us() for e in there) / 1e6 if gpu else None,
        "waits": Counter(f"{w.filename}:{w.lineno}" for w in warned if "synchroniz" in str(w.message)),
    }


@contextmanager
def _waits_warn() -> Iterator[None]:
    """Within, torch warns where the processor waits for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def matmul_speed(
    device: str, size: int = 1024, repeats: int = 5, dtype: torch.dtype = torch.float32
) -> float:
    """Floating-point operations per second of a matrix product, the best of a few."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: left @ right, device) for _ in range(repeats))


def copy_speed(device: str, size: int = 2**30, repeats: int = 5) -> float:
    """Bytes per second, read and written, of a copy of `size` bytes within the device; the best of a few."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / min(seconds(lambda: target.copy_(source), device) for _ in range(repeats))


def count(*modules: nn.Module) -> int:
    """Number of parameters of modules."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


class Subject:
    """An agent of one configuration, under a name, and made-up data of its task's shapes."""

    def __init__(self, name: str, config: configs.Config) -> None:
        config = Job().share(config)
        self.name, self.config, self.rows = name, config, config.batch_size
        envs = seams.environments(config)(1, config.seed, 0)
        self.observations, self.actions = envs.observation_space, envs.action_space
        envs.close()
        device = machine.choose_device(config.device)
        self.agent, self.device = Agent(self.observations, self.actions, config, device), device.type

    def batch(self, rows: int, length: int) -> dict[str, np.ndarray]:
        """Rows as replay gives them, `[rows, length, ...]`; about every `EPISODE` steps a time limit."""
        random = np.random.default_rng(self.config.seed)
        is_last = random.random((rows, length)) < 1 / EPISODE

        def sample(space: gymnasium.Space) -> np.ndarray:
            space.seed(self.config.seed)
            values = np.stack([np.asarray(space.sample()) for _ in range(rows * length)])
            return values.reshape(rows, length, *values.shape[1:])

        return {f"obs/{key}": sample(leaf) for key, leaf in self.observations.items()} | {
            "action": sample(self.actions),
            "reward": random.normal(size=(rows, length)).astype(np.float32),
            "is_first": np.concatenate([np.ones((rows, 1), bool), is_last[:, :-1]], 1),
            "is_last": is_last,
            "is_terminal": np.zeros((rows, length), bool),
        }

    def starts(self, length: int) -> Tensor:
        """The steps of a batch from which imagination starts, `[B, n]`."""
        options = self.config.imagination
        return choose_starts(options.starts, options.count, self.rows, length, self.agent.device)

"""What things cost: time and memory of layers, world models, dreams, updates, acting and replay."""

import ctypes
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import envs
from agent.agent import PRECISIONS, Agent
from agent.imagination import choose_starts, imagine
from replay import Replay

WHAT = ("layers", "world_model", "imagination", "update", "acting", "replay")
WARM_UP = 2
EPISODE = 200  # steps an episode of the made-up batches lasts on average

Config = Mapping[str, Any]


@dataclass
class Case:
    """One thing to be timed.

    Attributes:
        name: what is compared with what.
        length: steps in sequence that one call computes.
        tokens: steps that one call computes, all rows together.
        parameters: trained parameters that take part.
        run: the call.
    """

    name: str
    length: int
    tokens: int
    parameters: int
    run: Callable[[], object]


def bench(
    what: str, configurations: Mapping[str, Config], lengths: Sequence[int], repeats: int, device: str = "cpu"
) -> dict[str, Any]:
    """Time the same thing for several configurations, in turn, so that a busy machine affects all alike.

    Arguments:
        what: one of `WHAT`.
        configurations: name -> merged configuration. The first one is what the others are compared with.
        lengths: steps of a window; imagination and acting, which have no windows, use lengths of their own.
        repeats: timed calls of each.
        device: `cpu` or `cuda`.

    Returns: `what`, `device`, `threads`, `torch`, `repeats`, `matmul` (floating-point operations per second
        of a large matrix product in this run) and `rows`, one per case: `name`, `length`, `median` (seconds),
        `spread` (interquartile range over the median), `ratio` (median over the first name's),
        `tokens_per_second`, `parameters`, `peak_memory` in bytes above what was in use before (None if it
        cannot be measured), `matmul_share` (share of the time that matrix products would take at `matmul`).

    Raises ValueError if `what` is unknown, or is `layers` and a configuration's backbone has none.
    """
    if what not in WHAT:
        raise ValueError(f"bench can measure {', '.join(WHAT)}, got '{what}'.")
    matmul = matmul_speed(device)
    subjects = {name: Subject(config, device) for name, config in configurations.items()}
    groups: list[list[Case]]
    if what in WHOLE:
        groups = [[WHOLE[what](name, subject) for name, subject in subjects.items()]]
    elif what == "replay":
        groups = [[_replay(next(iter(subjects.values())), length)] for length in lengths]
    else:
        groups = [[WINDOWS[what](*item, length) for item in subjects.items()] for length in lengths]
    return {
        "what": what,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
        "matmul": matmul,
        "rows": [row for cases in groups for row in measure(cases, repeats, device, matmul)],
    }


def measure(cases: Sequence[Case], repeats: int, device: str, matmul: float) -> list[dict[str, Any]]:
    """Time each case `repeats` times, in turn, after a warm-up; one row of `bench` for each."""
    flops, memory = [], []
    for case in cases:
        for _ in range(WARM_UP):
            case.run()
        # Eager, as the counter cannot look into compiled code: torch would give up compiling for good.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            case.run()
        flops.append(counter.get_total_flops())
        memory.append(peak_memory(case.run, device))
    times: list[list[float]] = [[] for _ in cases]
    for _ in range(repeats):
        for taken, case in zip(times, cases, strict=True):
            taken.append(seconds(case.run, device))
    rows = []
    for case, taken, operations, peak in zip(cases, times, flops, memory, strict=True):
        median = statistics.median(taken)
        low, high = np.quantile(taken, [0.25, 0.75])
        rows.append(
            {
                "name": case.name,
                "length": case.length,
                "median": median,
                "spread": float(high - low) / median,
                "ratio": median / statistics.median(times[0]),
                "tokens_per_second": case.tokens / median,
                "parameters": case.parameters,
                "peak_memory": peak,
                "matmul_share": operations / matmul / median,
            }
        )
    return rows


def seconds(run: Callable[[], object], device: str) -> float:
    """How long one call takes; on a GPU by its own clock, from before the first kernel to after the last."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3
    begin_time = time.perf_counter()
    run()
    return time.perf_counter() - begin_time


def peak_memory(run: Callable[[], object], device: str) -> int | None:
    """Bytes that a call needs at its peak beyond what is in use before it; None if not measurable here."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or not clear.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # free memory goes back, so that it counts when it is taken again
    clear.write_text("5")  # the peak starts anew from what is in use now
    before = _kibibytes(status, "VmRSS")
    run()
    return 1024 * max(_kibibytes(status, "VmHWM") - before, 0)


def matmul_speed(device: str, size: int = 1024, repeats: int = 5) -> float:
    """Floating-point operations per second of a float32 matrix product, the best of a few."""
    left, right = (torch.randn(size, size, device=device) for _ in range(2))
    best = min(seconds(lambda: left @ right, device) for _ in range(repeats))
    return 2 * size**3 / best


def table(result: Mapping[str, Any]) -> str:
    """The rows of `bench` as a text table."""
    head = f"{result['what']} on {result['device']}, {result['threads']} threads, torch {result['torch']}"
    lines = [
        f"{head}, {result['repeats']} calls each, in turn",
        f"{'':22} {'steps':>6} {'median ms':>10} {'spread':>7} {'ratio':>6} {'tokens/s':>11} "
        f"{'parameters':>11} {'peak MB':>8} {'matmul':>7}",
    ]
    for row in result["rows"]:
        peak = "" if row["peak_memory"] is None else f"{row['peak_memory'] / 1e6:.1f}"
        lines.append(
            f"{row['name']:22} {row['length']:>6} {1e3 * row['median']:>10.2f} {row['spread']:>7.0%} "
            f"{row['ratio']:>6.2f} {row['tokens_per_second']:>11,.0f} {row['parameters']:>11,} {peak:>8} "
            f"{row['matmul_share']:>7.0%}"
        )
    return "\n".join(lines)


class Subject:
    """An agent of one configuration and made-up data of its task's shapes."""

    def __init__(self, config: Config, device: str) -> None:
        self.config, self.device = config, device
        door = envs.make_vector(config["task"], 1, config["seed"])
        self.space: spaces.Dict = door.observation_space
        self.action_space = door.action_space
        door.close()
        self.agent = Agent(self.space, self.action_space, config, device)
        self.rows: int = config["batch_size"]

    def batch(self, rows: int, length: int) -> dict[str, np.ndarray]:
        """Rows as replay gives them, `[rows, length, ...]`; about every `EPISODE` steps a time limit."""
        random = np.random.default_rng(self.config["seed"])
        is_last = random.random((rows, length)) < 1 / EPISODE
        is_first = np.concatenate([np.ones((rows, 1), bool), is_last[:, :-1]], 1)

        def sample(space: gymnasium.Space) -> np.ndarray:
            space.seed(self.config["seed"])
            values = np.stack([np.asarray(space.sample()) for _ in range(rows * length)])
            return values.reshape(rows, length, *values.shape[1:])

        return {f"obs/{key}": sample(leaf) for key, leaf in self.space.items()} | {
            "action": sample(self.action_space),
            "reward": random.normal(size=(rows, length)).astype(np.float32),
            "is_first": is_first,
            "is_last": is_last,
            "is_terminal": np.zeros((rows, length), bool),
        }

    def starts(self, length: int) -> Tensor:
        """The steps of a batch from which imagination starts, `[B, n]`."""
        options = self.config["imagination"]
        return choose_starts(
            options["starts"], options["count"], self.rows, length, torch.device(self.device)
        )

    def autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.config["precision"]]
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=dtype != torch.float32)


def _layer(name: str, subject: Subject, length: int) -> Case:
    """Forward, with resets and the states that imagination starts from, and backward from the outputs."""
    device, stack = subject.device, getattr(subject.agent.backbone, "stack", None)
    if stack is None:
        raise ValueError(f"the backbone '{name}' has no state-space layers to measure; name others.")
    layer, width = stack.blocks[0].layer, stack.norm.normalized_shape[0]
    u = torch.randn(subject.rows, length, width, device=device, requires_grad=True)
    is_first = torch.as_tensor(subject.batch(subject.rows, length)["is_first"]).to(device)
    state, keep = layer.initial(subject.rows), subject.starts(length)

    def run() -> None:
        y, _, _ = layer(u, state, is_first, keep)
        layer.zero_grad()
        u.grad = None
        y.sum().backward()

    return Case(name, length, subject.rows * length, count(layer), run)


def _world_model(name: str, subject: Subject, length: int) -> Case:
    """Loss of the world model on a batch, backward, the optimiser's step."""
    agent, rows, keep = subject.agent, subject.rows, subject.starts(length)
    batch = subject.batch(rows, length)
    data = {key: torch.as_tensor(value).to(subject.device) for key, value in batch.items()}
    data["action"] = agent.codec.encode(data["action"])

    def run() -> None:
        with subject.autocast():
            loss, _, _ = agent.model.loss(data, agent.backbone.initial(rows), keep)
        agent.optimisers["model"].step(loss)

    return Case(name, length, rows * length, count(agent.model), run)


def _update(name: str, subject: Subject, length: int) -> Case:
    """A whole update of world model, actor and critic."""
    agent, batch = subject.agent, subject.batch(subject.rows, length)
    parameters = count(agent.model, agent.actor_critic.actor, agent.actor_critic.critic)
    return Case(name, length, subject.rows * length, parameters, lambda: agent.update(batch))


def _imagination(name: str, subject: Subject) -> Case:
    """A batch of dreams, the actor's choices included."""
    agent, options = subject.agent, subject.config["imagination"]
    starts, horizon = options["count"], options["horizon"]
    state = agent.backbone.initial(starts)

    def run() -> None:
        with torch.no_grad(), subject.autocast():
            imagine(agent.backbone, state, agent.actor_critic.sample, horizon, agent.dream_step)

    return Case(name, horizon, starts * horizon, count(agent.backbone, agent.actor_critic.actor), run)


def _acting(name: str, subject: Subject) -> Case:
    """One step of one environment, from the observation to the action."""
    agent = subject.agent
    batch = subject.batch(1, 1)
    rows = {key: value[:, 0] for key, value in batch.items() if key.startswith("obs/") or key == "is_first"}
    carry = agent.initial(1)
    parameters = count(agent.model.encoder, agent.backbone, agent.actor_critic.actor)
    return Case(name, 1, 1, parameters, lambda: agent.act(carry, rows))


def _replay(subject: Subject, length: int) -> Case:
    """A batch from a replay that holds four windows of each environment."""
    config, steps = subject.config, 4 * length
    streams = config["envs"]["count"]
    replay = Replay(streams * steps, streams, subject.rows, length, config["seed"], online=False)
    rows = subject.batch(streams, steps)
    for t in range(steps):
        replay.add({key: value[:, t] for key, value in rows.items()})
    return Case("replay", length, subject.rows * length, 0, replay.sample)


WINDOWS = {"layers": _layer, "world_model": _world_model, "update": _update}
WHOLE = {"imagination": _imagination, "acting": _acting}


def count(*modules: nn.Module) -> int:
    """Number of parameters of modules."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _kibibytes(status: Path, field: str) -> int:
    for line in status.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"{status} has no line '{field}'")

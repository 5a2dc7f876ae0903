"""Where the time of one update goes: processor time by part of the agent, without the parts inside it."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

import configs
from agent.agent import Agent
from studies import tables, timing
from studies.timing import Configurations, Result, Subject
from worldmodels import ranks

REST = "rest"
LEARNING = ("backward", "apply")

PARTS: dict[str, Callable[[Agent], list[tuple[object, str]]]] = {
    "model": lambda agent: [(agent.model, "loss")],
    "model, backward": lambda agent: [(agent.optimisers["model"], name) for name in LEARNING],
    "dream, backbone": lambda agent: [
        (agent.backbone, name) for name in ("prepare_imagination", "imagine_step")
    ],
    "dream, policy input": lambda agent: [(agent.backbone, "policy_input")],
    "dream, actor": lambda agent: [(agent.actor_critic, "sample")],
    "reward and continue": lambda agent: [
        (agent.model, "outcomes"),
        *((head, "mean") for head in (agent.model.reward, agent.model.continues)),
    ],
    "losses": lambda agent: [(agent.actor_critic, "loss"), (agent.actor_critic, "replay_loss")],
    "actor, backward": lambda agent: [(agent.optimisers["actor"], name) for name in LEARNING],
    "critic": lambda agent: [(agent.actor_critic.critic, name) for name in ("forward", "mean", "loss")],
    "slow critic": lambda agent: [
        *((agent.actor_critic.slow_critic, name) for name in ("forward", "mean")),
        (agent.actor_critic, "update_slow_critic"),
    ],
    "critic, backward": lambda agent: [(agent.optimisers["critic"], name) for name in LEARNING],
    "ranks": lambda _agent: [(ranks, "average_gradients"), (ranks, "gathered")],
    "optimisers": lambda agent: [
        (stepper, "step")
        for optimiser in agent.optimisers.values()
        for stepper in optimiser.steppers.values()
    ],
}
"""Name of a part -> the methods whose time is its own."""

WHOLE = ("model", "dream, actor")  # whatever is called inside belongs to these


def measure(configurations: Configurations, lengths: Sequence[int], repeats: int) -> Result:
    """Time by part of one update for several configurations, in turn; windows have the first length.

    Returns:
        `rows`, one per configuration and part, the whole update first: `name`, `part`, `seconds` (median of
        the processor's time in the part, on a GPU of the clock's), `share` of the update, and `ratio` to the
        same part of the first configuration (None where that one spends nothing there).
    """
    subjects = [Subject(name, config) for name, config in configurations.items()]
    batches = [subject.batch(subject.rows, lengths[0]) for subject in subjects]
    spent: list[dict[str, list[float]]] = [defaultdict(list) for _ in subjects]
    for repeat in range(timing.WARM_UP + repeats):
        for subject, batch, of_subject in zip(subjects, batches, spent, strict=True):
            clock = Clock(subject.device)
            with clock.parts(subject.agent):
                subject.agent.update(batch)
            if repeat >= timing.WARM_UP:
                for part in (REST, *PARTS):
                    of_subject[part].append(clock.spent[part])
    rows: list[dict[str, Any]] = []
    first: dict[str, float] = {}
    for subject, of_subject in zip(subjects, spent, strict=True):
        medians = {part: statistics.median(of_subject[part]) for part in (*PARTS, REST)}
        medians = {"update": statistics.median(map(sum, zip(*of_subject.values(), strict=True)))} | medians
        first = first or medians
        rows += [
            {
                "name": subject.name,
                "part": part,
                "seconds": seconds,
                "share": seconds / medians["update"],
                "ratio": seconds / first[part] if first[part] else None,
            }
            for part, seconds in medians.items()
        ]
    return {"length": lengths[0], "rows": rows}


COLUMNS: tables.Columns = {
    "": lambda row: configs.label(row["name"]),
    "part": lambda row: row["part"],
    "median ms": lambda row: f"{1e3 * row['seconds']:.2f}",
    "share": lambda row: f"{row['share']:.0%}",
    "ratio": lambda row: "-" if row["ratio"] is None else f"{row['ratio']:.2f}",
}


def note(result: Result) -> str:
    """What the times are of."""
    return f"one update on windows of {result['length']} steps; medians of each part"


class Clock:
    """Time by part. One part is open at a time; a part inside another stops the other's clock meanwhile."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.spent: dict[str, float] = defaultdict(float)
        self.open, self.since = REST, 0.0

    @contextmanager
    def parts(self, agent: Agent) -> Iterator[None]:
        """Within, the methods of `PARTS` keep the time; what is outside all of them is `REST`."""
        with ExitStack() as undone:
            for part, methods in PARTS.items():
                for owner, name in methods(agent):
                    timed = self._timed(part, getattr(owner, name))
                    undone.enter_context(patch.object(owner, name, timed))
            self.since = self._now()
            yield
            self._enter(REST)

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.open in WHOLE:
                return method(*args, **kwargs)
            outer = self._enter(part)
            try:
                return method(*args, **kwargs)
            finally:
                self._enter(outer)

        return timed

    def _enter(self, part: str) -> str:
        now, outer = self._now(), self.open
        self.spent[outer] += now - self.since
        self.open, self.since = part, now
        return outer

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

"""What each stage costs: time, memory, arithmetic of layers, models, dreams, updates and acting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

import configs
from agent.imagination import imagine
from studies import tables, timing
from studies.plots import save
from studies.timing import Call, Configurations, Result, Subject, count
from worldmodels.ssm.window import Window


class Case(NamedTuple):
    """A call to be timed, the steps in sequence and in all rows that it computes, and its parameters."""

    length: int
    tokens: int
    parameters: int
    call: Call


def measure(what: str, configurations: Configurations, lengths: Sequence[int], repeats: int) -> Result:
    """Time one of `CASES` for several configurations; the others are compared with the first one.

    Lengths are those of a window; imagination and acting, which have no windows, use lengths of their own.

    Returns:
        `matmul` (floating-point operations per second of a large matrix product in this run) and `rows`, one
        per case: `name`, `length`, `median` (seconds), `spread` (interquartile range over the median),
        `ratio` (of medians), `tokens_per_second`, `parameters`, `peak_memory` in bytes above what was in use
        before (None if it cannot be measured), `matmul_share` (of the time, that its matrix products would
        take at `matmul`).

    Raises:
        configs.Mistake: layers of a backbone without any.
    """
    subjects = [Subject(name, config) for name, config in configurations.items()]
    device = subjects[0].device
    matmul, rows = timing.matmul_speed(device), []
    for length in lengths[:1] if what in ("imagination", "acting") else lengths:
        cases = [CASES[what](subject, length) for subject in subjects]
        costs = timing.measure([case.call for case in cases], repeats, device)
        for subject, case, cost in zip(subjects, cases, costs, strict=True):
            low, high = np.quantile(cost.seconds, [0.25, 0.75])
            rows.append(
                {
                    "name": subject.name,
                    "length": case.length,
                    "median": cost.median,
                    "spread": float(high - low) / cost.median,
                    "ratio": cost.median / costs[0].median,
                    "tokens_per_second": case.tokens / cost.median,
                    "parameters": case.parameters,
                    "peak_memory": cost.memory,
                    "matmul_share": cost.operations / matmul / cost.median,
                }
            )
    return {"matmul": matmul, "rows": rows}


COLUMNS: tables.Columns = {
    "": lambda row: configs.label(row["name"]),
    "steps": lambda row: f"{row['length']}",
    "median ms": lambda row: f"{1e3 * row['median']:.2f}",
    "spread": lambda row: f"{row['spread']:.0%}",
    "ratio": lambda row: f"{row['ratio']:.2f}",
    "tokens/s": lambda row: f"{row['tokens_per_second']:,.0f}",
    "parameters": lambda row: f"{row['parameters']:,}",
    "peak MB": lambda row: "-" if row["peak_memory"] is None else f"{row['peak_memory'] / 1e6:.1f}",
    "matmul": lambda row: f"{row['matmul_share']:.0%}",
}


def draw(result: Mapping[str, Any], out: Path) -> Path:
    """Draw time and memory of each name against steps of a window."""
    panels = (("milliseconds a call", "median", 1e-3), ("peak memory, MB", "peak_memory", 1e6))
    return save(by_length(result, panels), out)


def by_length(result: Mapping[str, Any], panels: Sequence[tuple[str, str, float]]) -> Figure:
    """Draw what `rows` of a result have for each name against their `length`.

    `panels`: title, key and unit of each; one is left out where a row has None.
    """
    rows = result["rows"]
    panels = [panel for panel in panels if all(row[panel[1]] is not None for row in rows)]
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    lengths = sorted({row["length"] for row in rows})
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, field, unit) in zip(grid, panels, strict=True):
        for name in dict.fromkeys(row["name"] for row in rows):
            own = [row for row in rows if row["name"] == name]
            values = [row[field] / unit for row in own]
            axes.loglog([row["length"] for row in own], values, marker="o", label=configs.label(name))
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        axes.set(xlabel="steps", ylabel=title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{result['what']} on {result['device']}, threads: {result['threads']}")
    return figure


def _layer(subject: Subject, length: int) -> Case:
    """Forward, with resets and the states that imagination starts from, and backward from the outputs."""
    stack: Any = getattr(subject.agent.backbone, "stack", None)
    if stack is None:
        raise configs.Mistake(f"the backbone '{subject.name}' has no state-space layers; name others.")
    layer, width = stack.blocks[0].layer, stack.norm.normalized_shape[0]
    u = torch.randn(subject.rows, length, width, device=subject.device, requires_grad=True)
    is_first = torch.as_tensor(subject.batch(subject.rows, length)["is_first"]).to(subject.device)
    state, keep = layer.initial(subject.rows), subject.starts(length)

    def call() -> None:
        y, _, _ = layer(u, state, Window(is_first, keep))
        layer.zero_grad()
        u.grad = None
        y.sum().backward()

    return Case(length, subject.rows * length, count(layer), call)


def _world_model(subject: Subject, length: int) -> Case:
    """Loss of the world model on a batch, backward, the optimiser's step."""
    agent, rows, keep = subject.agent, subject.rows, subject.starts(length)
    data = agent.encoded(subject.batch(rows, length))

    def call() -> None:
        with agent.autocast():
            loss, _, _ = agent.model.loss(data, agent.backbone.initial(rows), keep)
        agent.optimisers["model"].step(loss)

    return Case(length, rows * length, count(agent.model), call)


def _update(subject: Subject, length: int) -> Case:
    """A whole update of world model, actor and critic."""
    agent = subject.agent
    batch = agent.prepare(subject.batch(subject.rows, length))
    parameters = count(agent.model, agent.actor_critic.actor, agent.actor_critic.critic)
    return Case(length, subject.rows * length, parameters, lambda: agent.update(batch))


def _imagination(subject: Subject, _length: int) -> Case:
    """A batch of dreams, the actor's choices included."""
    agent, options = subject.agent, subject.config.imagination
    state = agent.backbone.initial(options.count)

    def call() -> None:
        with torch.no_grad(), agent.autocast():
            imagine(agent.backbone, state, agent.actor_critic.sample, options.horizon, agent.dream_step)

    parameters = count(agent.backbone, agent.actor_critic.actor)
    return Case(options.horizon, options.count * options.horizon, parameters, call)


def _foresight(subject: Subject, length: int) -> Case:
    """As many frames as a window has, imagined from actions and decoded, in all rows of a batch."""
    agent, backbone, rows = subject.agent, subject.agent.backbone, subject.rows
    action = agent.encoded(subject.batch(rows, length))["action"]

    def call() -> None:
        with torch.no_grad(), agent.autocast():
            state = backbone.prepare_imagination(backbone.initial(rows), length)
            for t in range(length):
                state, feature = backbone.imagine_step(state, action[:, t])
                agent.model.decoder(feature)

    return Case(length, rows * length, count(backbone, agent.model.decoder), call)


def _acting(subject: Subject, _length: int) -> Case:
    """One step of one environment, from the observation to the action."""
    agent = subject.agent
    rows, carry = {key: value[:, 0] for key, value in subject.batch(1, 1).items()}, agent.initial(1)
    parameters = count(agent.model.encoder, agent.backbone, agent.actor_critic.actor)
    return Case(1, 1, parameters, lambda: agent.act(carry, rows))


CASES: dict[str, Callable[[Subject, int], Case]] = {
    "layers": _layer,
    "world_model": _world_model,
    "imagination": _imagination,
    "foresight": _foresight,
    "update": _update,
    "acting": _acting,
}

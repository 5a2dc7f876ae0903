"""Backbones side by side: parameters, state, and what a step costs in each of their modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import configs
from studies import tables, timing
from studies.timing import Call, Configurations, Result, Subject, count


def measure(configurations: Configurations, lengths: Sequence[int], repeats: int) -> Result:
    """Measure backbones alone, without encoder, decoder, heads and policy; windows have the first length.

    Returns:
        `length`, `batch` (rows of a window), `starts` (of dreams) and `rows`, one per backbone: `name`,
        `parameters`, `state` and `policy` (size of one environment's state, and of what actor and critic read
        of it, the latent included), and in seconds: `window` one step of a window, forward and backward, all
        rows of a batch together; `step` one observed step of one environment; `dream` one step of a dream,
        all its starts together.
    """
    length = lengths[0]
    subjects = [Subject(name, config) for name, config in configurations.items()]
    costs = [
        timing.measure([call(subject, length) for subject in subjects], repeats, subjects[0].device)
        for call in (_window, _step, _dream)
    ]
    rows = []
    for subject, window, step, dream in zip(subjects, *costs, strict=True):
        backbone = subject.agent.backbone
        rows.append(
            {
                "name": subject.name,
                "parameters": count(backbone),
                "state": sum(leaf.numel() for leaf in backbone.initial(1).values()),
                "policy": backbone.policy_size,
                "window": window.median / length,
                "step": step.median,
                "dream": dream.median / subject.config.imagination.horizon,
            }
        )
    first = subjects[0]
    return {"length": length, "batch": first.rows, "starts": first.config.imagination.count, "rows": rows}


COLUMNS: tables.Columns = {
    "": lambda row: configs.label(row["name"]),
    "parameters": lambda row: f"{row['parameters']:,}",
    "state": lambda row: f"{row['state']:,}",
    "policy reads": lambda row: f"{row['policy']:,}",
    "window, us a step": lambda row: f"{1e6 * row['window']:,.0f}",
    "one step, us": lambda row: f"{1e6 * row['step']:,.0f}",
    "dream, us a step": lambda row: f"{1e6 * row['dream']:,.0f}",
}


def note(result: Mapping[str, Any]) -> str:
    """What the times are of."""
    window = f"window: {result['batch']} rows of {result['length']} steps, forward and backward"
    return f"{window}; one step: one environment; dream: {result['starts']} starts"


def _window(subject: Subject, length: int) -> Call:
    """A window, its gradients, and the states that imagination starts from."""
    backbone, rows, keep = subject.agent.backbone, subject.rows, subject.starts(length)
    embed, action, is_first = _inputs(subject, rows, length)

    def call() -> None:
        with subject.agent.autocast():
            rollout = backbone.observe(backbone.initial(rows), embed, action, is_first, keep)
        parts = (rollout.features, rollout.prior, rollout.posterior)
        backbone.zero_grad()
        torch.stack([part.float().sum() for part in parts]).sum().backward()

    return call


def _step(subject: Subject, _length: int) -> Call:
    """One observed step of one environment."""
    backbone = subject.agent.backbone
    embed, action, is_first = (value[:, 0] for value in _inputs(subject, 1, 1))
    state = backbone.initial(1)

    @torch.no_grad()
    def call() -> None:
        with subject.agent.autocast():
            backbone.observe_step(state, embed, action, is_first)

    return call


def _dream(subject: Subject, _length: int) -> Call:
    """Dreams with given actions."""
    backbone, options = subject.agent.backbone, subject.config.imagination
    _, action, _ = _inputs(subject, options.count, options.horizon)

    @torch.no_grad()
    def call() -> None:
        with subject.agent.autocast():
            start = backbone.prepare_imagination(backbone.initial(options.count), options.horizon)
            backbone.imagine(start, action)

    return call


def _inputs(subject: Subject, rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Made-up embeddings `[rows, length, E]`, actions `[rows, length, A]` and is_first `[rows, length]`."""
    agent = subject.agent
    data = agent.encoded(subject.batch(rows, length))
    embed = torch.randn(rows, length, agent.model.encoder.output_size, device=agent.device)
    return embed, data["action"], data["is_first"]

"""Backbones side by side: parameters, state, and what a step costs in each of their modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from studies.bench import Case, Subject, count, matmul_speed, measure

Config = Mapping[str, Any]


def components(
    configurations: Mapping[str, Config], length: int, repeats: int, device: str = "cpu"
) -> dict[str, Any]:
    """Measure each configuration's backbone alone, without encoder, decoder, heads and policy.

    Arguments:
        configurations: name -> merged configuration.
        length: steps of a window.
        repeats: timed calls of each.
        device: `cpu` or `cuda`.

    Returns: `what`, `device`, `threads`, `torch`, `repeats`, `length` and `rows`, one per backbone: `name`,
        `parameters`, `state` and `policy` (size of one environment's state, and of what actor and critic
        read of it, the latent included), and in seconds: `window` one step of a window, forward and backward,
        all rows of a batch together; `step` one observed step of one environment; `dream` one step of a
        dream, all its starts together.
    """
    subjects = {name: Subject(config, device) for name, config in configurations.items()}
    matmul = matmul_speed(device)
    medians = [
        [
            row["median"]
            for row in measure([case(*item, length) for item in subjects.items()], repeats, device, matmul)
        ]
        for case in (_window, _step, _dream)
    ]
    rows = []
    for (name, subject), window, step, dream in zip(subjects.items(), *medians, strict=True):
        backbone = subject.agent.backbone
        rows.append(
            {
                "name": name,
                "parameters": count(backbone),
                "state": sum(leaf.numel() for leaf in backbone.initial(1).values()),
                "policy": backbone.policy_size,
                "window": window / length,
                "step": step,
                "dream": dream / subject.config["imagination"]["horizon"],
            }
        )
    return {
        "what": "backbones",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
        "length": length,
        "batch": next(iter(subjects.values())).rows,
        "starts": next(iter(configurations.values()))["imagination"]["count"],
        "rows": rows,
    }


def table(result: Mapping[str, Any]) -> str:
    """The rows of `components` as a text table."""
    lines = [
        f"backbones on {result['device']}, {result['threads']} threads, torch {result['torch']}: medians of "
        f"{result['repeats']} calls, in turn",
        f"{'':12} {'parameters':>11} {'state':>7} {'policy reads':>13} {'window, us a step':>18} "
        f"{'one step, us':>13} {'dream, us a step':>17}",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['name']:12} {row['parameters']:>11,} {row['state']:>7,} {row['policy']:>13,} "
            f"{1e6 * row['window']:>18,.0f} {1e6 * row['step']:>13,.0f} {1e6 * row['dream']:>17,.0f}"
        )
    lines.append(
        f"window: {result['batch']} rows of {result['length']} steps, forward and backward; one step: one "
        f"environment; dream: {result['starts']} starts"
    )
    return "\n".join(lines)


def _window(name: str, subject: Subject, length: int) -> Case:
    """A window, its gradients, and the states that imagination starts from."""
    backbone, rows, keep = subject.agent.backbone, subject.rows, subject.starts(length)
    embed, action, is_first = _inputs(subject, rows, length)

    def run() -> None:
        with subject.autocast():
            rollout = backbone.observe(backbone.initial(rows), embed, action, is_first, keep)
            loss = sum(value.float().sum() for value in (rollout.features, rollout.prior, rollout.posterior))
        backbone.zero_grad()
        loss.backward()  # type: ignore[union-attr]

    return Case(name, length, rows * length, count(backbone), run)


def _step(name: str, subject: Subject, length: int) -> Case:
    """One observed step of one environment."""
    del length
    backbone = subject.agent.backbone
    embed, action, is_first = (value[:, 0] for value in _inputs(subject, 1, 1))
    state = backbone.initial(1)

    @torch.no_grad()
    def run() -> None:
        with subject.autocast():
            backbone.observe_step(state, embed, action, is_first)

    return Case(name, 1, 1, count(backbone), run)


def _dream(name: str, subject: Subject, length: int) -> Case:
    """Dreams with given actions."""
    del length
    backbone, options = subject.agent.backbone, subject.config["imagination"]
    starts, horizon = options["count"], options["horizon"]
    _, action, _ = _inputs(subject, starts, horizon)

    @torch.no_grad()
    def run() -> None:
        with subject.autocast():
            backbone.imagine(backbone.prepare_imagination(backbone.initial(starts), horizon), action)

    return Case(name, horizon, starts * horizon, count(backbone), run)


def _inputs(subject: Subject, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Made-up embeddings `[rows, length, E]`, actions `[rows, length, A]` and is_first `[rows, length]`."""
    agent = subject.agent
    batch = subject.batch(rows, length)
    action = agent.codec.encode(torch.as_tensor(batch["action"], device=subject.device))
    embed = torch.randn(rows, length, agent.model.encoder.output_size, device=subject.device)
    return embed, action, torch.as_tensor(batch["is_first"], device=subject.device)

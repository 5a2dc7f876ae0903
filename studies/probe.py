"""Measure how much of past observations can be read linearly from what the policies of trained agents see."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import configs
from agent.run.reports import episode_age, policy_inputs
from agent.run.saved import SavedRun
from configs.command_line import Parser, Work, add_device, add_seed, count
from replay.files import writable
from studies import readout, tables
from studies.imagine import play
from studies.plots import SUFFIXES, save

LAGS = 16  # at most this many, geometrically spaced
FITTED = 0.75  # of the environments; the others are for the score
PATCHES = 8  # along each side of an image, whose sums stand for it
ALONE = "observation"  # name of the row that says what the observation itself tells


def arguments(parser: Parser) -> None:
    """The runs, and how much they play."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs of one task")
    add_device(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="picture to write [none]")
    parser.add_argument("--steps", type=count, default=100, metavar="N", help="steps to play [100]")
    envs = "environments [128; eval.envs where each is a process]"
    parser.add_argument("--envs", type=count, metavar="N", help=envs)
    add_seed(parser, "of the environments [each run's]")


def prepare(args: argparse.Namespace) -> Work:
    """See `probe`."""
    if args.out:
        writable(args.out, SUFFIXES)
    runs = [SavedRun.that_acts(path, args.device) for path in args.runs]
    tasks = sorted({run.config.task for run in runs})
    if len(tasks) > 1:
        raise ValueError(f"probe compares runs of one task, got runs of {', '.join(tasks)}.")
    first = runs[0].config
    envs = args.envs or (first.eval.envs if first.envs.mode == "async" else 128)

    def work() -> tuple[dict[str, Any], str]:
        result = probe(runs, args.steps, envs, args.seed)
        text = table(result)
        if args.out:
            text += f"\n{draw(result, args.out)}"
        return result, text

    return work


def probe(runs: Sequence[SavedRun], steps: int, count: int, seed: int | None) -> dict[str, Any]:
    """Fit linear readouts of earlier observations from what actor and heads of trained agents see.

    Each agent acts as in evaluation. From its policy input at step t a ridge regression predicts the
    observation of step t - lag of the same episode; it is fitted in three quarters of the environments and
    scored in the others. It measures what a state holds linearly, not what a network could get out of it.
    Of images it predicts the sums over 8 x 8 patches.

    Played are `steps` rows in each of `count` environments. A readout of P numbers needs 2 P pairs; lags with
    fewer are left out.

    Returns:
        `task`, `lags` and `rows`: `name` (the folder), `backbone`, `step` of the checkpoint, `inputs` (P),
        and `explained`: for each lag the share of the observations' variance that is predicted, at most 1,
        None with too few pairs. The last row, named `observation`, is what the observation of step t itself
        tells, with the first run's agent acting.

    Raises:
        configs.Mistake: no lag has enough pairs.
    """
    rows: list[dict[str, Any]] = []
    lags: list[int] = []
    alone: dict[str, Any] = {}
    for run in runs:
        own = run.config.seed if seed is None else seed
        agent, step = run.agent()
        batch = play(agent, run.make_envs, steps, own, count)
        seen, age = _flat(batch), episode_age(batch["is_first"])
        lags = lags or [int(lag) for lag in np.unique(np.geomspace(1, max(age.max(), 1), LAGS).round())]
        row = {"name": str(run.folder), "backbone": run.config.backbone, "step": step}
        rows.append(row | _scores(policy_inputs(agent, batch).astype(np.float64), seen, age, lags))
        alone = alone or row | {"name": ALONE} | _scores(seen, seen, age, lags)
    if all(value is None for row in rows for value in row["explained"]):
        most = max(row["inputs"] for row in rows)
        raise configs.Mistake(
            f"{count} environments of {steps} steps are too few for a readout of {most} numbers; "
            f"give a larger --envs or --steps."
        )
    return {"task": runs[0].config.task, "lags": lags, "rows": [*rows, alone]}


def _scores(inputs: np.ndarray, seen: np.ndarray, age: np.ndarray, lags: Sequence[int]) -> dict[str, Any]:
    found = [explained(inputs, seen, age, lag) for lag in lags]
    return {"inputs": inputs.shape[-1], "explained": found}


def explained(inputs: np.ndarray, seen: np.ndarray, age: np.ndarray, lag: int) -> float | None:
    """The share of the variance of `seen` [B,T,D], `lag` steps ago, that `inputs` [B,T,P] predict linearly.

    `age` `[B, T]` are the steps since the episode began.

    Returns:
        1 - squared error / variance in the environments that were not fitted; below 0 where the mean would be
        better; None with fewer than 2 P pairs to fit, none to score, or nothing that varies.
    """
    row, step = np.nonzero(age >= lag)
    x, y = inputs[row, step], seen[row, step - lag]
    fit = row < FITTED * len(inputs)
    if fit.sum() < 2 * inputs.shape[-1] or fit.all():
        return None
    weight, bias = (part.numpy() for part in readout.ridge(torch.as_tensor(x[fit]), torch.as_tensor(y[fit])))
    error = y[~fit] - x[~fit] @ weight - bias
    variance = np.square(y[~fit] - y[~fit].mean(0)).sum()
    return float(1 - np.square(error).sum() / variance) if variance else None


def _cell(column: int, row: Mapping[str, Any]) -> str:
    return tables.number(row["explained"][column], ".2f")


def table(result: Mapping[str, Any]) -> str:
    """Shares of variance by lag."""
    columns: tables.Columns = {
        "": lambda row: row["name"],
        "backbone": lambda row: configs.label(row["backbone"]),
        "numbers": lambda row: str(row["inputs"]),
        **{str(lag): partial(_cell, column) for column, lag in enumerate(result["lags"])},
    }
    head = f"{result['task']}: share of the variance of the observation of so many steps ago"
    return f"{head}\n{tables.text(result['rows'], columns)}"


def draw(result: Mapping[str, Any], out: Path) -> Path:
    """Draw what `probe` found: one line per run, and dashed what the observation itself tells."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for row in result["rows"]:
        alone = row["name"] == ALONE
        values = np.array([np.nan if value is None else max(value, 0.0) for value in row["explained"]])
        label = "the observation itself" if alone else f"{configs.label(row['backbone'])}, {row['name']}"
        style: dict[str, Any] = {"color": "grey", "linestyle": "--"} if alone else {"marker": "."}
        axes.plot(result["lags"], values, label=label, **style)
    axes.set(
        xscale="log", xlabel="steps ago", ylabel="share of variance", title=result["task"], ylim=(-0.03, 1.03)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return save(figure, out)


def _flat(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """All observations of a batch side by side, `[B, T, D]`; images as sums over patches, 8 x 8 or fewer."""
    lead, parts = batch["is_first"].shape, []
    for key in sorted(key for key in batch if key.startswith("obs/")):
        part = batch[key].astype(np.float64)
        if part.ndim == 5:
            for axis in (2, 3):
                edges = np.unique(np.linspace(0, part.shape[axis], PATCHES, endpoint=False).astype(int))
                part = np.add.reduceat(part, edges, axis)
        parts.append(part.reshape(*lead, -1))
    return np.concatenate(parts, -1)

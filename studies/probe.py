"""What trained agents' policy input still tells about past observations: `python run.py probe LOGDIR ...`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from agent.evaluation import load_agent
from agent.pictures import episode_age
from studies.imagine import play
from studies.plots import save

LAGS = 16  # at most this many, geometrically spaced
RIDGE = 1e-4  # of the mean variance of an input
FITTED = 0.75  # of the environments; the others are for the score
PATCHES = 8  # along each side of an image, whose sums stand for it

Config = Mapping[str, Any]
Run = tuple[Config, Callable[[int, int, int], Any], Path]


def probe(runs: Sequence[Run], steps: int, count: int, seed: int | None) -> dict[str, Any]:
    """Fit linear readouts of earlier observations from what actor and heads of trained agents see.

    Each agent acts as in evaluation. From its policy input at step t a ridge regression predicts the
    observation of step t - lag of the same episode; it is fitted in three quarters of the environments and
    scored in the others. It measures what a state holds linearly, not what a network could get out of it.
    Of images it predicts the sums over 8 x 8 patches.

    Arguments:
        runs: configuration, `make_envs` and folder of each run, all of one task.
        steps: rows to play in each environment.
        count: environments. A readout of P numbers needs 2 P pairs; lags with fewer are left out.
        seed: of the environments; None for each run's own.

    Returns: `task`, `lags` and `rows`: `name` (the folder), `backbone`, `step` of the checkpoint, `inputs`
        (P), and `explained`: for each lag the share of the observations' variance that is predicted, at most
        1, None with too few pairs. The last row, named `observation`, is what the observation of step t
        itself tells, with the first run's agent acting.

    Raises ValueError if the runs are of several tasks, there is no checkpoint, or no lag has enough pairs.
    """
    tasks = sorted({config["task"] for config, _, _ in runs})
    if len(tasks) > 1:
        raise ValueError(f"probe compares runs of one task, got runs of {', '.join(tasks)}.")
    rows: list[dict[str, Any]] = []
    lags: list[int] = []
    alone: dict[str, Any] = {}
    for config, make_envs, logdir in runs:
        own = config["seed"] if seed is None else seed
        agent, step = load_agent(config, make_envs, logdir, own)
        batch = play(agent, make_envs, steps, own, count)
        inputs = agent.policy_inputs(batch).astype(np.float64)
        seen = _flat(batch)
        age = episode_age(batch["is_first"])
        lags = lags or [int(lag) for lag in np.unique(np.geomspace(1, max(age.max(), 1), LAGS).round())]
        found = [explained(inputs, seen, age, lag) for lag in lags]
        row = {"name": str(logdir), "backbone": config["backbone"], "step": step, "inputs": inputs.shape[-1]}
        rows.append({**row, "explained": found})
        if not alone:
            told = [explained(seen, seen, age, lag) for lag in lags]
            alone = {**row, "name": "observation", "inputs": seen.shape[-1], "explained": told}
    if all(value is None for row in rows for value in row["explained"]):
        most = max(row["inputs"] for row in rows)
        raise ValueError(
            f"{count} environments of {steps} steps are too few for a readout of {most} numbers; "
            f"give a larger --envs or --steps."
        )
    return {"task": tasks[0], "lags": lags, "rows": [*rows, alone]}


def explained(inputs: np.ndarray, seen: np.ndarray, age: np.ndarray, lag: int) -> float | None:
    """The share of the variance of `seen` [B,T,D], `lag` steps ago, that `inputs` [B,T,P] predict linearly.

    Arguments:
        age: [B,T] steps since the episode began.

    Returns: 1 - squared error / variance in the environments that were not fitted; below 0 where the mean
        would be better; None with fewer than 2 P pairs to fit, none to score, or nothing that varies.
    """
    row, step = np.nonzero(age >= lag)
    x, y = inputs[row, step], seen[row, step - lag]
    fit = row < FITTED * len(inputs)
    if fit.sum() < 2 * inputs.shape[-1] or fit.all():
        return None
    x, y = x - x[fit].mean(0), y - y[fit].mean(0)
    gram = x[fit].T @ x[fit]
    gram += RIDGE * (np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram))
    error = y[~fit] - x[~fit] @ np.linalg.solve(gram, x[fit].T @ y[fit])
    variance = np.square(y[~fit] - y[~fit].mean(0)).sum()
    return float(1 - np.square(error).sum() / variance) if variance else None


def table(result: Mapping[str, Any]) -> str:
    """The rows of `probe` as a text table: shares of variance by lag."""
    width = max(len(row["name"]) for row in result["rows"])
    lines = [f"{result['task']}: share of the variance of the observation of so many steps ago"]
    lines.append(f"{'':{width}} {'numbers':>7}" + "".join(f"{lag:>6}" for lag in result["lags"]))
    for row in result["rows"]:
        cells = "".join("     -" if value is None else f"{value:>6.2f}" for value in row["explained"])
        lines.append(f"{row['name']:{width}} {row['inputs']:>7}{cells}")
    return "\n".join(lines)


def draw(result: Mapping[str, Any], out: str | Path) -> Path:
    """Draw what `probe` found: one line per run, and dashed what the observation itself tells."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for row in result["rows"]:
        alone = row["name"] == "observation"
        values = np.array([np.nan if value is None else max(value, 0.0) for value in row["explained"]])
        label = "the observation itself" if alone else f"{row['backbone']}, {row['name']}"
        style: dict[str, Any] = {"color": "grey", "linestyle": "--"} if alone else {"marker": "."}
        axes.plot(result["lags"], values, label=label, **style)
    axes.set(
        xscale="log", xlabel="steps ago", ylabel="share of variance", title=result["task"], ylim=(-0.03, 1.03)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return save(figure, out)


def _flat(batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """All observations of a batch side by side, [B,T,D]; images as sums over patches, 8 x 8 or fewer."""
    lead, parts = batch["is_first"].shape, []
    for key in sorted(key for key in batch if key.startswith("obs/")):
        part = batch[key].astype(np.float64)
        if part.ndim == 5:
            for axis in (2, 3):
                edges = np.unique(np.linspace(0, part.shape[axis], PATCHES, endpoint=False).astype(int))
                part = np.add.reduceat(part, edges, axis)
        parts.append(part.reshape(*lead, -1))
    return np.concatenate(parts, -1)

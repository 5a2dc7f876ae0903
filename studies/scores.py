"""Score backbones over several tasks, from what compare wrote: IQM, mean, optimality gap, profiles.

The definitions are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (2021), section 4; intervals are the stratified bootstrap's (see `curves.interval`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import configs
import envs
from configs.command_line import Parser, Work
from configs.files import read_json
from replay.files import writable
from studies import plots, tables
from studies.curves import higher, interval

Scores = Mapping[str, Mapping[str, np.ndarray]]
"""Name of a comparison's row -> task -> normalised scores of its runs [n]."""


def arguments(parser: Parser) -> None:
    """Which files, which of their rows, and where to draw."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE.json", help="compare.json of comparisons"
    )
    rows = "rows to score, the first against each other, in quotes if of a grid [those that every task has]"
    parser.add_argument("--backbones", nargs="+", default=(), metavar="NAME", help=rows)
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="draw performance profiles")


def prepare(args: argparse.Namespace) -> Work:
    """See `gather` and `report`."""
    if args.out:
        writable(args.out, plots.SUFFIXES)
    scales, scores = gather(args.files, args.backbones)

    def work() -> tuple[dict[str, Any], str]:
        found = {"tasks": scales, **report(scores)}
        return found, table(found) + (f"\nwritten: {draw(scores, args.out)}" if args.out else "")

    return work


def gather(
    files: Sequence[Path], names: Sequence[str] = ()
) -> tuple[dict[str, dict[str, float | None]], Scores]:
    """Task -> its `optimum` and `guess`; and the scores: 0 for a guess, or a return of 0, 1 for the optimum.

    Tasks without a known optimum, or without one of the `names`, are left out, with a line on stderr.

    Raises:
        ValueError: a file is no comparison, two have the same row, a task is not installed, nothing is left.
    """
    returns: dict[str, dict[str, np.ndarray]] = {}  # task -> row -> [n]
    optima: dict[str, float | None] = {}
    for path in dict.fromkeys(files):
        found = read_json(path)
        if not {"task", "results"} <= found.keys():
            raise ValueError(f"{path} is no comparison: expected a compare.json.")
        task, rows = found["task"], returns.setdefault(found["task"], {})
        optima[task] = optima.get(task) or found.get("optimum")
        for name, result in found["results"].items():
            if name in rows:
                raise ValueError(f"{path}: '{name}' on {task} is in another file too; name one of them.")
            rows[name] = np.array(result["returns"], float)
    scales: dict[str, dict[str, float | None]] = {}
    for task, rows in returns.items():
        try:
            guess, best = envs.guess(task), optima[task] or envs.optimum(task)
        except ImportError as error:
            raise ValueError(str(error)) from error
        zero, lacking = guess or 0, [name for name in names if name not in rows]
        if best is None or best <= zero or lacking:
            why = f"no '{lacking[0]}'" if lacking else "its optimum is not known, or not above 0"
            print(f"left out {task}: {why}", file=sys.stderr)
            continue
        scales[task] = {"optimum": best, "guess": guess}
        returns[task] = {name: (got - zero) / (best - zero) for name, got in rows.items()}
    scored = [returns[task] for task in scales]
    common = [name for name in next(iter(scored), {}) if all(name in rows for rows in scored)]
    if not common:
        raise ValueError("nothing to score: no row that every task has; name some with --backbones.")
    return scales, {name: {task: returns[task][name] for task in scales} for name in names or common}


def mean(*tasks: np.ndarray, axis: int) -> np.ndarray:
    """Over tasks, of the mean over runs; each task's scores have its runs along the axis."""
    return np.mean([task.mean(axis) for task in tasks], axis=0)


def median(*tasks: np.ndarray, axis: int) -> np.ndarray:
    """Over tasks, of the mean over runs."""
    return np.median([task.mean(axis) for task in tasks], axis=0)


def iqm(*tasks: np.ndarray, axis: int) -> np.ndarray:
    """The interquartile mean: of the middle half of all tasks' runs together."""
    from scipy import stats  # takes two seconds, which help can do without

    return stats.trim_mean(np.concatenate(tasks, axis), 0.25, axis)


def gap(*tasks: np.ndarray, axis: int) -> np.ndarray:
    """The optimality gap: how far runs fall short of 1, in the mean; what is above 1 makes up for nothing."""
    return mean(*(np.maximum(1 - task, 0) for task in tasks), axis=axis)


def improvement(*tasks: np.ndarray, axis: int) -> np.ndarray:
    """The mean over tasks of `curves.higher`; the first half of them is of one row, the second of another."""
    pairs = zip(tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :], strict=True)
    return np.mean([higher(ours, theirs, axis) for ours, theirs in pairs], axis=0)


STATISTICS = {"IQM": iqm, "median": median, "mean": mean, "optimality gap": gap}


def report(scores: Scores) -> dict[str, Any]:
    """`scores` (row -> each of `STATISTICS`), `improvement` of the first row over each other, and `runs`."""

    def entry(statistic: Callable[..., Any], *rows: str) -> dict[str, Any]:
        samples = [runs for row in rows for runs in scores[row].values()]
        value, low, high = map(float, interval(samples, statistic))
        return {"value": value, "interval": [low, high]}

    first, *others = scores
    pairs = [{"of": first, "over": other, **entry(improvement, first, other)} for other in others]
    return {
        "scores": {name: {key: entry(each, name) for key, each in STATISTICS.items()} for name in scores},
        "improvement": pairs,
        "runs": {name: {task: runs.tolist() for task, runs in own.items()} for name, own in scores.items()},
    }


def table(found: Mapping[str, Any]) -> str:
    """The scores, and how probably the first row's runs are better."""

    def cell(entry: Mapping[str, Any]) -> str:
        return f"{entry['value']:.3f} [{entry['interval'][0]:.3f}, {entry['interval'][1]:.3f}]"

    columns: dict[str, Any] = {"": lambda item: configs.label(item[0])}
    columns |= {key: lambda item, key=key: cell(item[1][key]) for key in STATISTICS}
    head = f"{len(found['tasks'])} tasks; 0 is a guess, or a return of 0 where none is known, 1 the optimum"
    better = [
        f"a run of {configs.label(pair['of'])} ends higher than one of {configs.label(pair['over'])} "
        f"with probability {cell(pair)}"
        for pair in found["improvement"]
    ]
    return "\n".join([head, tables.text(found["scores"].items(), columns), *better])


def draw(scores: Scores, out: Path) -> Path:
    """Performance profiles: the share of runs, in the mean over tasks, that score above each number."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    every = [runs for own in scores.values() for runs in own.values()]
    places = np.linspace(min(0, *map(np.min, every)), max(1, *map(np.max, every)), 101)
    for name, own in scores.items():
        share, low, high = interval([(runs[:, None] > places).astype(float) for runs in own.values()], mean)
        (line,) = axes.step(places, share, where="post", label=configs.label(name))
        axes.fill_between(places, low, high, step="post", color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="normalised score", ylabel="share of runs above it", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    return plots.save(figure, out)

"""Draw the learning curves of runs: mean over seeds and bootstrap interval."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

import configs
from configs import blocks
from configs.command_line import Parser, Work
from configs.files import read_json
from replay.files import ASIDE, atomic, writable
from studies.curves import METRIC, Curve, band, from_json, read_curve
from studies.grid import OWN, name_of

Groups = Mapping[str, Mapping[str, Sequence[Curve]]]
"""Task -> label -> curves of its runs, each with at least one evaluation."""

AXES = ("steps", "seconds")
"""What a curve can be drawn against."""
FEW = 3  # options that a label lists
SUFFIXES = tuple(f".{name}" for name in FigureCanvasBase.get_supported_filetypes())
"""Of the pictures that can be written."""


def arguments(parser: Parser) -> None:
    """What to draw, and where."""
    parser.add_argument(
        "logdirs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folders, folders of them, or a comparison's compare.json",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.png", help="picture to write")
    metric = f"what to draw of evaluations, such as eval/gen_error of fits [{METRIC}]"
    parser.add_argument("--metric", default=METRIC, metavar="NAME", help=metric)


def prepare(args: argparse.Namespace) -> Work:
    """See `gather` and `draw`."""
    writable(args.out, SUFFIXES)
    groups, optima = gather(args.logdirs, args.metric)

    def work() -> tuple[dict[str, Any], str]:
        path = str(draw(groups, args.out, optima, args.metric))
        return {"out": path}, path

    return work


def gather(places: Iterable[Path], metric: str = METRIC) -> tuple[Groups, dict[str, float | None]]:
    """The curves of any set of runs, and task -> return of the optimal policy where a file says it.

    Args:
        places: run folders, or folders that hold run folders at any depth, and the `compare.json` of
            comparisons. A run is grouped by the `task` and `backbone` of its config.yaml, and by the options
            that change what is learned, the seed left out: those that differ are in the label. The runs of a
            file get a label with its name if others of the same task and backbone are there too.
        metric: the number of an evaluation that is drawn; of a comparison's file only the return can be.

    Raises:
        ValueError: a folder holds no run, a run has no config.yaml, no run was evaluated yet, or a file is no
            comparison.
    """
    lines: dict[tuple[str, str], dict[str, list[Curve]]] = {}  # task, backbone -> file, or "" -> runs
    optima: dict[str, float | None] = {}
    folders: list[Path] = []
    found: dict[tuple[str, str], list[tuple[Path, Curve]]] = {}
    for path in dict.fromkeys(places):
        if not path.is_file():
            folders += runs_in(path)
            continue
        if metric != METRIC:
            raise ValueError(f"{path} holds {METRIC} alone; name the folder of the runs to draw {metric}.")
        report = _read_comparison(path)
        optima[report["task"]] = report["optimum"]
        for backbone, runs in report["runs"].items():
            lines.setdefault((report["task"], backbone), {})[str(path)] = list(map(from_json, runs))
    for folder in dict.fromkeys(folders):
        curve = read_curve(folder, metric)
        if curve.steps.size:
            found.setdefault(_task_and_backbone(folder), []).append((folder, curve))
        else:
            print(f"left out {folder}: no {metric} in its metrics yet", file=sys.stderr)
    for (task, backbone), runs in found.items():
        for options, curves in _apart(runs):
            lines.setdefault((task, backbone + options), {})[""] = curves
    if not lines:
        raise ValueError(f"nothing to draw: none of {len(folders)} runs has logged {metric} yet.")
    groups: dict[str, dict[str, list[Curve]]] = {}
    for (task, backbone), sources in lines.items():
        for source, curves in sources.items():
            label = configs.label(backbone) + f", {source}" * bool(source and len(sources) > 1)
            groups.setdefault(task, {})[label] = curves
    return groups, optima


def draw(groups: Groups, out: Path, optima: Mapping[str, float | None], metric: str = METRIC) -> Path:
    """Draw one row of two panels for each task: against steps and against minutes of training.

    Thin lines are single runs, the thick one their mean, the shade its 95 % interval, the dashed one the
    optimum.
    """
    labels = dict.fromkeys(label for group in groups.values() for label in group)
    few = len(labels) <= 10
    shades = colormaps["tab10" if few else "turbo"]
    colours = {label: shades(at if few else at / len(labels)) for at, label in enumerate(labels)}
    figure = Figure(figsize=(11, 3.8 * len(groups)), layout="constrained")
    rows = figure.subplots(len(groups), 2, squeeze=False, sharey="row")
    for panels, (task, group) in zip(rows, groups.items(), strict=True):
        for axes, axis in zip(panels, AXES, strict=True):
            panel(axes, axis, group, colours, optima.get(task), metric)
            axes.set_title(task)
        panels[1].set_ylabel("")
        panels[0].legend()
    return save(figure, out)


def panel(
    axes: Axes,
    axis: str,
    group: Mapping[str, Sequence[Curve]],
    colours: Mapping[str, Any],
    optimum: float | None = None,
    metric: str = METRIC,
) -> None:
    """Draw the curves of one task, label -> runs, against one of `AXES`; see `draw`."""
    for label, curves in group.items():
        timed = [curve for curve in curves if np.isfinite(getattr(curve, axis)).all()]
        if timed:
            _draw_runs(axes, axis, timed, label, colours[label])
    if optimum is not None:
        ink = rcParams["text.color"]
        axes.axhline(optimum, color=ink, linestyle="--", linewidth=1, label="optimum")
    steps = "environment steps" if metric == METRIC else "steps"
    axes.set(xlabel=steps if axis == "steps" else "minutes of training", ylabel=metric)
    axes.grid(alpha=0.3)


def _draw_runs(axes: Axes, axis: str, curves: Sequence[Curve], label: str, colour: Any) -> None:
    scale = 1 if axis == "steps" else 60
    marker = "o" if max(len(curve.steps) for curve in curves) == 1 else ""
    for curve in curves:
        x = getattr(curve, axis) / scale
        axes.plot(x, curve.values, color=colour, alpha=0.3, linewidth=0.8, marker=marker)
    mean = band(curves, axis)
    x, name = mean.x / scale, f"{label} ({len(curves)} run{'s' if len(curves) > 1 else ''})"
    axes.plot(x, mean.mean, color=colour, linewidth=2, marker=marker, label=name)
    axes.fill_between(x, mean.low, mean.high, color=colour, alpha=0.2, linewidth=0)


def save(figure: Figure, out: Path) -> Path:
    """Write a figure, atomically, in the format of the file's suffix."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out, "a picture") as temporary:
        figure.savefig(temporary, dpi=120)
    return out


def runs_in(logdir: Path) -> list[Path]:
    """The run folders at or below `logdir`; what a run put aside is none."""
    if not logdir.exists():
        raise ValueError(f"no {logdir}: expected the folder of a run or of several, or compare.json.")
    folders = (path.parent for path in logdir.rglob("metrics.jsonl"))
    found = sorted(folder for folder in folders if not folder.name.startswith(ASIDE))
    if not found:
        raise ValueError(f"no run in {logdir}: expected metrics.jsonl there or in a folder below it.")
    return [logdir] if logdir in found else found


def _read_comparison(path: Path) -> dict[str, Any]:
    report = read_json(path)
    if not {"task", "optimum", "runs"} <= report.keys():
        raise ValueError(f"{path} is not a compare.json with the curves of single runs; run compare again.")
    return report


def _task_and_backbone(folder: Path) -> tuple[str, str]:
    """As the configuration saved with a run says, and its folder, of what a comparison's grid has set."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"no {path}: the configuration saved with a run says how to group it.")
    config = blocks.parse(path)
    missing = [key for key in ("task", "backbone") if key not in config]
    if missing:
        raise ValueError(f"{path} does not name its {' and '.join(missing)}.")
    return str(config["task"]), name_of(folder.parent.name, str(config["backbone"]))


def _apart(runs: Sequence[tuple[Path, Curve]]) -> Iterator[tuple[str, list[Curve]]]:
    """Runs of one task and backbone by their options: what a label says of them, and their curves.

    That is the options which differ, or, if these are many, the first folder.
    """
    saved = [blocks.flatten(blocks.parse(path := folder / "config.yaml"), str(path)) for folder, _ in runs]
    shared = set.intersection(*map(set, saved))  # other versions of the code have other options
    differ = [
        key
        for key in saved[0]
        if key in shared
        and not configs.is_free(key, (*configs.FREE_TO_CHANGE, *OWN))
        and any(each[key] != saved[0][key] for each in saved)
    ]
    groups: dict[str, list[tuple[Path, Curve]]] = {}
    for run, options in zip(runs, saved, strict=True):
        groups.setdefault(",".join(f"{key}={configs.typed(options[key])}" for key in differ), []).append(run)
    for text, members in groups.items():
        said = text if len(differ) <= FEW else members[0][0]
        yield f" [{said}]" if differ else "", [curve for _, curve in members]

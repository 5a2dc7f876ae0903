"""Repeat an experiment of the S4WM paper: data, training, table, figure. The same command again goes on.

In each setting of the experiment episodes are collected, world models fitted to them, and judged by what they
foresee of the episodes held out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import configs
from agent.run import seams
from agent.run.folder import REPOSITORY, RunFolder, commit
from agent.run.machine import cores, hardware
from agent.run.saved import SavedRun
from configs.command_line import Parser, Work, count
from configs.files import read_json
from replay.files import publish, writable
from studies import collect, tables
from studies.curves import as_json, mean_interval, read_curve
from studies.foresee import choose, judge
from studies.plots import save
from studies.processes import Run, run_all

METRIC = "eval/gen_error"
SCORES = ("recon_error", "gen_error", "reward_accuracy_inferred", "reward_accuracy_imagined")
EPISODES = 1000  # of the test part that a run is judged by, at most; the paper has as many
BACKBONES = ("s4wm", "rssm_tbtt", "tssm")
BUDGETS = ("cpu", "paper")
WHAT = "the study"


@dataclass(frozen=True)
class Setting:
    """One task of an experiment, and how world models are fitted to it.

    Attributes:
        name: its folder, and what the table calls it.
        task: as `--task` takes it.
        episodes: how many are collected, by the task's script.
        updates: of each run.
        options: of each run, as `fit` takes them.
        paper: backbone -> what the paper has, in the words of the table.
    """

    name: str
    task: str
    episodes: int
    updates: int
    options: Sequence[str] = ()
    paper: Mapping[str, str] = field(default_factory=dict)


def _distracting_memory(width: int, updates: int, observation: str, *options: str) -> Setting:
    """The paper's three widths: reward accuracy, inferred / imagined (its table of reward prediction)."""
    published = {
        100: ("100 / 100", "47.9 / 49.6", "100 / 51.2"),
        200: ("100 / 100", "48.7 / 48.4", "99.9 / 51.3"),
        400: ("100 / 100", "50.4 / 52.2", "50.4 / 51.0"),
    }
    return Setting(
        f"width{width}",
        f"distracting_memory:width={width},observation={observation}",
        10_000 if width in published else 1_080,
        updates,
        options,
        dict(zip(BACKBONES, published.get(width, ()), strict=False)),
    )


EXPERIMENTS: dict[str, dict[str, tuple[Setting, ...]]] = {
    "distracting_memory": {
        "cpu": (
            _distracting_memory(20, 6_500, "symbols"),
            _distracting_memory(100, 30_000, "symbols", "--batch_size=8"),
        ),
        "paper": tuple(
            _distracting_memory(width, 100_000, "pixels", "--configs", "offline", "12m", "--batch_size=8")
            for width in (100, 200, 400)
        ),
    }
}
"""Name of an experiment -> budget -> its settings. The paper has 57 to 100 epochs of 8,000 episodes."""


@dataclass(frozen=True)
class Study:
    """What is run.

    Attributes:
        name, budget: of `EXPERIMENTS`.
        backbones, seeds: that many runs of each, from seed 0 on, in each setting.
        folder: of all of it: data/<setting> and <setting>/<backbone>/seed<n>.
        jobs: processes at the same time, for episodes and for runs.
    """

    name: str
    budget: str
    backbones: Sequence[str]
    seeds: int
    folder: Path
    jobs: int = 1

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Those of the experiment and budget."""
        return EXPERIMENTS[self.name][self.budget]

    @property
    def plan(self) -> dict[str, Any]:
        """What the runs of a folder have in common, as `plan.json` has it."""
        settings = [[s.name, s.task, s.episodes, *s.options] for s in self.settings]
        return {"study": self.name, "budget": self.budget, "settings": settings}

    @property
    def command(self) -> str:
        """The command line that makes this study."""
        words = ["python", "run.py", "study", self.name, "--backbones", *self.backbones]
        words += ["--seeds", str(self.seeds), "--budget", self.budget, "--logdir", str(self.folder)]
        return shlex.join(words)

    def data(self, setting: Setting) -> Path:
        """The episodes of a setting."""
        return self.folder / "data" / setting.name

    def runs(self, setting: Setting) -> list[Run]:
        """The runs of a setting, those of one seed together."""
        return [self._run(setting, name, seed) for seed in range(self.seeds) for name in self.backbones]

    def _run(self, setting: Setting, backbone: str, seed: int) -> Run:
        folder, threads = self.folder / setting.name / backbone / f"seed{seed}", max(1, cores() // self.jobs)
        words = [sys.executable, str(REPOSITORY / "run.py"), "fit", "--json", "--backbone", backbone]
        words += ["--data", str(self.data(setting)), "--updates", str(setting.updates)]
        words += ["--seed", str(seed), "--logdir", str(folder), *setting.options]
        return Run(backbone, seed, setting.updates, folder, threads, words, METRIC)


def arguments(parser: Parser) -> None:
    """The experiment, what takes part, how large, and where."""
    parser.add_argument("name", metavar="NAME", help=f"experiment: {', '.join(EXPERIMENTS)}")
    parser.add_argument(
        "--backbones", nargs="+", default=BACKBONES, metavar="NAME", help=f"[{' '.join(BACKBONES)}]"
    )
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="seeds 0 to N-1 of each [3]")
    sizes = "what a processor does in hours, or the paper's sizes, for a GPU [cpu]"
    parser.add_argument("--budget", choices=BUDGETS, default="cpu", help=sizes)
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="processes at the same time [1]")
    parser.add_argument("--logdir", type=Path, metavar="DIR", help="folder of it all [runs/study/NAME]")


def prepare(args: argparse.Namespace) -> Work:
    """See `carry_out`."""
    if args.name not in EXPERIMENTS:
        hint = configs.did_you_mean(args.name, EXPERIMENTS)
        raise ValueError(f"unknown study '{args.name}'.{hint} Expected one of {', '.join(EXPERIMENTS)}.")
    if len(set(args.backbones)) < len(args.backbones):
        raise ValueError(f"name each backbone once, got --backbones {' '.join(args.backbones)}.")
    folder = args.logdir or Path("runs") / "study" / args.name
    study = Study(args.name, args.budget, args.backbones, args.seeds, folder.absolute(), args.jobs)
    for backbone in study.backbones:
        configs.load(backbone=backbone)
    writable(folder, folder=True)
    path = folder / "plan.json"
    before = read_json(path) if path.is_file() else study.plan
    if before != study.plan:
        raise ValueError(f"{folder} holds the study {before}, not {study.plan}; choose another logdir.")
    for setting in study.settings:
        seams.check_task(setting.task)
        collect.check(study.data(setting), collect.plan(setting.task, "scripted"))

    def work() -> tuple[dict[str, Any], str]:
        report = carry_out(study)
        return report, f"{table(report)}\nwritten: {folder / 'study.json'}, study.png"

    return work


def carry_out(study: Study) -> dict[str, Any]:
    """Collect, fit and foresee what is missing; `study.json` and `study.png` are written into the folder.

    Returns:
        `rows`, one for each setting and backbone: see `_row`; `study`, `budget`, `command`, `commit` and
        `hardware`.

    Raises:
        RuntimeError: a run failed; see `run_all`.
    """
    folder = study.folder
    rows: list[dict[str, Any]] = []
    with RunFolder(folder).locked():
        publish(folder / "plan.json", json.dumps(study.plan, indent=1), WHAT)
        for setting in study.settings:
            planned = collect.plan(setting.task, "scripted")
            collect.fill(study.data(setting), planned, setting.episodes, study.jobs)
            runs = study.runs(setting)
            run_all(runs, study.jobs, folder / setting.name / "logs")
            for backbone in study.backbones:
                rows.append(_row(setting, [run for run in runs if run.backbone == backbone]))
    report = {
        "study": study.name,
        "budget": study.budget,
        "rows": rows,
        "command": study.command,
        "commit": commit(),
        "hardware": hardware() | {"jobs": study.jobs},
    }
    publish(folder / "study.json", json.dumps(report, indent=1), WHAT)
    save(draw(rows), folder / "study.png")
    return report


def _row(setting: Setting, runs: Sequence[Run]) -> dict[str, Any]:
    """What the runs of one backbone foresee.

    Returns:
        `setting`, `task`, `backbone`, `updates`, `seeds`, `paper`, `context`, `episodes`; for each of
        `SCORES` `mean`, `interval` and `runs` (None where it is not defined); of each run
        `gen_error_by_step`, `curves` (imagined reward accuracy on validation episodes by update), `seconds`
        and `commits`.
    """
    found = []
    for run in runs:
        saved = SavedRun.of(run.folder)
        found.append(judge(saved, choose(saved, EPISODES)))
    scores: dict[str, Any] = {}
    for name in SCORES:
        values = [each[name] for each in found]
        scores[name] = None
        if None not in values:
            mean, low, high = (float(value) for value in mean_interval(np.array(values, float)))
            scores[name] = {"mean": mean, "interval": [low, high], "runs": values}
    return {
        "setting": setting.name,
        "task": setting.task,
        "backbone": runs[0].backbone,
        "updates": setting.updates,
        "seeds": len(runs),
        "paper": setting.paper.get(runs[0].backbone),
        **scores,
        "context": found[0]["context"],
        "episodes": found[0]["episodes"],
        "gen_error_by_step": [each["gen_error_by_step"] for each in found],
        "curves": [as_json(read_curve(run.folder, "eval/reward_accuracy_imagined")) for run in runs],
        "seconds": [(RunFolder(run.folder).result() or {})["seconds"] for run in runs],
        "commits": [RunFolder(run.folder).commits() for run in runs],
    }


def table(report: Mapping[str, Any]) -> str:
    """The means over seeds, with their intervals, beside the paper's figures."""
    return f"{report['study']}, budget {report['budget']}\n{tables.text(report['rows'], COLUMNS)}"


def _score(row: Mapping[str, Any], name: str, form: str) -> str:
    score = row[name]
    if score is None:
        return "-"
    low, high = score["interval"]
    spread = f" [{low:{form}}, {high:{form}}]" if row["seeds"] > 1 else ""
    return f"{score['mean']:{form}}{spread}"


COLUMNS: tables.Columns = {
    "setting": lambda row: row["setting"],
    "backbone": lambda row: configs.label(row["backbone"]),
    "seeds": lambda row: str(row["seeds"]),
    "updates": lambda row: f"{row['updates']:,}",
    "reconstructed": lambda row: _score(row, "recon_error", ".3g"),
    "imagined": lambda row: _score(row, "gen_error", ".3g"),
    "reward inferred": lambda row: _score(row, "reward_accuracy_inferred", ".1%"),
    "reward imagined": lambda row: _score(row, "reward_accuracy_imagined", ".1%"),
    "paper, inferred / imagined": lambda row: row["paper"] or "-",
    "minutes": lambda row: f"{np.mean(row['seconds']) / 60:,.0f}",
}


def draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """For each setting the error by imagined frame, and the accuracy of the imagined reward by update."""
    names = list(dict.fromkeys(row["setting"] for row in rows))
    figure = Figure(figsize=(11, 3.8 * len(names)), layout="constrained")
    for (errors, accuracy), name in zip(figure.subplots(len(names), 2, squeeze=False), names, strict=True):
        for number, row in enumerate(row for row in rows if row["setting"] == name):
            colour, label = f"C{number}", f"{configs.label(row['backbone'])} ({row['seeds']} runs)"
            steps = np.arange(1, len(row["gen_error_by_step"][0]) + 1)
            for line in row["gen_error_by_step"]:
                errors.plot(steps, line, color=colour, alpha=0.3, linewidth=0.8)
            errors.plot(steps, np.mean(row["gen_error_by_step"], 0), color=colour, label=label)
            for curve in row["curves"]:
                accuracy.plot(curve["steps"], curve["values"], color=colour)
        errors.set(title=name, xlabel="frame imagined", ylabel="error of a frame", ylim=(0, None))
        accuracy.set(title=name, xlabel="updates", ylabel="imagined reward right", ylim=(0.4, 1.02))
        errors.legend()
        for axes in (errors, accuracy):
            axes.grid(alpha=0.3)
    return figure

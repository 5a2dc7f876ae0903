"""Repeat an experiment of the S4WM paper: data, training, table, figure. The same command again goes on.

In each setting of the experiment episodes are collected, world models fitted to them, and judged by what they
foresee of the episodes held out. studies/experiments.py has the experiments.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from studies import collect, cost, tables
from studies.curves import as_json, mean_interval, read_curve
from studies.experiments import BACKBONES, BUDGETS, EXPERIMENTS, Experiment, Score, Setting
from studies.fit import LONGEST, SIZE, window
from studies.foresee import choose, judge
from studies.plots import save
from studies.processes import Run, run_all

METRIC = "eval/gen_error"
SCORES = ("recon_error", "gen_error", "reward_accuracy_inferred", "reward_accuracy_imagined")
EPISODES = 1000  # of the test part that a run is judged by, at most; the paper has as many
SEEDS = 3
WHAT = "the study"


@dataclass(frozen=True)
class Study:
    """What is run.

    Attributes:
        name, budget: of `EXPERIMENTS`.
        backbones, seeds: that many runs of each, from seed 0 on, in each setting.
        chosen: names of the settings that take part, in any order; all of them where none is named.
        folder: of all of it: data/<setting> and <setting>/<backbone>/seed<n>.
        jobs: processes at the same time, for episodes and for runs.
    """

    name: str
    budget: str
    backbones: Sequence[str]
    seeds: int
    chosen: Sequence[str]
    folder: Path
    jobs: int = 1

    @property
    def settings(self) -> list[Setting]:
        """Those that take part."""
        every = EXPERIMENTS[self.name].budgets[self.budget]
        return [setting for setting in every if not self.chosen or setting.name in self.chosen]

    @property
    def plan(self) -> dict[str, Any]:
        """What the runs of a folder have in common, as `plan.json` has it."""
        every = EXPERIMENTS[self.name].budgets[self.budget]
        settings = [[s.name, s.task, s.episodes, *s.rows, *s.options] for s in every]
        return {"study": self.name, "budget": self.budget, "settings": settings}

    @property
    def command(self) -> str:
        """The command line that makes this study."""
        words = ["python", "run.py", "study", self.name, "--backbones", *self.backbones]
        words += ["--seeds", str(self.seeds), "--budget", self.budget, "--logdir", str(self.folder)]
        words += ["--settings", *self.chosen] if self.chosen else []
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
        rows = setting.rows[window(configs.load(backbone=backbone, presets=[SIZE]), LONGEST) < LONGEST]
        words += ["--batch_size", str(rows), "--seed", str(seed), "--logdir", str(folder), *setting.options]
        return Run(backbone, seed, setting.updates, folder, threads, words, METRIC)


def arguments(parser: Parser) -> None:
    """The experiment, what takes part, how large, and where."""
    names = ", ".join([*EXPERIMENTS, cost.NAME])
    parser.add_argument("name", metavar="NAME", help=f"experiment: {names}")
    parser.add_argument(
        "--backbones", nargs="+", default=BACKBONES, metavar="NAME", help=f"[{' '.join(BACKBONES)}]"
    )
    parser.add_argument("--seeds", type=count, metavar="N", help=f"seeds 0 to N-1 of each [{SEEDS}]")
    settings = "settings of the experiment, by name [all those of the budget]"
    parser.add_argument("--settings", nargs="+", default=(), metavar="NAME", help=settings)
    sizes = "what a processor does in hours, or the paper's sizes, for a GPU [cpu]"
    parser.add_argument("--budget", choices=BUDGETS, default="cpu", help=sizes)
    parser.add_argument("--jobs", type=count, metavar="N", help="processes at the same time [1]")
    parser.add_argument("--logdir", type=Path, metavar="DIR", help="folder of it all [runs/study/NAME]")


def prepare(args: argparse.Namespace) -> Work:
    """See `carry_out`."""
    known = [*EXPERIMENTS, cost.NAME]
    if args.name not in known:
        hint = configs.did_you_mean(args.name, known)
        raise ValueError(f"unknown study '{args.name}'.{hint} Expected one of {', '.join(known)}.")
    if len(set(args.backbones)) < len(args.backbones):
        raise ValueError(f"name each backbone once, got --backbones {' '.join(args.backbones)}.")
    folder = args.logdir or Path("runs") / "study" / args.name
    for backbone in args.backbones:
        configs.load(backbone=backbone)
    writable(folder, folder=True)
    if args.name == cost.NAME:
        if args.seeds or args.jobs or args.settings:
            raise ValueError("cost measures the backbones in one process: no --seeds, --jobs or --settings.")
        return cost.prepare(args.budget, args.backbones, folder)
    every = [setting.name for setting in EXPERIMENTS[args.name].budgets[args.budget]]
    for name in args.settings:
        if name not in every:
            hint = configs.did_you_mean(name, every)
            raise ValueError(f"unknown setting '{name}'.{hint} Expected some of {', '.join(every)}.")
    seeds, jobs = args.seeds or SEEDS, args.jobs or 1
    study = Study(args.name, args.budget, args.backbones, seeds, args.settings, folder.absolute(), jobs)
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
    folder, experiment = study.folder, EXPERIMENTS[study.name]
    rows: list[dict[str, Any]] = []
    with RunFolder(folder).locked():
        publish(folder / "plan.json", json.dumps(study.plan, indent=1), WHAT)
        for setting in study.settings:
            planned = collect.plan(setting.task, "scripted")
            collect.fill(study.data(setting), planned, setting.episodes, study.jobs)
            runs = study.runs(setting)
            run_all(runs, study.jobs, folder / setting.name / "logs")
            for backbone in study.backbones:
                rows.append(_row(experiment, setting, [run for run in runs if run.name == backbone]))
    report = {
        "study": study.name,
        "budget": study.budget,
        "rows": rows,
        "command": study.command,
        "commit": commit(),
        "hardware": hardware() | {"jobs": study.jobs},
    }
    publish(folder / "study.json", json.dumps(report, indent=1), WHAT)
    save(draw(experiment, rows), folder / "study.png")
    return report


def _row(experiment: Experiment, setting: Setting, runs: Sequence[Run]) -> dict[str, Any]:
    """What the runs of one backbone foresee.

    Returns:
        `setting`, `task`, `backbone`, `parameters`, `updates`, `seeds`, `paper`, `context`, `episodes`; for
        each of `SCORES`, and of the experiment's own, `mean`, `interval` and `runs` (None where it is not
        defined); of each run `gen_error_by_step`, what else the experiment draws, `curves` (the experiment's
        number of evaluations by update), `seconds` and `commits`.
    """
    found = []
    for run in runs:
        saved = SavedRun.of(run.folder)
        found.append(judge(saved, choose(saved, EPISODES)))
    scores: dict[str, Any] = {}
    for name in dict.fromkeys([*SCORES, *(score.key for score in experiment.scores)]):
        values = [_value(each, name) for each in found]
        scores[name] = None
        if None not in values:
            mean, low, high = (float(value) for value in mean_interval(np.array(values, float)))
            scores[name] = {"mean": mean, "interval": [low, high], "runs": values}
    return {
        "setting": setting.name,
        "task": setting.task,
        "backbone": runs[0].name,
        "parameters": found[0]["parameters"],
        "updates": setting.updates,
        "seeds": len(runs),
        "paper": setting.paper.get(runs[0].name),
        **scores,
        "context": found[0]["context"],
        "episodes": found[0]["episodes"],
        **{
            key: [each[key] for each in found]
            for key in dict.fromkeys(("gen_error_by_step", experiment.by[0]))
        },
        "curves": [as_json(read_curve(run.folder, experiment.curve[0])) for run in runs],
        "seconds": [(RunFolder(run.folder).result() or {})["seconds"] for run in runs],
        "commits": [RunFolder(run.folder).commits() for run in runs],
    }


def _value(found: Mapping[str, Any], key: str) -> float | None:
    """A number of what was foreseen, by the key of a `Score`."""
    first, _, rest = key.partition(".")
    value = found[first][rest] if rest else found[first]
    return None if value is None else float(value)


def table(report: Mapping[str, Any]) -> str:
    """The means over seeds, with their intervals, beside the paper's figures."""
    experiment = EXPERIMENTS[report["study"]]
    columns: tables.Columns = {
        "setting": lambda row: row["setting"],
        "backbone": lambda row: configs.label(row["backbone"]),
        "seeds": lambda row: str(row["seeds"]),
        "updates": lambda row: f"{row['updates']:,}",
        "parameters": lambda row: f"{row['parameters']['model']:,}",
        **{score.heading: partial(_cell, score) for score in experiment.scores},
        experiment.paper: lambda row: row["paper"] or "-",
        "minutes": lambda row: f"{np.mean(row['seconds']) / 60:,.0f}",
    }
    return f"{report['study']}, budget {report['budget']}\n{tables.text(report['rows'], columns)}"


def _cell(score: Score, row: Mapping[str, Any]) -> str:
    found, form = row[score.key], score.form
    if found is None:
        return "-"
    low, high = found["interval"]
    spread = f" [{low:{form}}, {high:{form}}]" if row["seeds"] > 1 else ""
    return f"{found['mean']:{form}}{spread}"


def draw(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """For each setting the error by imagined frame, or whatever the experiment has it by; and its curve."""
    names = list(dict.fromkeys(row["setting"] for row in rows))
    (key, what), (metric, curve_name) = experiment.by, experiment.curve
    figure = Figure(figsize=(11, 3.8 * len(names)), layout="constrained")
    for (errors, curves), name in zip(figure.subplots(len(names), 2, squeeze=False), names, strict=True):
        for number, row in enumerate(row for row in rows if row["setting"] == name):
            plural = "s" * (row["seeds"] > 1)
            colour, label = f"C{number}", f"{configs.label(row['backbone'])} ({row['seeds']} run{plural})"
            found = [each if isinstance(each, dict) else dict(enumerate(each, 1)) for each in row[key]]
            places, lines = list(map(int, found[0])), [list(each.values()) for each in found]
            for line in lines:
                errors.plot(places, line, color=colour, alpha=0.3, linewidth=0.8)
            errors.plot(places, np.mean(lines, 0), color=colour, label=label)
            for curve in row["curves"]:
                curves.plot(curve["steps"], curve["values"], color=colour)
        errors.set(title=name, xlabel=what, ylabel="error of a frame", ylim=(0, None))
        curves.set(title=name, xlabel="updates", ylabel=curve_name)
        curves.set(ylim=(0.4, 1.02) if "accuracy" in metric else (0, None))
        errors.legend()
        for axes in (errors, curves):
            axes.grid(alpha=0.3)
    return figure

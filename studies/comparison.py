"""A comparison: a run for every backbone and seed, then returns with intervals over all seeds."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import configs
import envs
from agent.run.folder import REPOSITORY, RunFolder, commit
from agent.run.machine import cores, hardware
from configs.files import read_json
from replay.files import publish, writable
from studies import plots
from studies.curves import Curve, as_json, band, finite, higher, interval, mean_interval
from studies.grid import Variant, variants
from studies.processes import Launch, Run, run_all

NEAR = 0.9  # share of the optimum; the step at which it is first reached is reported
WHAT = "the comparison"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        folder: the runs are in <folder>/<backbone>/seed<n>, their output in <folder>/logs; those of a grid in
            <folder>/<backbone>,<key>=<value>/seed<n>.
        seeds: how many of each backbone, from `first` on.
        jobs: runs at the same time; the processor's cores are shared out among them.
        presets, overrides: passed to each run as `--configs` and `--key value`.
        threads: torch threads that a run is configured with, at most its share of the cores; 0 for all of it.
        program: what trains, with the arguments of `run.py train`.
        launch: what runs the runs, `jobs` at once; unless `run_all`, not on this processor's cores.
        processes: of a run, each with its threads; several are ranks that torchrun starts on one machine.
        grid: option -> its values; each combination of them is a row of its own.
        first: the first of the seeds.
    """

    task: str
    backbones: Sequence[str]
    seeds: int
    steps: int
    folder: Path
    jobs: int = 1
    presets: Sequence[str] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0
    program: Sequence[str] = (sys.executable, str(REPOSITORY / "run.py"))
    grid: Mapping[str, Sequence[str]] = field(default_factory=dict)
    launch: Launch = run_all
    processes: int = 1
    first: int = 0

    @property
    def threads_of_a_run(self) -> int:
        """As configured, and not more than its share of the cores."""
        if self.launch is not run_all:
            return self.threads or 1
        share = max(1, cores() // (self.jobs * self.processes))
        return min(self.threads or share, share)

    @property
    def runs(self) -> list[Run]:
        """All of them, those of one seed together."""
        seeds = range(self.first, self.first + self.seeds)
        return [self._run(variant, seed) for seed in seeds for variant in self.variants]

    @property
    def variants(self) -> list[Variant]:
        """The rows."""
        return variants(self.backbones, self.grid)

    def _run(self, variant: Variant, seed: int) -> Run:
        folder, threads = self.folder / variant.folder / f"seed{seed}", self.threads_of_a_run
        python, *program = self.program
        if self.processes > 1:
            ranks = ["--standalone", "--nproc-per-node", str(self.processes)]
            program = ["-m", "torch.distributed.run", *ranks, *program]
        words = [python, *program, "train", "--json", "--backbone", variant.backbone, "--task", self.task]
        words += ["--seed", str(seed), "--steps", str(self.steps), "--logdir", str(folder)]
        if "threads" not in self.overrides:
            words += ["--threads", str(threads)]
        words += self._words(variant.options)
        return Run(variant.name, seed, self.steps, folder, threads, words, processes=self.processes)

    @property
    def command(self) -> str:
        """The command line that makes this comparison."""
        words = ["python", "run.py", "compare", "--task", self.task, "--backbones", *self.backbones]
        words += ["--first-seed", str(self.first)] if self.first else []
        words += ["--seeds", str(self.seeds), "--steps", str(self.steps), "--logdir", str(self.folder)]
        words += [f"--grid={key}={','.join(values)}" for key, values in self.grid.items()]
        words += ["--processes", str(self.processes)] if self.processes > 1 else []
        return shlex.join([*words, "--jobs", str(self.jobs), *self._words({})])

    def _words(self, options: Mapping[str, str]) -> list[str]:
        """Presets, overrides and options as typed; in one word, as a negative number looks like an option."""
        presets = ["--configs", *self.presets] if self.presets else []
        return [*presets, *(f"--{key}={value}" for key, value in {**self.overrides, **options}.items())]

    @property
    def plan(self) -> dict[str, Any]:
        """What the runs of a folder have in common, as `plan.json` has it."""
        return {"task": self.task, "presets": list(self.presets), "overrides": dict(self.overrides)}

    def refuse_another(self) -> None:
        """Raise ValueError if the folder holds another comparison, of which a run has left results."""
        for run in self.runs:
            writable(run.folder, folder=True)
        path = self.folder / "plan.json"
        before = read_json(path) if path.is_file() else self.plan
        before.pop("grid", None)  # more values extend a comparison
        if before != self.plan and any(RunFolder(run).has_begun() for run in self.folder.glob("*/seed*")):
            raise ValueError(
                f"{self.folder} holds the comparison {before}, not {self.plan}; choose another logdir, or "
                f"repeat the task, presets and options of the one that is there."
            )


def compare(comparison: Comparison) -> dict[str, Any]:
    """Train each backbone with each seed in its folder and compare what the evaluations returned.

    Finished runs are not repeated and unfinished ones are resumed, so repeating the command resumes a
    comparison, and one with more steps, seeds, backbones or values of a grid extends it.

    Returns:
        what is also written to <folder>/compare.json: `results` (name of a row, which is a backbone with what
        the grid sets, -> `return_mean`, `interval`, `returns` of all seeds, `seeds`, `steps`, `seconds_mean`,
        `backbone`, `options` and more), `improvement` (how probably a run of one row ends higher than one of
        another), `curves`, `runs`, `task`, `command`, `commit` and `hardware` of the comparison; a result's
        `commits` are those that trained its runs. compare.csv holds every evaluation, compare.png the curves.

    Raises:
        RuntimeError: a run failed; see `run_all`.
    """
    folder, runs = comparison.folder, comparison.runs
    with RunFolder(folder).locked():
        publish(folder / "plan.json", json.dumps(comparison.plan | {"grid": comparison.grid}, indent=1), WHAT)
        comparison.launch(runs, comparison.jobs, folder / "logs")
    rows = [(row, [run for run in runs if run.name == row.name]) for row in comparison.variants]
    found = {row.name: [run.curve() for run in own] for row, own in rows}
    optimum = envs.optimum(comparison.task)
    report = {
        "task": comparison.task,
        "optimum": optimum,
        "steps": comparison.steps,
        "results": {
            row.name: _result(found[row.name], comparison.steps, optimum)
            | {"backbone": row.backbone, "options": row.options, "commits": _commits(own)}
            for row, own in rows
        },
        "improvement": _improvements(found),
        "curves": {name: _bands(curves) for name, curves in found.items()},
        "runs": {name: [as_json(curve) for curve in curves] for name, curves in found.items()},
        "command": comparison.command,
        "commit": commit(),
        "hardware": hardware() | {"jobs": comparison.jobs, "threads": comparison.threads_of_a_run},
    }
    publish(folder / "compare.json", json.dumps(report, indent=1), WHAT)
    publish(folder / "compare.csv", _csv(found, comparison.first), WHAT)
    labelled = {configs.label(name): curves for name, curves in found.items()}
    plots.draw({comparison.task: labelled}, folder / "compare.png", {comparison.task: optimum})
    return report


def _result(curves: Sequence[Curve], steps: int, optimum: float | None) -> dict[str, Any]:
    """The scores of one backbone over all its seeds."""
    returns = np.array([curve.values[-1] for curve in curves])
    mean, low, high = (float(value) for value in mean_interval(returns))
    seconds = [float(curve.seconds[-1]) for curve in curves]
    near: list[int | None] = [None] * len(curves)
    share = None
    if optimum is not None and optimum > 0:  # there is no share of 0, or of a cost
        share = mean / optimum
        reached = [np.flatnonzero(curve.values >= NEAR * optimum) for curve in curves]
        near = [int(c.steps[at[0]]) if at.size else None for c, at in zip(curves, reached, strict=True)]
    return {
        "return_mean": mean,
        "interval": [low, high],
        "returns": returns.tolist(),
        "seeds": len(curves),
        "steps": steps,
        "seconds_mean": finite(float(np.mean(seconds))),
        "seconds": list(map(finite, seconds)),
        "fraction_of_optimum": share,
        "steps_to_90": near,
        "steps_to_90_median": finite(float(np.median([np.inf if step is None else step for step in near]))),
    }


def _commits(runs: Sequence[Run]) -> list[str]:
    """The commits that trained the runs, each once."""
    return list(dict.fromkeys(each for run in runs for each in RunFolder(run.folder).commits()))


def _improvements(found: Mapping[str, Sequence[Curve]]) -> list[dict[str, Any]]:
    """For each pair of backbones, how probably a run of one ends higher than one of the other."""
    pairs = []
    for ours, theirs in itertools.combinations(found, 2):
        ends = (np.array([curve.values[-1] for curve in found[name]]) for name in (ours, theirs))
        probability, low, high = map(float, interval([*ends], higher))
        pairs.append({"of": ours, "over": theirs, "probability": probability, "interval": [low, high]})
    return pairs


def _bands(curves: Sequence[Curve]) -> dict[str, dict[str, list[float]]]:
    """Mean and interval against steps and, where every run logged times, against seconds."""
    axes = ["steps"] + ["seconds"] * all(np.isfinite(curve.seconds).all() for curve in curves)
    return {
        axis: {name: values.tolist() for name, values in band(curves, axis)._asdict().items()}
        for axis in axes
    }


def _csv(found: Mapping[str, Sequence[Curve]], first: int) -> str:
    """Every evaluation of every run, whose seeds count from `first`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["backbone", "seed", "step", "seconds", "return"])
    for backbone, curves in found.items():
        for seed, curve in enumerate(curves, first):
            for step, seconds, value in zip(*curve, strict=True):
                writer.writerow([backbone, seed, int(step), finite(float(seconds)), float(value)])
    return text.getvalue()

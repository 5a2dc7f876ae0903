"""Compare backbones: a run for every backbone and seed, then returns with intervals over all seeds."""

import csv
import io
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

import numpy as np

import envs
from agent.files import publish
from studies import plots, provenance
from studies.collect import cores
from studies.plots import Curve

NEAR = 0.9  # share of the optimum; the step at which it is first reached is reported
WHAT = "the comparison"
FEW = 10  # with this many runs or more, an interval holds the true mean about as often as it says
_SAY = partial(print, flush=True)
PATIENCE = 60.0  # seconds a run is given to save when the comparison is stopped


@dataclass(frozen=True)
class Run:
    """One training run of a comparison."""

    task: str
    backbone: str
    seed: int
    steps: int
    folder: Path
    threads: int
    presets: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.backbone} seed {self.seed}"


def train_command(run: Run) -> list[str]:
    """Return the command that starts or resumes a run."""
    command = [sys.executable, str(provenance.REPOSITORY / "run.py"), "train", "--json"]
    command += ["--backbone", run.backbone, "--task", run.task, "--seed", str(run.seed)]
    command += ["--steps", str(run.steps), "--logdir", str(run.folder)]
    if "threads" not in run.overrides:
        command += ["--threads", str(run.threads)]
    return command + _options(run.presets, run.overrides)


def compare(
    task: str,
    backbones: Sequence[str],
    seeds: int,
    steps: int,
    logdir: str | Path,
    jobs: int = 1,
    presets: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    threads: int = 0,
    echo: Callable[[str], None] = _SAY,
    command: Callable[[Run], list[str]] = train_command,
) -> dict[str, Any]:
    """Train each backbone with seeds 0..seeds-1 and compare what the evaluations returned.

    Finished runs in `logdir` are not repeated and unfinished ones are resumed, so repeating the command
    resumes a comparison, and one with more steps, seeds or backbones extends it.

    Arguments:
        steps: environment steps of each run.
        logdir: the runs are in <logdir>/<backbone>/seed<n>, their output in <logdir>/logs.
        jobs: runs at the same time; the processor's cores are shared out among them.
        presets, overrides: passed to each run as `--configs` and `--key value`.
        threads: torch threads that a run is configured with, but at most its share of the cores; 0: as many
            as that share has.
        echo: receives progress and the final table.
        command: makes the command line of a run.

    Returns: what is also written to <logdir>/compare.json: `results` (backbone -> `return_mean`, `interval`,
    `returns` of all seeds, `seeds`, `steps`, `seconds_mean` and more), `improvement` (how probably a run of
    one backbone ends higher than one of another), `curves`, `task`, `command`, `commit` and `hardware` of
    the comparison; a result's `commits` are those that trained its runs.
    compare.csv holds every evaluation, compare.png the curves.

    Raises ValueError if an argument is out of range or `logdir` holds another comparison, RuntimeError with
    command and the end of its stderr if a run fails; the other running ones are then told to save and stop.
    """
    overrides = dict(overrides or {})
    if seeds < 1 or jobs < 1 or steps < 1:
        raise ValueError(f"seeds, jobs and steps must be at least 1, got {seeds}, {jobs} and {steps}.")
    if not backbones or len(set(backbones)) < len(backbones):
        raise ValueError(f"name at least one backbone, and each once; got {list(backbones)}.")
    optimum = envs.optimum(task)
    folder = Path(logdir)
    _keep_plan(folder, {"task": task, "presets": list(presets), "overrides": overrides})
    share = max(1, cores() // jobs)
    threads = min(threads or share, share)
    runs = [
        Run(task, backbone, seed, steps, folder / backbone / f"seed{seed}", threads, presets, overrides)
        for seed in range(seeds)
        for backbone in backbones
    ]
    _run_all([run for run in runs if not _finished(run, echo)], jobs, folder / "logs", command, echo)

    curves: dict[str, list[Curve]] = {backbone: [] for backbone in backbones}
    for run in runs:
        curves[run.backbone].append(_curve(run))
    report = {
        "task": task,
        "optimum": optimum,
        "steps": steps,
        "results": {
            name: _result(runs_of, steps, optimum) | {"commits": _commits(runs, name)}
            for name, runs_of in curves.items()
        },
        "improvement": _improvements(curves),
        "curves": {name: _bands(runs_of) for name, runs_of in curves.items()},
        "runs": {name: [plots.as_json(curve) for curve in runs_of] for name, runs_of in curves.items()},
        "command": _own_command(task, backbones, seeds, steps, folder, jobs, presets, overrides),
        "commit": provenance.commit(),
        "hardware": provenance.hardware() | {"jobs": jobs, "threads": threads},
    }
    publish(folder / "compare.json", json.dumps(report, indent=1), WHAT)
    publish(folder / "compare.csv", _table_of_all(runs, curves), WHAT)
    plots.draw({task: curves}, folder / "compare.png", {task: optimum})
    for line in table(report):
        echo(line)
    echo(f"written: {folder / 'compare.json'}, compare.csv, compare.png")
    return report


def table(report: Mapping[str, Any]) -> list[str]:
    """Return the final scores of a comparison as lines of text."""
    head = ["backbone", "return [95 % bootstrap interval]", "seeds", "of optimum", "steps to 90 %", "seconds"]
    rows, seeds = [head], 0
    for name, result in report["results"].items():
        seeds, (low, high) = result["seeds"], result["interval"]
        share, near = result["fraction_of_optimum"], result["steps_to_90_median"]
        reached = sum(step is not None for step in result["steps_to_90"])
        if share is None:
            near_text = "-"
        else:
            near_text = f"{near:,.0f}" if near is not None else f"{reached} of {seeds} seeds"
        rows.append(
            [
                name,
                f"{result['return_mean']:.3g}" + f" [{low:.3g}, {high:.3g}]" * (seeds > 1),
                str(seeds),
                "-" if share is None else f"{share:.2f}",
                near_text,
                "-" if result["seconds_mean"] is None else f"{result['seconds_mean']:,.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    better = []
    for pair in report["improvement"]:
        # the first backbone over each of the others; compare.json has all pairs
        if pair["of"] == rows[1][0] and seeds > 1:
            low, high = pair["interval"]
            chance = f"{pair['probability']:.2f} [{low:.2f}, {high:.2f}]"
            better.append(
                f"a run of {pair['of']} ends higher than one of {pair['over']} with probability {chance}"
            )
    if 1 < seeds < FEW:
        better.append("few runs make narrow intervals: with 3, about 75 in 100 hold the true mean, not 95")
    return [f"{report['task']}, {report['steps']:,} steps", *(line.rstrip() for line in lines), *better]


def _run_all(
    runs: Sequence[Run],
    jobs: int,
    logs: Path,
    command: Callable[[Run], list[str]],
    echo: Callable[[str], None],
) -> None:
    """Run to the end, `jobs` at once; on any error tell those still running to save and stop."""
    waiting, running = deque(runs), dict[subprocess.Popen, tuple[Run, list[str], float]]()
    logs.mkdir(parents=True, exist_ok=True)
    done = 0
    with _termination_raises():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.popleft()
                    words = command(run)
                    running[_start(run, words, logs)] = (run, words, time.monotonic())
                    echo(f"started {run} ({done} of {len(runs)} runs done)")
                for process in [process for process in running if process.poll() is not None]:
                    run, words, began = running.pop(process)
                    if process.returncode:
                        _fail(run, words, process.returncode, _log(logs, run, "stderr"))
                    done += 1
                    value = _curve(run).values[-1]
                    echo(
                        f"finished {run} in {time.monotonic() - began:,.0f} s: return {value:.4g} "
                        f"({done} of {len(runs)} runs done)"
                    )
                time.sleep(0.1)
        finally:
            _stop(list(running))


def _start(run: Run, words: list[str], logs: Path) -> subprocess.Popen:
    """Start a run with its output going to files, in a session of its own.

    Ctrl-C on a terminal then reaches the comparison alone, which passes it on once: a run that gets two
    signals exits without saving.
    """
    variables = os.environ | {"OMP_NUM_THREADS": str(run.threads)}
    with _open(logs, run, "stdout") as out, _open(logs, run, "stderr") as err:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=variables, start_new_session=True
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ask the processes to save and stop, and end those that do not."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _fail(run: Run, words: Sequence[str], code: int, stderr: Path) -> NoReturn:
    cause = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    tail = stderr.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]
    raise RuntimeError(
        f"{run} failed with {cause}. Run the same comparison again to go on once the cause is removed.\n"
        f"command: {shlex.join(words)}\n"
        f"end of {stderr}:\n" + "\n".join(f"  {line}" for line in tail)
    )


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Make SIGTERM exit through the `finally` blocks, where the runs are stopped. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _finished(run: Run, echo: Callable[[str], None]) -> bool:
    """Return whether a run has been evaluated at or after its last step."""
    curve = plots.read_curve(run.folder)
    reached = int(curve.steps[-1]) if curve.steps.size else 0
    result = _text(run.folder / "result.json")
    if result is not None:
        reached = max(reached, int(json.loads(result).get("steps", 0)))
    if reached >= run.steps:
        echo(f"already finished: {run}")
    return reached >= run.steps


def _curve(run: Run) -> Curve:
    """Return the evaluations of a finished run up to the first one that is not before its last step."""
    curve = plots.read_curve(run.folder)
    end = int(np.searchsorted(curve.steps, run.steps)) + 1
    if end > curve.steps.size:
        raise RuntimeError(
            f"{run} ended without an evaluation at step {run.steps:,}: the last {plots.METRIC} in "
            f"{run.folder / 'metrics.jsonl'} is of step {curve.steps[-1] if curve.steps.size else 'nothing'}."
        )
    return Curve(*(values[:end] for values in curve))


def _result(curves: Sequence[Curve], steps: int, optimum: float | None) -> dict[str, Any]:
    """Return the scores of one backbone over all its seeds."""
    returns = np.array([curve.values[-1] for curve in curves])
    mean, low, high = (float(value) for value in plots.mean_interval(returns))
    seconds = [_plain(curve.seconds[-1]) for curve in curves]
    near: list[int | None] = [None] * len(curves)
    share = None
    if optimum is not None and optimum > 0:  # there is no share of 0, or of a cost
        share = mean / optimum
        reached = [np.flatnonzero(curve.values >= NEAR * optimum) for curve in curves]
        near = [int(c.steps[at[0]]) if at.size else None for c, at in zip(curves, reached, strict=True)]
    median = float(np.median([np.inf if step is None else step for step in near]))
    return {
        "return_mean": mean,
        "interval": [low, high],
        "returns": returns.tolist(),
        "seeds": len(curves),
        "steps": steps,
        "seconds_mean": None if None in seconds else float(np.mean([s for s in seconds if s is not None])),
        "seconds": seconds,
        "fraction_of_optimum": share,
        "steps_to_90": near,
        "steps_to_90_median": median if np.isfinite(median) else None,
    }


def _commits(runs: Sequence[Run], backbone: str) -> list[str]:
    """Return the commits that trained the runs of a backbone, each once."""
    found = (provenance.commits(run.folder) for run in runs if run.backbone == backbone)
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _improvements(curves: Mapping[str, Sequence[Curve]]) -> list[dict[str, Any]]:
    """Return, for each pair of backbones, how probably a run of one ends higher than one of the other."""
    found = []
    for ours, theirs in itertools.combinations(curves, 2):
        ends = (np.array([curve.values[-1] for curve in curves[name]]) for name in (ours, theirs))
        probability, low, high = plots.improvement(*ends)
        found.append({"of": ours, "over": theirs, "probability": probability, "interval": [low, high]})
    return found


def _bands(curves: Sequence[Curve]) -> dict[str, dict[str, list[float]]]:
    """Return mean and interval against steps and, where every run logged times, against seconds."""
    axes = ["steps"] + ["seconds"] * all(np.isfinite(curve.seconds).all() for curve in curves)
    found = {}
    for axis in axes:
        band = plots.band(curves, axis)
        found[axis] = {"x": band.x.tolist(), "mean": band.mean.tolist()}
        found[axis] |= {"low": band.low.tolist(), "high": band.high.tolist()}
    return found


def _table_of_all(runs: Sequence[Run], curves: Mapping[str, Sequence[Curve]]) -> str:
    """Return every evaluation of every run as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["backbone", "seed", "step", "seconds", "return"])
    for run in runs:
        for step, seconds, value in zip(*curves[run.backbone][run.seed], strict=True):
            writer.writerow([run.backbone, run.seed, int(step), _plain(seconds), float(value)])
    return text.getvalue()


def _own_command(
    task: str,
    backbones: Sequence[str],
    seeds: int,
    steps: int,
    folder: Path,
    jobs: int,
    presets: Sequence[str],
    overrides: Mapping[str, Any],
) -> str:
    """Return the command line that makes this comparison."""
    words = ["python", "run.py", "compare", "--task", task, "--backbones", *backbones, "--seeds", str(seeds)]
    words += ["--steps", str(steps), "--logdir", str(folder), "--jobs", str(jobs)]
    return shlex.join(words + _options(presets, overrides))


def _options(presets: Sequence[str], overrides: Mapping[str, Any]) -> list[str]:
    """Return presets and overrides as words of a command line."""
    words = ["--configs", *presets] if presets else []
    for key, value in overrides.items():
        # one word, so that a negative number is not taken for an option
        words.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def _keep_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Remember what the runs of a folder have in common, and refuse to mix them with others."""
    path = folder / "plan.json"
    before = _text(path)
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        publish(path, json.dumps(plan, indent=1), WHAT)
    elif json.loads(before) == json.loads(json.dumps(plan)):
        return
    elif not any(map(provenance.has_begun, folder.glob("*/seed*"))):
        publish(path, json.dumps(plan, indent=1), WHAT)
    else:
        raise ValueError(
            f"{folder} holds the comparison {json.loads(before)}, not {dict(plan)}; choose another logdir, "
            f"or repeat the task, presets and options of the one that is there."
        )


def _text(path: str | Path) -> str | None:
    return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None


def _log(logs: Path, run: Run, stream: str) -> Path:
    return logs / f"{run.backbone}-seed{run.seed}.{stream}"


def _open(logs: Path, run: Run, stream: str) -> IO[bytes]:
    return _log(logs, run, stream).open("wb")


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

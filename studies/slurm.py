"""Runs as one array job of SLURM, by submitit (extra `slurm`), that are requeued when their time is up."""

from __future__ import annotations

import argparse
import functools
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.run.folder import REPOSITORY
from studies.processes import PATIENCE, Launch, Run, fail, log, run_all, start, stop, termination_raises

WARNINGS = {signal.SIGUSR1, signal.SIGUSR2}  # by one of which submitit's jobs hear that their time is up
REQUEUES = 10_000  # of one job; each goes on where it was
POLL = 10.0  # seconds


def launcher(args: argparse.Namespace) -> Launch:
    """What runs a comparison's runs: `run_all`, or `run_array`; nothing is created yet.

    Raises:
        ValueError: --slurm is of no use, lacks the time, or has what is no parameter; the extra is missing;
            this is no machine of a cluster.
    """
    given = dict(word.partition("=")[::2] for word in args.slurm)
    if args.launcher == "local":
        if given:
            raise ValueError("--slurm is for --launcher slurm.")
        return run_all
    if not given.get("time", "").isdecimal():
        raise ValueError("--launcher slurm needs --slurm time=MINUTES; a run that takes longer is requeued.")
    if shutil.which("srun") is None:
        raise ValueError("--launcher slurm works on a machine of a SLURM cluster; there is no srun here.")
    parameters = {key: int(text) if text.isdecimal() else text for key, text in given.items()}
    executor(Path(), parameters)
    return functools.partial(run_array, parameters=parameters)


def executor(folder: Path, parameters: Mapping[str, Any]) -> Any:
    """Submitit's, with these parameters of sbatch; raises ValueError as `launcher` does."""
    try:
        import submitit
    except ImportError as error:
        raise ValueError(
            "--launcher slurm needs the package submitit, which is not installed: pip install -e '.[slurm]'"
        ) from error
    made = submitit.AutoExecutor(folder.absolute(), cluster="slurm", slurm_max_num_timeout=REQUEUES)
    ours = {
        "job_name": "s4dreamer",
        "signal_delay_s": int(2 * PATIENCE),
        "setup": [f"export PYTHONPATH={shlex.quote(str(REPOSITORY))}:$PYTHONPATH"],
    }
    try:
        made.update_parameters(**{f"slurm_{key}": value for key, value in (ours | dict(parameters)).items()})
    except (NameError, TypeError, ValueError) as error:
        raise ValueError(f"--slurm: {error}") from error
    return made


@dataclass
class Task:
    """A run in a job: submitit calls it, and `checkpoint` before it requeues the job."""

    run: Run
    logs: Path
    process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Train to the end; raises RuntimeError as `run_all` does."""
        stderr = log(self.logs, self.run, "stderr")
        before = stderr.stat().st_size if stderr.exists() else 0
        # SLURM may signal this process alone, or all of the job: the run hears of it from here, once
        signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
        self.process = start(self.run, self.logs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)
        with ThreadPoolExecutor(1) as pool:  # `checkpoint`, in a signal's handler, waits for it too
            code = pool.submit(self.process.wait).result()
        if code:
            fail(self.run, code, stderr, before)
        self.run.curve()

    def checkpoint(self) -> Any:
        """Let the run save and stop; what goes on with it in the requeued job."""
        from submitit.helpers import DelayedSubmission

        stop([self.process] if self.process else [])
        return DelayedSubmission(Task(self.run, self.logs))


def run_array(runs: Sequence[Run], jobs: int, logs: Path, parameters: Mapping[str, Any]) -> None:
    """As `run_all`, in one array job, which an error cancels; submitit's files are in <logs>/slurm."""
    from submitit.helpers import as_completed

    waiting = [run for run in runs if not run.finished()]
    if not waiting:
        return
    logs.mkdir(parents=True, exist_ok=True)
    shared = {"array_parallelism": jobs, "cpus_per_task": max(run.threads * run.processes for run in waiting)}
    array = executor(logs / "slurm", shared | dict(parameters))
    with array.batch():
        submitted = [array.submit(Task(run, logs.absolute())) for run in waiting]
    print(f"submitted {len(waiting)} runs: job {submitted[0].job_id.partition('_')[0]}", flush=True)
    with termination_raises():
        try:
            for done, job in enumerate(as_completed(submitted, poll_frequency=POLL), 1):
                run, error = waiting[submitted.index(job)], job.exception()
                if error:
                    raise RuntimeError(f"{run}, job {job.job_id}: {error}")
                print(f"finished {run} ({done} of {len(waiting)} runs done)", flush=True)
        finally:
            for job in submitted:
                if not job.done():
                    job.cancel(check=False)

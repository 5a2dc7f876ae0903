"""Runs as jobs of SLURM, for which a few scripts stand in: what is submitted, requeued, and refused."""

import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from studies import slurm
from studies.comparison import Comparison, compare
from tests.studies.conftest import Refused

FAKE = Path(__file__).with_name("fake_train.py")
START = "SLURM_ARRAY_TASK_ID=$i setsid bash $SLURM/script >> $SLURM/said 2>&1 & echo $! > $SLURM/pid$i"
CLUSTER = {
    "sbatch": f"""
        cp "$1" $SLURM/script
        export SLURM_JOB_ID=12 SLURM_ARRAY_JOB_ID=12
        for i in $(seq 0 $(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")); do {START}; done
        echo Submitted batch job 12""",
    "srun": """
        while [[ $1 == -* ]]; do [[ $1 == --unbuffered ]] || shift; shift; done
        exec "$@" """,
    "scontrol": f"""
        echo "$@" >> $SLURM/requeued
        (sleep 0.5; i=${{2#*_}}; {START}) &""",
    "sacct": 'echo "JobID|State|NodeList"; echo "12_[0-1]|RUNNING|here"',
    "scancel": "echo $1 >> $SLURM/cancelled; kill -9 -- -$(cat $SLURM/pid${1#*_})",
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the scripts leave what they were told."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in CLUSTER.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM", str(folder))
    monkeypatch.setattr(slurm, "POLL", 0.2)
    return folder


def comparison(folder: Path, mode: str) -> Comparison:
    """Two runs, at once."""
    launch = partial(slurm.run_array, parameters={"time": 60, "partition": "gpu"})
    program = (sys.executable, str(FAKE), mode)
    return Comparison("tmaze", ["s4wm"], 2, 200, folder, 2, threads=3, program=program, launch=launch)


@pytest.mark.extras("submitit")
def test_one_array_whose_jobs_are_requeued(
    tmp_path: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before its time is up a run saves, once, whoever is signalled; its job is queued again and goes on."""

    def warn() -> None:
        for seed, everyone in enumerate((False, True)):
            ready = tmp_path / "a" / "s4wm" / f"seed{seed}" / "ready"
            while not ready.exists():
                time.sleep(0.05)
            run, job = map(int, ready.read_text().split())
            for process in [run, job] if everyone else [job]:
                os.kill(process, signal.SIGUSR2)

    warning = threading.Thread(target=warn, daemon=True)
    warning.start()
    planned = comparison(tmp_path / "a", "preempted")
    report = compare(planned)
    warning.join()
    assert report["results"]["s4wm"]["returns"] == [0.4, 0.4] and report["hardware"]["threads"] == 3
    for seed in range(2):
        folder = tmp_path / "a" / "s4wm" / f"seed{seed}"
        assert (folder / "saved").exists() and (folder / "starts").read_text().count("3 ") == 2
    assert sorted((cluster / "requeued").read_text().split()) == ["12_0", "12_1", "requeue", "requeue"]
    lines = (cluster / "script").read_text().splitlines()
    for flag in ("array=0-1%2", "signal=USR2@120", "partition=gpu", "time=60", "cpus-per-task=3"):
        assert f"#SBATCH --{flag}" in lines
    assert "#SBATCH --job-name=s4dreamer" in lines
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "submitted 2 runs: job 12" and said[-1].endswith("(2 of 2 runs done)")
    (cluster / "script").unlink()
    assert compare(planned) == report and not (cluster / "script").exists()


@pytest.mark.extras("submitit")
def test_a_failing_job_cancels_the_others(tmp_path: Path, cluster: Path) -> None:
    """The error shows what the run said."""
    with pytest.raises(RuntimeError, match="s4wm seed 1, job 12_1: .*\n(.*\n)*.*with exit code 3") as caught:
        compare(comparison(tmp_path / "a", "fail"))
    assert "the model exploded" in str(caught.value)
    assert (cluster / "cancelled").read_text() == "12_0\n"


WORDS = ("--task", "memory_chain:n=3", "--configs", "debug", "--device", "cpu", "--backbones", "rssm")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slurm", "time=5"], "--slurm is for --launcher slurm"),
        (["--launcher", "slurm"], "--launcher slurm needs --slurm time=MINUTES"),
        (["--launcher", "slurm", "--slurm", "time=1-00:00"], "--launcher slurm needs --slurm time=MINUTES"),
        (["--launcher", "slurm", "--slurm", "time"], "--launcher slurm needs --slurm time=MINUTES"),
        (["--launcher", "slrm"], "invalid choice: 'slrm'"),
    ],
)
def test_what_is_refused(words: list[str], said: str, tmp_path: Path, refused: Refused) -> None:
    assert said in refused("compare", tmp_path / "a", *WORDS, *words)
    assert not list(tmp_path.iterdir())


def test_no_cluster_or_no_submitit(
    tmp_path: Path,
    refused: Refused,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["compare", tmp_path / "a", *WORDS, "--launcher", "slurm", "--slurm", "time=5"]
    assert "there is no srun here" in refused(*words)
    request.getfixturevalue("cluster")
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "pip install -e '.[slurm]'" in refused(*words)
    assert not (tmp_path / "a").exists()


@pytest.mark.extras("submitit")
def test_an_unknown_parameter(tmp_path: Path, cluster: Path, refused: Refused) -> None:
    words = ["--launcher", "slurm", "--slurm", "time=5", "--slurm", "partitoin=gpu"]
    assert "Unknown argument 'partitoin'" in refused("compare", tmp_path / "a", *WORDS, *words)
    assert not (tmp_path / "a").exists()

"""The examples of batch scripts, with scripts that stand in for srun, torchrun and scontrol."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "docs" / "cluster"
FAKES = {
    ".venv/bin/activate": "export PATH=$PWD/fakes:$PATH",
    "fakes/srun": 'exec "$@"',
    "fakes/scontrol": """
        case $1 in
        show) [[ $2 == hostnames ]] && echo -e "a1\\na2" || echo "PreemptTime=$PREEMPTED" ;;
        *) echo "$@" >> told ;;
        esac""",
    "fakes/torchrun": """
        echo "$@" > started
        [[ $DOES == wait ]] || exit "$DOES"
        trap 'echo saved >> told; sleep 0.2; exit 1' TERM
        echo $$ > new && mv new ready
        while true; do sleep 0.05; done""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FAKES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return tmp_path


def submit(folder: Path, name: str, does: str, preempted: str = "None") -> subprocess.Popen:
    job = {
        "SLURM_JOB_ID": "70012",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "a[1-2]",
        "SLURM_GPUS_ON_NODE": "4",
    }
    given = os.environ | job | {"DOES": does, "PREEMPTED": preempted}
    words = ["bash", SCRIPTS / f"{name}.sbatch", "runs/x", "--task", "memory_chain:n=60"]
    return subprocess.Popen(words, cwd=folder, env=given)


def told(folder: Path) -> list[str]:
    path = folder / "told"
    return path.read_text().splitlines() if path.exists() else []


def ready(folder: Path) -> int:
    deadline = time.monotonic() + 20
    while not (folder / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int((folder / "ready").read_text())


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sbatch")), ids=lambda path: path.stem)
def test_a_script_trains_and_ends_as_training_does(script: Path, folder: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    for code in (0, 3):
        assert submit(folder, script.stem, str(code)).wait(20) == code and not told(folder)
    words = (folder / "started").read_text()
    assert words.endswith("--nproc-per-node 4 run.py train runs/x --task memory_chain:n=60\n") or (
        "--nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint a1:20012 --rdzv-id 70012" in words
    )


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sbatch")), ids=lambda path: path.stem)
def test_a_warning_lets_the_run_save_once(script: Path, folder: Path) -> None:
    text = script.read_text()
    assert text.index("\ntrap ") < text.index("\nsrun "), (
        "a signal right after the start would end the script alone"
    )
    process = submit(folder, script.stem, "wait")
    ready(folder)
    process.send_signal(signal.SIGUSR1)
    again = script.stem == "preempted"
    assert process.wait(20) == (0 if again else 1)
    assert told(folder) == ["saved", "requeue 70012"][: 1 + again]


@pytest.mark.parametrize(("preempted", "requeued"), [("2026-01-02T03:04:05", True), ("None", False)])
def test_a_run_that_slurm_stopped_itself(preempted: str, requeued: bool, folder: Path) -> None:
    process = submit(folder, "preempted", "wait", preempted)
    os.kill(ready(folder), signal.SIGTERM)
    assert process.wait(20) == (not requeued)
    assert told(folder) == ["saved", "requeue 70012"][: 1 + requeued]

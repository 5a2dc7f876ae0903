"""Runs of two ranks: gone on with bit for bit, or by another number of them; killed, suspended, refused."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.multiprocessing as mp

import configs
import run
from agent.run import checkpoint, job
from agent.run.folder import RunFolder
from agent.run.job import begun
from agent.run.loop import Training
from agent.run.session import carry_out
from configs import command_line
from tests.agent.run.house import metrics_of
from tests.agent.run.test_loop import same
from tests.faults.processes import ROOT, RUN, wait_for
from tests.ranks import free_port, on_ranks, placed

OPTIONS: dict[str, Any] = {
    "task": "memory_chain:n=3",
    "device": "cpu",
    "batch_length": 8,
    "prefill": 32,
    "train_ratio": 2,
    "steps": 160,
    "replay.state_every": 4,
    "replay.chunk": 8,
    "replay.capacity": 120,
    "eval.every": 60,  # at other steps than the log, which also waits for all ranks
    "log.every": 40,
    "log.pictures": 100,
    "log.to": "none",
    "checkpoint.every": 40,
}
WORDS = ["--configs", "debug", *(word for key, value in OPTIONS.items() for word in (f"--{key}", str(value)))]


def train(logdir: Path, **changed: Any) -> dict[str, Any]:
    overrides = OPTIONS | changed | {"logdir": str(logdir)}
    config = configs.load(overrides.pop("task"), presets=["debug"], overrides=overrides)
    training = Training(config, RunFolder(logdir))
    return carry_out(training, training.collector.interface, ["python", "run.py"], [])


def stopped(logdir: Path) -> None:
    """A run that a signal to the second rank alone stops once it has saved."""

    def stop() -> None:
        while not checkpoint.folders(logdir):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ["RANK"] == "1":
        threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        train(logdir)
    assert ended.value.code == 128 + signal.SIGTERM


def mistaken(words: list[str], expected: str) -> None:
    said = io.StringIO()
    command_line.PATIENCE = 0
    with redirect_stderr(said), pytest.raises(SystemExit) as ended:
        run.main(words)
    assert ended.value.code == 2
    assert expected in said.getvalue()


def runs_of_two(folder: Path, ports: list[int]) -> None:
    with begun():
        straight = train(folder / "straight")
        stopped(folder / "halves")
        assert train(folder / "halves") | {"logdir": "", "seconds": 0} == straight | {
            "logdir": "",
            "seconds": 0,
        }
        train(folder / "alone", steps=160)
        with pytest.raises(FloatingPointError, match="train/.* is not finite"):
            train(folder / "spoilt", **{"optimiser.model_lr": 1e30, "optimiser.warmup": 0})
    for port, (words, expected) in zip(ports, MISTAKES, strict=True):
        with placed(int(os.environ["RANK"]), 2, port):
            mistaken([*WORDS, *words, "--logdir", str(folder / "none")], expected)


MISTAKES = (
    (["--batch_size", "5"], "batch_size is that of the whole job, and 5 cannot be divided among 2 ranks"),
    (["--batch_sise", "4"], "unknown option '--batch_sise'. Did you mean '--batch_size'?"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of one run of two ranks: `straight`, and in two `halves`; one that began `alone`."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "alone", steps=80)
    on_ranks(2, runs_of_two, folder, [free_port() for _ in MISTAKES])
    return folder


def saved(logdir: Path) -> checkpoint.Checkpoint:
    found = checkpoint.load_newest(logdir)
    assert found is not None
    return found


def assert_same(left: Path, right: Path) -> None:
    one, other = saved(left), saved(right)
    assert same(one.agent_state, other.agent_state) and one.chunks == other.chunks
    for key, value in one.replay_state.items():
        np.testing.assert_array_equal(other.replay_state[key], value, err_msg=key)
    assert one.loop_state["envs"] == other.loop_state["envs"]


def test_two_ranks_go_on_bit_for_bit(runs: Path) -> None:
    assert_same(runs / "straight", runs / "halves")


def test_numbers_are_those_of_the_job(runs: Path) -> None:
    """Steps and episodes of both environments, updates by the train ratio, one log."""
    lines = metrics_of(runs / "straight")
    newest = saved(runs / "straight")
    assert 160 <= newest.step <= 161
    expected = (newest.step - 32) * 2 / (4 * 8)
    assert expected - 2 < newest.agent_state["updates"] <= expected
    episodes = [line["step"] for line in lines if "episode/return" in line]
    assert len(episodes) == newest.step // 4 and len(set(episodes)) == len(episodes) // 2
    assert {name.split("-")[1] for name in newest.chunks} == {"0000", "0001"}
    assert len(newest.loop_state["envs"]) == len(newest.replay_state["rows/reward"]) == 2
    assert len(list((runs / "straight").glob("result.json"))) == 1


def test_another_number_of_ranks_goes_on_with_all_of_the_replay(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = saved(runs / "alone")
    assert before.replay_state["shards"] == 2 and before.step >= 160
    assert before.loop_state["episodes"] == saved(runs / "straight").loop_state["episodes"]
    train(runs / "alone", steps=200)
    said = capfd.readouterr().err
    assert "what 2 ranks held of the replay is now held by 1, all of it" in said
    assert f"going on from step {before.step} with 120 steps of replay" in said
    assert "shards" not in saved(runs / "alone").replay_state


def test_a_crash_holds_the_batches_of_all_ranks(runs: Path) -> None:
    batches = saved(runs / "spoilt" / "crash").replay_state
    assert batches["0/reward"].shape == (4, 8)


def test_a_mistake_is_said_before_anything_is_there(runs: Path) -> None:
    """What is said was looked at there."""
    assert not (runs / "none").exists()


def started_by(process: subprocess.Popen, rank: int) -> list[int]:
    """The processes of this rank below torchrun."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            entries = path.read_bytes().split(b"\0")
            parent = int((path.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has just ended
            continue
        if parent == process.pid and f"RANK={rank}".encode() in entries:
            found.append(int(path.parent.name))
    return found


@pytest.mark.faults("kill -9 of one rank of a job")
def test_a_killed_rank_ends_the_job_which_torchrun_starts_again(runs: Path, tmp_path: Path) -> None:
    """The other rank names it and ends; all start anew from the newest checkpoint, and end bit for bit."""
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    words += ["--master-port", str(free_port()), RUN, *WORDS, "--logdir", str(tmp_path / "run")]
    with open(tmp_path / "said", "w") as out:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=out, stderr=out)
        wait_for(lambda: bool(checkpoint.folders(tmp_path / "run")), process)
        (victim,) = started_by(process, 1)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: started_by(process, 1) not in ([], [victim]), process)
        assert time.monotonic() - killed < 60
        assert process.wait(200) == 0
    said = (tmp_path / "said").read_text()
    assert "rank 0 ends: rank 1 is gone; the same command goes on from the newest checkpoint" in said
    assert re.search(r"going on from step (40|41|8\d|12\d) with", said)
    assert_same(runs / "straight", tmp_path / "run")


def suspended(rank: int, port: int, folder: Path) -> None:
    job.BEAT, job.SILENT = 0.1, 10
    with open(folder / f"{rank}", "w") as said, redirect_stderr(said), placed(rank, 2, port), begun() as here:
        here.rows(np.zeros(1))
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        here.rows(np.zeros(1))


@pytest.mark.faults("a rank of a job hangs")
def test_a_suspended_rank_is_named_by_the_other_which_ends(tmp_path: Path) -> None:
    context, port = mp.get_context("fork"), free_port()
    both = [context.Process(target=suspended, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    both[0].join(60)
    both[1].kill()
    assert both[0].exitcode == 1
    assert (tmp_path / "0").read_text() == "run.py: rank 0 ends: rank 1 is silent for 1 s.\n"


def test_other_commands_are_not_for_several_processes(capsys: pytest.CaptureFixture[str]) -> None:
    with placed(1, 2, 1):
        assert run.main(["eval", "none"]) == 2
    assert capsys.readouterr().err == "run.py: torchrun is for train and bench; start 'eval' with python.\n"

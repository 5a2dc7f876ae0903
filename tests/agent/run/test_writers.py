"""What is logged beside metrics.jsonl arrives once, also where a run was killed and went on."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import configs
from agent.run import writers
from agent.run.logger import Logger
from agent.run.writers import Start, Writer, chosen

CONFIG = configs.load(presets=["debug"])


def session(folder: Path, to: str, resume_step: int, steps: Sequence[int]) -> None:
    """Log some steps and one of everything at the last, and stop without more."""
    log = Logger(folder, 100, to=to, resume_step=resume_step, config=CONFIG)
    for step in steps:
        log.add(step, {"train/model": step + 0.25, "bad": float("nan")})
    log.figure(steps[-1], "open_loop/vector/0", Figure(figsize=(2, 1)))
    log.histogram(steps[-1], "memory/0", np.arange(9.0))
    log.video(steps[-1], "open_loop/video", [np.full((8, 8, 3), value, np.uint8) for value in (0, 200)], 5)
    log.close()


def test_a_line_of_csv_for_each_number(tmp_path: Path) -> None:
    """Lines of steps that were lost go, and one that was cut; a new run begins a new file."""
    path = tmp_path / "metrics.csv"
    session(tmp_path, "csv", 0, [10, 20, 30])
    with path.open("a") as file:
        file.write("15,train/mo")
    session(tmp_path, "csv", 20, [25])
    head = "step,name,value\n"
    assert path.read_text() == head + "10,train/model,10.25\n20,train/model,20.25\n25,train/model,25.25\n"
    session(tmp_path, "csv", 0, [1])
    assert path.read_text() == head + "1,train/model,1.25\n"


class Service(Writer):
    """Keeps what all sessions sent; may fail."""

    sent: list[tuple[str, int]]

    def __init__(self, start: Start) -> None:
        self.run = start.run or f"run{len(self.sent)}"

    def scalars(self, step: int, values: object) -> None:
        if step == 99:
            raise ConnectionError("gone")
        self.sent.append((self.run, step))

    def close(self) -> None:
        self.run = "closed"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[Service]:
    Service.sent = []
    monkeypatch.setitem(writers.WRITERS, "service", Service)
    return Service


def test_a_service_gets_each_step_once(tmp_path: Path, service: type[Service]) -> None:
    """Three sessions, of which the second and third go on from step 20; a new run is another one there."""
    for resume_step, steps in ((0, [10, 20, 30, 40]), (20, [30]), (20, [30, 40, 50])):
        session(tmp_path, "service", resume_step, steps)
    assert service.sent == [("run0", step) for step in (10, 20, 30, 40, 50)]
    assert json.loads((tmp_path / "tracked.json").read_text()) == {"step": 40, "service": "run0"}
    (tmp_path / "metrics.jsonl").unlink()  # what the service has got is remembered without
    session(tmp_path, "service", 50, [40, 60])
    assert service.sent[5:] == [("run0", 60)]
    session(tmp_path, "service", 0, [10])
    assert service.sent[6:] == [("run6", 10)]


def test_a_service_that_fails_is_given_up(
    tmp_path: Path, service: type[Service], capsys: pytest.CaptureFixture[str]
) -> None:
    session(tmp_path, "service, csv", 0, [1, 99, 100])
    assert "log.to service failed at step 99; the run goes on without it: ConnectionError" in (
        capsys.readouterr().err
    )
    assert [step for _, step in service.sent] == [1]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4


def test_names() -> None:
    assert chosen("none") == [] and chosen("csv, tensorboard,csv") == ["csv", "tensorboard"]
    with pytest.raises(
        ValueError, match="none, or some of tensorboard, csv.* got 'tensorbord'. Did you mean"
    ):
        chosen("csv,tensorbord")


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package wandb, .* pip install -e '.\[wandb\]'"):
        chosen("tensorboard,wandb")


@pytest.mark.extras("wandb")
def test_an_offline_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session leaves a folder to be synced, all of one run; numbers, pictures and options are in it."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    session(tmp_path, "wandb", 0, [10, 20, 30])
    session(tmp_path, "wandb", 20, [30, 40])
    wandb.teardown()  # waits for the process that writes the files
    name = json.loads((tmp_path / "tracked.json").read_text())["wandb"]
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert [folder.name.rpartition("-")[2] for folder in folders] == [name, name]
    first, second = (next(folder.glob("*.wandb")).read_bytes() for folder in folders)
    assert all(word in first for word in (b"train/model", b"open_loop/vector/0", b"memory/0", b"s4dreamer"))
    assert b"bad" not in first and b"actor_critic.entropy" in first
    sent = [{*re.findall(rb"train/model\W{1,9}?(\d+\.25)", content)} for content in (first, second)]
    assert sent == [{b"10.25", b"20.25", b"30.25"}, {b"40.25"}]
    assert {path.suffix for path in folders[0].rglob("media/images/**/*.*")} >= {".png"}


@pytest.mark.extras("mlflow")
def test_a_run_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path}/store")
    session(tmp_path / "run", "mlflow", 0, [10, 20, 30])
    session(tmp_path / "run", "mlflow", 20, [30, 40])
    client = mlflow.MlflowClient()
    name = json.loads((tmp_path / "run" / "tracked.json").read_text())["mlflow"]
    history = client.get_metric_history(name, "train/model")
    assert [(metric.step, metric.value) for metric in history] == [(n, n + 0.25) for n in (10, 20, 30, 40)]
    found = client.get_run(name)
    assert found.info.status == "FINISHED" and found.data.params["backbone"] == "s4wm"
    pictures = client.list_artifacts(name, "open_loop/vector/0")
    assert [Path(picture.path).name for picture in pictures] == ["000000030.png", "000000040.png"]

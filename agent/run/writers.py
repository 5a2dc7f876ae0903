"""Where a run's numbers go beside `metrics.jsonl`: TensorBoard, CSV, Weights & Biases, MLflow.

TensorBoard's files are written by the calling thread: tensorboardX's own writer thread dies silently on a
full disk and then blocks the caller for ever, so its record format is used without the thread.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorboardX import summary as tb
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

import configs
from replay.files import append, naming, publish

WHAT = "the log"
HEAD, TAIL = 12, 4  # bytes around a record: its length with a checksum, and a checksum of the content
PARAMETERS = 100  # that MLflow takes at once


class Start(NamedTuple):
    """What a session's writer begins with.

    Attributes:
        folder: of the run.
        resume_step: the step of the checkpoint that the run goes on from, 0 for a new one.
        config: the merged configuration.
        run: the run's name at a service, '' for a new one.
    """

    folder: Path
    resume_step: int = 0
    config: configs.Config = configs.Config({})
    run: str = ""


class Writer:
    """Takes what is logged; what a kind has no place for is left out."""

    run = ""  # its name at a service; '' for a writer of files

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, all finite."""
        raise NotImplementedError

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture, uint8 `[H, W, 3]`."""

    def video(self, step: int, name: str, gif: bytes) -> None:
        """A GIF."""

    def histogram(self, step: int, name: str, values: np.ndarray, bins: int) -> None:
        """The distribution of some finite values `[n]`."""

    def close(self) -> None:
        """Write all that is left; a second call does nothing."""
        raise NotImplementedError


class TensorBoard(Writer):
    """An event file. What an earlier session logged of steps after the checkpoint is hidden."""

    def __init__(self, start: Start) -> None:
        # tensorboardX names files by the second: the suffix keeps two sessions of one second apart
        self._path = start.folder
        self._writer: EventsWriter | None = EventsWriter(str(self._path / "events"), f".{time.time_ns()}")
        self._flushed = time.monotonic()
        if start.resume_step:
            hidden = Event(wall_time=time.time(), step=start.resume_step + 1)
            hidden.session_log.status = SessionLog.START
            self._writer.write_event(hidden)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, *(tb.scalar(name, value) for name, value in values.items()))

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self._write(step, tb.image(name, picture, dataformats="HWC"))

    def video(self, step: int, name: str, gif: bytes) -> None:
        """As an image, which TensorBoard shows moving; tensorboardX needs moviepy to make one."""
        width, height = (int.from_bytes(gif[place : place + 2], "little") for place in (6, 8))
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._write(step, Summary(value=[Summary.Value(tag=name, image=image)]))

    def histogram(self, step: int, name: str, values: np.ndarray, bins: int) -> None:
        self._write(step, tb.histogram(name, values, bins))

    def _write(self, step: int, *summaries: Summary) -> None:
        """Write summaries as one event; the first one 20 seconds after a flush flushes again."""
        if self._writer is None:
            raise ValueError("the logger is closed.")
        event = Event(wall_time=time.time(), step=int(step))
        for part in summaries:
            event.summary.value.extend(part.value)
        with naming(self._path, WHAT):
            self._writer.write_event(event)
            if time.monotonic() - self._flushed > 20:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        if self._writer is not None:
            with naming(self._path, WHAT):
                self._writer.close()
            self._writer = None


class Csv(Writer):
    """`metrics.csv`: a line `step,name,value` for each number."""

    def __init__(self, start: Start) -> None:
        self._path = start.folder / "metrics.csv"
        kept = []
        if start.resume_step and self._path.exists():
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            kept = [line for line in lines[1:] if line.endswith("\n") and _step_of(line) <= start.resume_step]
        publish(self._path, "".join(["step,name,value\n", *kept]), WHAT)
        self._file = append(self._path)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with naming(self._path, WHAT):
            csv.writer(self._file, lineterminator="\n").writerows(
                [step, name, value] for name, value in values.items()
            )
            self._file.flush()

    def close(self) -> None:
        with naming(self._path, WHAT):
            self._file.close()


def _step_of(line: str) -> float:
    """The step of a line of `metrics.csv`, infinity for a damaged one."""
    step, _, rest = line.partition(",")
    return int(step) if step.isdecimal() and rest.count(",") else float("inf")


class Wandb(Writer):
    """A run of Weights & Biases, of project `s4dreamer` unless WANDB_PROJECT names another."""

    def __init__(self, start: Start) -> None:
        import wandb

        self._wandb, self.run = wandb, start.run or uuid.uuid4().hex[:8]
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "s4dreamer"),
            id=self.run,
            resume="allow",
            dir=start.folder,
            config=start.config.flat(),
        )

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self.scalars(step, {name: self._wandb.Image(picture)})

    def video(self, step: int, name: str, gif: bytes) -> None:
        self.scalars(step, {name: self._wandb.Video(io.BytesIO(gif), format="gif")})

    def histogram(self, step: int, name: str, values: np.ndarray, bins: int) -> None:
        self.scalars(step, {name: self._wandb.Histogram(values, num_bins=bins)})

    def close(self) -> None:
        self._run.finish()


class MLflow(Writer):
    """A run of MLflow, of experiment `s4dreamer` unless MLFLOW_EXPERIMENT_NAME names another."""

    def __init__(self, start: Start) -> None:
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, mlflow.MlflowClient()
        if start.run:
            self.run = start.run
            self._client.update_run(self.run, "RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "s4dreamer")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self.run = self._client.create_run(experiment, run_name=start.folder.name).info.run_id
        options = [Param(key, str(value)) for key, value in start.config.flat().items()]
        for begin in range(0, len(options), PARAMETERS):
            self._client.log_batch(self.run, params=options[begin : begin + PARAMETERS])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run, metrics=metrics)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self._client.log_image(self.run, picture, artifact_file=f"{name}/{step:09}.png")

    def close(self) -> None:
        self._client.set_terminated(self.run)


WRITERS: dict[str, Callable[[Start], Writer]] = {
    "tensorboard": TensorBoard,
    "csv": Csv,
    "wandb": Wandb,
    "mlflow": MLflow,
}
"""Name in `log.to` -> what writes there."""
EXTRAS = ("wandb", "mlflow")


def chosen(to: str) -> list[str]:
    """The names in the value of `log.to`.

    Raises:
        ValueError: there is no such writer, or it needs an extra that is not installed.
    """
    names = [] if to == "none" else list(dict.fromkeys(name.strip() for name in to.split(",")))
    for name in names:
        if name not in WRITERS:
            hint = configs.did_you_mean(name, WRITERS)
            raise ValueError(
                f"option 'log.to' expects none, or some of {', '.join(WRITERS)} with commas between, got "
                f"'{name}'.{hint}"
            )
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            raise ValueError(
                f"log.to {name} needs the package {name}, which is not installed: pip install -e '.[{name}]'"
            )
    return names


def read_events(folder: Path) -> Iterator[Event]:
    """TensorBoard's events in a folder, in the order written; a cut or damaged record ends its file."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        left = path.stat().st_size
        with path.open("rb") as file:
            while len(head := file.read(HEAD)) == HEAD:
                length = int.from_bytes(head[:8], "little")
                left -= HEAD + length + TAIL
                if left < 0:
                    break
                try:
                    yield Event.FromString(file.read(length))
                except DecodeError:
                    break
                file.seek(TAIL, 1)

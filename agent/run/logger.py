"""What a person sees of a run: `metrics.jsonl`, TensorBoard, and a progress line.

Everything is written by the calling thread: tensorboardX's own writer thread dies silently on a full disk and
then blocks the caller for ever, so its record format is used without the thread. A video is a GIF in an image
summary, which TensorBoard shows moving; tensorboardX needs moviepy to make one.
"""

import contextlib
import errno
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tensorboardX import summary as tb
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from agent.run.pictures import to_array
from agent.run.video import as_gif
from replay.files import append, naming, publish

WHAT = "the log"
METRICS = "metrics.jsonl"


class Logger:
    """Log of one run folder.

    Arguments:
        logdir: folder of the run; created if it is not there.
        total_steps: environment steps at which the run ends.
        tensorboard: also write TensorBoard events into `logdir`; without it pictures and histograms are not
            written.
        resume_step: environment steps of the checkpoint the run resumes from. Metrics of later steps belong
            to what was lost and are removed; with 0 the log starts anew.
        interval: seconds between two progress lines where stderr is not a terminal.
        unit: what steps are, in the progress line: frames of environments, or updates.
        score: what the number shown beside them is.

    Raises OSError with the path if a file cannot be written.
    """

    def __init__(
        self,
        logdir: str | Path,
        total_steps: int,
        tensorboard: bool = True,
        resume_step: int = 0,
        interval: float = 10.0,
        unit: str = "frame",
        score: str = "return",
    ) -> None:
        folder = Path(logdir)
        folder.mkdir(exist_ok=True)
        self._path = folder / METRICS
        removed = _truncate(self._path, resume_step)
        self._metrics = append(self._path)
        self._events = _Events(folder, resume_step) if tensorboard else None
        self._progress = _Progress(total_steps, resume_step, interval, unit, score)
        if removed:
            self.say(f"removed {removed} lines of {METRICS}, newer than step {resume_step:,} or damaged")

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line `{"step": step, **metrics}`; values that are not finite are written as null."""
        line: dict[str, float | None] = {"step": int(step)}
        for name, value in metrics.items():
            if name == "step":
                raise ValueError("'step' is no name for a metric: it is the first entry of every line.")
            number = value if isinstance(value, int) else float(value)
            line[name] = number if math.isfinite(number) else None
        with naming(self._path, WHAT):
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        if self._events:
            values = [
                tb.scalar(name, value) for name, value in line.items() if name != "step" and value is not None
            ]
            self._events.write(step, *values)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Show a figure as a picture in TensorBoard."""
        if self._events:
            self._events.write(step, tb.image(name, to_array(figure), dataformats="HWC"))

    def video(self, step: int, name: str, frames: Iterable[np.ndarray], fps: float) -> None:
        """Show frames, uint8 `[H, W, 3]`, as a moving picture in TensorBoard."""
        if self._events:
            gif = as_gif(frames, fps)
            width, height = (int.from_bytes(gif[place : place + 2], "little") for place in (6, 8))
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
            self._events.write(step, Summary(value=[Summary.Value(tag=name, image=image)]))

    def histogram(self, step: int, name: str, values: np.ndarray, bins: int = 64) -> None:
        """Show the distribution of an array's finite values in TensorBoard."""
        finite = np.asarray(values, np.float64).ravel()
        finite = finite[np.isfinite(finite)]
        if self._events and finite.size:
            self._events.write(step, tb.histogram(name, finite, bins))

    def progress(self, step: int, updates: int, score: float | None = None) -> None:
        """Show how far the run is. Cheap enough to be called at every step of the loop."""
        self._progress.show(step, updates, score)

    def say(self, text: str) -> None:
        """Print a line on stderr without tearing the progress line; see `unheard`."""
        with unheard():
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Show the last progress and close the files; a second call does nothing."""
        self._progress.close()
        if self._events:
            self._events.close()
        with naming(self._path, WHAT):
            self._metrics.close()


class _Events:
    """A TensorBoard event file, written only when told to."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        # tensorboardX names files by the second: the suffix keeps two sessions of one second apart
        self._path = folder
        self._writer: EventsWriter | None = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._flushed = time.monotonic()
        if resume_step:  # hides what an earlier session logged from here on
            start = Event(wall_time=time.time(), step=resume_step + 1)
            start.session_log.status = SessionLog.START
            self._writer.write_event(start)

    def write(self, step: int, *summaries: Summary) -> None:
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


class Mute:
    """A log that nobody keeps, on the ranks of a job that do not write: it takes what a `Logger` does."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        getattr(Logger, name)  # else there is no such method
        return lambda *_arguments, **_options: None


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within, a line that cannot be printed is dropped: a closed terminal or pipe ends no run."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: the stream itself was closed
        if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EIO, errno.EBADF):
            raise


class _Progress:
    """A tqdm line on a terminal, a plain line now and then elsewhere; both on stderr."""

    def __init__(self, total: int, start: int, interval: float, unit: str, score: str) -> None:
        self._total, self._interval, self._unit, self._score = total, interval, unit, score
        self._shown_step, self._shown_time = start, time.monotonic()
        self._newest: tuple[int, int, float | None] | None = None
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=start,
                unit=unit,
                unit_scale=True,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} "
                "[{remaining} left, {rate_fmt}{postfix}]",
            )

    def show(self, step: int, updates: int, score: float | None) -> None:
        self._newest = (step, updates, score)
        elapsed = time.monotonic() - self._shown_time
        if elapsed >= (0.2 if self._bar is not None else self._interval):
            self._draw(elapsed)

    def close(self) -> None:
        if self._newest is not None:
            self._draw(time.monotonic() - self._shown_time)
            self._newest = None
        if self._bar is not None:
            with unheard():
                self._bar.close()
            self._bar = None

    def _draw(self, elapsed: float) -> None:
        with unheard():
            self._print(elapsed)

    def _print(self, elapsed: float) -> None:
        if self._newest is None or (step := self._newest[0]) == self._shown_step:
            return
        _, updates, score = self._newest
        known = score is not None and math.isfinite(score)
        parts = [f"{self._score} {score:.4g}" if known else f"{self._score} -"]
        if self._unit != "update":
            parts.insert(0, f"{updates:,} updates")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.update(step - self._bar.n)
        else:
            speed = (step - self._shown_step) / max(elapsed, 1e-9)
            left = tqdm.format_interval(max(0, self._total - step) / max(speed, 1e-9))
            head = f"step {step:,}/{self._total:,} ({step / self._total:.0%})"
            line = ", ".join([head, *parts, f"{speed:,.0f} {self._unit}s/s", f"{left} left"])
            print(line, file=sys.stderr, flush=True)
        self._shown_step, self._shown_time = step, time.monotonic()


def _truncate(path: Path, step: int) -> int:
    """Keep the lines of a metrics file up to `step`, none if it is 0; return how many lines were dropped.

    A line that was being written when the process died is dropped like one that is too new.
    """
    if not path.exists():
        return 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if step and _step_of(line) <= step]
    if len(kept) < len(lines):
        publish(path, "".join(f"{line}\n" for line in kept), WHAT)
    return len(lines) - len(kept)


def _step_of(line: str) -> float:
    """Return the step of a metrics line, infinity for one that is cut."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf

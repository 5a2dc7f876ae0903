"""What a person sees of a run: `metrics.jsonl`, what `writers` write, and a progress line."""

import contextlib
import errno
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import configs
from agent.run.pictures import to_array
from agent.run.video import as_gif
from agent.run.writers import WHAT, WRITERS, Start, Writer, chosen
from configs.files import read_json
from replay.files import append, naming, publish

METRICS, TRACKED = "metrics.jsonl", "tracked.json"
INTERVAL = 10.0  # seconds between two progress lines where stderr is not a terminal


class Logger:
    """Log of one run folder.

    Arguments:
        logdir: folder of the run; created if it is not there.
        total_steps: environment steps at which the run ends.
        to: names of `writers.WRITERS`, with commas between, or none.
        resume_step: environment steps of the checkpoint the run resumes from. Metrics of later steps belong
            to what was lost and are removed; with 0 the log starts anew.
        unit: what steps are, in the progress line: frames of environments, or updates.
        score: what the number shown beside them is.
        config: the merged configuration, which services show.
        heard: gets each line that was added.

    A service gets each step once: what was logged of steps that were lost and are played again stays as it
    was there. One that fails is given up with a message.

    Raises OSError with the path if a file cannot be written, configs.Mistake if a service cannot be reached.
    """

    def __init__(
        self,
        logdir: str | Path,
        total_steps: int,
        to: str = "tensorboard",
        resume_step: int = 0,
        unit: str = "frame",
        score: str = "return",
        config: configs.Config | None = None,
        heard: Callable[[dict[str, float | None]], object] = lambda _: None,
    ) -> None:
        self._heard = heard
        folder = Path(logdir)
        folder.mkdir(exist_ok=True)
        self._path = folder / METRICS
        tracked = _tracked(folder, resume_step)
        removed = _truncate(self._path, resume_step)
        self._metrics = append(self._path)
        self._writers: dict[str, Writer] = {}
        self._tracked = tracked["step"]
        for name in chosen(to):
            start = Start(folder, resume_step, config or configs.Config({}), tracked.get(name, ""))
            try:
                self._writers[name] = WRITERS[name](start)
            except OSError:
                raise
            except Exception as error:
                raise configs.Mistake(f"log.to {name} could not begin: {error}") from error
        tracked |= {name: writer.run for name, writer in self._writers.items() if writer.run}
        if len(tracked) > 1:
            publish(folder / TRACKED, json.dumps(tracked), WHAT)
        self._progress = _Progress(total_steps, resume_step, unit, score)
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
        self._heard(line)
        known = {name: value for name, value in line.items() if name != "step" and value is not None}
        self._to_each(step, lambda writer: writer.scalars(step, known))

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Show a figure as a picture."""
        if self._writers:
            picture = to_array(figure)
            self._to_each(step, lambda writer: writer.picture(step, name, picture))

    def video(self, step: int, name: str, frames: Iterable[np.ndarray], fps: float) -> None:
        """Show frames, uint8 `[H, W, 3]`, as a moving picture."""
        if self._writers:
            gif = as_gif(frames, fps)
            self._to_each(step, lambda writer: writer.video(step, name, gif))

    def histogram(self, step: int, name: str, values: np.ndarray, bins: int = 64) -> None:
        """Show the distribution of an array's finite values."""
        finite = np.asarray(values, np.float64).ravel()
        finite = finite[np.isfinite(finite)]
        if finite.size:
            self._to_each(step, lambda writer: writer.histogram(step, name, finite, bins))

    def _to_each(self, step: int, write: Callable[[Writer], None]) -> None:
        """Let each writer write; a service has had the steps that are played again."""
        for name, writer in list(self._writers.items()):
            try:
                if not writer.run or step > self._tracked:
                    write(writer)
            except Exception as error:
                if not writer.run:
                    raise
                del self._writers[name]
                self.say(f"log.to {name} failed at step {step:,}; the run goes on without it: {error!r}")

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
        with contextlib.ExitStack() as stack:  # each is closed, whatever becomes of the others
            stack.callback(self._close_metrics)
            for writer in self._writers.values():
                stack.callback(writer.close)
            self._writers = {}

    def _close_metrics(self) -> None:
        with naming(self._path, WHAT):
            self._metrics.close()


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

    def __init__(self, total: int, start: int, unit: str, score: str) -> None:
        self._total, self._unit, self._score = total, unit, score
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
        if elapsed >= (INTERVAL if self._bar is None else 0.2):
            self._draw(elapsed)

    def close(self) -> None:
        if self._newest is not None:
            self._draw(time.monotonic() - self._shown_time)
            self._newest = None
        if self._bar is not None:
            with unheard():
                self._bar.close()
            self._bar = None

    @unheard()
    def _draw(self, elapsed: float) -> None:
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


def _tracked(folder: Path, resume_step: int) -> dict[str, Any]:
    """Name of a service -> this run's name there; and the newest `step` that they may have got."""
    if not resume_step or not (folder / TRACKED).is_file():
        return {"step": 0}
    found = {"step": 0} | read_json(folder / TRACKED)
    steps = (step for line in _lines(folder / METRICS) if math.isfinite(step := _step_of(line)))
    return found | {"step": int(max([found["step"], *steps]))}


def _lines(path: Path) -> list[str]:
    """The lines of a metrics file; none of one that is not there."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _truncate(path: Path, step: int) -> int:
    """Keep the lines of a metrics file up to `step`, none if it is 0; return how many lines were dropped.

    A line that was being written when the process died is dropped like one that is too new.
    """
    lines = _lines(path)
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

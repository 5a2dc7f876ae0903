"""What every run does around its updates, online or on episodes from disk: begin, log, save, end cleanly."""

from __future__ import annotations

import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

import gymnasium
import numpy as np

import configs
from agent.agent import Agent
from agent.run import checkpoint, crash, reports, seams, writers
from agent.run.folder import RunFolder
from agent.run.job import Job
from agent.run.limits import Limits
from agent.run.logger import Logger, Mute
from agent.run.progress import Counters, to_numpy
from agent.run.seams import close_quietly
from agent.run.stopping import Stopped, StopRequest
from envs import Interface
from replay import Replay
from replay.episodes import Episodes
from replay.files import Fingerprint
from replay.rows import Rows

Result = dict[str, object]
Callback = Callable[[dict[str, float | None], int], object]
"""(metrics of a line that was logged, step) -> False to stop the run."""


class Session:
    """One run from its newest checkpoint to its end; a subclass gives what raises NotImplementedError here.

    Args:
        config: the merged configuration.
        folder: of the run. Nothing in it is touched before `run`, which the caller has `locked` it for.
        agent: what learns.
        spaces: of observations and actions.
        replay: where batches come from.
        progress: the counters, as they begin.
        behaviour: whether the agent learns to act, or its world model alone is trained.
    """

    unit, score = "frame", "return"  # what steps are, and what is shown beside them
    needs = ""  # a line on the memory that an update needs, see `memory.on_gpu`

    def __init__(
        self,
        config: configs.Config,
        folder: RunFolder,
        agent: Agent,
        spaces: Iterable[gymnasium.Space],
        replay: Replay | Episodes,
        progress: Counters,
        behaviour: bool = True,
    ) -> None:
        writers.chosen(config.log.to)
        self.config, self.folder, self.agent, self.spaces = config, folder, agent, tuple(spaces)
        self.replay, self.progress = replay, progress
        self.job = Job()
        self.recorder = crash.FlightRecorder(agent, folder.path, behaviour)
        self.stop = StopRequest(config.warning_signal)
        self.limits = Limits(agent)
        self.lost: list[str] = []  # what a checkpoint could not bring back
        self.newest_score: float | None = None
        self.callback: Callback | None = None
        self.logged: deque[dict[str, float | None]] = deque()  # lines that the callback has not had
        self.begun = self.updating = False

    # What a subclass says

    def close(self) -> None:
        """End what was opened; `run` does it itself. What cannot be closed costs a warning."""
        raise NotImplementedError

    def take_over(self, saved: checkpoint.Checkpoint) -> None:
        """Be as the run was that was saved; raises whatever contents that are not ours bring about."""
        raise NotImplementedError

    def _greeting(self) -> Iterator[str]:
        """Lines to say at the beginning."""
        raise NotImplementedError

    def _go_on(self) -> None:
        """Learn, up to `config.steps`; `begun` is set from when on a checkpoint can be saved."""
        raise NotImplementedError

    def _speed(self) -> dict[str, float]:
        """What is logged on how fast it goes."""
        raise NotImplementedError

    def _evaluate(self) -> None:
        """Evaluate, log it, and leave it in `progress.evaluation`."""
        raise NotImplementedError

    def _shown(self) -> tuple[Rows, int]:
        """A batch for pictures, on which nothing later depends, and how many of its steps are observed."""
        raise NotImplementedError

    def _save(self, restorable: bool = True) -> None:
        """Write a checkpoint with `_write`; unless `restorable`, without what an error left unsound."""
        raise NotImplementedError

    # From the beginning to the end

    def run(self, changed: Iterable[str] = (), record: Callable[[], None] = lambda: None) -> Result:
        """Train up to `config.steps`, from the newest checkpoint if there is one.

        Args:
            changed: lines on options that are not as in the session before, to be said.
            record: writes down that the session begins, once no checkpoint has refused it; on the first rank.

        Returns:
            the last evaluation (the newest, if there is one, where the callback stopped the run), with
            `steps`, `updates`, `seconds` (of training, evaluation left out, over all sessions) and `logdir`.

        Raises:
            Stopped: on a signal, after the update in progress was finished and a checkpoint saved.
            Exception: whatever environments, files or the last evaluation raise, after a checkpoint was
                saved, unless the agent was in the middle of an update; a note says which.
        """
        self.logger: Logger | Mute = Mute()
        try:
            self.restore()
            self.job.first(record)
            self.identity = self.folder.identity(*self.spaces)
            if self.job.leads:
                self.logger = Logger(
                    self.folder.path,
                    self.config.steps,
                    to=self.config.log.to,
                    resume_step=self.progress.step,
                    unit=self.unit,
                    score=self.score,
                    config=self.config,
                    heard=self.logged.append,
                )
            lost = [line for lines in self.job.collect(self.lost) for line in lines]
            self._say_hello([*changed, *dict.fromkeys(lost)])
            with self.stop, self.job.watched():
                try:
                    if not self._is_done():
                        self._go_on()
                        self._log()
                        self._evaluate()
                        self._save()
                        with suppress(Stopped):
                            self._tell()
                except Stopped as error:
                    second = ", a second one leaves at once" if error.signal else ""
                    self.logger.say(f"{error}: saving at step {self.progress.step:,}{second}")
                    self._log()
                    self._save()
                    if error.signal:
                        raise
                    return self._result()
                except FloatingPointError:
                    raise  # the agent is no longer sound: the checkpoint on disk is the last good state
                except Exception as error:
                    self._save_after(error)
                    raise
        finally:
            self.close()
            close_quietly("log", self.logger.close)
        result = self._result()
        if self.job.leads:
            self.folder.publish_result(result)
        return result

    def restore(self) -> None:
        """Go on from the newest checkpoint, if any; `lost` has a line for what of the replay was lost.

        Nothing is written before one of them is taken over, or all are put aside.

        Raises:
            RuntimeError: the ranks of a job do not read the same one.
        """
        identity = self.folder.identity(*self.spaces, config=self.config)
        saved = checkpoint.load_newest(
            self.folder.path, identity=identity, accept=self.take_over, report=self.job.report
        )
        steps = self.job.rows(np.array([saved.step if saved else 0])).tolist()
        if len(set(steps)) > 1:
            raise RuntimeError(
                f"the ranks have read checkpoints of different steps in {self.folder}: {steps}"
            )
        if saved is None:
            self.job.first(self.folder.begin_anew)

    def _say_hello(self, news: Iterable[str]) -> None:
        config, counts = self.config, self.agent.parameter_counts()
        sizes = ", ".join(f"{name} {count:,} parameters" for name, count in counts.items())
        which = "the run in" if self.progress.step else "a new run begins in"
        what = f"{config.task} with {config.backbone} on {self.agent.device}"
        self.logger.say(f"{which} {self.folder}: {what}, {sizes}")
        for line in (*filter(None, [self.needs]), *self._greeting(), *news):
            self.logger.say(line)

    def _is_done(self) -> bool:
        evaluation = self.progress.evaluation
        evaluated = evaluation is not None and evaluation["step"] == self.progress.step
        return evaluated and self.progress.step >= self.config.steps

    def _update(self) -> None:
        """One update on the next batch, whose windows' states go back to where it came from."""
        began, self.updating = time.monotonic(), True
        batch = self.replay.next()
        after = self.recorder.update(batch, max(0.0, 1 - self.progress.step / self.config.steps))
        if "window" in batch:
            self.replay.refresh(batch["window"], to_numpy(after), self.agent.updates)
        self.updating = False
        self.progress.seconds += time.monotonic() - began

    # What is done now and then

    def _do_what_is_due(self) -> None:
        config, progress = self.config, self.progress
        going_on = progress.step < config.steps
        if progress.is_due("log", config.log.every):
            self._log()
        if progress.is_due("pictures", config.log.pictures):
            with self._extra("drawing pictures"):
                self._draw()
        if progress.is_due("eval", config.eval.every) and going_on:
            with self._extra("an evaluation"):
                self._evaluate()
        if progress.is_due("checkpoint", config.checkpoint.every) and going_on:
            self._save()
        self.logger.progress(progress.step, self.agent.updates, self.newest_score)
        self._tell()

    def _tell(self) -> None:
        """Hand what was logged to the callback, at a place where it may stop the run, or raise."""
        while self.logged:
            metrics = self.logged.popleft()
            step = int(metrics.pop("step") or 0)
            if self.callback and self.callback(metrics, step) is False:
                raise Stopped

    @contextmanager
    def _extra(self, what: str) -> Iterator[None]:
        """Around what training does not need: if it fails, that is said, and the run goes on."""
        try:
            yield
        except (Stopped, FloatingPointError):
            raise
        except Exception as error:
            notes = " ".join(getattr(error, "__notes__", ()))
            self.logger.say(
                f"{what} failed at step {self.progress.step:,}; the run goes on: {error!r} {notes}"
            )

    def _times(self) -> dict[str, float]:
        return {"time/seconds": self.progress.seconds, "time/updates": self.agent.updates}

    def _log(self) -> None:
        self.recorder.check()
        metrics = self.agent.metrics()
        for line in self.limits.passed(metrics):
            self.logger.say(line)
        self.logger.add(self.progress.step, metrics | self._times() | self._speed())
        self.job.check_same(self.agent)

    def _draw(self) -> None:
        self.recorder.check()
        if not (self.job.leads and self.replay.ready()):
            return
        step = self.progress.step
        batch, context = self._shown()
        for number, times in enumerate(reports.memory_times(self.agent)):
            self.logger.histogram(step, f"memory_log10_steps/{number}", np.log10(times))
        report = reports.open_loop(self.agent, batch, context)
        shown = report.seen(seams.picture_of(self.config.task, report.true))
        for name, figure in shown.figures(rows=2).items():
            self.logger.figure(step, name, figure)
        if frames := shown.frames(rows=1, side=96):  # small: there is one after the other in the log
            self.logger.video(step, "open_loop/video", frames, reports.FPS)
        self.logger.add(step, report.metrics())

    def _write(
        self, arrays: Mapping[str, np.ndarray], chunks: Mapping[str, Fingerprint] | None = None
    ) -> None:
        """Write a checkpoint, with arrays, and the chunks that go with them."""
        checkpoint.save(
            self.folder.path,
            self.progress.step,
            self.agent.state_dict(),
            arrays,
            self.progress.to_json(),
            self.config.checkpoint.keep,
            chunks,
            self.identity,
        )

    def _save_after(self, error: Exception) -> None:
        """Save before an error ends the run: the agent is sound, open episodes are given up."""
        if self.job.size > 1:
            error.add_note("Nothing was saved: what one rank alone meets ends the job as it was last saved.")
            return
        if self.updating or not self.begun:
            error.add_note("Nothing was saved: it happened before the first step, or in an update.")
            return
        try:
            self._save(restorable=False)
        except Exception as second:
            error.add_note(f"Saving failed as well, the last checkpoint is older: {second!r}")
        else:
            error.add_note(
                f"All is saved at step {self.progress.step:,}; the same command goes on from there."
            )

    def _result(self) -> Result:
        evaluation = self.progress.evaluation or {}
        return {key: value for key, value in evaluation.items() if key != "step"} | {
            "steps": self.progress.step,
            "updates": self.agent.updates,
            "seconds": round(self.progress.seconds, 1),
            "logdir": str(self.folder),
        }


def carry_out(
    session: Session, interface: Interface, command: Sequence[str], changed: Sequence[str]
) -> Result:
    """Run a session in its folder, which is locked meanwhile and records it.

    Args:
        session: what is run.
        interface: of its environment.
        command: the words of the command line.
        changed: see `Session.run`.

    Raises:
        SystemExit: it was stopped by a signal, and saved.
    """
    folder, job = session.folder, session.job
    with ExitStack() as held:

        def lock() -> None:
            held.enter_context(folder.locked())

        def record() -> None:
            folder.begin_session(session.config, command, changed, interface)

        try:
            job.first(lock)
            return session.run(changed, record)
        except Stopped as stopped:
            if job.leads:
                again = shlex.join(command)
                print(f"run.py: {stopped} and saved in {folder}; to go on: {again}", file=sys.stderr)
            raise SystemExit(128 + (stopped.signal or 0)) from None  # as a shell reports such a death

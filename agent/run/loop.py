"""The online loop: collect experience, train on it, evaluate, save."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

import configs
from agent.agent import Agent, derive_seed
from agent.compiling import check_compiler
from agent.run import checkpoint, crash, reports, seams
from agent.run.evaluation import EpisodeStatistics, run_episodes
from agent.run.folder import RunFolder, on_disk
from agent.run.limits import Limits
from agent.run.logger import Logger
from agent.run.machine import choose_device
from agent.run.progress import Acting, Progress, to_numpy
from agent.run.saved import load_agent
from agent.run.seams import MakeBatches, MakeEnvironments, close_quietly
from agent.run.stopping import Stopped, StopRequest

Result = dict[str, object]


class Training:
    """One run: its parts, and the loop that brings them together.

    Args:
        config: the merged configuration.
        folder: of the run. Nothing in it is touched before `run`, which the caller has `locked` it for.
        make_envs, make_batches: the environments and the replay; None for those of the configuration.

    Raises:
        ValueError: options that do not fit each other or the task.
    """

    def __init__(
        self,
        config: configs.Config,
        folder: RunFolder,
        make_envs: MakeEnvironments | None = None,
        make_batches: MakeBatches | None = None,
    ) -> None:
        self.config, self.folder = config, folder
        self.make_envs = make_envs or seams.environments(config)
        self.envs = self.make_envs(config.envs.count, config.seed, 0)
        try:
            seen, taken = self.envs.observation_space, self.envs.action_space
            self.agent = Agent(seen, taken, config, choose_device(config.device))
            make_batches = make_batches or seams.batches(config, [*seen.values(), taken])
            place, prepare = folder.path / "replay", self.agent.prepare
            self.new_replay = partial(make_batches, self.envs.num_envs, place, prepare)
            self.replay = self.new_replay()
        except BaseException:
            self.envs.close()
            raise
        self.recorder = crash.FlightRecorder(self.agent, folder.path)
        self.progress = Progress(episodes=[-1] * self.envs.num_envs)
        self.stop = StopRequest(config.warning_signal)
        self.last_return: float | None = None
        self.restarts_seen = 0
        self.updating = False
        self.limits = Limits(self.agent)

    def run(self, changed: Iterable[str] = ()) -> Result:
        """Train up to `config.steps` environment steps, from the newest checkpoint if there is one.

        Args:
            changed: lines on options that are not as in the session before, to be said.

        Returns:
            the last evaluation (`return_mean`, `return_std`, `returns`, `episodes`, `length_mean`, `cut`)
            with `steps`, `updates`, `seconds` (of training, evaluation left out, over all sessions) and
            `logdir`.

        Raises:
            Stopped: on a signal, after the update in progress was finished and a checkpoint saved.
            Exception: whatever environments, files or the last evaluation raise, after a checkpoint was
                saved, unless the agent was in the middle of an update; a note says which.
        """
        lost, saved_acting = self.restore()
        log = self.config.log
        self.logger = Logger(
            self.folder.path, self.config.steps, tensorboard=log.tensorboard, resume_step=self.progress.step
        )
        try:
            self._say_hello([*changed, *lost])
            with self.stop:
                try:
                    if not self._is_done():
                        self._collect_and_learn(saved_acting)
                        self._log()
                        self._evaluate()
                        self._save()
                except Stopped as error:
                    self.logger.say(
                        f"{error}: saving at step {self.progress.step:,}, a second one leaves at once"
                    )
                    self._log()
                    self._save()
                    raise
                except FloatingPointError:
                    raise  # the agent is no longer sound: the checkpoint on disk is the last good state
                except Exception as error:
                    self._save_after(error)
                    raise
        finally:
            self.close()
            close_quietly("log", self.logger)
        result = self._result()
        self.folder.publish_result(result)
        return result

    def close(self) -> None:
        """End environments and replay; `run` does it itself. What cannot be closed costs a warning."""
        close_quietly("environments", self.envs)
        close_quietly("replay", self.replay)

    # What a session begins with

    def restore(self) -> tuple[list[str], Mapping[str, np.ndarray]]:
        """Go on from the newest checkpoint, if any: what of the replay was lost, and `Acting`'s arrays."""
        self.identity = self.folder.identity(self.envs.observation_space, self.envs.action_space)
        saved = checkpoint.load_newest(self.folder.path, identity=self.identity, accept=self._take_over)
        if saved is None:
            self.folder.begin_anew()
            return [], {}
        arrays = saved.replay_state or {}
        lost = [f"lost steps of replay: {problem}; the run goes on without them" for problem in self.lost]
        return lost, {key: value for key, value in arrays.items() if key.startswith(Acting.PREFIX)}

    def _take_over(self, saved: checkpoint.Checkpoint) -> None:
        """Be as the run was that was saved; raises whatever contents that are not ours bring about."""
        arrays, progress = saved.replay_state or {}, Progress.of(saved.loop_state)
        count = self.envs.num_envs
        if progress.step != saved.step or len(progress.episodes) != count:
            raise ValueError(f"it is at step {progress.step} of {len(progress.episodes)} environments")
        Acting(self.agent.initial(count), {}, EpisodeStatistics(count)).check(arrays)
        load_agent(self.agent, saved.agent_state)
        try:
            self.lost = self.replay.load_state_dict(arrays, saved.chunks)
        except BaseException:
            self.replay.close()
            self.replay = self.new_replay()  # it takes contents only once
            raise
        self.progress = progress

    def _say_hello(self, news: Iterable[str]) -> None:
        config, counts = self.config, self.agent.parameter_counts()
        sizes = ", ".join(f"{name} {count:,} parameters" for name, count in counts.items())
        self.logger.say(f"{config.task} with {config.backbone} on {self.agent.device}, {sizes}")
        if self.progress.step:
            self.logger.say(
                f"going on from step {self.progress.step:,} with {len(self.replay):,} steps of replay"
            )
        for line in news:
            self.logger.say(line)

    def _is_done(self) -> bool:
        evaluation = self.progress.evaluation
        evaluated = evaluation is not None and evaluation["step"] == self.progress.step
        return evaluated and self.progress.step >= self.config.steps

    def _begin(self, saved: Mapping[str, np.ndarray]) -> Acting:
        """Begin new episodes, or go on in those that the run was saved in."""
        count, progress = self.envs.num_envs, self.progress
        if progress.envs and saved:
            rows, back = self.envs.restore(progress.envs)
        else:
            rows = self.envs.reset(first_episodes=np.array(progress.episodes) + 1)
            back = np.zeros(count, bool)
        self.replay.close_episodes(~back)
        acting = Acting(self.agent.initial(count), rows, EpisodeStatistics(count))
        if back.any():
            acting.go_on(saved, back)
        return acting

    # The loop

    def _collect_and_learn(self, saved_acting: Mapping[str, np.ndarray]) -> None:
        progress = self.progress
        self.acting = self._begin(saved_acting)
        self._learn()  # updates, and then an evaluation, that a signal cut off
        if progress.step:
            self._do_what_is_due()
        described = False
        while progress.step < self.config.steps:
            began = time.monotonic()
            prefilled = progress.step >= self.config.prefill
            taken = self._step(prefilled)
            if prefilled and self.replay.ready():
                tokens = self.config.batch_size * self.config.batch_length
                progress.credit += taken * self.config.train_ratio / tokens
            progress.seconds += time.monotonic() - began
            self._learn()
            if not described:
                self._describe_replay()
                described = True
            self._do_what_is_due()
            self.stop.check()

    def _step(self, prefilled: bool) -> int:
        """Act, store the rows acted on, step the environments; how many steps were taken."""
        acting = self.acting
        before = to_numpy(acting.carry.state) if self.replay.wants_state() else None
        carry, action = self.agent.act(acting.carry, acting.rows)
        if not prefilled:
            action = self._random_actions()
            carry.action = self.agent.codec.encode(torch.as_tensor(action).to(self.agent.device))
        # The call after an episode's end resets the environment and ignores the action: none was taken.
        action[acting.rows["is_last"]] = 0
        self.replay.add({**acting.rows, "action": action}, before)

        ended = acting.rows["is_last"]
        acting.carry, acting.rows = carry, self.envs.step(action)
        lost = acting.rows["is_first"] & ~ended
        if lost.any():  # the environments had to be restarted
            self.replay.close_episodes(lost)
        if self.envs.restarted > self.restarts_seen:  # the rows do not show it if every episode had ended
            self.progress.restarts += self.envs.restarted - self.restarts_seen
            self.restarts_seen = self.envs.restarted
            self.logger.add(self.progress.step, {"env/restarts": self.progress.restarts})
        self.limits.see(acting.rows["reward"])
        taken = int((~acting.rows["is_first"]).sum())
        self.progress.step += taken
        # Before a checkpoint of this step can be written: what is logged later would be logged again.
        for statistics in acting.episodes.add(acting.rows):
            self.last_return = statistics["episode/return"]
            self.logger.add(
                self.progress.step, {key: statistics[key] for key in ("episode/return", "episode/length")}
            )
        return taken

    def _random_actions(self) -> np.ndarray:
        """A uniform action for each environment, which depends on seed and step alone."""
        random = np.random.default_rng(derive_seed(self.config.seed, "prefill", self.progress.step))
        space, actions = self.envs.action_space, []
        for _ in range(self.envs.num_envs):
            space.seed(int(random.integers(2**31)))
            actions.append(np.asarray(space.sample()))
        return np.stack(actions)

    def _learn(self) -> None:
        """The updates that are due; a signal is looked at between them."""
        while self.progress.credit >= 1:
            began, self.updating = time.monotonic(), True
            batch = self.replay.next()
            after = self.recorder.update(batch)
            if "window" in batch:
                self.replay.refresh(batch["window"], to_numpy(after), self.agent.updates)
            self.progress.credit -= 1
            self.updating = False
            self.progress.seconds += time.monotonic() - began
            self.stop.check()

    # What is done now and then

    def _do_what_is_due(self) -> None:
        config, progress = self.config, self.progress
        going_on = progress.step < config.steps
        if progress.is_due("log", config.log.every):
            self._log()
        if progress.is_due("pictures", config.log.pictures) and self.replay.ready():
            with self._extra("drawing pictures"):
                self._draw()
        if progress.is_due("eval", config.eval.every) and going_on:
            with self._extra("an evaluation"):
                self._evaluate()
        if progress.is_due("checkpoint", config.checkpoint.every) and going_on:
            self._save()
        self.logger.progress(progress.step, self.agent.updates, self.last_return)

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

    def _save_after(self, error: Exception) -> None:
        """Save before an error ends the run: the agent is sound, the open episodes are given up."""
        if self.updating or not hasattr(self, "acting"):
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

    def _times(self) -> dict[str, float]:
        return {"time/seconds": self.progress.seconds, "time/updates": self.agent.updates}

    def _log(self) -> None:
        self.recorder.check()
        step = self.progress.step
        speed = {"time/fps": step / max(self.progress.seconds, 1e-9)}
        metrics = self.agent.metrics()
        for line in self.limits.passed(metrics):
            self.logger.say(line)
        self.logger.add(step, metrics | self._times() | speed)

    def _describe_replay(self) -> None:
        self.logger.say(self.replay.describe())
        parameters = sum(self.agent.parameter_counts().values())
        images = any(len(leaf.shape or ()) == 3 for leaf in self.envs.observation_space.values())
        self.logger.say(on_disk(self.config, parameters, self.replay.disk, images))
        orphaned = self.replay.orphaned
        if orphaned:
            put = self.folder.path / "replay" / "orphaned"
            self.logger.say(f"{orphaned} chunks that no checkpoint knows are now in {put}")
        self.logger.add(self.progress.step, {"replay/orphaned": orphaned})

    def _evaluate(self) -> None:
        options, progress = self.config.eval, self.progress
        seed = derive_seed(self.config.seed, "evaluate")
        sizes = (options.episodes, options.envs, seed, options.max_steps)
        try:
            result = run_episodes(self.agent, self.make_envs, *sizes, self.stop.check)
        except Stopped:
            progress.due["eval"] = progress.step  # the resumed run begins with it
            raise
        progress.evaluation = result | {"step": progress.step}
        if result["cut"]:
            self.logger.say(
                f"evaluation: {result['cut']} episodes had not ended after eval.max_steps = "
                f"{options.max_steps:,} steps and were cut"
            )
        names = ("return_mean", "return_std", "length_mean", "episodes", "cut")
        self.logger.add(progress.step, {f"eval/{name}": result[name] for name in names} | self._times())

    def _draw(self) -> None:
        self.recorder.check()
        step, batch = self.progress.step, self.replay.peek(self.agent.updates)
        for number, times in enumerate(reports.memory_times(self.agent)):
            self.logger.histogram(step, f"memory_log10_steps/{number}", np.log10(times))
        report = reports.open_loop(self.agent, batch, batch["is_first"].shape[1] // 2)
        for name, figure in report.figures(rows=2).items():
            self.logger.figure(step, name, figure)
        if frames := report.frames(rows=1, side=96):  # small: there is one after the other in the log
            self.logger.video(step, "open_loop/video", frames, reports.FPS)
        self.logger.add(step, report.metrics())

    def _save(self, restorable: bool = True) -> None:
        """Write a checkpoint; unless environments are `restorable`, new episodes begin when it is gone on."""
        self.folder.check()
        self.recorder.check()
        self.progress.episodes = self.envs.episodes.tolist()
        self.progress.envs = self.envs.state() if restorable else []
        checkpoint.save(
            self.folder.path,
            self.progress.step,
            self.agent.state_dict(),
            self.replay.state_dict() | self.acting.arrays(),
            self.progress.to_json(),
            self.config.checkpoint.keep,
            self.replay.chunks(),
            self.identity,
        )
        self.replay.prune(checkpoint.chunks_needed(self.folder.path))

    def _result(self) -> Result:
        evaluation = self.progress.evaluation or {}
        return {key: value for key, value in evaluation.items() if key != "step"} | {
            "steps": self.progress.step,
            "updates": self.agent.updates,
            "seconds": round(self.progress.seconds, 1),
            "logdir": str(self.folder),
        }


def check(config: configs.Config) -> None:
    """Build a run's parts on the CPU, and end them again.

    Raises:
        ValueError: options that do not fit each other, the task, or what is installed.
    """
    if config.compile:
        check_compiler(choose_device(config.device))
    here = configs.override(config, {"device": "cpu", "compile": False, "envs.mode": "sync"})
    Training(here, RunFolder.of(here)).close()

"""The online loop: collect experience, train on it, evaluate, save."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np

import configs
import envs
from agent.agent import Agent, derive_seed
from agent.compiling import check_compiler
from agent.run import checkpoint, machine, memory, seams
from agent.run.actors import Actors
from agent.run.collecting import InLoop
from agent.run.evaluation import EpisodeStatistics, run_episodes
from agent.run.folder import RunFolder, on_disk
from agent.run.job import Job
from agent.run.machine import choose_device
from agent.run.progress import Acting, Progress
from agent.run.saved import load_agent
from agent.run.seams import MakeEnvironments, close_quietly
from agent.run.session import Callback, Result, Session, carry_out
from agent.run.stopping import Stopped
from replay import Replay, shards
from replay.rows import Rows


class Training(Session):
    """One online run: its parts, and the loop that brings them together.

    In a job of several ranks each has a block of the environments, the replay of these, and a block of the
    rows of each batch; steps, updates and everything that is logged or saved are those of the job.

    Args:
        config: the merged configuration.
        folder: of the run. Nothing in it is touched before `run`, which the caller has `locked` it for.
        make_envs: the environments; None for those of the configuration.

    Raises:
        ValueError: options that do not fit each other or the task.
    """

    progress: Progress
    replay: Replay

    def __init__(
        self,
        config: configs.Config,
        folder: RunFolder,
        make_envs: MakeEnvironments | None = None,
    ) -> None:
        job = Job()
        share = job.share(config)
        self.make_envs = make_envs or seams.environments(config)
        collector = Actors if share.actors.count else InLoop
        self.collector = collector(share, self.make_envs, job.number * share.envs.count)
        try:
            spaces = seen, taken = self.collector.interface.spaces
            device = choose_device(config.device)
            self.needs = memory.on_gpu(spaces, share, device)
            agent = Agent(seen, taken, share, device)
            held, count = [*seen.values(), taken], self.collector.num_envs
            place = folder.path / "replay"
            self.new_replay = partial(seams.new_replay, share, held, count, place, agent.prepare)
            progress = Progress(episodes=[-1] * count * job.size)
            super().__init__(config, folder, agent, spaces, self.new_replay(), progress)
        except BaseException:
            self.collector.close()
            raise
        self.restarts_seen = 0
        self.best: float | None = None  # return of the best checkpoint, once known
        self.ready = False  # a batch can be had on every rank
        self.saved_acting: Mapping[str, np.ndarray] = {}

    def close(self) -> None:
        self.collector.close()
        close_quietly("replay", self.replay.close)

    # What a session begins with

    def take_over(self, saved: checkpoint.Checkpoint) -> None:
        progress, count = Progress.of(saved.loop_state), self.collector.num_envs
        if progress.step != saved.step or len(progress.episodes) != count * self.job.size:
            raise ValueError(f"it is at step {progress.step} of {len(progress.episodes)} environments")
        arrays, ranks = shards.split(saved.replay_state or {}, self.job.number, self.job.size)
        acting = {key: value for key, value in arrays.items() if key.startswith(Acting.PREFIX)}
        if acting or progress.envs:
            Acting(self.agent.initial(count), {}, EpisodeStatistics(count)).check(acting)
        load_agent(self.agent, saved.agent_state)
        try:
            lost = self.replay.load_state_dict(arrays, saved.chunks)
        except BaseException:
            self.replay.close()
            self.replay = self.new_replay()  # it takes contents only once
            raise
        self.lost = [f"lost steps of replay: {problem}; the run goes on without them" for problem in lost]
        if ranks != self.job.size:
            self.lost.append(
                f"what {ranks} ranks held of the replay is now held by {self.job.size}, all of it"
            )
        self.progress = progress
        self.saved_acting = acting

    def _greeting(self) -> Iterator[str]:
        steps = sum(self.job.collect(len(self.replay)))
        if self.job.size > 1:
            yield f"{self.job.size} ranks, each with {self.collector.num_envs} environments and their replay"
        if self.progress.step:
            yield f"going on from step {self.progress.step:,} with {steps:,} steps of replay"

    # The loop

    def _go_on(self) -> None:
        progress = self.progress
        self.collector.begin(self.agent, self.replay, progress, self.saved_acting)
        self.begun = True
        self._learn()  # updates, and then an evaluation, that a signal cut off
        if progress.step:
            self._do_what_is_due()
        described = False
        while progress.step < self.config.steps:
            began = time.monotonic()
            prefilled = progress.step >= self.config.prefill
            taken = self._step()
            if prefilled and self.ready:
                tokens = self.config.batch_size * self.config.batch_length
                progress.credit += taken * self.config.train_ratio / tokens
            progress.seconds += time.monotonic() - began
            self._learn()
            if not described:
                self._describe_replay()
                described = True
            self._do_what_is_due()
            self.job.check(self.stop)

    def _step(self) -> int:
        """Collect a row of each environment; how many steps were taken."""
        rows = self.collector.step(self.progress.step)
        self.limits.see(rows["reward"])
        return self._count(rows, self.collector.statistics)

    def _count(self, rows: Rows, episodes: EpisodeStatistics) -> int:
        """Count and log what the environments of all ranks have just done; how many steps were taken."""
        here = [~rows["is_first"], rows["is_last"], episodes.returns, episodes.lengths]
        all_here = [
            np.full(len(rows["is_first"]), value) for value in (self.collector.restarted, self.replay.ready())
        ]
        seen = self.job.rows(np.stack([*here, *all_here], 1).astype(float))
        taken, ended = int(seen[:, 0].sum()), seen[:, 1] > 0
        restarted = int(seen[:: self.collector.num_envs, 4].sum())
        self.ready = bool(seen[:, 5].all())
        if restarted > self.restarts_seen:  # the rows do not show it if every episode had ended
            self.progress.restarts += restarted - self.restarts_seen
            self.restarts_seen = restarted
            self.logger.add(self.progress.step, {"env/restarts": self.progress.restarts})
        self.progress.step += taken
        # Before a checkpoint of this step can be written: what is logged later would be logged again.
        for returned, length in seen[ended, 2:4].tolist():
            self.newest_score = returned
            self.logger.add(self.progress.step, {"episode/return": returned, "episode/length": length})
        return taken

    def _learn(self) -> None:
        """The updates that are due; a signal is looked at between them."""
        while self.progress.credit >= 1:
            self._update()
            self.collector.learned()
            self.progress.credit -= 1
            self.job.check(self.stop)

    # What is done now and then

    def _speed(self) -> dict[str, float]:
        return {"time/fps": self.progress.step / max(self.progress.seconds, 1e-9)}

    def _describe_replay(self) -> None:
        of = f"of the first of {self.job.size} ranks: " if self.job.size > 1 else ""
        self.logger.say(f"{of}{self.replay.describe()}")
        parameters = sum(self.agent.parameter_counts().values())
        images = any(
            len(leaf.shape or ()) == 3 for leaf in self.collector.interface.observations.space.values()
        )
        self.logger.say(on_disk(self.config, parameters, self.replay.disk, images))
        orphaned = sum(self.job.collect(self.replay.orphaned))
        if orphaned:
            put = self.folder.path / "replay" / "orphaned"
            self.logger.say(f"{orphaned} chunks that no checkpoint knows are now in {put}")
        self.logger.add(self.progress.step, {"replay/orphaned": orphaned})

    def _evaluate(self) -> None:
        options, progress = self.config.eval, self.progress
        seed = derive_seed(self.config.seed, "evaluate")
        sizes = (options.episodes, options.envs, seed, options.max_steps)
        try:
            result = self.job.first(lambda: run_episodes(self.agent, self.make_envs, *sizes, self.stop.check))
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
        self._keep_best(result["return_mean"])

    def _keep_best(self, score: float) -> None:
        """Keep the agent, without replay, if no evaluation of the run had such a return before."""
        place = self.folder.best

        def known_best() -> float:
            saved = checkpoint.load_newest(place, identity=self.identity)
            return float(saved.loop_state["return_mean"]) if saved else -math.inf

        if self.best is None:
            self.best = self.job.first(known_best)
        if score > self.best:
            self.folder.check()
            self.recorder.check()
            state, known = self.agent.state_dict(), {"return_mean": score}

            def write() -> None:
                place.mkdir(exist_ok=True)
                checkpoint.save(place, self.progress.step, state, None, known, keep=1, identity=self.identity)

            self.job.first(write)
            self.best = score

    def _shown(self) -> tuple[Rows, int]:
        return self.replay.peek(self.agent.updates), self.config.batch_length // 2

    def _save(self, restorable: bool = True) -> None:
        """Write a checkpoint; unless environments are `restorable`, new episodes begin when it is gone on."""
        self.folder.check()
        self.recorder.check()
        episodes, envs, acting = self.collector.state(restorable)
        arrays = self.replay.state_dict() | acting
        held = self.job.collect((episodes, envs, arrays, self.replay.chunks()))

        def write() -> set[str]:
            self.progress.episodes = [number for share in held for number in share[0]]
            known = all(share[1] for share in held)
            self.progress.envs = [state for share in held for state in share[1]] if known else []
            chunks = {name: found for share in held for name, found in share[3].items()}
            self._write(shards.join([share[2] for share in held]), chunks)
            return checkpoint.chunks_needed(self.folder.path)

        self.replay.prune(self.job.first(write))


def train(
    config: configs.Config,
    logdir: str | Path | None = None,
    make_env: Callable[[], gymnasium.Env] | None = None,
    callback: Callback | None = None,
) -> Result:
    """Train an agent online, as run.py does; the same call again goes on with the run in the folder.

    Args:
        config: of `configs.load`.
        logdir: folder of the run; None for the configuration's, or runs/<task>/<backbone>/seed<seed>.
        make_env: makes one environment, such as its class, in place of the configuration's task, which is
            then python:<its name>; cloudpickle takes it to the processes of `envs.mode` async. A run is gone
            on with by the same one.
        callback: called with the metrics of each logged line and its step, between two steps; where it
            returns False, the run is saved and ends. What it raises is raised here, also after saving.

    Returns:
        see `Session.run`.

    Raises:
        ValueError: options that do not fit each other, the task, or the run in the folder.
        KeyboardInterrupt, SystemExit: it was stopped by a signal, and all is saved.
    """
    if make_env is not None:
        name = f"{envs.PYTHON}:{getattr(make_env, '__qualname__', type(make_env).__name__)}"
        config = configs.Config(config.to_dict() | {"task": name})
    if logdir is not None:
        config = configs.override(config, {"logdir": str(logdir)}, "train")
    folder = RunFolder.of(config)
    changed = folder.refuse_another(config)
    machine.prepare(config.threads)
    training = Training(config, folder, seams.environments(config, make_env=make_env))
    training.callback = callback
    try:
        return carry_out(training, training.collector.interface, ["python", *sys.argv], changed)
    except SystemExit as stopped:
        if stopped.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt from None
        raise


def check(config: configs.Config) -> None:
    """Build a run's parts on the CPU, and end them again.

    Raises:
        ValueError: options that do not fit each other, the task, or what is installed.
    """
    if config.compile:
        check_compiler(choose_device(config.device))
    # Actors are not begun here, and until then one environment is built: for its spaces, where its mode says.
    apart = {"actors.count": max(config.actors.count, 1)}
    here = configs.override(config, {"device": "cpu", "compile": False} | apart)
    Training(here, RunFolder.of(here)).close()

"""The online loop: collect experience, train on it, evaluate, save."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent import checkpoint, crash, pictures
from agent.agent import Agent, Carry, choose_device, derive_seed
from agent.evaluation import EpisodeStatistics, run_episodes
from agent.files import publish
from agent.logger import Logger
from agent.stopping import Stopped, StopRequest

Rows = dict[str, np.ndarray]


def train(
    config: Mapping[str, Any],
    make_envs: Callable[[int, int, int], Any],
    make_replay: Callable[..., Any],
    logdir: str | Path,
) -> dict[str, Any]:
    """Train up to `config.steps` environment steps, from the newest checkpoint in `logdir` if there is one.

    Args:
        config: the merged configuration.
        make_envs: (count, seed, first index) -> vector of environments (`reset`, `step`, `close`, spaces).
        make_replay: (streams, folder of its chunks, function for the rows that it reads) -> `replay.Loader`.
        logdir: folder of the run, which exists.

    Returns:
        the last evaluation (`return_mean`, `return_std`, `returns`, `episodes`, `length_mean`) with `steps`,
        `updates`, `seconds` (of training, evaluation left out, over all sessions) and `logdir`.

    Raises:
        Stopped: on SIGINT or SIGTERM, after the step in progress was finished and a checkpoint saved.
    """
    return Training(config, make_envs, make_replay, Path(logdir)).run()


class Training:
    """One run: its parts, and the training loop."""

    def __init__(
        self,
        config: Mapping[str, Any],
        make_envs: Callable[[int, int, int], Any],
        make_replay: Callable[..., Any],
        logdir: Path,
    ) -> None:
        self.config, self.make_envs, self.logdir = config, make_envs, logdir
        self.envs = make_envs(config["envs"]["count"], config["seed"], 0)
        self.agent = Agent(
            self.envs.observation_space, self.envs.action_space, config, choose_device(config["device"])
        )
        self.loader = make_replay(self.envs.num_envs, logdir / "replay", self.agent.prepare)
        self.replay = self.loader.replay
        self.loop: dict[str, Any] = {
            "step": 0,
            "seconds": 0.0,
            "credit": 0.0,
            "next": {},
            "evaluation": None,
            "restarts": 0,
            "envs": [],
            "episodes": [-1] * self.envs.num_envs,
        }
        self.episodes = EpisodeStatistics(self.envs.num_envs)
        self.saved_acting: Rows = {}
        self.lost: list[str] = []
        saved = checkpoint.load_newest(logdir)
        if saved is not None:
            self.loop |= saved.loop_state
            self.agent.load_state_dict(saved.agent_state)
            self.lost = self.loader.load_state_dict(saved.replay_state, saved.chunks)
            self.saved_acting = {
                key.removeprefix("acting/"): value
                for key, value in (saved.replay_state or {}).items()
                if key.startswith("acting/")
            }
        self.logger = Logger(
            logdir, config["steps"], tensorboard=config["log"]["tensorboard"], resume_step=self.loop["step"]
        )
        self.last_return: float | None = None
        self.stop = StopRequest()
        self.recorder = crash.FlightRecorder(self.agent, logdir)

    @property
    def step(self) -> int:
        """Environment steps so far."""
        return self.loop["step"]

    def run(self) -> dict[str, Any]:
        """The loop; see `train`."""
        config, agent = self.config, self.agent
        self.logger.say(f"{config['task']} with {config['backbone']} on {agent.device}, {_counts(agent)}")
        if self.step:
            self.logger.say(f"going on from step {self.step:,} with {len(self.replay):,} steps of replay")
        for problem in self.lost:
            self.logger.say(f"lost steps of replay: {problem}; the run goes on without them")
        evaluated = self.loop["evaluation"] and self.loop["evaluation"]["step"]
        try:
            with self.stop:
                try:
                    if self.step < config["steps"] or evaluated != self.step:
                        self._collect_and_learn()
                        self._log()
                        self._evaluate()
                        self._save()
                except Stopped as error:
                    self.logger.say(f"{error}: saving at step {self.step:,}, a second one leaves at once")
                    self._log()
                    self._save()
                    raise
        finally:
            self.envs.close()
            self.replay.close()
            self.logger.close()
        result = {key: value for key, value in self.loop["evaluation"].items() if key != "step"}
        result |= {
            "steps": self.step,
            "updates": agent.updates,
            "seconds": round(self.loop["seconds"], 1),
            "logdir": str(self.logdir),
        }
        publish(self.logdir / "result.json", json.dumps(result), "the result")
        return result

    def _begin(self) -> tuple[Carry, Rows]:
        """Carry and rows to act on first: those of new episodes, or those that the run was saved with."""
        carry = self.agent.initial(self.envs.num_envs)
        if self.loop["envs"] and self.saved_acting:
            rows, back = self.envs.restore(self.loop["envs"])
        else:
            rows = self.envs.reset(first_episodes=np.array(self.loop["episodes"]) + 1)
            back = np.zeros(self.envs.num_envs, bool)
        self.replay.close_episodes(~back)
        if not back.any():
            return carry, rows
        # The row of an environment that is not back is a first one: the carried state is erased there.
        saved = {key: np.asarray(value) for key, value in self.saved_acting.items()}
        rows = {
            key: np.where(back.reshape(-1, *[1] * (value.ndim - 1)), saved[f"rows/{key}"], value)
            for key, value in rows.items()
        }
        self.episodes.returns = np.where(back, saved["returns"], 0)
        self.episodes.lengths = np.where(back, saved["lengths"], 0)
        state = {
            key: torch.as_tensor(saved[f"state/{key}"]).to(leaf.device, leaf.dtype)
            for key, leaf in carry.state.items()
        }
        return Carry(state, torch.as_tensor(saved["action"]).to(carry.action)), rows

    def _collect_and_learn(self) -> None:
        config, agent = self.config, self.agent
        tokens = config["batch_size"] * config["batch_length"]
        carry, rows = self.acting = self._begin()
        if self.step:
            self._report()  # an evaluation that a signal cut off
        began, described, restarted = time.monotonic(), False, 0
        while self.step < config["steps"]:
            prefilled = self.step >= config["prefill"]
            before = _numpy(carry.state) if self.replay.wants_state() else None
            carry, action = agent.act(carry, rows)
            if not prefilled:
                random = np.random.default_rng(derive_seed(config["seed"], "prefill", self.step))
                action = np.stack([_random_action(self.envs.action_space, random) for _ in rows["reward"]])
                carry = Carry(carry.state, agent.codec.encode(torch.as_tensor(action).to(agent.device)))
            # The call after an episode's end resets the environment and ignores the action: none was taken.
            action[rows["is_last"]] = 0
            self.replay.add({**rows, "action": action}, before)
            if not described:
                self._describe_replay()
                described = True
            ended, rows = rows["is_last"], self.envs.step(action)
            self.acting = carry, rows
            lost = rows["is_first"] & ~ended
            if lost.any():  # the environments had to be restarted
                self.replay.close_episodes(lost)
            if self.envs.restarted > restarted:  # the rows do not show it if every episode had just ended
                self.loop["restarts"] += self.envs.restarted - restarted
                restarted = self.envs.restarted
                self.logger.add(self.step, {"env/restarts": self.loop["restarts"]})
            taken = int((~rows["is_first"]).sum())
            self.loop["step"] += taken
            # Before a checkpoint of this step can be written: what is logged later would be logged again.
            for statistics in self.episodes.add(rows):
                self.last_return = statistics["episode/return"]
                self.logger.add(
                    self.step, {key: statistics[key] for key in ("episode/return", "episode/length")}
                )
            if prefilled and self.replay.ready():
                self.loop["credit"] += taken * config["train_ratio"] / tokens
            while self.loop["credit"] >= 1:
                batch = self.loader.next()
                last = self.recorder.update(batch)
                if "window" in batch:
                    self.replay.refresh(batch["window"], _numpy(last), self.agent.updates)
                self.loop["credit"] -= 1
            self.loop["seconds"] += time.monotonic() - began
            self._report()
            self.stop.check()
            began = time.monotonic()

    def _describe_replay(self) -> None:
        self.logger.say(self.replay.describe())
        orphaned = self.replay.store.orphaned
        if orphaned:
            self.logger.say(
                f"{orphaned} chunks that no checkpoint knows are now in {self.logdir}/replay/orphaned"
            )
        self.logger.add(self.step, {"replay/orphaned": orphaned})

    def _report(self) -> None:
        """Do whatever is due at this step."""
        config = self.config
        if self._due("log", config["log"]["every"]):
            self._log()
        if self._due("pictures", config["log"]["pictures"]) and self.replay.ready():
            self._draw()
        if self._due("eval", config["eval"]["every"]) and self.step < config["steps"]:
            self._evaluate()
        if self._due("checkpoint", config["checkpoint"]["every"]) and self.step < config["steps"]:
            self._save()
        self.logger.progress(self.step, self.agent.updates, self.last_return)

    def _log(self) -> None:
        seconds = self.loop["seconds"]
        times = {
            "time/seconds": seconds,
            "time/updates": self.agent.updates,
            "time/fps": self.step / max(seconds, 1e-9),
        }
        self.recorder.check()
        self.logger.add(self.step, self.agent.metrics() | times)

    def _due(self, what: str, every: int) -> bool:
        if not every or self.step < self.loop["next"].setdefault(what, every):
            return False
        self.loop["next"][what] = (self.step // every + 1) * every
        return True

    def _evaluate(self) -> None:
        config = self.config["eval"]
        try:
            result = run_episodes(
                self.agent,
                self.make_envs,
                config["episodes"],
                config["envs"],
                derive_seed(self.config["seed"], "evaluate"),
                config["max_steps"],
                self.stop.check,
            )
        except Stopped:
            self.loop["next"]["eval"] = self.step  # the resumed run begins with it
            raise
        self.loop["evaluation"] = result | {"step": self.step}
        if result["cut"]:
            self.logger.say(
                f"evaluation: {result['cut']} episodes had not ended after eval.max_steps = "
                f"{config['max_steps']:,} steps and were cut"
            )
        names = ("return_mean", "return_std", "length_mean", "episodes", "cut")
        self.logger.add(
            self.step,
            {f"eval/{name}": result[name] for name in names}
            | {"time/seconds": self.loop["seconds"], "time/updates": self.agent.updates},
        )

    def _draw(self) -> None:
        self.recorder.check()
        for number, times in enumerate(self.agent.backbone.memory_times()):
            self.logger.histogram(
                self.step, f"memory_log10_steps/{number}", times.log10().detach().cpu().numpy()
            )
        batch = self.replay.peek(self.agent.updates)
        context = batch["is_first"].shape[1] // 2
        report = self.agent.open_loop(batch, context)
        for key, true in report["true"].items():
            for row in range(min(2, len(true))):
                picture = pictures.open_loop_picture(true[row], report["predicted"][key][row], context)
                self.logger.image(self.step, f"open_loop/{key}/{row}", picture)
        by_step = pictures.kl_by_step(report["kl"], batch["is_first"])
        if not by_step:  # no episode begins in these windows
            return
        self.logger.image(self.step, "kl_by_step", pictures.kl_picture(by_step))
        self.logger.add(
            self.step,
            {f"kl_by_step/{age:04d}": float(value) for age, value in by_step.items() if _is_power(age)},
        )

    def _save(self) -> None:
        self.recorder.check()
        self.loop["episodes"] = self.envs.episodes.tolist()
        self.loop["envs"] = self.envs.state()
        carry, rows = self.acting
        acting = {"action": carry.action.float().cpu().numpy()}
        acting |= {"returns": self.episodes.returns, "lengths": self.episodes.lengths}
        acting |= {f"state/{key}": leaf for key, leaf in _numpy(carry.state).items()}
        acting |= {f"rows/{key}": value for key, value in rows.items()}
        checkpoint.save(
            self.logdir,
            self.step,
            self.agent.state_dict(),
            self.loader.state_dict() | {f"acting/{key}": value for key, value in acting.items()},
            self.loop,
            self.config["checkpoint"]["keep"],
            self.replay.chunks(),
        )
        self.replay.prune(checkpoint.chunks_needed(self.logdir))


def _numpy(state: Mapping[str, torch.Tensor]) -> Rows:
    """Recurrent states as replay keeps them: float32 arrays on the CPU."""
    return {key: leaf.float().cpu().numpy() for key, leaf in state.items()}


def _random_action(space: Any, random: np.random.Generator) -> np.ndarray:
    space.seed(int(random.integers(2**31)))
    return np.asarray(space.sample())


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0


def _counts(agent: Agent) -> str:
    counts = agent.parameter_counts()
    return ", ".join(f"{name} {count:,} parameters" for name, count in counts.items())

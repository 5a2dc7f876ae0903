"""A small task whose best return is known, and builders for a run of it that keep what they built."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import configs
from agent.run.folder import RunFolder
from agent.run.loop import Training
from agent.run.saved import SavedRun
from envs import Interface
from replay import Replay

Rows = dict[str, np.ndarray]


class Cues:
    """Environments that show +1 or -1, wait, then ask: action 1 gives the cue as reward, action 0 nothing.

    Cues take turns: the best mean return over an even number of episodes is exactly 0.5, 0 without memory.
    Row t of an episode shows [cue at t = 0, 1 if asked now]; row wait + 1 is the last.

    Args:
        waits: steps between cue and question, one for each environment.
        limited: episodes end by a time limit, not by an end of the task.
    """

    observation_space = spaces.Dict({"vector": spaces.Box(-1, 1, (2,), np.float32)})
    action_space = spaces.Discrete(2)
    interface = Interface(spaces.Dict({"vector": spaces.Box(-1, 1, (2,), np.float32)}), spaces.Discrete(2))

    def __init__(self, waits: list[int], limited: bool = False, first: int = 0) -> None:
        self.waits, self.limited = np.array(waits), limited
        self.num_envs = len(waits)
        self.index = first + np.arange(self.num_envs)
        self.episodes = np.full(self.num_envs, -1)
        self.taken, self.restarted, self.closed = 0, 0, False
        self.begun: list[int] | None = None

    def reset(self, first_episodes: np.ndarray | None = None) -> Rows:
        self.begun = None if first_episodes is None else first_episodes.tolist()
        self.episodes = self.episodes + 1 if first_episodes is None else np.array(first_episodes)
        self.t = np.zeros(self.num_envs, int)
        return self._rows(np.zeros(self.num_envs))

    def step(self, action: np.ndarray) -> Rows:
        over = self.t == self.waits + 1
        asked = self.t == self.waits
        reward = np.where(asked & (action == 1), self._cue(), 0)
        self.taken += int((~over).sum())
        self.t = np.where(over, 0, self.t + 1)
        self.episodes = self.episodes + over
        return self._rows(reward)

    def restore(self, states: Sequence[Mapping[str, Any]]) -> tuple[Rows, np.ndarray]:
        raise AssertionError("there is no state to go back to")

    def state(self) -> list[dict[str, Any]]:
        """Nothing: these cannot be brought back to where they were."""
        return []

    def close(self) -> None:
        self.closed = True

    def _cue(self) -> np.ndarray:
        return 1.0 - 2 * ((self.index + self.episodes) % 2)

    def _rows(self, reward: np.ndarray) -> Rows:
        last = self.t == self.waits + 1
        seen = np.stack([np.where(self.t == 0, self._cue(), 0), self.t == self.waits], -1)
        return {
            "obs/vector": seen.astype(np.float32),
            "reward": reward.astype(np.float32),
            "is_first": self.t == 0,
            "is_last": last,
            "is_terminal": last & (not self.limited),
        }


def metrics_of(logdir: Path) -> list[dict[str, Any]]:
    """The lines that a run has logged."""
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


class House:
    """A builder of environments for runs, which keeps what it built, and the newest run."""

    def __init__(self, config: configs.Config, waits: Callable[[int], int], limited: bool = False) -> None:
        self.config, self.waits, self.limited = config, waits, limited
        self.envs: list[Cues] = []
        self.seeds: list[tuple[int, int, int]] = []

    def make_envs(self, count: int, seed: int, first: int) -> Cues:
        self.seeds.append((count, seed, first))
        self.envs.append(Cues([self.waits(index) for index in range(count)], self.limited, first))
        return self.envs[-1]

    def training(self, logdir: Path) -> Training:
        logdir.mkdir(exist_ok=True)
        self.run = Training(self.config, RunFolder(logdir), self.make_envs)
        return self.run

    @property
    def replay(self) -> Replay:
        """That of the newest run."""
        return self.run.replay

    def train(self, logdir: Path) -> dict[str, Any]:
        return self.training(logdir).run()

    def saved(self, logdir: Path) -> SavedRun:
        return SavedRun(RunFolder(logdir), self.config, self.make_envs)


def configure(backbone: str = "s4wm", **changed: Any) -> configs.Config:
    """The debug preset without what is only to be looked at; `changed` has two underscores for a dot."""
    overrides: dict[str, Any] = {
        "device": "cpu",
        "steps": 150,
        "prefill": 60,
        "batch_length": 8,
        "train_ratio": 4.0,
        "replay.state_every": 4,
        "envs.count": 3,
        "eval.every": 50,
        "log.every": 25,
        "log.pictures": 0,
        "log.to": "none",
        "checkpoint.every": 60,
    }
    overrides |= {key.replace("__", "."): value for key, value in changed.items()}
    return configs.load(backbone=backbone, presets=["debug"], overrides=overrides)

"""How far a run is: what a checkpoint holds besides the agent and the replay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
import torch

from agent.agent import Carry
from agent.run.evaluation import EpisodeStatistics
from replay.rows import Rows
from worldmodels import State


@dataclass
class Counters:
    """How far any run is, as JSON has it.

    Attributes:
        step: environment steps so far; of a world model fitted to episodes on disk, updates.
        seconds: of training, evaluation left out, over all sessions.
        due: what is done now and then -> the step at which it is due next.
        evaluation: the last one's result, with the `step` of it.
    """

    EVALUATED: ClassVar[set[str]] = {"step"}  # entries that an evaluation has

    step: int = 0
    seconds: float = 0.0
    due: dict[str, int] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> Self:
        """What `to_json` returned.

        Raises:
            ValueError: it did not return that.
        """
        missing = [each.name for each in fields(cls) if each.name not in saved]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        progress = cls(**{each.name: saved[each.name] for each in fields(cls)})
        for name, right in progress._right().items():
            if not right:
                raise ValueError(f"its '{name}' is {str(saved[name])[:100]}")
        return progress

    def _right(self) -> dict[str, bool]:
        """Name of an entry -> whether it is of the type and in the range that it has in a run."""
        played, due = self.evaluation, self.due
        return {
            "step": _counts(self.step),
            "seconds": isinstance(self.seconds, int | float) and 0 <= self.seconds < math.inf,
            "due": isinstance(due, dict) and all(_counts(step) for step in due.values()),
            "evaluation": played is None or (isinstance(played, dict) and played.keys() >= self.EVALUATED),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def is_due(self, what: str, every: int) -> bool:
        """Whether something that is done every so many steps is to be done now; 0 is never."""
        if not every:
            return False
        due = self.due.setdefault(what, every)
        if due > self.step + every:  # set by a longer interval, before the run was gone on with
            due = self.due[what] = -(-self.step // every) * every
        if self.step < due:
            return False
        self.due[what] = (self.step // every + 1) * every
        return True


@dataclass
class Progress(Counters):
    """The online loop's counters.

    Attributes:
        credit: updates that are due, with a fraction.
        restarts: how often the environments' processes were restarted.
        episodes: number of each environment's episode.
        envs: what brings each environment back to where it is; empty if nothing does.
    """

    EVALUATED = Counters.EVALUATED | {
        *("return_mean", "return_std", "returns", "episodes", "length_mean", "cut")
    }

    credit: float = 0.0
    restarts: int = 0
    episodes: list[int] = field(default_factory=list)
    envs: list[dict[str, Any]] = field(default_factory=list)

    def _right(self) -> dict[str, bool]:
        envs = self.envs
        return super()._right() | {
            "credit": isinstance(self.credit, int | float) and 0 <= self.credit < math.inf,
            "restarts": _counts(self.restarts),
            "episodes": isinstance(self.episodes, list) and all(_counts(n + 1) for n in self.episodes),
            "envs": isinstance(envs, list)
            and len(envs) in (0, len(self.episodes))
            and all(_counts(env["episode"]) and isinstance(env["actions"], list) for env in envs),
        }


@dataclass
class Acting:
    """In the middle of episodes: what the agent carries, the rows it sees, and the returns so far."""

    carry: Carry
    rows: Rows
    episodes: EpisodeStatistics

    PREFIX = "acting/"

    def arrays(self) -> Rows:
        """As plain arrays, to stand beside the replay's in a checkpoint."""
        found = {"action": self.carry.action.float().cpu().numpy()}
        found |= {"returns": self.episodes.returns, "lengths": self.episodes.lengths}
        found |= {f"state/{key}": leaf for key, leaf in to_numpy(self.carry.state).items()}
        found |= {f"rows/{key}": value for key, value in self.rows.items()}
        return {f"{self.PREFIX}{key}": value for key, value in found.items()}

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError unless `arrays` returned these for as many environments and the same agent."""
        for key, value in self.arrays().items():
            if key not in arrays or arrays[key].shape != value.shape or arrays[key].dtype != value.dtype:
                raise ValueError(f"'{key}' is missing, or of another shape or type than here")

    def go_on(self, arrays: Mapping[str, np.ndarray], back: np.ndarray) -> None:
        """Take over what `arrays` returned, for the environments that are back `[N]` bool.

        The row of one that is not back is a first one: the carried state is erased there.
        """
        saved = {key.removeprefix(self.PREFIX): np.asarray(value) for key, value in arrays.items()}
        self.rows = {
            key: np.where(back.reshape(-1, *[1] * (value.ndim - 1)), saved[f"rows/{key}"], value)
            for key, value in self.rows.items()
        }
        self.episodes.returns = np.where(back, saved["returns"], 0)
        self.episodes.lengths = np.where(back, saved["lengths"], 0)
        state = {
            key: torch.as_tensor(saved[f"state/{key}"]).to(leaf.device, leaf.dtype)
            for key, leaf in self.carry.state.items()
        }
        self.carry = Carry(state, torch.as_tensor(saved["action"]).to(self.carry.action))


def _counts(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def to_numpy(state: State) -> Rows:
    """Recurrent states as replay keeps them: float32 arrays on the CPU; waits for the device once."""
    flat = torch.cat([leaf.reshape(len(leaf), -1).float() for leaf in state.values()], 1).cpu().numpy()
    sizes = [leaf[0].numel() for leaf in state.values()]
    parts = np.split(flat, np.cumsum(sizes)[:-1], 1)
    return {key: part.reshape(leaf.shape) for (key, leaf), part in zip(state.items(), parts, strict=True)}

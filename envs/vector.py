"""Several environments at once, as rows: the door between gymnasium's vector environments and the rest.

gymnasium's `AutoresetMode.NEXT_STEP` maps one to one onto our rows. At the step that ends an episode the
observation is the true final one. The next call ignores that environment's action, resets it, and returns the
first observation of the next episode with reward 0; nothing in gymnasium's reply flags that row, so the door
remembers it.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.workers import FAULTS, NotBuilt, Workers

Rows = dict[str, np.ndarray]

MODES = ("sync", "async")
WINDOW = 300.0
"""Seconds within which too many faults of worker processes end a run."""


class WorkerError(RuntimeError):
    """Worker processes of environments failed more often than is allowed; the message has the last fault."""


class VectorDoor:
    """Step N environments together and return rows.

    A row holds, with leading axis N: `obs/<name>` (uint8 `[N, H, W, C]` or float32 `[N, d]`), `reward`
    float32 `[N]`, `is_first`, `is_last`, `is_terminal` bool `[N]`. A time limit is `is_last` without
    `is_terminal`; where an environment reports both its end and a time limit, the row is terminal. The arrays
    are new at every call and safe to keep.

    Attributes:
        num_envs: N.
        observation_space: of one environment, a flat `spaces.Dict` of Box.
        action_space: of one environment: Discrete, MultiDiscrete or Box in [-1, 1].
        restarted: how often all worker processes had to be restarted.

    Args:
        builders: one function for each environment; picklable for 'async'. See `envs.make_vector`.
        task: for messages.
        mode: 'sync' steps the environments one after the other here; 'async' has a process for each (which
            pays off from about 1 ms per step), started by a fork server, so that no thread or GL context of
            this process gets copied. Its workers ignore SIGINT and SIGTERM: the parent decides when to stop.
        first_index: number of the first environment in the run, for messages.
        seed: of the run, for messages.
        timeout: seconds that a worker process may take to answer; 0 waits for ever.
        restarts: how often within `WINDOW` seconds the worker processes are restarted after one of them
            raised, died or hung. All environments then begin their next episodes.

    Raises:
        ValueError: an unknown mode, or no environment.
        WorkerError: a worker process failed to start.
    """

    def __init__(
        self,
        builders: Sequence[Callable[[], gymnasium.Env]],
        task: str,
        mode: str = "sync",
        first_index: int = 0,
        seed: int = 0,
        timeout: float = 300.0,
        restarts: int = 3,
    ) -> None:
        if mode not in MODES:
            raise ValueError(
                f"Unknown mode {mode!r} of a vector of environments: choose {' or '.join(MODES)}."
            )
        self.task = task
        self.num_envs = len(builders)
        self._builders, self._first_index, self._seed = builders, first_index, seed
        self._timeout, self._restarts = timeout or None, restarts
        self._worker_faults = FAULTS if mode == "async" else ()
        self._fault: Exception | None = None  # of a worker, met where it could not be handled
        self._faults: deque[float] = deque()
        self.restarted = 0
        self._closed = False
        self._started = False
        self._steps = 0
        self._episodes = np.zeros(self.num_envs, np.int64)
        self._envs: SyncVectorEnv | AsyncVectorEnv
        if mode == "sync":
            self._envs = SyncVectorEnv(builders, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        else:
            try:
                self._envs = Workers(builders, self._timeout)
            except NotBuilt as error:
                raise WorkerError(self._describe(error, None)) from error
        space = self._envs.single_observation_space
        if not isinstance(space, spaces.Dict):
            raise TypeError(
                f"Expected environments with a flat Dict observation, got {space}: use envs.make."
            )
        self.observation_space: spaces.Dict = space
        self.action_space: spaces.Space = self._envs.single_action_space
        self._check = _action_check(self.action_space, self.num_envs)
        self._vectors = [name for name, leaf in space.spaces.items() if leaf.dtype != np.uint8]
        self._ended = np.zeros(self.num_envs, np.bool_)

    @property
    def episodes(self) -> np.ndarray:
        """Number of the episode that each environment is in, from 0; int64 `[N]`, a copy."""
        return self._episodes.copy()

    def reset(self, first_episodes: Sequence[int] | np.ndarray | None = None) -> Rows:
        """Begin an episode in every environment.

        Args:
            first_episodes: the number of the episode to begin, for each environment; by default the next one.
                Seeds derive from it: after a resume, one more than the saved `episodes` continues without
                repeating any.

        Returns:
            rows with `is_first` set everywhere and reward 0.
        """
        self._check_open()
        if first_episodes is not None:
            numbers = [int(number) for number in first_episodes]
            if len(numbers) != self.num_envs or min(numbers) < 0:
                raise ValueError(
                    f"first_episodes must hold {self.num_envs} numbers of at least 0, one for each "
                    f"environment, got {numbers}."
                )
            self._episodes = np.array(numbers, np.int64)
        elif self._started:
            self._episodes += 1
        try:
            observation = self._begin()
        except self._worker_faults as error:
            observation = self._restart(error, None)
        return self._first_rows(observation)

    def state(self) -> list[dict[str, Any]]:
        """What `restore` needs to bring the environments back to where they are, as JSON-compatible data.

        Empty if a worker process does not answer: the next `step` handles that fault and warns of it.
        """
        try:
            histories = self._ask("history")
        except self._worker_faults as error:
            self._fault = error
            return []
        return [
            dict(history, ended=bool(ended)) for history, ended in zip(histories, self._ended, strict=True)
        ]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> tuple[Rows, np.ndarray]:
        """Bring the environments back to where they were at `state`, by taking the same actions again.

        Returns:
            rows as from `reset`, and whether each environment is back, bool `[N]`: that it has shown the
            same observations and rewards. One that has not begins the next episode, and its row is the first
            of that. For one that is back, the row that counts is the last one before `state` was read.
        """
        self._check_open()
        if len(states) != self.num_envs:
            raise ValueError(
                f"states must hold {self.num_envs} entries, one an environment, got {len(states)}."
            )
        self._episodes = np.array([state["episode"] for state in states], np.int64)
        actions = [state["actions"] for state in states]
        try:
            observation = self._begin(actions)
            found = [history["checksum"] for history in self._ask("history")]
            back = np.array([state["checksum"] == now for state, now in zip(states, found, strict=True)])
            if not back.all():
                self._episodes += ~back
                observation = self._begin(
                    [taken if here else [] for taken, here in zip(actions, back, strict=True)]
                )
        except self._worker_faults as error:
            return self._first_rows(self._restart(error, None)), np.zeros(self.num_envs, np.bool_)
        rows = self._first_rows(observation)
        self._ended = np.array([state["ended"] for state in states], np.bool_) & back
        return rows, back

    def step(self, actions: np.ndarray) -> Rows:
        """Step every environment, or reset it where the last row was `is_last`.

        Args:
            actions: `[N]` whole numbers (Discrete), `[N, k]` (MultiDiscrete) or `[N, ...]` floats in [-1, 1]
                (Box). Entries of environments that are about to be reset are ignored, but must be in range.

        Returns:
            rows. If worker processes had to be restarted, a warning says why, and all rows are `is_first`,
            also those of environments whose last row was not `is_last`: what they were doing is lost.

        Raises:
            ValueError: actions of another shape, kind or range; an observation or reward that is not finite.
                The message names environment, step and key.
            WorkerError: worker processes failed too often.
            RuntimeError: not reset yet, or closed.
        """
        self._check_open()
        if not self._started:
            raise RuntimeError(f"{self.task}: call reset() before the first step().")
        actions = self._check(actions)
        try:
            if self._fault is not None:
                raise self._fault
            if isinstance(self._envs, Workers):
                self._envs.step_async(actions)
                replies = self._envs.step_wait(self._timeout)
            else:
                replies = self._envs.step(actions)
        except self._worker_faults as error:
            return self._first_rows(self._restart(error, actions))
        observation, reward, terminated, truncated, _ = replies
        self._steps += 1
        is_first = self._ended
        self._ended = terminated | truncated
        self._episodes += is_first
        return self._rows(observation, reward, terminated, self._ended, is_first)

    def close(self) -> None:
        """Close the environments and end their processes; a second call has no effect."""
        if self._closed:
            return
        self._closed = True
        self._envs.close()

    def __enter__(self) -> VectorDoor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, actions: Sequence[Sequence[Any]] | None = None) -> dict[str, np.ndarray]:
        """Begin the episodes `self._episodes`, take these actions in each, and return the observations."""
        if self._fault is not None:
            raise self._fault
        self._envs.set_attr("next_episode", self._episodes.tolist())
        steps = 0
        if actions is not None:
            self._envs.set_attr("next_actions", list(actions))
            steps = max(map(len, actions))
        if isinstance(self._envs, Workers):
            self._envs.reset_async()
            # `timeout` is per answer, and every action taken again is one
            return self._envs.reset_wait(self._timeout and self._timeout * (1 + steps))[0]
        return self._envs.reset()[0]

    def _ask(self, name: str) -> Sequence[Any]:
        """Return an attribute of every environment; raises a fault if a worker process does not answer."""
        if isinstance(self._envs, Workers):
            self._envs.call_async(name)
            return self._envs.call_wait(self._timeout)
        return self._envs.get_attr(name)

    def _first_rows(self, observation: dict[str, np.ndarray]) -> Rows:
        self._started = True
        self._steps = 0
        zeros = np.zeros(self.num_envs, np.bool_)
        self._ended = zeros
        return self._rows(
            observation, np.zeros(self.num_envs), zeros, zeros, np.ones(self.num_envs, np.bool_)
        )

    def _restart(self, error: Exception, actions: np.ndarray | None) -> dict[str, np.ndarray]:
        """Restart all worker processes after a fault, and begin the next episodes in them.

        Raises WorkerError if no more restarts are allowed.
        """
        while True:
            message = self._describe(error, actions)
            self._envs.close(terminate=True)
            self._fault = None
            self._episodes += 1
            now = time.monotonic()
            self._faults.append(now)
            while self._faults[0] < now - WINDOW:
                self._faults.popleft()
            if len(self._faults) > self._restarts:
                raise WorkerError(
                    f"{message}\nThese were {len(self._faults)} faults in {WINDOW:g} s, {self._restarts} are "
                    f"allowed (envs.restarts). Mode 'sync' shows where an environment fails."
                ) from error
            self.restarted += 1
            warnings.warn(f"{message}\nAll {self.num_envs} worker processes start anew.", stacklevel=3)
            try:
                self._envs = Workers(self._builders, self._timeout)
                return self._begin()
            except FAULTS as another:
                error, actions = another, None

    def _describe(self, error: Exception, actions: np.ndarray | None) -> str:
        """Say which environment failed, how, and while doing what."""
        if isinstance(error, NotBuilt):
            failed = error.failed
        else:
            assert isinstance(self._envs, Workers)
            failed = self._envs.diagnose(error)
        lines = []
        for row, what in failed.items():
            did = "building, resetting" if actions is None else f"action {actions[row].tolist()}"
            lines.append(
                f"{self.task}: environment {self._first_index + row} {what} at step {self._steps} since the "
                f"last reset() (episode {self._episodes[row]}, run seed {self._seed}, {did})."
            )
        return "\n".join(lines) or f"{self.task}: a worker process does not answer: {error!r}."

    def _rows(
        self,
        observation: dict[str, np.ndarray],
        reward: np.ndarray,
        is_terminal: np.ndarray,
        is_last: np.ndarray,
        is_first: np.ndarray,
    ) -> Rows:
        rows = {f"obs/{name}": leaf.copy() for name, leaf in observation.items()}
        rows["reward"] = reward.astype(np.float32)
        for name in self._vectors:
            self._check_finite(f"obs/{name}", rows[f"obs/{name}"])
        self._check_finite("reward", rows["reward"])
        rows["is_first"] = is_first.copy()
        rows["is_last"] = is_last.copy()
        rows["is_terminal"] = is_terminal.copy()
        return rows

    def _check_finite(self, key: str, values: np.ndarray) -> None:
        if np.isfinite(values).all():
            return
        row = int(np.argmin(np.isfinite(values).reshape(self.num_envs, -1).all(1)))
        raise ValueError(
            f"{self.task}: environment {self._first_index + row} returned {key} = {values[row]}, which is "
            f"not finite in float32, at step {self._steps} since the last reset() (episode "
            f"{self._episodes[row]} of that environment). Nothing could be learned from it: correct the "
            "environment, or wrap it so that it returns finite numbers."
        )

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self.task}: this vector of environments is closed; make a new one.")


def _action_check(space: spaces.Space, num_envs: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that checks a batch of actions of `space` and gives it the right dtype."""
    shape = (num_envs, *(space.shape or ()))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        kinds = "iu"
        dtype: np.dtype = np.dtype(np.int64)
        low, high = 0, (space.n if isinstance(space, spaces.Discrete) else space.nvec) - 1
        tolerance = 0.0
    else:
        kinds, dtype, low, high = "f", np.dtype(np.float32), -1, np.ones(space.shape or ())
        tolerance = 1e-6

    def check(actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != shape or actions.dtype.kind not in kinds:
            raise ValueError(
                f"Actions for {num_envs} environments with {space} must be {dtype} of shape {shape}, got "
                f"{actions.dtype} of shape {actions.shape}."
            )
        if not ((actions >= low - tolerance) & (actions <= high + tolerance)).all():
            raise ValueError(
                f"Actions for {space} must be finite and from {low} to {high}, got {actions.tolist()}."
            )
        return actions.astype(dtype, copy=False)

    return check

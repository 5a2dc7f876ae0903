"""Several environments at once, as rows: what stands between gymnasium's vector environments and the learner.

gymnasium's `AutoresetMode.NEXT_STEP` maps one to one onto our rows. At the step that ends an episode the
observation is the true final one. The next call ignores that environment's action, resets it, and returns the
first observation of the next episode with reward 0; nothing in gymnasium's reply flags that row, so it is
remembered here.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.actions import action_check
from envs.guard import Contained, EnvironmentFailure
from envs.inprocess import InProcess, without_info
from envs.interface import Interface
from envs.workers import Restarts, WorkerFault, Workers

Rows = dict[str, np.ndarray]

SLOW = 10.0
"""Seconds of building environments that are worth a word."""


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
        fps: steps a second to watch them at: the environments' own `render_fps`, or 10.
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
        restarts: how often within 300 s the worker processes are restarted after one of them
            raised, died or hung. All environments then begin their next episodes.

    Raises:
        EnvironmentFailure: a worker process failed to start; in `step` and `reset`, an environment raised in
            mode 'sync', worker processes failed too often, or what is shown is not finite. The door then has
            no `state` until the next `reset`, which begins other episodes.
        ValueError, ImportError: in building an environment, see `envs.make`.
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
        self.task, self.num_envs = task, len(builders)
        self._builders = [functools.partial(without_info, builder) for builder in builders]
        self._first_index, self._seed = first_index, seed
        self._timeout, self._restarts = timeout or None, Restarts(restarts)
        self._fault: WorkerFault | None = None  # met where it could not be handled
        self.restarted = 0
        self._closed = self._started = self._failed = False
        self._steps = 0  # since the last reset()
        self._episodes = np.zeros(self.num_envs, np.int64)
        self._ended = np.zeros(self.num_envs, np.bool_)  # by the last row
        self._envs: InProcess | Workers
        began = time.monotonic()
        if mode == "async":
            try:
                self._envs = Workers(self._builders, self._timeout)
            except WorkerFault as fault:
                raise EnvironmentFailure(self._describe(fault, None)) from fault
        else:
            self._envs = InProcess(self._builders)
        if (took := time.monotonic() - began) > SLOW:
            warnings.warn(
                f"{task}: building {self.num_envs} environments took {took:.0f} s. Evaluation builds its own "
                f"each time: where that is slow, fewer and rarer ones help (eval.envs, eval.every).",
                stacklevel=2,
            )
        self._contained = Contained(f"{task}: an environment")
        space = self._envs.single_observation_space
        if not isinstance(space, spaces.Dict):
            raise TypeError(
                f"Expected environments with a flat Dict observation, got {space}: use envs.make."
            )
        self.observation_space: spaces.Dict = space
        self.action_space: spaces.Space = self._envs.single_action_space
        self.fps: float = self._envs.metadata.get("render_fps") or 10.0
        self._check = action_check(self.action_space, self.num_envs)

    @property
    def interface(self) -> Interface:
        """Of one environment: its own spaces, and what converts to those here."""
        found: Interface = self._envs.get_attr("interface")[0]
        return found

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
            self._episodes = np.array(first_episodes, np.int64)
            if self._episodes.shape != (self.num_envs,) or (self._episodes < 0).any():
                raise ValueError(
                    f"first_episodes must hold {self.num_envs} numbers of at least 0, one for each "
                    f"environment, got {list(first_episodes)}."
                )
        elif self._started:
            self._episodes += 1
        self._failed = False
        with self._failing():
            try:
                observation = self._begin()
            except WorkerFault as fault:
                observation = self._restart(fault, None)
            return self._first_rows(observation)

    def state(self) -> list[dict[str, Any]]:
        """What `restore` needs to bring the environments back to where they are, as JSON-compatible data.

        Empty if a worker process does not answer: the next `step` handles that fault and warns of it. Empty
        after an `EnvironmentFailure` too.
        """
        if self._failed:
            return []
        try:
            histories = self._envs.get_attr("history")
        except WorkerFault as fault:
            self._fault = fault
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
        with self._failing():
            try:
                observation = self._begin(actions)
                found = [history["checksum"] for history in self._envs.get_attr("history")]
                back = np.array([state["checksum"] == now for state, now in zip(states, found, strict=True)])
                if not back.all():
                    self._episodes += ~back
                    observation = self._begin(
                        [taken if here else [] for taken, here in zip(actions, back, strict=True)]
                    )
            except WorkerFault as fault:
                return self._first_rows(self._restart(fault, None)), np.zeros(self.num_envs, np.bool_)
        if not back.all():
            numbers = (self._first_index + np.flatnonzero(~back)).tolist()
            warnings.warn(
                f"{self.task}: environments {numbers} did not come back to where they were saved: with the "
                f"same seed and actions they show something else, or their episode is too long. Their open "
                f"episodes are closed as cut off, and their next ones begin.",
                stacklevel=2,
            )
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
            EnvironmentFailure: see the class; the message names environment, episode, step and key.
            ValueError: actions of another shape, kind or range.
            RuntimeError: not reset yet, or not since a failure, or closed.
        """
        self._check_open()
        if not self._started or self._failed:
            since = "since an environment failed" if self._failed else "before the first step()"
            raise RuntimeError(f"{self.task}: call reset() {since}.")
        actions = self._check(actions)
        with self._failing():
            try:
                if self._fault is not None:
                    raise self._fault
                with self._contained:
                    observation, reward, terminated, truncated, _ = self._envs.step(actions)
            except WorkerFault as fault:
                return self._first_rows(self._restart(fault, actions))
            self._steps += 1
            is_first, self._ended = self._ended, terminated | truncated
            self._episodes += is_first
            return self._rows(observation, reward, is_first, terminated)

    def render(self) -> list[np.ndarray] | None:
        """What each environment draws, uint8 `[H, W, 3]`; None if they were not built to (`envs.make`)."""
        if self._envs.render_mode != "rgb_array":
            return None
        try:
            with self._contained:
                pictures: Any = self._envs.render()
        except WorkerFault as fault:
            raise EnvironmentFailure(self._describe(fault, None)) from fault
        return list(pictures)

    def close(self) -> None:
        """Close the environments and end their processes, whatever they do; a second call has no effect."""
        if self._closed:
            return
        self._closed = True
        self._envs.close()

    def __enter__(self) -> VectorDoor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Remember that there is nothing to go on from; an episode that failed is not begun a second time."""
        try:
            yield
        except EnvironmentFailure:
            self._failed = True
            self._episodes += self._ended  # their resets may be what failed
            self._ended = np.zeros(self.num_envs, np.bool_)
            raise

    def _begin(self, actions: Sequence[Sequence[Any]] = ()) -> dict[str, np.ndarray]:
        """Begin the episodes `self._episodes`, take these actions in each, and return the observations."""
        if self._fault is not None:
            raise self._fault
        if (
            isinstance(self._envs, Workers) and self._envs.closed
        ):  # no restart was left, but reset() may begin anew
            self._envs = Workers(self._builders, self._timeout, self._envs.shown)
        self._envs.set_attr("next_episode", self._episodes.tolist())
        if actions:
            self._envs.set_attr("next_actions", list(actions))
        if isinstance(self._envs, Workers):
            self._envs.answers = 1 + max(map(len, actions), default=0)
        return self._envs.reset()[0]

    def _first_rows(self, observation: dict[str, np.ndarray]) -> Rows:
        self._started, self._steps = True, 0
        none = np.zeros(self.num_envs, np.bool_)
        self._ended = none
        return self._rows(observation, np.zeros(self.num_envs), ~none, none.copy())

    def _restart(self, fault: WorkerFault, actions: np.ndarray | None) -> dict[str, np.ndarray]:
        """Restart all worker processes after a fault, and begin the next episodes in them.

        Raises EnvironmentFailure if no more restarts are allowed.
        """
        while True:
            message = self._describe(fault, actions)
            self._envs.close(terminate=True)
            self._fault = None
            self._episodes += 1
            if too_many := self._restarts.exhausted():
                hint = "Mode 'sync' shows where an environment fails."
                raise EnvironmentFailure(f"{message}\n{too_many} {hint}") from fault
            self.restarted += 1
            warnings.warn(f"{message}\nAll {self.num_envs} worker processes start anew.", stacklevel=3)
            try:
                assert isinstance(self._envs, Workers)  # nothing else has a WorkerFault
                self._envs = Workers(self._builders, self._timeout, self._envs.shown)
                return self._begin()
            except WorkerFault as another:
                fault, actions = another, None

    def _describe(self, fault: WorkerFault, actions: np.ndarray | None) -> str:
        """Say which environment failed, how, and while doing what."""
        lines = []
        for number, what in fault.failed.items():
            did = "building, resetting, drawing" if actions is None else f"action {actions[number].tolist()}"
            lines.append(
                f"{self.task}: environment {self._first_index + number} {what} at step {self._steps} since "
                f"the last reset() (episode {self._episodes[number]}, run seed {self._seed}, {did})."
            )
        return "\n".join(lines) or f"{self.task}: a worker process does not answer: {fault.__cause__!r}."

    def _rows(
        self,
        observation: dict[str, np.ndarray],
        reward: np.ndarray,
        is_first: np.ndarray,
        is_terminal: np.ndarray,
    ) -> Rows:
        """Return rows whose arrays nobody else has; raises at what is not finite in float32."""
        rows = {f"obs/{name}": leaf.copy() for name, leaf in observation.items()}
        rows["reward"] = reward.astype(np.float32)
        for key, values in rows.items():
            if values.dtype == np.float32 and not np.isfinite(values).all():
                number = int(np.argmin(np.isfinite(values).reshape(self.num_envs, -1).all(1)))
                raise EnvironmentFailure(
                    f"{self.task}: environment {self._first_index + number} returned {key} = "
                    f"{values[number]}, which is not finite in float32, at step {self._steps} since the last "
                    f"reset() (episode {self._episodes[number]} of that environment, run seed {self._seed}). "
                    f"Nothing could be learned from it: correct the environment, or wrap it so that it "
                    f"returns finite numbers."
                )
        return rows | {"is_first": is_first, "is_last": self._ended.copy(), "is_terminal": is_terminal}

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self.task}: this vector of environments is closed; make a new one.")

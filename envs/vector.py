"""Several environments at once, as rows: the door between gymnasium's vector environments and the rest.

gymnasium's `AutoresetMode.NEXT_STEP` maps one to one on our rows. At the step that ends an episode the
observation is the true final one. The next call ignores that environment's action, resets it, and returns the
first observation of the next episode with reward 0; nothing in gymnasium's reply flags that row, so the door
remembers it.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

Rows = dict[str, np.ndarray]

MODES = ("sync", "async")


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

    Args:
        builders: one function for each environment; picklable for 'async'. See `envs.make_vector`.
        task: for messages.
        mode: 'sync' steps the environments one after the other here; 'async' has a process for each (it pays
            from about 1 ms a step on), started by a fork server, so that no thread or GL context of this
            process gets copied. Its workers ignore SIGINT: the parent decides when to stop.
        first_index: number of the first environment in the run, for messages.

    Raises:
        ValueError: an unknown mode, or no environment.
    """

    def __init__(
        self,
        builders: Sequence[Callable[[], gymnasium.Env]],
        task: str,
        mode: str = "sync",
        first_index: int = 0,
    ) -> None:
        if mode not in MODES:
            raise ValueError(
                f"Unknown mode {mode!r} of a vector of environments: choose {' or '.join(MODES)}."
            )
        self.task = task
        self.num_envs = len(builders)
        self._first_index = first_index
        self._closed = False
        self._started = False
        self._steps = 0
        self._envs: SyncVectorEnv | AsyncVectorEnv
        if mode == "sync":
            self._envs = SyncVectorEnv(builders, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        else:
            methods = multiprocessing.get_all_start_methods()
            self._envs = AsyncVectorEnv(
                [_Quiet(builder) for builder in builders],
                shared_memory=True,
                copy=False,
                context="forkserver" if "forkserver" in methods else "spawn",
                autoreset_mode=AutoresetMode.NEXT_STEP,
            )
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
        self._episodes = np.zeros(self.num_envs, np.int64)

    @property
    def episodes(self) -> np.ndarray:
        """Number of the episode that each environment is in, from 0; int64 `[N]`, a copy."""
        return self._episodes.copy()

    def reset(self, first_episodes: Sequence[int] | np.ndarray | None = None) -> Rows:
        """Begin an episode in every environment.

        Args:
            first_episodes: the number of the episode to begin, for each environment; left out, the next one.
                Seeds derive from it: after a resume, one more than the `episodes` saved goes on without
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
            self._envs.set_attr("next_episode", numbers)
            self._episodes = np.array(numbers, np.int64)
        elif self._started:
            self._episodes += 1
        observation, _ = self._reply(self._envs.reset)
        self._started = True
        self._steps = 0
        zeros = np.zeros(self.num_envs, np.bool_)
        self._ended = zeros
        return self._rows(
            observation, np.zeros(self.num_envs), zeros, zeros, np.ones(self.num_envs, np.bool_)
        )

    def step(self, actions: np.ndarray) -> Rows:
        """Step every environment, or reset it where the last row was `is_last`.

        Args:
            actions: `[N]` whole numbers (Discrete), `[N, k]` (MultiDiscrete) or `[N, ...]` floats in [-1, 1]
                (Box). Entries of environments that are about to be reset are ignored, but must be in range.

        Raises:
            ValueError: actions of another shape, kind or range; an observation or reward that is not finite.
                The message names environment, step and key.
            RuntimeError: not reset yet, closed, or a worker process died.
        """
        self._check_open()
        if not self._started:
            raise RuntimeError(f"{self.task}: call reset() before the first step().")
        actions = self._check(actions)
        observation, reward, terminated, truncated, _ = self._reply(self._envs.step, actions)
        self._steps += 1
        is_first = self._ended
        self._ended = terminated | truncated
        self._episodes += is_first
        return self._rows(observation, reward, terminated, self._ended, is_first)

    def close(self) -> None:
        """Close the environments and end their processes; again has no effect."""
        if self._closed:
            return
        self._closed = True
        if isinstance(self._envs, AsyncVectorEnv) and not _all_well(self._envs):
            _abandon(self._envs)
        else:
            self._envs.close()

    def __enter__(self) -> VectorDoor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _reply(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call gymnasium's vector environment; name the environment whose process is gone."""
        try:
            return call(*arguments)
        except (EOFError, ConnectionError) as error:
            if not isinstance(self._envs, AsyncVectorEnv):
                raise
            dead = []
            for number, process in enumerate(self._envs.processes):
                process.join(timeout=1.0)
                if not process.is_alive():
                    dead.append(f"environment {self._first_index + number} (exit code {process.exitcode})")
            raise RuntimeError(
                f"{self.task}: the process of {', '.join(dead) or 'an environment'} ended at step "
                f"{self._steps} since the last reset(). A negative exit code is the signal that killed it "
                "(-9 is often a lack of memory). Use fewer environments, or mode 'sync' to see where it "
                "fails."
            ) from error


class _Quiet:
    """Build an environment in a worker process that leaves Ctrl-C to its parent."""

    def __init__(self, builder: Callable[[], gymnasium.Env]) -> None:
        self._builder = builder

    def __call__(self) -> gymnasium.Env:
        if multiprocessing.current_process().daemon:  # not for the one that gymnasium builds in the parent
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return self._builder()


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


def _all_well(envs: AsyncVectorEnv) -> bool:
    """Whether every worker lives and none owes an answer, so that an orderly close cannot wait for ever."""
    return (
        envs._state.value == "default"
        and all(pipe is not None and not pipe.closed for pipe in envs.parent_pipes)
        and all(process.is_alive() for process in envs.processes)
    )


def _abandon(envs: AsyncVectorEnv) -> None:
    """End worker processes without talking to them."""
    for process in envs.processes:
        process.terminate()
    for process in envs.processes:
        process.join(timeout=5.0)
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in envs.parent_pipes:
        if pipe is not None:
            pipe.close()
    envs.closed = True

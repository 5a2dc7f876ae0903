"""Episodes that can be begun anew and gone back into: their seeds, and what was done in them so far."""

from __future__ import annotations

import warnings
import zlib
from typing import Any

import gymnasium
import numpy as np

from envs import guard

LONGEST = 50_000
"""Actions of an episode that are remembered; a longer episode cannot be resumed."""
NO_CHECKSUM = -1
"""A checksum that no observations have: a CRC-32 is not negative."""


def episode_seed(seed: int, index: int, episode: int) -> int:
    """Return the seed of one episode, below 2**31: the same for the same three numbers, unrelated otherwise.

    Args:
        seed: the run's seed, not negative.
        index: the environment's number, not negative.
        episode: how many episodes this environment began before.
    """
    return int(np.random.SeedSequence([seed, index, episode]).generate_state(1)[0]) >> 1


class SeedEpisodes(gymnasium.Wrapper):
    """Seed every episode from (seed, index, episode): each can be repeated without the ones before it.

    `next_episode` is the number of the episode that the next `reset` begins. An explicit `reset(seed=...)`
    replaces the derived seed for that one episode.

    `next_actions` are taken at once by the next `reset`, which then returns what the last of them showed: an
    environment that its seed and actions determine is then back where `history` was read. If they end the
    episode, the next step begins the following one and ignores its action. An exception from one of them
    becomes a warning, since they were taken before: the environment then differs, as `checksum` says.

    What the environment may do to its process is in `envs.guard`. A `reset` also seeds the generators that
    all code in the process shares, for those environments which draw from these.

    Args:
        env: an environment with a flat observation, `{name: array}`.
        seed: the run's seed, not negative.
        index: the environment's number in the run, not negative.

    Attributes:
        patience: seconds that `close` may take; the environment is then left as it is.

    Raises:
        EnvironmentFailure: the environment raised, whatever it was, in `reset` or `step`.
    """

    patience = guard.PATIENCE

    def __init__(self, env: gymnasium.Env, seed: int, index: int) -> None:
        super().__init__(env)
        self._seed, self._index = seed, index
        self.next_episode = 0
        self.next_actions: list[Any] = []
        self._actions: list[np.ndarray] = []
        self._checksum = 0
        self._replayed_to_the_end = False
        self._closed = False
        self._contained = guard.Contained(f"Environment {index}")

    @property
    def history(self) -> dict[str, Any]:
        """What brings the environment back to where it is, as JSON-compatible data.

        Number of the `episode`, `actions` taken in it, `checksum` of all the observations and rewards. After
        more than `LONGEST` steps there are no actions, and a checksum that no environment has.
        """
        known = len(self._actions) <= LONGEST
        return {
            "episode": self.next_episode - 1,
            "actions": [action.tolist() for action in self._actions] if known else [],
            "checksum": self._checksum if known else NO_CHECKSUM,
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode with its own seed."""
        if seed is None:
            seed = episode_seed(self._seed, self._index, self.next_episode)
        self.next_episode += 1
        again, self.next_actions = self.next_actions, []
        self._actions, self._checksum, self._replayed_to_the_end = [], 0, False
        guard.seed_globals(seed)
        try:
            with self._contained:
                observation, info = self.env.reset(seed=seed, options=options)
        except BaseException as error:
            if not guard.is_its_own(error):
                raise
            raise self._failure(error, f"reset(seed={seed})") from error
        self._remember(observation, 0.0)
        for entries in again:
            # [()]: a Discrete action is a scalar, as a vector of environments hands it out, not an array
            action = np.array(entries, self.action_space.dtype)[()]
            try:
                observation, _, terminated, truncated, info = self.step(action)
            except guard.EnvironmentFailure as failure:
                warnings.warn(
                    f"An action that was taken before raised when it was taken again, so the episode cannot "
                    f"be gone on with. {failure}",
                    stacklevel=2,
                )
                self._checksum = NO_CHECKSUM
                break
            if terminated or truncated:
                self._replayed_to_the_end = True
                break
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step."""
        if self._replayed_to_the_end:
            observation, info = self.reset()
            return observation, 0.0, False, False, info
        if len(self._actions) <= LONGEST:
            self._actions.append(np.array(action))
        try:
            reply = self.env.step(action)
        except BaseException as error:
            if not guard.is_its_own(error):
                raise
            raise self._failure(error, f"step({action!r})") from error
        self._remember(reply[0], float(reply[1]))
        return reply

    def render(self) -> Any:
        """Draw; in mode 'rgb_array' what is drawn is uint8 `[H, W, 3]`, or it is a failure."""
        try:
            picture = self.env.render()
            if self.render_mode == "rgb_array":
                _check_picture(picture)
        except Exception as error:
            raise self._failure(error, "render()") from error
        return picture

    def _remember(self, observation: dict[str, np.ndarray], reward: float) -> None:
        for leaf in observation.values():
            self._checksum = zlib.crc32(leaf.tobytes(), self._checksum)
        self._checksum = zlib.crc32(np.float64(reward).tobytes(), self._checksum)

    def close(self) -> None:
        """Close the environment, once; it can neither raise nor take longer than `patience`."""
        if not self._closed:
            self._closed = True
            guard.close(self.env.close, f"Environment {self._index}", self.patience)

    def _failure(self, error: BaseException, call: str) -> guard.EnvironmentFailure:
        episode, step = self.next_episode - 1, len(self._actions)
        at = "after more steps than are counted" if step > LONGEST else f"step {step}"
        return guard.EnvironmentFailure(
            f"environment {self._index} {guard.did(error)}\nin {call}, episode {episode}, {at}, run seed "
            f"{self._seed}: {self.env}"
        )


def _check_picture(picture: Any) -> None:
    array = isinstance(picture, np.ndarray)
    if not (array and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3):
        got = f"{picture.dtype} {picture.shape}" if array else repr(picture)
        raise ValueError(f"mode 'rgb_array' must return uint8 of shape (H, W, 3), got {got}")

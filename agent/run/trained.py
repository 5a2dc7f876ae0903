"""A trained agent in its user's hands: raw observations in, the environment's own actions out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

import configs
import envs
from agent.agent import Agent, Carry
from agent.run import machine
from agent.run.saved import SavedRun
from worldmodels.latent import MODE, Noise


class Imagined(NamedTuple):
    """What a world model foresees of H steps, `[H, ...]`, or `[N, H, ...]` for a batch.

    Attributes:
        observation: what may be seen on average, by leaf (nested names joined by '.', a bare one 'image' or
            'vector'): images in [0, 1] `[..., H, W, C]`, flat vectors in the environment's units `[..., d]`,
            and for Discrete and MultiDiscrete the probability of each value, from the space's start on.
        reward: expected.
        continues: the probability that the episode goes on there, if it did up to there.
    """

    observation: dict[str, np.ndarray]
    reward: np.ndarray
    continues: np.ndarray


class TrainedAgent:
    """The agent of a run, to act and to foresee with: `from agent import Agent`.

    Attributes:
        observation_space: of the environment that it was trained in.
        action_space: of the same.
        config: the run's configuration.
        step: of the checkpoint.
        learner: world model, actor and critic, behind the conversions.
        interface: these conversions.

    A step is `interface.observations.flat` (numpy), `learner.step` (tensors), `learner.codec.decode` and
    `interface.actions.raw` (numpy). The process's random generators are left as they are.
    """

    def __init__(self, learner: Agent, step: int, interface: envs.Interface, config: configs.Config) -> None:
        self.learner, self.interface, self.config, self.step = learner, interface, config, step
        self.observation_space = interface.observations.given
        self.action_space = interface.actions.given
        self._calls = 0

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", step: int | None = None, best: bool = False
    ) -> TrainedAgent:
        """The agent of a run's newest valid checkpoint, or of another one.

        No environment is built, but for a run of earlier code, which has no spaces.json.

        Args:
            path: the run's folder.
            device: auto (a GPU where there is one), cpu or cuda.
            step: of an older checkpoint that is still there.
            best: the checkpoint whose evaluation had the highest return.

        Raises:
            ValueError: there is no such run or device, the run has no such checkpoint that can be loaded, or
                was fitted to episodes on disk and cannot act.
        """
        run = SavedRun.opened(path, device)
        run.check_acts()
        with _own_randomness(machine.choose_device(run.config.device)):
            return cls(*run.agent(step=step, best=best), run.interface, run.config)

    def make_env(self, render: bool = False) -> gymnasium.Env:
        """The environment that the agent was trained in, as `predict` takes it; `render`: see `envs.make`."""
        return envs.make_raw(self.config.task, render)

    def initial_state(self, batch_size: int = 1) -> Carry:
        """What the agent remembers before the first step of each of `batch_size` episodes."""
        return self.learner.initial(batch_size)

    def predict(
        self,
        observation: Any,
        state: Carry | None = None,
        episode_start: bool | np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Carry]:
        """The action at an observation, or at each of a batch, and what to remember of it.

        Args:
            observation: as the environment gives it; or N of them, as gymnasium's vector environments do:
                the leaves have a leading axis.
            state: of the call before; None where the episodes begin.
            episode_start: where this is the first observation of an episode, of which the state knows
                nothing: one bool, or `[N]`.
            deterministic: take the most probable latent and action, as evaluation does; else they are drawn.
                What is drawn depends on the run's seed and the number of the call alone.

        Returns:
            an action of `action_space`, or N of them, and the state for the next call.

        Raises:
            ValueError: the observation does not fit the space, with the leaf, what was expected and given; it
                is not finite; or state or episode_start are of another number.
        """
        count = self.interface.observations.count(observation)
        flat = self.interface.observations.flat(observation, count)
        rows = 1 if count is None else count
        state = self.initial_state(rows) if state is None else state
        if len(state.action) != rows:
            raise ValueError(f"the state is of {len(state.action)} observations, got {rows}.")
        first = np.asarray(False if episode_start is None else episode_start, bool)
        if first.shape not in ((), (1,), (rows,)):
            raise ValueError(f"episode_start must be one bool or of shape ({rows},), got {first.shape}.")
        for name, leaf in flat.items():
            if leaf.dtype == np.float32 and not np.isfinite(leaf).all():
                raise ValueError(f"Observation leaf {name!r} must be finite in float32, got {leaf}.")
        seen = self.learner.to_device(flat if count is not None else {k: v[None] for k, v in flat.items()})
        start = torch.as_tensor(np.broadcast_to(first, rows).copy(), device=self.learner.device)
        with self._drawing():
            state = self.learner.step(state, seen, start, deterministic)
        actions = [self.interface.actions.raw(action) for action in self.learner.codec.decode(state.action)]
        return actions[0] if count is None else np.stack(actions), state

    @torch.no_grad()
    def imagine(self, state: Carry, actions: Any, deterministic: bool = True) -> Imagined:
        """What the world model foresees of actions, the first in place of the one that was predicted.

        Args:
            state: that `predict` returned, of one observation or of N.
            actions: of `action_space`, `[H, ...]`, or `[N, H, ...]` for each row of the state.
            deterministic: as in `predict`.

        Raises:
            ValueError: the actions are not of the space, or of another number than the state.
        """
        plain = torch.as_tensor(self.interface.actions.plain(actions), device=self.learner.device)
        learner, model, shape = self.learner, self.learner.model, self.learner.codec.shape
        single = plain.dim() == len(shape) + 1
        vectors = learner.codec.encode(plain[None] if single else plain)
        if vectors.dim() != 3 or len(vectors) != len(state.action) or not vectors.shape[1]:
            raise ValueError(
                f"actions must be of shape [H, ...], or [N, H, ...] with the state's N, {len(state.action)}, "
                f"and H at least 1; got {np.shape(actions)}."
            )
        noise: Noise = MODE if deterministic else None
        recurrent, features, policies = state.state, [], []
        with self._drawing(), learner.autocast():
            for action in vectors.unbind(1):
                recurrent, feature = learner.backbone.imagine_step(recurrent, action, noise)
                features.append(feature)
                policies.append(learner.backbone.policy_input(recurrent))
            shown = model.decoder.observations(torch.stack(features, 1))
            reward, alive = model.outcomes(torch.stack(policies, 1), vectors)
            outcomes = model.reward.mean(reward), model.continues.mean(alive)

        def array(value: torch.Tensor) -> np.ndarray:
            return (value[0] if single else value).float().cpu().numpy()

        return Imagined({name: array(value) for name, value in shown.items()}, *map(array, outcomes))

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Within, what is drawn depends on the number of the call; torch's generators are put back."""
        with _own_randomness(self.learner.device):
            self.learner.seed_torch("predict", self._calls)
            self._calls += 1
            yield


def _own_randomness(device: torch.device) -> contextlib.AbstractContextManager[None]:
    return torch.random.fork_rng([device] if device.type == "cuda" else [])

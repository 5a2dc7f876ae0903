"""What an agent's world model foresees of a replay batch, and what its policy sees: for logs and studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from agent.agent import Agent
from agent.run import pictures
from agent.run.foresight import in_unit
from agent.run.pictures import PictureOf
from agent.run.video import SIDE
from worldmodels import State
from worldmodels.encoder_decoder import Batch, observations

FPS = 5.0
"""Steps a second in the video of a prediction."""


@dataclass
class OpenLoop:
    """A prediction of what a replay batch shows after a context, from actions and episode beginnings alone.

    Attributes:
        true, predicted: observations by key, `[B, T, ...]`, images in [0, 1]; the first `context` predictions
            are reconstructions.
        kl: `[B, T]` nats, filtering the whole window.
        age: `[B, T]`, see `episode_age`.
        context: steps observed.
    """

    true: dict[str, np.ndarray]
    predicted: dict[str, np.ndarray]
    kl: np.ndarray
    age: np.ndarray
    context: int

    def kl_by_step(self) -> dict[int, float]:
        """Mean KL by steps since the episode began, over the episodes that begin in the window."""
        return {int(a): float(self.kl[self.age == a].mean()) for a in np.unique(self.age) if a >= 0}

    def errors(self) -> dict[str, float]:
        """Mean squared error of what was predicted after the context, by observation."""
        return {
            key: float(np.square(self.predicted[key] - true)[:, self.context :].mean())
            for key, true in self.true.items()
        }

    def metrics(self) -> dict[str, float]:
        """The KL at 0, 1, 2, 4, 8, ... steps since the episode began."""
        by_step = self.kl_by_step()
        return {f"kl_by_step/{age:04d}": kl for age, kl in by_step.items() if age & (age - 1) == 0}

    def seen(self, picture_of: PictureOf | None) -> OpenLoop:
        """The same with one observation, `view`, the pictures of all; without a `picture_of` as it is."""
        if picture_of is None:
            return self

        def view(shown: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            rows = ({key: value[row] for key, value in shown.items()} for row in range(len(self.kl)))
            return {"view": np.stack([pictures.views(row, picture_of) for row in rows])}

        return replace(self, true=view(self.true), predicted=view(self.predicted))

    def figures(self, rows: int) -> dict[str, Figure]:
        """The predictions of the first `rows` rows, and the KL by step where an episode begins."""
        drawn = {
            f"open_loop/{key}/{row}": pictures.open_loop(
                true[row], self.predicted[key][row], self.context, name=key
            )
            for key, true in self.true.items()
            for row in range(min(rows, len(true)))
        }
        by_step = self.kl_by_step()
        return drawn | ({"kl_by_step": pictures.kl_by_step(by_step)} if by_step else {})

    def frames(self, rows: int, side: int = SIDE) -> Iterator[np.ndarray] | None:
        """The frames of a video of the images predicted in the first `rows` rows; None without images.

        Args:
            rows: how many.
            side: pixels up to which images are enlarged.
        """
        images = [(true, self.predicted[key]) for key, true in self.true.items() if true.ndim == 5]
        pairs = [(true[row], seen[row]) for true, seen in images for row in range(min(rows, len(true)))]
        return pictures.open_loop_frames(pairs, self.context, side) if pairs else None


@torch.no_grad()
def open_loop(agent: Agent, batch: Mapping[str, np.ndarray], context: int) -> OpenLoop:
    """Predict what a replay batch shows after `context` steps."""
    obs, start, embed, action, is_first = _filtering(agent, batch)
    backbone = agent.backbone
    full = backbone.observe(start, embed, action, is_first)
    seen = backbone.observe(start, embed[:, :context], action[:, :context], is_first[:, :context])
    _, imagined = backbone.imagine(seen.last, action[:, context:], is_first[:, context:])
    predicted = agent.model.decoder.observations(torch.cat([seen.features, imagined], 1))
    return OpenLoop(
        true={key: in_unit(value).cpu().numpy() for key, value in obs.items()},
        predicted={key: value.cpu().numpy() for key, value in predicted.items()},
        kl=backbone.kl_losses(full)[0].cpu().numpy(),
        age=episode_age(batch["is_first"]),
        context=context,
    )


@torch.no_grad()
def policy_inputs(agent: Agent, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """What actor and heads see at each step of a replay batch, filtering its windows, `[B, T, P]`."""
    _, start, embed, action, is_first = _filtering(agent, batch)
    return agent.backbone.observe(start, embed, action, is_first).policy.float().cpu().numpy()


def memory_times(agent: Agent) -> list[np.ndarray]:
    """For each layer, the steps after which its states have decayed to 1/e."""
    return [times.detach().cpu().numpy() for times in agent.backbone.memory_times()]


def episode_age(is_first: np.ndarray) -> np.ndarray:
    """Steps since the episode began `[B, T]`, -1 where it began before the window."""
    steps = np.arange(is_first.shape[1])
    begin = np.maximum.accumulate(np.where(is_first, steps, -1), axis=1)
    return np.where(begin >= 0, steps - begin, -1)


def _filtering(agent: Agent, batch: Mapping[str, np.ndarray]) -> tuple[Batch, State, Tensor, Tensor, Tensor]:
    """Observations of a replay batch, and what `observe` takes: start, embed, action, is_first."""
    agent.seed_torch("report", agent.updates)
    data = agent.encoded(batch)
    obs = observations(data)
    return obs, agent.start(data), agent.model.encoder(obs), data["action"], data["is_first"]

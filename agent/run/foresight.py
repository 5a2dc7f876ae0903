"""What a world model foresees of whole episodes: a context is observed, the query imagined from actions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from agent.agent import Agent
from agent.run import pictures
from agent.run.pictures import PictureOf
from replay.rows import Rows
from worldmodels import State
from worldmodels.encoder_decoder import Batch, Decoder, observations
from worldmodels.latent import MODE, Noise

ROWS = 32  # episodes that are foreseen side by side
Sequences = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What an observation was, reconstructed, and imagined after the context, each `[T, ...]`."""
DOORS = "probe/doors"  # of episodes: which of the H x W tiles of a view are doors, `[T, H, W]` bool
RIGHT = 0.5  # a predicted reward above it says that there is one, as in the paper's tasks


@dataclass
class Foresight:
    """What became of N episodes of up to T frames. Errors are those of `errors`, by observation.

    Attributes:
        context: frames observed; the others are the query.
        there: `[N, T]` bool, the frames that episodes have.
        reconstructed: `[N, T]` errors, of decoding a frame after observing it.
        imagined: `[N, T]` errors, of decoding a frame of the query that was imagined.
        reward: `[N]`, of the episodes' last frames.
        inferred, foretold: `[N]`, that reward as predicted after observing, and after imagining.
        kl: `[N, T]` nats, of posterior and prior, observing everything.
        doors: where the episodes say what are doors, `count` of them in view, and `tile_errors` added over
            these, `recon_error` and `gen_error`; all `[N, T]`.
    """

    context: int
    there: np.ndarray
    reconstructed: dict[str, np.ndarray]
    imagined: dict[str, np.ndarray]
    reward: np.ndarray
    inferred: np.ndarray
    foretold: np.ndarray
    kl: np.ndarray
    doors: dict[str, np.ndarray] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The means over episodes and the frames of the query, errors added over the observations.

        `recon_error`, `gen_error`, `gen_error_by_step` (a number for each frame of the query), `errors` (by
        observation); `reward_accuracy_inferred` and `reward_accuracy_imagined`, whether the reward of an
        episode's last frame is above one half, None where all or none are; `kl_by_step`, of all frames;
        `context`, `episodes`. With doors, of a door in view in a frame of the query: `door_recon_error` and
        `door_gen_error`, and how many there were, `doors`.
        """
        query = self.there & (np.arange(self.there.shape[1]) >= self.context)
        kinds = {"recon": self.reconstructed, "gen": self.imagined}
        errors = {
            key: {f"{kind}_error": _mean(found[key], query) for kind, found in kinds.items()}
            for key in self.reconstructed
        }
        total = np.sum(list(self.imagined.values()), 0)
        by_step = [_mean(total[:, t], query[:, t]) for t in range(self.context, query.shape[1])]
        true = self.reward > RIGHT
        accuracy: dict[str, float | None] = {
            name: float(np.mean((value > RIGHT) == true)) if 0 < true.mean() < 1 else None
            for name, value in (("inferred", self.inferred), ("imagined", self.foretold))
        }
        return {
            "recon_error": sum(each["recon_error"] for each in errors.values()),
            "gen_error": sum(each["gen_error"] for each in errors.values()),
            "gen_error_by_step": by_step,
            "errors": errors,
            **{f"reward_accuracy_{name}": value for name, value in accuracy.items()},
            "kl_by_step": [_mean(self.kl[:, t], self.there[:, t]) for t in range(self.kl.shape[1])],
            "context": self.context,
            "episodes": len(self.reward),
        } | self._at_doors(query)

    def _at_doors(self, query: np.ndarray) -> dict[str, Any]:
        if not self.doors or not self.doors["count"][query].any():
            return {}
        seen = {name: values[query].sum() for name, values in self.doors.items()}
        found = {f"door_{name}": float(seen[name] / seen["count"]) for name in ("recon_error", "gen_error")}
        return found | {"doors": int(seen["count"])}


def foresee(agent: Agent, episodes: Iterable[Rows], context: int) -> Foresight:
    """Foresee episodes of `replay.episodes.load`, at least one, each longer than the context.

    Latents are the most probable ones, or sampled where the agent's configuration has it so.
    """
    waiting = iter(episodes)
    parts = []
    while taken := list(islice(waiting, ROWS)):  # one batch of them in memory at a time
        parts.append(_foresee(agent, stacked(taken), context))
    longest = max(part.there.shape[1] for part in parts)

    def joined(name: str, key: str = "") -> np.ndarray:
        found = [getattr(part, name)[key] if key else getattr(part, name) for part in parts]
        if found[0].ndim == 2:
            found = [np.pad(each, ((0, 0), (0, longest - each.shape[1]))) for each in found]
        return np.concatenate(found)

    def by_key(name: str) -> dict[str, np.ndarray]:
        return {key: joined(name, key) for key in getattr(parts[0], name)}

    return Foresight(
        context=context,
        there=joined("there"),
        reconstructed=by_key("reconstructed"),
        imagined=by_key("imagined"),
        doors=by_key("doors"),
        **{name: joined(name) for name in ("reward", "inferred", "foretold", "kl")},
    )


def errors(decoder: Decoder, shown: Batch, obs: Batch) -> Batch:
    """By observation, how far what a decoder's `observations` show is from the truth, `[...]`.

    The squared error summed over a picture in [0, 1], or over a vector; of one-hot codes, how many are wrong.
    """
    found: Batch = {}
    for key, value in shown.items():
        true, sizes = obs[key], decoder.classes.get(key)
        if sizes is None:
            found[key] = (value - true.float() / 255).square().sum((-3, -2, -1))
        elif sizes:
            found[key] = _wrong(value, true, sizes).sum(-1)
        else:
            found[key] = (value - true).square().sum(-1)
    return found


def tile_errors(decoder: Decoder, shown: Batch, obs: Batch, tiles: Tensor) -> Tensor:
    """The errors of frames at some of the H x W tiles of a view, `[N, H, W]` bool, added over these: `[N]`.

    The squared error summed over a tile's pixels in [0, 1]; where there is a one-hot code for each tile, how
    many are wrong. What else is observed has no tiles.
    """
    height, width = tiles.shape[1:]
    total = tiles.new_zeros(len(tiles), dtype=torch.float32)
    for key, value in shown.items():
        true, sizes = obs[key], decoder.classes.get(key)
        if sizes is None and not (value.shape[1] % height or value.shape[2] % width):
            off = (value - true.float() / 255).square().sum(-1)
            at = off.unflatten(2, (width, -1)).unflatten(1, (height, -1)).sum((2, 4))
        elif sizes and len(sizes) == height * width:
            at = _wrong(value, true, sizes).unflatten(1, (height, width))
        else:
            continue
        total = total + (at * tiles).sum((1, 2))
    return total


def _wrong(shown: Tensor, true: Tensor, sizes: Sequence[int]) -> Tensor:
    """Of one-hot codes side by side, `[..., d]`, 1 for each that is wrong, else 0: `[..., codes]`."""
    codes = zip(shown.split(sizes, -1), true.split(sizes, -1), strict=True)
    return torch.stack([told.argmax(-1) != code.argmax(-1) for told, code in codes], -1).float()


def strips(drawn: Mapping[str, Sequences], context: int) -> dict[str, Figure]:
    """Draw what `sequences` returned: true, reconstructed, imagined after the context, and its error."""
    return {
        key: pictures.open_loop(true, imagined, context, reconstructed, key)
        for key, (true, reconstructed, imagined) in drawn.items()
    }


@torch.no_grad()
def sequences(
    agent: Agent, episode: Rows, context: int, picture_of: PictureOf | None = None
) -> dict[str, Sequences]:
    """An episode as a model sees it; vectors, and pictures in [0, 1].

    By observation; or, with a `picture_of` all the observations of a frame, as the one named `view`.
    """
    data = encoded(agent, {key: value[None] for key, value in episode.items()})
    frames = list(steps(agent, data, context))
    decode = agent.model.decoder.observations
    kinds = (
        {key: in_unit(value) for key, value in observations(data).items()},
        decode(torch.stack([step.feature for step in frames], 1)),
        decode(torch.stack([step.dreamed for step in frames], 1)),
    )
    drawn = [{key: value[0].float().cpu().numpy() for key, value in kind.items()} for kind in kinds]
    if picture_of is not None:
        drawn = [{"view": pictures.views(kind, picture_of)} for kind in drawn]
    return {key: (drawn[0][key], drawn[1][key], drawn[2][key]) for key in drawn[0]}


def in_unit(value: Tensor) -> Tensor:
    """Pictures in [0, 1]; vectors as they are."""
    return value.float() / 255 if value.dtype == torch.uint8 else value


class Step(NamedTuple):
    """A frame observed, and the same imagined; in the context, where nothing is imagined, they are the same.

    Attributes:
        state, feature: observed, `[N, ...]` and `[N, F]`.
        dream, dreamed: imagined.
    """

    state: State
    feature: Tensor
    dream: State
    dreamed: Tensor


def steps(agent: Agent, data: Batch, context: int) -> Iterator[Step]:
    """The frames of a batch `[N, T, ...]` on the device, one after the other."""
    agent.seed_torch("foresee")
    obs, action, first = observations(data), data["action"], data["is_first"]
    noise: Noise = MODE if agent.deterministic_eval else None
    backbone = agent.backbone
    state = backbone.initial(len(first))
    dream: State = {}
    for t in range(first.shape[1]):
        with agent.autocast():
            if t == context:  # imagining may overwrite the states that it starts from
                begun = {key: leaf.clone() for key, leaf in state.items()}
                dream = backbone.prepare_imagination(begun, first.shape[1] - context)
            embed = agent.model.encoder({key: value[:, t] for key, value in obs.items()})
            state, feature = backbone.observe_step(state, embed, action[:, t], first[:, t], noise)
            dreamed = feature
            if t >= context:
                dream, dreamed = backbone.imagine_step(dream, action[:, t], noise)
        yield Step(state, feature, dream if t >= context else state, dreamed)


@torch.no_grad()
def _foresee(agent: Agent, batch: Rows, context: int) -> Foresight:
    """The same of episodes `[N, T, ...]`, `there` `[N, T]` among them."""
    there, doors = batch.pop("there"), batch.get(DOORS)
    tiles = None if doors is None else torch.as_tensor(doors, device=agent.device)
    data = encoded(agent, batch)
    obs, action, first = observations(data), data["action"], data["is_first"]
    decoder, backbone = agent.model.decoder, agent.backbone
    reconstructed: list[Batch] = []
    imagined: list[Batch] = []
    at_doors: defaultdict[str, list[Tensor]] = defaultdict(list)
    inferred, foretold = [], []
    for t, step in enumerate(steps(agent, data, context)):
        with agent.autocast():
            seen = {key: value[:, t] for key, value in obs.items()}
            shown = [decoder.observations(feature) for feature in (step.feature, step.dreamed)]
            reconstructed.append(errors(decoder, shown[0], seen))
            imagined.append(errors(decoder, shown[1], seen))
            if tiles is not None:
                at_doors["count"].append(tiles[:, t].sum((1, 2)))
                for name, each in zip(("recon_error", "gen_error"), shown, strict=True):
                    at_doors[name].append(tile_errors(decoder, each, seen, tiles[:, t]))
            inferred.append(predicted_reward(agent, step.state, action[:, t]))
            foretold.append(predicted_reward(agent, step.dream, action[:, t]))
    with agent.autocast():
        rollout = backbone.observe(backbone.initial(len(first)), agent.model.encoder(obs), action, first)
        kl = backbone.kl_losses(rollout)[0]
    at, last = np.arange(len(there)), there.sum(1) - 1
    return Foresight(
        context=context,
        there=there,
        reconstructed={key: _array([each[key] for each in reconstructed]) for key in obs},
        imagined={key: _array([each[key] for each in imagined]) for key in obs},
        reward=batch["reward"][at, last],
        inferred=_array(inferred)[at, last],
        foretold=_array(foretold)[at, last],
        kl=kl.float().cpu().numpy(),
        doors={name: _array(steps) for name, steps in at_doors.items()},
    )


def encoded(agent: Agent, batch: Rows) -> Batch:
    """Episodes `[N, T, ...]` on the device, without the truths that no model is shown."""
    return agent.encoded({key: value for key, value in batch.items() if not key.startswith("probe/")})


def predicted_reward(agent: Agent, state: State, action: Tensor) -> Tensor:
    """The reward predicted at a state, `[N]`."""
    reward, _ = agent.model.outcomes(agent.backbone.policy_input(state), action)
    return agent.model.reward.mean(reward)


def _array(steps: Sequence[Tensor]) -> np.ndarray:
    """Values `[N]` of each step, `[N, steps]`."""
    return torch.stack(list(steps), 1).float().cpu().numpy()


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].mean()) if where.any() else float("nan")


def stacked(episodes: Sequence[Rows]) -> Rows:
    """Episodes side by side, `[N, T, ...]`; one that is shorter is followed by its last row, not `there`."""
    lengths = [len(episode["reward"]) for episode in episodes]
    longest = max(lengths)
    batch = {
        key: np.stack(
            [
                np.concatenate([episode[key], np.repeat(episode[key][-1:], longest - length, 0)])
                for episode, length in zip(episodes, lengths, strict=True)
            ]
        )
        for key in episodes[0]
    }
    return batch | {"there": np.arange(longest) < np.array(lengths)[:, None]}

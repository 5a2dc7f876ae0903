"""What can be read from a world model's features of a Memory Maze: its walls, and where the objects are.

As in the benchmark's offline probing (Pasukonis, Lillicrap, Hafner, 2022), probes are trained on features
[h, z] of episodes that the world model was fitted to, and no gradient goes back to it; they are judged in the
second half of other episodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent.agent import Agent
from agent.run.foresight import encoded, stacked
from replay.rows import Rows
from studies import readout
from worldmodels.encoder_decoder import observations
from worldmodels.nets import MLP

KEYS = tuple(f"probe/{name}" for name in ("agent_pos", "agent_dir", "maze_layout", "targets_vec"))
"""What episodes have to tell: `[T, 2]` in cells, `[T, 2]`, `[T, size, size]` of 0 and 1, `[T, objects, 2]` in
cells, to the right and ahead of the agent."""
PROBES = ("guess", "linear", "mlp")
EPISODES = 400  # of the train part whose features are kept to train probes, at most
EVERY = 4  # of their frames one in so many
SIDE_BY_SIDE = 8  # episodes
UNITS, LAYERS = 1024, 4  # of the MLPs, as in the benchmark


class Moments(NamedTuple):
    """Frames: features `[n, F]`, pose `[n, 4]`, walls `[n, cells]` of 0 and 1, objects `[n, objects, 2]`."""

    features: Tensor
    pose: Tensor
    walls: Tensor
    objects: Tensor


Reader = Callable[[Moments], tuple[Tensor, Tensor]]
"""Frames -> logits of walls `[n, cells]`, places of objects `[n, objects, 2]`."""


def judge(agent: Agent, fitted: Iterable[Rows], held: Iterable[Rows]) -> dict[str, float]:
    """Train probes on episodes that a model was fitted to, and judge them by others.

    Returns:
        for linear probes, for MLPs, and for a guess from the training frames' means: `walls_accuracy_linear`,
        `_mlp`, `_guess`, the share of cells told right (from features and the agent's pose), and
        `objects_error_...`, the squared distance, in cells, of where an object is to where it was said to be,
        seen by the agent (from features alone).
    """
    data = Moments(*map(torch.cat, zip(*_moments(agent, fitted, EVERY), strict=True)))
    agent.seed_torch("probes")
    probes = guess(data), fit(data, 0), fit(data, LAYERS)
    found: defaultdict[str, list[Tensor]] = defaultdict(list)
    for each in _moments(agent, held, None):
        for name, probe in zip(PROBES, probes, strict=True):
            with torch.no_grad():
                walls, objects = probe(each)
            found[f"walls_accuracy_{name}"].append(((walls > 0) == (each.walls > 0)).float().mean(1))
            found[f"objects_error_{name}"].append(_distance(objects, each))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def guess(data: Moments) -> Reader:
    """What is most common in the frames of `data`, whatever the features."""
    walls, objects = data.walls.mean(0) - 0.5, data.objects.mean(0)
    return lambda other: (walls.expand_as(other.walls), objects.expand_as(other.objects))


def fit(data: Moments, layers: int) -> Reader:
    """Train a probe on frames, its features brought to mean 0 and deviation 1.

    The loss is the cross-entropy of cells and the squared distance of objects; `layers` are hidden ones, 0
    for a linear probe.
    """
    mean, deviation = data.features.mean(0), data.features.std(0).clamp(min=1e-4)
    size = data.features.shape[1]
    of_walls = MLP(size + data.pose.shape[1], UNITS, layers, data.walls.shape[1])
    of_objects = MLP(size, UNITS, layers, data.objects[0].numel())

    def read(other: Moments) -> tuple[Tensor, Tensor]:
        features = (other.features - mean) / deviation
        walls = of_walls(torch.cat([features, other.pose], 1))
        return walls, of_objects(features).view_as(other.objects)

    def loss(*parts: Tensor) -> Tensor:
        batch = Moments(*parts)
        walls, objects = read(batch)
        return F.binary_cross_entropy_with_logits(walls, batch.walls) + _distance(objects, batch).mean()

    readout.train(nn.ModuleList([of_walls, of_objects]).to(data.features.device), data, loss)
    return read


def _distance(objects: Tensor, data: Moments) -> Tensor:
    """Squared distances, the mean over objects, `[n]`."""
    return (objects - data.objects).square().sum(2).mean(1)


@torch.no_grad()
def _moments(agent: Agent, episodes: Iterable[Rows], every: int | None) -> Iterator[Moments]:
    """Of each episode every so manieth frame; None for its second half."""
    agent.seed_torch("moments")
    waiting = iter(episodes)
    while taken := list(islice(waiting, SIDE_BY_SIDE)):
        data = encoded(agent, stacked(taken))
        with agent.autocast():
            embed, start = agent.model.encoder(observations(data)), agent.backbone.initial(len(taken))
            rollout = agent.backbone.observe(start, embed, data["action"], data["is_first"])
        for features, episode in zip(rollout.features.float(), taken, strict=True):
            length = len(episode["reward"])
            chosen = slice(0 if every else length // 2, length, every)
            position, direction, layout, objects = (
                torch.as_tensor(episode[key][chosen], dtype=torch.float32, device=agent.device)
                for key in KEYS
            )
            pose = torch.cat([position / layout.shape[-1], direction], 1)
            yield Moments(features[chosen].clone(), pose, layout.flatten(1), objects)

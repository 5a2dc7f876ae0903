"""Evaluation: episodes on fresh environments, of an agent in training or of a run's newest checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from agent.agent import Agent, derive_seed
from agent.run import seams
from agent.run.film import Film, film
from agent.run.saved import SavedRun
from agent.run.seams import MakeEnvironments, close_quietly
from replay.rows import Rows

EVALUATION_ENVS = 100_000
"""Index of the first evaluation environment: its seeds must not coincide with those of training."""


class EpisodeStatistics:
    """Return and length so far, each `[N]`, of the episodes of N environments, from their rows."""

    def __init__(self, count: int) -> None:
        self.returns = np.zeros(count)
        self.lengths = np.zeros(count, int)

    def add(self, rows: Rows) -> None:
        """Add one row per environment; the first one of an episode begins anew."""
        self.returns = np.where(rows["is_first"], 0, self.returns + rows["reward"])
        self.lengths = np.where(rows["is_first"], 0, self.lengths + 1)


def run_episodes(
    agent: Agent,
    make_envs: MakeEnvironments,
    episodes: int,
    count: int,
    seed: int,
    max_steps: int,
    check: Callable[[], None] = lambda: None,
    film: Film | None = None,
) -> dict[str, Any]:
    """Evaluate on `count` fresh environments, keeping the recurrent state over each whole episode.

    How many episodes each environment plays is fixed beforehand, as evenly as possible, so that short ones
    are not counted more often than long ones. An episode that has not ended after `max_steps` (it may be one
    that never ends) counts with its return so far, and is its environment's last. `check` is called at every
    step, and may raise. Every step is added to the `film`, if there is one.

    Returns:
        `return_mean`, `return_std`, `returns`, `episodes`, `length_mean`, and `cut`: how many were cut.
    """
    count = min(count, episodes)
    left = episodes // count + (np.arange(count) < episodes % count)  # episodes that each has to play yet
    envs = make_envs(count, seed, EVALUATION_ENVS)
    statistics = EpisodeStatistics(count)
    finished: list[list[tuple[float, int]]] = [[] for _ in range(count)]  # return and length
    bar = tqdm(desc="evaluation", unit=" steps", leave=False, delay=5, disable=None)  # on a terminal only
    try:
        rows, carry, steps, cut = envs.reset(), agent.initial(count), 0, 0
        while True:
            playing = left > 0
            statistics.add(rows)
            ended = playing & rows["is_last"]
            endless = playing & ~rows["is_last"] & (statistics.lengths >= max_steps)
            for env in np.flatnonzero(ended | endless):
                finished[env].append((float(statistics.returns[env]), int(statistics.lengths[env])))
            left, cut = np.where(endless, 0, left - ended), cut + int(endless.sum())
            if film:
                film.add(envs, rows, playing, statistics.lengths, statistics.returns)
            if not left.any():
                break
            check()
            carry, action = agent.act(carry, rows, evaluate=True, counter=steps)
            rows, steps = envs.step(action), steps + 1
            bar.update()
    finally:
        bar.close()
        close_quietly("environments of an evaluation", envs.close)
    returns, lengths = zip(*itertools.chain.from_iterable(finished), strict=True)
    return {
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "returns": list(returns),
        "episodes": len(returns),
        "length_mean": float(np.mean(lengths)),
        "cut": cut,
    }


def evaluate(
    run: SavedRun,
    episodes: int,
    seed: int,
    video: Path | None = None,
    step: int | None = None,
    best: bool = False,
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run: the result of `run_episodes`, with the saved `step`.

    Args:
        run: see `SavedRun`.
        episodes: whole ones to play.
        seed: of the environments and of what is sampled.
        video: file to write a video of the episodes to, named in the result.
        step, best: which checkpoint, see `SavedRun.agent`.

    Raises:
        configs.Mistake: there is no checkpoint, or nothing to be seen in the video.
    """
    agent, step = run.agent(step=step, best=best)
    options, seed = run.config.eval, derive_seed(seed, "evaluate")
    sizes = episodes, options.envs, seed, options.max_steps
    if video is None:
        return run_episodes(agent, run.make_envs, *sizes) | {"step": step}
    with film(video, run.config.task) as made:
        result = run_episodes(agent, seams.environments(run.config, render=True), *sizes, film=made)
    return result | {"step": step, "video": str(video)}

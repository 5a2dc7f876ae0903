"""Play episodes with a fixed policy and keep them on disk. The same command again plays what is missing.

A folder of episodes holds a chunk for each (replay/chunk.py) and `dataset.json`: format, task, policy and,
for a trained agent, its checkpoint; seed; and `context_length`, the number of frames of the task's context
where it has one. Where the agent is put elsewhere after the context, `jump` is the first frame there, and the
context includes the true frames that a model is given of it. Environment and policy are seeded for each
episode on its own, so an episode is the same whichever process plays it, and whether or not others were
played before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium
import numpy as np
from tqdm import tqdm

import configs
import envs
from configs.command_line import Parser, Work, add_seed, count
from configs.files import read_json
from envs import guard
from envs.episodes import episode_seed
from replay import chunk
from replay.files import publish, writable

if TYPE_CHECKING:
    from agent.run.saved import SavedRun

LONGEST = 100_000  # steps of an episode that may never end
POLICIES = ("scripted", "random")  # the task's own `script()`, and uniform actions

Observation = dict[str, np.ndarray]
Act = Callable[[Observation, bool], Any]
"""(observation, is_first) -> action, or None when there is no more to do."""
Policy = Callable[[gymnasium.Env, int], Act]
"""Begins an episode of an environment, by number."""


def arguments(parser: Parser) -> None:
    """What plays, how much of it, and where it goes."""
    parser.add_argument("--task", metavar="TASK", help="the task [the run's, where the policy is a run]")
    policy = "scripted (the task's own), random, or the folder of a run"
    parser.add_argument("--policy", required=True, metavar="NAME", help=policy)
    parser.add_argument("--episodes", type=count, default=100, metavar="N", help="how many [100]")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the episodes")
    add_seed(parser, "of environments and policy [0]", default=0)
    jobs = "processes, on which the data does not depend [the processor's cores]"
    parser.add_argument("--jobs", type=count, metavar="N", help=jobs)


def prepare(args: argparse.Namespace) -> Work:
    """See `plan`, `check` and `fill`."""
    from agent.run import machine, seams
    from agent.run.saved import SavedRun

    run, task = None, args.task
    if args.policy not in POLICIES:
        if not Path(args.policy).is_dir():
            hint = configs.did_you_mean(args.policy, POLICIES)
            raise ValueError(
                f"unknown policy '{args.policy}'.{hint} Expected scripted, random or the folder of a run."
            )
        run = SavedRun.that_acts(Path(args.policy))
        task = task or run.config.task
    if not task:
        raise ValueError("name the task to play: --task TASK.")
    seams.check_task(task, args.seed)
    planned = plan(task, args.policy, args.seed, run)
    check(args.out, planned)

    def work() -> tuple[dict[str, Any], str]:
        result = fill(args.out, planned, args.episodes, args.jobs or machine.cores())
        got = f"mean return {result['return_mean']:.3g}, {result['length_mean']:.4g} steps"
        return result, f"{args.out}: {result['episodes']} episodes of {task}, {got}"

    return work


def plan(task: str, policy: str, seed: int = 0, run: SavedRun | None = None) -> dict[str, Any]:
    """What a folder of episodes is to hold.

    The policy is one of `POLICIES`, or the folder of `run`, whose newest checkpoint acts as in evaluation.

    Raises:
        ValueError: the task has no script; the run has no checkpoint, or was trained with other observations
            or actions.
    """
    env = envs.make(task, seed)
    has_script, interface = env.has_wrapper_attr("script"), env.get_wrapper_attr("interface")
    context, cues = (
        env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
        for name in ("context_length", "cue_length")
    )
    env.close()
    if policy == "scripted" and not has_script:
        raise ValueError(
            f"task {task!r} has no scripted policy; docs/environments.md says which tasks have one. "
            "Collect with --policy random or with the folder of a run."
        )
    if run is not None:
        run.check_spaces(task, interface)
    return {
        "format": chunk.FORMAT,
        "task": task,
        "policy": policy,
        "checkpoint": run and run.agent()[1],
        "seed": seed,
        "context_length": context + cues if cues else context,
    } | ({"jump": context} if cues else {})


def check(folder: Path, planned: Mapping[str, Any]) -> None:
    """Raise ValueError if a folder cannot hold the episodes of a plan, or holds others."""
    writable(folder, folder=True)
    path = folder / chunk.RECORD
    if not path.exists():
        if chunk.paths(folder):
            raise ValueError(
                f"{folder} holds episodes, but no {chunk.RECORD} that says of what; name another folder."
            )
        return
    held = read_json(path)
    changed = [
        f"{key}: {held.get(key)} there, {planned.get(key)} now"
        for key in sorted(held.keys() | planned.keys())
        if held.get(key) != planned.get(key)
    ]
    if changed:
        raise ValueError(f"{folder} holds other episodes ({', '.join(changed)}); name another folder.")


def fill(folder: Path, planned: Mapping[str, Any], episodes: int, jobs: int) -> dict[str, Any]:
    """Play and write the missing ones of the episodes 0 to `episodes` - 1 of a checked folder, in processes.

    Returns:
        `episodes`, `return_mean`, `return_std`, `length_mean` (steps) over all of them, `played` (by this
        call), and `out`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    publish(folder / chunk.RECORD, json.dumps(planned, indent=1) + "\n", "the record of the episodes")
    wanted = [chunk.path_of(folder, episode) for episode in range(episodes)]
    missing = [episode for episode, path in enumerate(wanted) if not path.exists()]
    seconds = 0.1 if sys.stderr.isatty() else 30  # between updates of the bar: a log keeps every one
    done = episodes - len(missing)
    with tqdm(total=episodes, initial=done, unit="episode", desc=planned["task"], mininterval=seconds) as bar:
        for _ in _played(missing, min(jobs, len(missing)), folder, planned):
            bar.update()
    rewards = [chunk.read(path, ("reward",))["reward"].astype(np.float64) for path in wanted]
    returns = [float(reward.sum()) for reward in rewards]
    return {
        "episodes": episodes,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
        "length_mean": float(np.mean([len(reward) - 1 for reward in rewards])),
        "played": len(missing),
        "out": str(folder),
    }


def play(env: gymnasium.Env, policy: Policy, episode: int) -> dict[str, np.ndarray]:
    """Play one episode of an environment of `envs.make`; its rows as `replay.chunk` expects them.

    Raises:
        configs.Mistake: it does not end, or a number in it is not finite.
    """
    env.set_wrapper_attr("next_episode", episode)
    nothing = np.zeros_like(env.action_space.sample())
    observation, info = env.reset()
    act = policy(env, episode)
    rows: list[dict[str, Any]] = []
    reward: SupportsFloat = 0.0
    terminated = truncated = False
    while True:
        action = None if terminated or truncated else act(observation, not rows)
        rows.append(
            {f"obs/{name}": leaf for name, leaf in observation.items()}
            | {f"probe/{name}": value for name, value in info.get("probe", {}).items()}
            | {
                "action": (nothing if action is None else np.asarray(action, nothing.dtype))[()],
                "reward": np.float32(float(reward)),
                "is_first": not rows,
                "is_last": action is None,
                "is_terminal": terminated,
            }
        )
        for name, value in rows[-1].items():
            if not name.startswith("probe/") and not np.isfinite(value).all():
                raise configs.Mistake(
                    f"after {len(rows) - 1:,} steps of episode {episode} '{name}' is not finite: {value!r}. "
                    f"Nothing of the episode is kept."
                )
        if action is None:
            return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        if len(rows) > LONGEST:
            raise configs.Mistake(
                f"episode {episode} has not ended after {LONGEST:,} steps, and episodes are kept whole: give "
                f"the task a time limit, such as --task NAME:max_episode_steps=1000."
            )
        observation, reward, terminated, truncated, info = env.step(rows[-1]["action"])


def scripted(env: gymnasium.Env, _episode: int) -> Act:
    """Begin the task's own `script()`."""
    script: Iterator[Any] = env.get_wrapper_attr("script")()
    return lambda _observation, _is_first: next(script, None)


def random(env: gymnasium.Env, episode: int, seed: int = 0) -> Act:
    """Begin uniform random actions, seeded by (seed, episode)."""
    env.action_space.seed(episode_seed(seed, 1, episode))  # index 1: the environment has 0
    return lambda _observation, _is_first: env.action_space.sample()


def trained(logdir: str, step: int | None) -> Policy:
    """The checkpoint of a step of a run."""
    import torch

    from agent.run.saved import SavedRun

    agent, _ = SavedRun.of(Path(logdir)).agent(step=step)
    torch.set_num_threads(1)  # the processes share the cores; and results depend on the number of threads

    def begin(_env: gymnasium.Env, episode: int) -> Act:
        carry, step = agent.initial(1), 0

        def act(observation: Observation, is_first: bool) -> Any:
            nonlocal carry, step
            row = {f"obs/{name}": leaf[None] for name, leaf in observation.items()}
            row["is_first"] = np.array([is_first])
            carry, action = agent.act(carry, row, evaluate=True, counter=(episode << 32) + step)
            step += 1
            return action[0]

        return act

    return begin


def _played(episodes: Sequence[int], jobs: int, folder: Path, planned: Mapping[str, Any]) -> Iterator[int]:
    """Play and write episodes, here or in `jobs` processes; the number of each that is done."""
    if jobs <= 1:
        with contextlib.closing(_Player(folder, planned)) as player:
            yield from map(player, episodes)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (folder, planned)) as pool:
        yield from pool.map(_play_in_worker, episodes)


class _Player:
    """An environment and a policy that play numbered episodes into a folder."""

    def __init__(self, folder: Path, planned: Mapping[str, Any]) -> None:
        self.folder, self.task = folder, planned["task"]
        ours: dict[str, Policy] = {"scripted": scripted, "random": partial(random, seed=planned["seed"])}
        # Before the environment: torch that is imported after a GL driver ends the process (in free()).
        self.policy = ours.get(planned["policy"]) or trained(planned["policy"], planned["checkpoint"])
        self.env = envs.make(self.task, planned["seed"])
        self.close = self.env.close

    def __call__(self, episode: int) -> int:
        with guard.Contained(f"An environment of task {self.task!r}"):
            rows = play(self.env, self.policy, episode)
        chunk.write(chunk.path_of(self.folder, episode), rows)
        return episode


_player: _Player | None = None  # of this process, if it is a worker


def _start_worker(folder: Path, planned: Mapping[str, Any]) -> None:
    global _player
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    Finalize(None, guard.end_within, (1.0, 0), exitpriority=0)  # also with threads of an environment's
    _player = _Player(folder, planned)


def _play_in_worker(episode: int) -> int:
    assert _player is not None
    return _player(episode)

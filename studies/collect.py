"""Collect: play episodes with a fixed policy and keep them on disk (`python run.py collect`).

A folder of episodes holds a chunk for each (replay/chunk.py) and `dataset.json`: format, task, policy and,
for a trained agent, its checkpoint; seed; and `context_length`, the number of frames of the task's context
where it has one. Environment and policy are seeded for each episode on its own, so an episode is the same
whichever process plays it, and whether or not others were played before.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, SupportsFloat, cast

import gymnasium
import numpy as np
from tqdm import tqdm

import envs
from envs.wrappers import episode_seed
from replay import chunk

FORMAT = 1
PLAN = "dataset.json"

Observation = dict[str, np.ndarray]
# A policy begins an episode (environment, episode) and then maps (observation, is_first) to an action, or to
# None when it has no more to do.
Policy = Callable[[gymnasium.Env, int], Callable[[Observation, bool], Any]]


def prepare(
    task: str, policy: str, out: str | Path, seed: int = 0, config: Mapping[str, Any] | None = None
) -> None:
    """Check the arguments and record in the folder what it will hold.

    Args:
        task: as in `envs.make`.
        policy: 'scripted' (the task's own `script()`), 'random' (uniform actions), or the folder of a run,
            whose newest checkpoint then acts as it does in evaluation.
        out: the folder; created if it does not exist.
        seed: seed of environments and policy, at least 0.
        config: the configuration of the run, where the policy is one.

    Raises:
        ValueError: the task has no script, the run has no checkpoint or was trained with other observations
            or actions, or the folder holds other episodes. Nothing was created.
    """
    env = envs.make(task, seed)
    try:
        if policy == "scripted" and not env.has_wrapper_attr("script"):
            raise ValueError(
                f"task {task!r} has no scripted policy; docs/environments.md says which tasks have one. "
                "Collect with --policy random or with the folder of a run."
            )
        context = env.get_wrapper_attr("context_length") if env.has_wrapper_attr("context_length") else None
        given = (env.observation_space, env.action_space)
    finally:
        env.close()
    if config is not None:
        trained = envs.make(config["task"])
        known = (trained.observation_space, trained.action_space)
        trained.close()
        if given != known:
            raise ValueError(
                f"the run in {policy} was trained on {config['task']!r}, which has other spaces than "
                f"{task!r}: {known[0]}, {known[1]} there, {given[0]}, {given[1]} here."
            )
    plan = {
        "format": FORMAT,
        "task": task,
        "policy": policy,
        "checkpoint": None if config is None else _checkpoint(policy),
        "seed": seed,
        "context_length": context,
    }
    _keep_plan(Path(out), plan)


def fill(
    task: str,
    policy: str,
    episodes: int,
    out: str | Path,
    seed: int = 0,
    jobs: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Play and write the missing ones of the episodes 0 to `episodes` - 1 of a prepared folder.

    Args:
        task, policy, out, seed, config: as given to `prepare`.
        episodes: how many the folder holds in the end, at least 1.
        jobs: processes, at least 1; by default one per core.

    Returns:
        `episodes`, `return_mean`, `return_std`, `length_mean` (steps) over all of them, `played` (by this
        call), and `out`.
    """
    folder = Path(out)
    wanted = [chunk.path_of(folder, episode) for episode in range(episodes)]
    missing = [episode for episode, path in enumerate(wanted) if not path.exists()]
    arguments = (task, policy, seed, str(folder), None if config is None else _plain(config))
    with tqdm(total=episodes, initial=episodes - len(missing), unit="episode", desc=task) as bar:
        for _ in _played(missing, min(cores() if jobs is None else jobs, len(missing)), arguments):
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
    """Play one episode of an environment of `envs.make`; return its rows as `replay.chunk` expects them."""
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
        if action is None:
            return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        observation, reward, terminated, truncated, info = env.step(rows[-1]["action"])


def scripted(env: gymnasium.Env, _episode: int) -> Callable[[Observation, bool], Any]:
    """Begin the task's own `script()`."""
    script: Iterator[Any] = env.get_wrapper_attr("script")()
    return lambda _observation, _is_first: next(script, None)


def random(env: gymnasium.Env, episode: int, seed: int = 0) -> Callable[[Observation, bool], Any]:
    """Begin uniform random actions, seeded by (seed, episode)."""
    env.action_space.seed(episode_seed(seed, 1, episode))  # index 1: the environment has 0
    return lambda _observation, _is_first: env.action_space.sample()


def _trained(logdir: str, config: Mapping[str, Any], env: gymnasium.Env) -> Policy:
    """Load the newest checkpoint of a run as a policy."""
    import torch

    from agent import checkpoint
    from agent.agent import Agent, choose_device

    torch.set_num_threads(1)  # the processes share the cores; and results depend on the number of threads
    saved = checkpoint.load_newest(logdir, with_replay=False)
    if saved is None:
        raise ValueError(f"no checkpoint in {logdir}/checkpoints.")
    observation_space = cast(gymnasium.spaces.Dict, env.observation_space)  # as `envs.make` promises
    agent = Agent(observation_space, env.action_space, config, choose_device(config["device"]))
    agent.load_state_dict(saved.agent_state)

    def begin(_env: gymnasium.Env, episode: int) -> Callable[[Observation, bool], Any]:
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


def _checkpoint(logdir: str) -> int:
    from agent import checkpoint

    saved = checkpoint.load_newest(logdir, with_replay=False)
    if saved is None:
        raise ValueError(f"no checkpoint in {logdir}/checkpoints; train the run first.")
    return saved.step


def _keep_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Record what the folder holds, or make sure that the record there is the same."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder, or a path where there is nothing yet.")
    path = folder / PLAN
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held != plan:
            changed = ", ".join(
                f"{key}: {held.get(key)} there, {plan.get(key)} now"
                for key in sorted(held.keys() | plan.keys())
                if held.get(key) != plan.get(key)
            )
            raise ValueError(f"{folder} holds other episodes ({changed}); name another folder.")
        return
    if chunk.paths(folder):
        raise ValueError(f"{folder} holds episodes, but no {PLAN} that says of what; name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{PLAN}"
    temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _played(episodes: list[int], jobs: int, arguments: tuple[Any, ...]) -> Iterator[int]:
    """Play and write episodes, here or in `jobs` processes; yield the number of each that is done."""
    if jobs <= 1:
        player = _Player(*arguments)
        try:
            yield from map(player, episodes)
        finally:
            player.close()
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker, (arguments,)) as pool:
        try:
            for done in as_completed([pool.submit(_play_in_worker, episode) for episode in episodes]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Player:
    """An environment and a policy that play numbered episodes into a folder."""

    def __init__(
        self, task: str, policy: str, seed: int, folder: str, config: Mapping[str, Any] | None
    ) -> None:
        self._env = envs.make(task, seed)
        self._folder = folder
        self._policy: Policy
        if policy == "scripted":
            self._policy = scripted
        elif policy == "random":
            self._policy = functools.partial(random, seed=seed)
        else:
            assert config is not None, "a run as policy needs its configuration"
            self._policy = _trained(policy, config, self._env)

    def __call__(self, episode: int) -> int:
        chunk.write(chunk.path_of(self._folder, episode), play(self._env, self._policy, episode))
        return episode

    def close(self) -> None:
        self._env.close()


_player: _Player | None = None  # of this process, if it is a worker


def _start_worker(arguments: tuple[Any, ...]) -> None:
    global _player
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    _player = _Player(*arguments)


def _play_in_worker(episode: int) -> int:
    assert _player is not None
    return _player(episode)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a tree of options into dicts, which can be sent to other processes."""
    return {key: _plain(value) if isinstance(value, Mapping) else value for key, value in config.items()}


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

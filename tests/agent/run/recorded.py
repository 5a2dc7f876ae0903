"""Episodes as others record them: a file of Memory Maze's offline set, a dataset of Minari's."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

SPACES = (
    spaces.Dict({"clock": spaces.Box(0, np.inf, (2,), np.float64), "light": spaces.Discrete(3, start=1)}),
    spaces.Box(np.array([0.0, -2.0], np.float32), np.array([4.0, 2.0], np.float32)),
)


def maze_files(folder: Path, episodes: int = 12, length: int = 6, size: int = 9, **changed: Any) -> Path:
    """Files whose pictures and rewards say which action led to them: action n makes n everywhere."""
    folder.mkdir(parents=True)
    for number in range(episodes):
        action = (np.arange(length) + number) % 6
        pictures = np.broadcast_to(action[:, None, None, None], (length, 8, 8, 3))
        place = np.stack([np.arange(length), np.full(length, number)], 1)
        arrays = {
            "image": pictures.astype(np.uint8),
            "action": np.eye(6, dtype=bool)[action],
            "reward": action.astype(np.float64),
            "maze_layout": np.ones((length, size, size), np.uint8),
            "agent_pos": place.astype(np.float64),
            "agent_dir": np.ones((length, 2)),
            "targets_vec": np.ones((length, 3, 2)),
        }
        np.savez_compressed(folder / f"{number:03d}-run{number}.npz", **arrays | changed)
    return folder


def minari_dataset(name: str = "made/up-v0", episodes: int = 12, length: int = 6, **changed: Any) -> str:
    """A dataset of `length` observations an episode, in which everything says what was done before it."""
    buffers = []
    for number in range(episodes):
        steps = np.arange(length)
        taken = np.stack([np.arange(length - 1), np.full(length - 1, (number % 3) - 1)], 1) % 4.5
        before = np.concatenate([np.zeros((1, 2)), taken])
        ends = steps[1:] == length - 1
        arrays = {
            "observations": {"clock": before, "light": 1 + steps % 3},
            "actions": taken.astype(np.float32),
            "rewards": 10 * taken.sum(1),
            "terminations": ends & (number % 2 == 0),
            "truncations": ends & (number % 2 == 1),
        }
        buffers.append(EpisodeBuffer(id=number, **arrays | changed))
    return _created(name, buffers, *SPACES)


def played(name: str, task: str, episodes: int = 12) -> str:
    """A dataset of an environment's episodes with random actions, as Minari's collector has it."""
    env = gymnasium.make(task)
    env.action_space.seed(0)
    buffers = []
    for seed in range(episodes):
        buffer = EpisodeBuffer(id=seed, observations=[env.reset(seed=seed)[0]], actions=[])
        while not any(buffer.terminations + buffer.truncations):
            action = env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            buffer.observations.append(observation)
            buffer.actions.append(action)
            buffer.rewards.append(float(reward))
            buffer.terminations.append(terminated)
            buffer.truncations.append(truncated)
        arrays = {key: np.array(value) for key, value in vars(buffer).items() if isinstance(value, list)}
        buffers.append(EpisodeBuffer(id=seed, **arrays))
    return _created(name, buffers, env.observation_space, env.action_space)


def _created(name: str, buffers: list[EpisodeBuffer], *given: spaces.Space) -> str:
    names = ("observation_space", "action_space")
    with warnings.catch_warnings():  # that nobody is named as its author
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(name, buffers, **dict(zip(names, given, strict=True)))
    return f"minari:{name}"

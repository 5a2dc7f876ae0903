"""The guess of a task is what actions at random get there."""

import numpy as np
import pytest

import envs


@pytest.mark.parametrize("task", ["repeat_previous:k=4", "memory_chain:n=3", "tmaze:corridor=1,limit=99"])
def test_random_actions_get_it(task: str) -> None:
    env, random, returns = envs.make(task), np.random.default_rng(0), np.zeros(400)
    for number in range(len(returns)):
        env.reset(seed=number)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(random.integers(env.action_space.n))
            returns[number] += reward
            over = terminated or truncated
    assert returns.mean() == pytest.approx(envs.guess(task), abs=0.12)


@pytest.mark.parametrize("task", ["cartpole_masked", "tmaze:max_episode_steps=9"])
def test_it_is_unknown_elsewhere(task: str) -> None:
    assert envs.guess(task) is None

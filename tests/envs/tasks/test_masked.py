import gymnasium
import numpy as np
import pytest

import envs
from envs.tasks.masked import MASKED, masked_id


@pytest.mark.parametrize("name", MASKED)
def test_only_the_positions_are_left(name):
    source, keep = MASKED[name]
    masked, whole = gymnasium.make(masked_id(source)), gymnasium.make(source)
    assert masked.spec.max_episode_steps == whole.spec.max_episode_steps
    assert masked.observation_space.shape == (len(keep),)
    assert masked.action_space == whole.action_space
    np.testing.assert_array_equal(masked.reset(seed=1)[0], whole.reset(seed=1)[0][keep])
    whole.action_space.seed(0)
    for _ in range(5):
        action = whole.action_space.sample()
        theirs, ours = whole.step(action), masked.step(action)
        np.testing.assert_array_equal(ours[0], theirs[0][keep])
        assert ours[1:4] == theirs[1:4]


def test_the_time_limit_is_a_truncation():
    env = gymnasium.make("CartPoleMasked-v0", max_episode_steps=2)
    env.reset(seed=0)
    env.step(0)
    assert env.step(1)[2:4] == (False, True)


def test_optimum():
    assert envs.optimum("cartpole_masked") == 500
    assert envs.optimum("cartpole_masked:max_episode_steps=200") == 200
    assert envs.optimum("pendulum_masked") is None

import numpy as np
import pytest

import envs
from envs.tasks.tmaze import FORWARD, LEFT, RIGHT, TMaze


@pytest.mark.parametrize("turn", [LEFT, RIGHT])
def test_transcript(turn):
    env = TMaze(corridor=2)
    for seed in range(8):
        obs, _ = env.reset(seed=seed)
        cue = obs[0]
        assert cue in (-1, 1)
        np.testing.assert_array_equal(obs, [cue, 1, 0])
        obs, reward, *ends, _ = env.step(turn)  # no turning in the corridor
        np.testing.assert_array_equal(obs, [0, 1, 0])
        assert (reward, ends) == (0, [False, False])
        env.step(FORWARD)
        obs = env.step(FORWARD)[0]
        np.testing.assert_array_equal(obs, [0, 0, 1])
        obs = env.step(FORWARD)[0]  # the wall behind the junction
        np.testing.assert_array_equal(obs, [0, 0, 1])
        obs, reward, *ends, _ = env.step(turn)
        np.testing.assert_array_equal(obs, [0, 0, 0])
        assert reward == (1.0 if (turn == RIGHT) == (cue > 0) else 0.0)
        assert ends == [True, False]


def test_the_limit_truncates():
    env = TMaze(corridor=2)
    env.reset(seed=0)
    steps = [env.step(FORWARD) for _ in range(env.limit)]
    assert env.limit == 12
    assert [step[3] for step in steps] == [False] * 11 + [True]
    assert not any(step[2] for step in steps)


def test_turning_at_the_limit_terminates():
    env = TMaze(corridor=1, limit=2)
    env.reset(seed=0)
    env.step(FORWARD)
    assert env.step(LEFT)[2:4] == (True, False)


def test_optimum_is_reached_in_corridor_plus_one_steps():
    env = TMaze(corridor=30)
    cue = env.reset(seed=5)[0][0]
    rewards = [env.step(FORWARD)[1] for _ in range(30)]
    _, reward, terminated, _, _ = env.step(RIGHT if cue > 0 else LEFT)
    assert terminated
    assert sum(rewards) + reward == envs.optimum("tmaze:corridor=30") == 1.0
    assert envs.optimum("tmaze:corridor=30,max_episode_steps=10") is None


@pytest.mark.parametrize("arguments", [{"corridor": 0}, {"corridor": 1.5}, {"corridor": 5, "limit": 5}])
def test_arguments_are_checked(arguments):
    with pytest.raises(
        ValueError, match=r"TMaze: argument '(corridor|limit)' must be a whole number of at least"
    ):
        TMaze(**arguments)

"""Seeds of episodes, and what is remembered of them; tests/envs/test_vector.py goes back into them."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.episodes import SeedEpisodes, episode_seed
from envs.guard import EnvironmentFailure


class Zeros(gymnasium.Env):
    """Shows zeros without end, and remembers seeds."""

    observation_space = spaces.Dict(vector=spaces.Box(-1, 1, (1,)))
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.seeds = []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return {"vector": np.zeros(1, np.float32)}, {}

    def step(self, action):
        return {"vector": np.zeros(1, np.float32)}, 0.0, False, False, {}


def test_episode_seeds_are_reproducible_and_distinct():
    seeds = [episode_seed(s, i, e) for s in range(5) for i in range(5) for e in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(1, 2, 3) == episode_seed(1, 2, 3)


def test_each_reset_has_its_own_seed():
    inner = Zeros()
    env = SeedEpisodes(inner, seed=7, index=3)
    for _ in range(3):
        env.reset()
    env.reset(seed=11)
    env.reset()
    assert inner.seeds == [*(episode_seed(7, 3, e) for e in range(3)), 11, episode_seed(7, 3, 4)]
    env.next_episode = 1
    env.reset()
    assert inner.seeds[-1] == inner.seeds[1]


@pytest.mark.faults("environment raises")
def test_exceptions_tell_where():
    class Broken(Zeros):
        def step(self, action):
            raise KeyError("inside")

    env = SeedEpisodes(Broken(), seed=7, index=3)
    env.reset()
    says = r"environment 3 raised KeyError: 'inside'\nin step\(1\), episode 0, step 1, run seed 7"
    with pytest.raises(EnvironmentFailure, match=says):
        env.step(1)


def test_a_very_long_episode_cannot_be_taken_up_again(monkeypatch):
    monkeypatch.setattr("envs.episodes.LONGEST", 3)
    env = SeedEpisodes(Zeros(), seed=7, index=3)
    env.reset()
    for step in range(6):
        known = env.history
        assert known["actions"] == ([0] * step if step <= 3 else [])
        assert (known["checksum"] >= 0) == (step <= 3)
        env.step(0)

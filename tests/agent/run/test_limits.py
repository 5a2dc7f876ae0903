"""Rewards and returns that the networks cannot tell apart are said once, with the option that mends it."""

import numpy as np

from agent.run.limits import Limits
from tests.agent.test_agent import make


def test_a_reward_beyond_the_code_is_said_once() -> None:
    agent = make()
    limit = agent.model.reward.largest
    assert np.isclose(limit, 0.01 * 4.85e8, rtol=1e-2)
    limits = Limits(agent)
    limits.see(np.array([0.0, -0.9 * limit]))
    assert limits.passed({}) == []
    limits.see(np.array([1.0, -1.1 * limit]))
    limits.see(np.array([0.0, 0.0]))
    (line,) = limits.passed({})
    assert line.startswith("a reward of 5.34e+06 is beyond") and "raise heads.resolution" in line
    assert limits.passed({}) == []


def test_returns_at_the_end_of_the_code_are_said() -> None:
    agent = make(actor_critic__resolution=1.0)
    limits = Limits(agent)
    assert limits.passed({"train/return": 4e8}) == []
    (line,) = limits.passed({"train/return": -4.7e8})
    assert "a return of 4.7e+08" in line and "raise actor_critic.resolution" in line

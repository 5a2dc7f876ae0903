import numpy as np
import pytest

import envs
from envs.tasks.discounting_chain import DELAYS, DiscountingChain


def play(env, chain):
    env.reset()
    return [env.step(chain)] + [env.step((chain + t) % 5) for t in range(99)]


@pytest.mark.parametrize("chain", range(5))
@pytest.mark.parametrize("delay", DELAYS)
def test_each_chain_pays_once_at_its_delay(chain, delay):
    steps = play(DiscountingChain(delay=delay), chain)
    paid = {t + 1: step[1] for t, step in enumerate(steps) if step[1]}
    assert paid == {DELAYS[chain]: 1.1 if DELAYS[chain] == delay else 1.0}
    assert [step[2] for step in steps] == [False] * 99 + [True]
    assert not any(step[3] for step in steps)
    np.testing.assert_array_equal(
        [step[0] for step in steps], [np.float32([chain, t / 100]) for t in range(1, 101)]
    )


def test_starts_undecided():
    np.testing.assert_array_equal(DiscountingChain().reset()[0], [-1, 0])


@pytest.mark.parametrize("bonus", range(5))
def test_equals_bsuite(bonus):
    oracle_module = pytest.importorskip("bsuite.environments.discounting_chain", exc_type=ImportError)
    oracle, env = oracle_module.DiscountingChain(mapping_seed=bonus), DiscountingChain(delay=DELAYS[bonus])
    actions = np.random.default_rng(bonus)
    for _ in range(5):
        moment, (obs, _) = oracle.reset(), env.reset()
        np.testing.assert_array_equal(moment.observation[0], obs)
        while not moment.last():
            action = int(actions.integers(5))
            moment = oracle.step(action)
            obs, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_array_equal(moment.observation[0], obs)
            assert (moment.reward, moment.last(), False) == (reward, terminated, truncated)


@pytest.mark.parametrize("delay", [0, 2, 101, "10", True, 10.5])
def test_delay_is_checked(delay):
    with pytest.raises(ValueError, match="must be 1, 3, 10, 30 or 100"):
        DiscountingChain(delay=delay)


def test_render():
    env = DiscountingChain(render_mode="rgb_array")
    env.reset()
    first = env.render()
    assert first.shape == (64, 64, 3)
    env.step(3)
    assert (env.render() != first).any()


def test_optimum():
    assert envs.optimum("discounting_chain:delay=30") == pytest.approx(1.1)
    assert sum(step[1] for step in play(DiscountingChain(delay=30), 3)) == pytest.approx(1.1)

import numpy as np
import pytest

import envs
from envs.tasks.memory_chain import MemoryChain


def test_transcript_by_hand():
    env = MemoryChain(n=4)
    obs, info = env.reset(seed=3)
    cue = obs[2]
    assert cue in (-1, 1)
    assert info == {"probe": {"cue": int(cue > 0), "answer": -1}}
    np.testing.assert_array_equal(obs, [1, 0, cue])
    expected = [
        [1, 0, cue],  # bsuite shows t = 0 twice
        [0.75, 0, 0],
        [0.5, 0, 0],
        [0.25, 0, 0],  # t = n - 1: the question (bit 0) is asked; the next action is the answer
        [0, 0, 0],
    ]
    right = int(cue > 0)
    for t, row in enumerate(expected):
        last = t == 4
        obs, reward, terminated, truncated, _ = env.step(right if last else 1 - right)
        np.testing.assert_array_equal(obs, np.float32(row))
        assert (reward, terminated, truncated) == ((1.0, True, False) if last else (0.0, False, False))


def test_the_wrong_answer_costs_one():
    env = MemoryChain(n=1)
    obs, _ = env.reset(seed=0)
    env.step(0)
    assert env.step(int(obs[2] < 0))[1:3] == (-1.0, True)


def test_the_query_names_the_bit():
    env = MemoryChain(n=5, bits=3)
    queries = set()
    for seed in range(20):
        context = env.reset(seed=seed)[0][2:]
        assert set(context) <= {-1, 1}
        for _ in range(5):
            obs = env.step(0)[0]
        query = int(obs[1])
        queries.add(query)
        assert env.step(int(context[query] > 0))[1] == 1.0
    assert queries == {0, 1, 2}


@pytest.mark.parametrize(("n", "bits"), [(1, 1), (2, 1), (7, 1), (5, 3)])
def test_equals_bsuite(n, bits):
    oracle_module = pytest.importorskip("bsuite.environments.memory_chain", exc_type=ImportError)
    oracle, env = oracle_module.MemoryChain(n, bits), MemoryChain(n, bits)
    actions = np.random.default_rng(0)
    for seed in range(10):
        obs, _ = env.reset(seed=seed)
        moment = oracle.reset()
        oracle._context, oracle._query = env._context.copy(), env._query
        np.testing.assert_array_equal(oracle._get_observation()[0] if n else obs, obs)
        while not moment.last():
            action = int(actions.integers(2))
            moment = oracle.step(action)
            obs, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_array_equal(moment.observation[0], obs)
            assert (moment.reward, moment.last()) == (reward, terminated)
            assert not truncated


def test_both_contexts_come_up_and_seeds_repeat():
    env = MemoryChain(n=3)
    cues = [env.reset(seed=seed)[0][2] for seed in range(40)]
    assert 10 < sum(cue > 0 for cue in cues) < 30
    assert cues == [env.reset(seed=seed)[0][2] for seed in range(40)]


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": 2.5}, {"bits": 0}, {"n": True}, {"bits": "x"}])
def test_arguments_are_checked(arguments):
    with pytest.raises(
        ValueError, match=r"MemoryChain: argument '(n|bits)' must be a whole number of at least 1"
    ):
        MemoryChain(**arguments)


def test_optimum_and_default():
    assert envs.optimum("memory_chain") == 1.0
    assert MemoryChain().n == 32

import numpy as np
import pytest

import envs
from envs.suites import popgym
from envs.tasks.repeat_previous import RepeatPrevious


def test_transcript_by_hand():
    """k = 2 asks for the card before the one on show: the rewards of 50 of 51 steps add up to 1."""
    env = RepeatPrevious(k=2, decks=1)
    suit, info = env.reset(seed=3)
    shown, rewards = [suit], []
    assert info == {"probe": {"answer": -1}}
    for t in range(1, 52):
        wrong = t % 7 == 0
        answer = shown[-2] if t >= 2 else 0
        suit, reward, terminated, truncated, _ = env.step((answer + wrong) % 4)
        expected = 0 if t == 1 else -0.02 if wrong else 0.02
        assert reward == pytest.approx(expected)
        assert (terminated, truncated) == (t == 51, False)
        shown.append(suit)
        rewards.append(reward)
    assert sorted(shown) == sorted([0, 1, 2, 3] * 13)
    assert sum(rewards) == pytest.approx(1 - 2 * 0.02 * 7)


def test_the_card_on_show_counts():
    """With k = 1 nothing has to be kept."""
    env = RepeatPrevious(k=1, decks=1)
    suit, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        suit, reward, over, _, _ = env.step(suit)
        total += reward
    assert total == pytest.approx(1)


@pytest.mark.parametrize(("name", "k", "decks"), [("Easy", 4, 1), ("Medium", 32, 2), ("Hard", 64, 3)])
def test_it_is_popgym_s(name: str, k: int, decks: int):
    """Step for step, of the same seed."""
    pytest.importorskip("popgym")
    theirs, ours = popgym.build(f"RepeatPrevious{name}"), RepeatPrevious(k=k, decks=decks)
    actions = np.random.default_rng(0)
    for seed in (5, None):
        assert theirs.reset(seed=seed)[0] == ours.reset(seed=seed)[0]
        over = False
        while not over:
            action = int(actions.integers(4))
            expected, found = theirs.step(action), ours.step(action)
            assert found[0] == expected[0] and found[1] == pytest.approx(expected[1])
            assert found[2:4] == expected[2:4]
            over = found[2]


def test_the_card_asked_for_stands_out():
    env = RepeatPrevious(k=3, decks=1, render_mode="rgb_array")
    env.reset(seed=0)
    assert (env.render()[8] == 24).all()
    env.step(0)
    env.step(0)
    tall = np.flatnonzero((env.render()[8] != 24).any(-1))
    assert tall.tolist() == [0, 1]


@pytest.mark.parametrize("arguments", ["k=0", "k=104", "decks=0", "k=52,decks=1"])
def test_arguments_out_of_range(arguments: str):
    with pytest.raises(ValueError, match="RepeatPrevious"):
        envs.make(f"repeat_previous:{arguments}")

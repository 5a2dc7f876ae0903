import itertools

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.tasks.state_tracking import HOLD, build, names, symmetric


def played(env: gymnasium.Env, seed: int, answer) -> tuple[list[int], list[float]]:
    """Symbols and rewards of an episode; `answer` names an action, given the symbols so far."""
    symbol, _ = env.reset(seed=seed)
    shown, rewards, over = [symbol], [], False
    while not over:
        symbol, reward, over, truncated, _ = env.step(answer(shown))
        assert not truncated
        shown.append(symbol)
        rewards.append(reward)
    return shown, rewards


def after(shown: list[int]) -> int:
    """The permutation of three items that all symbols so far make, applied to items one by one."""
    every = list(itertools.permutations(range(3)))
    items = (0, 1, 2)
    for symbol in shown:
        items = tuple(items[place] for place in every[symbol])
    return every.index(items)


TRUTHS = {
    "parity": lambda shown: sum(shown) % 2,
    "modular:modulus=5": lambda shown: sum(shown) % 5,
    "permutation": after,
    "flip_flop": lambda shown: [symbol for symbol in shown if symbol < 2][-1],
}


@pytest.mark.parametrize("task", TRUTHS)
def test_the_state_that_is_asked_for(task: str) -> None:
    """Right answers return 1, one wrong one of ten costs what it did not earn and its fine."""
    env = envs.make_raw(f"state_tracking:{task}{',' if '=' in task else ':'}length=10")
    states = env.action_space.n
    shown, rewards = played(env, 1, TRUTHS[task])
    assert len(shown) == 11 and rewards == [pytest.approx(0.1)] * 10
    _, rewards = played(env, 1, lambda shown: (TRUTHS[task](shown) + (len(shown) == 7)) % states)
    assert sum(rewards) == pytest.approx(0.9 - 0.1 / (states - 1))


@pytest.mark.parametrize("name", names())
def test_answers_without_memory_return_what_is_said(name: str) -> None:
    """The symbol itself, or 0 where it holds, over 500 episodes; any one answer returns about 0."""
    task = f"state_tracking:{name}:length=8"
    env = envs.make_raw(task)
    states = env.action_space.n
    env.reset(seed=3)
    seen, same = (
        np.mean([sum(played(env, None, answer)[1]) for _ in range(500)])
        for answer in (lambda shown: shown[-1] % states, lambda _: 1)
    )
    assert abs(seen - envs.guess(task)) < 0.06 and abs(same) < 0.06
    assert envs.guess(task) == pytest.approx(1 / 8 + (7 / 8 * (1 - HOLD) if name == "flip_flop" else 0))


def test_a_solution_and_its_picture() -> None:
    env = build("permutation", length=6, render_mode="rgb_array")
    env.reset(seed=0)
    rewards = [env.step(action)[1] for action in env.solution()]
    assert sum(rewards) == pytest.approx(env.optimum)
    picture = env.render()
    assert picture.shape == (64, 28, 3)
    assert (picture[10] != 24).all() and (picture[40, :24] != 24).all() and (picture[40, 24:] == 24).all()


@pytest.mark.filterwarnings("ignore:.*spec")
@pytest.mark.parametrize("name", names())
def test_it_passes_the_checker(name: str) -> None:
    check_env(build(name, render_mode="rgb_array"))


def test_permutations_do_not_commute() -> None:
    table = symmetric(3)
    assert (np.sort(table, 1) == np.arange(6)).all() and (np.sort(table, 0) == np.arange(6)[:, None]).all()
    assert (table != table.T).any()


def test_lengths_share_their_spaces() -> None:
    """So that an agent can be evaluated in longer episodes than it was trained in."""
    short, long = (envs.make(f"state_tracking:permutation:length={n}") for n in (8, 80))
    assert (short.observation_space, short.action_space) == (long.observation_space, long.action_space)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("parity:length=0", "'length' must be a whole number of at least 1"),
        (
            "modular:modulus=1",
            "state_tracking:modular: argument 'modulus' must be a whole number from 2 to 64",
        ),
        ("permutation:items=6", "from 2 to 5, got 6"),
        ("parity:modulus=3", "takes length, render_mode"),
        ("party", "Did you mean 'parity'"),
    ],
)
def test_wrong_arguments_are_named(task: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        envs.make(f"state_tracking:{task}")

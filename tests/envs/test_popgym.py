import numpy as np
import pytest

import envs

pytest.importorskip("popgym")


def play(task, policy, seed):
    env = envs.make(task, seed=seed)
    env.reset()
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(policy(env.unwrapped))
        total += reward
        over = terminated or truncated
    return total


def repeat_previous(env):
    cards = env.deck["player"]
    return int(env.deck.suits_idx[cards[-env.k]]) if len(cards) >= env.k else 0


def repeat_first(env):
    return int(env.card)


def autoencode(env):
    return int(env.deck.suits_idx[env.deck["system"][-1]]) if env.mode.name == "PLAY" else 0


def count_recall(env):
    return int(env.counts[env.query])


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("RepeatPreviousEasy", repeat_previous),
        ("RepeatPreviousMedium", repeat_previous),
        ("RepeatFirstEasy", repeat_first),
        ("AutoencodeEasy", autoencode),
        ("AutoencodeMedium", autoencode),
        ("CountRecallEasy", count_recall),
    ],
)
def test_optimum_is_what_an_all_knowing_policy_gets(name, policy):
    for seed in range(3):
        assert play(f"popgym:{name}", policy, seed) == pytest.approx(1.0)
    assert envs.optimum(f"popgym:{name}") == 1.0


@pytest.mark.parametrize(
    "name",
    ["ConcentrationEasy", "HigherLowerEasy", "BattleshipEasy", "MineSweeperEasy", "PositionOnlyPendulumEasy"],
)
def test_the_rest_steps_through_the_door(name):
    door = envs.make_vector(f"popgym:{name}", 2, seed=0)
    rows = door.reset()
    door.action_space.seed(0)
    for _ in range(30):
        rows = door.step(np.stack([door.action_space.sample() for _ in range(2)]))
    for key, leaf in door.observation_space.spaces.items():
        assert rows[f"obs/{key}"].shape == (2, *leaf.shape)
    assert envs.optimum(f"popgym:{name}") is None
    door.close()


def test_names_and_arguments():
    with pytest.raises(ValueError, match=r"Did you mean 'RepeatPreviousEasy'"):
        envs.check("popgym:RepeatPrevEasy")
    with pytest.raises(ValueError, match="takes no arguments"):
        envs.check("popgym:RepeatFirstEasy:num_decks=2")
    assert envs.make("popgym:RepeatPreviousEasy:k=8").unwrapped.k == 8


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "popgym.envs", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[popgym\]'"):
        envs.check("popgym:RepeatFirstEasy")

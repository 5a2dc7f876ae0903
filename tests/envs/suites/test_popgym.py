import re
from pathlib import Path

import numpy as np
import pytest

import envs
from envs.suites import popgym

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


def documented_ranges():
    """Range of the return of each family, by its name, from the table in docs/environments.md."""
    text = (Path(__file__).parents[3] / "docs" / "environments.md").read_text()
    table = text.split("\n## POPGym\n")[1].split("\n## ")[0]
    ranges = {}
    for families, low, high in re.findall(r"^\| (`[^|]+) \| (\S+) to (\S+)[^|]*\|", table, re.MULTILINE):
        ranges |= dict.fromkeys(re.findall(r"`(\w+)`", families), (float(low), float(high)))
    return ranges


@pytest.mark.parametrize("name", popgym.names())
def test_every_environment_stays_in_its_documented_range(name):
    low, high = documented_ranges()[re.sub("(Easy|Medium|Hard)$", "", name)]
    with envs.make_vector(f"popgym:{name}", 1, seed=0) as door:
        door.action_space.seed(0)
        for _ in range(2):
            rows, total = door.reset(), 0.0
            while not rows["is_last"][0]:
                rows = door.step(np.stack([door.action_space.sample()]))
                total += rows["reward"][0]
            assert low <= total <= high
        for key, leaf in door.observation_space.spaces.items():
            assert rows[f"obs/{key}"].shape == (1, *leaf.shape)


def test_no_optimum_where_luck_is_involved():
    assert envs.optimum("popgym:HigherLowerEasy") is envs.guess("popgym:HigherLowerEasy") is None
    assert envs.guess("popgym:RepeatFirstEasy") == -0.5 and envs.guess("popgym:CountRecallEasy") is None


def test_names_and_arguments():
    with pytest.raises(ValueError, match=r"Did you mean 'RepeatPreviousEasy'"):
        envs.check("popgym:RepeatPrevEasy")
    with pytest.raises(ValueError, match="takes no arguments"):
        envs.check("popgym:RepeatFirstEasy:num_decks=2")
    assert envs.make("popgym:RepeatPreviousEasy:k=8").unwrapped.k == 8

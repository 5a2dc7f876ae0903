import re
from pathlib import Path

import numpy as np
import pytest

import envs
from envs.suites import popgym

pytest.importorskip("popgym")


@pytest.mark.parametrize(
    "name",
    [
        "RepeatPreviousEasy",
        "RepeatPreviousMedium",
        "RepeatFirstEasy",
        "AutoencodeEasy",
        "AutoencodeMedium",
        "CountRecallEasy",
    ],
)
def test_the_answers_told_reach_the_optimum(name):
    env = envs.make(f"popgym:{name}")
    for _ in range(3):
        _, info = env.reset()
        total, over = 0.0, False
        while not over:
            answer = info["probe"]["answer"]
            _, reward, terminated, truncated, info = env.step(max(answer, 0))
            assert (reward > 0) == (answer >= 0)
            total += reward
            over = terminated or truncated
        assert total == pytest.approx(1.0)
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

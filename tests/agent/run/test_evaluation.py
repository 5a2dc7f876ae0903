from types import SimpleNamespace

import numpy as np
import pytest

from agent.run.evaluation import EVALUATION_ENVS, EpisodeStatistics, run_episodes
from tests.agent.run.house import House, Rows, configure


class Scribe:
    """Stands in for an agent: its carry counts the steps since each environment's episode began."""

    def __init__(self) -> None:
        self.counters: list[int] = []

    def initial(self, count: int) -> np.ndarray:
        return np.full(count, -1)

    def act(
        self, carry: np.ndarray, rows: Rows, evaluate: bool = False, counter: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        assert evaluate and counter is not None
        self.counters.append(counter)
        carry = np.where(rows["is_first"], 0, carry + 1)
        self.carry = carry
        # Right by memory alone: it has to know the cue, and how long ago that was.
        self.cue = np.where(rows["is_first"], rows["obs/vector"][:, 0], getattr(self, "cue", 0))
        return carry, np.where(rows["is_last"], 0, (self.cue > 0).astype(int))


@pytest.mark.parametrize(
    ("episodes", "count", "each"), [(6, 3, [2, 2, 2]), (7, 3, [3, 2, 2]), (2, 5, [1, 1]), (1, 1, [1])]
)
def test_every_environment_plays_as_many_episodes(episodes: int, count: int, each: list[int]) -> None:
    """Short episodes are not counted more often; the carry is handed on over the whole episode."""
    house = House(configure(), waits=lambda index: 1 + 3 * index)
    agent = Scribe()
    result = run_episodes(agent, house.make_envs, episodes, count, 5, 1000)  # type: ignore[arg-type]
    count = min(count, episodes)
    assert house.seeds == [(count, 5, EVALUATION_ENVS)] and house.envs[0].closed
    assert result["episodes"] == len(result["returns"]) == episodes
    lengths = [2 + 3 * index for index in range(count)]
    assert result["length_mean"] == np.mean(np.repeat(lengths, each))
    cues = [
        float((EVALUATION_ENVS + env + episode) % 2 == 0)
        for env in range(count)
        for episode in range(each[env])
    ]
    assert result["returns"] == cues
    assert result["return_mean"] == np.mean(cues) and result["return_std"] == np.std(cues)
    assert agent.counters == list(range(len(agent.counters)))
    assert agent.carry[-1] == lengths[-1] - 1, "the carry was lost on the way"


@pytest.mark.parametrize("max_steps", [4, 5, 6])
def test_an_episode_that_does_not_end_is_cut(max_steps: int) -> None:
    """It is its environment's last; one that ends just then is whole."""
    house = House(configure(), waits=lambda index: (3, 10**9)[index])
    result = run_episodes(Scribe(), house.make_envs, 5, 2, 5, max_steps)  # type: ignore[arg-type]
    assert (result["episodes"], result["cut"]) == (4, 1)
    assert result["length_mean"] == pytest.approx((3 * 4 + max_steps) / 4)  # the others take 4 steps each


def test_environments_are_closed_when_acting_fails() -> None:
    house = House(configure(), waits=lambda index: 1)
    agent = SimpleNamespace(initial=lambda count: None, act=lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_episodes(agent, house.make_envs, 2, 2, 0, 1000)  # type: ignore[arg-type]
    assert house.envs[0].closed


def test_episode_statistics_by_hand() -> None:
    """Two environments: one ends after two steps and begins again, one goes on."""
    statistics, found = EpisodeStatistics(2), []
    for reward, is_first in (
        ([0, 0], [True, True]),
        ([1, 5], [False, False]),
        ([2, 5], [False, False]),
        ([0, 5], [True, False]),
        ([7, 5], [False, False]),
    ):
        statistics.add({"reward": np.array(reward), "is_first": np.array(is_first)})
        found.append([statistics.returns.tolist(), statistics.lengths.tolist()])
    assert found[2:] == [[[3, 10], [2, 2]], [[0, 15], [0, 3]], [[7, 20], [1, 4]]]

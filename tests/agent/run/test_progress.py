"""What a checkpoint says of the loop is believed only if a loop may have said it."""

from typing import Any

import numpy as np
import pytest
import torch

from agent.agent import Carry
from agent.run.evaluation import EpisodeStatistics
from agent.run.progress import Acting, Progress

WRONG: dict[str, list[Any]] = {
    "step": [-1, "3", None, 1.5],
    "seconds": [-1, "1", float("nan"), float("inf")],
    "credit": [-0.1, None, float("nan")],
    "due": [[], {"log": "soon"}, {"log": -1}],
    "evaluation": [[], {}, {"step": 3}],
    "restarts": [-1, "none"],
    "episodes": ["none", [-2], [0.5]],
    "envs": [{}, [{}], [{"episode": 0, "actions": 3}, {"episode": 0, "actions": []}]],
}


def test_what_was_saved_comes_back() -> None:
    progress = Progress(7, 1.5, {"log": 8}, None, 0.25, 1, [0, -1], [])
    assert Progress.of(progress.to_json()) == progress


@pytest.mark.faults("wrong content under right checksums")
@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_what_no_loop_says_is_refused(name: str, value: Any) -> None:
    saved = Progress(episodes=[0, 1]).to_json()
    with pytest.raises((ValueError, KeyError, TypeError)):
        Progress.of(saved | {name: value})
    del saved[name]
    with pytest.raises(ValueError, match=f"it lacks {name}"):
        Progress.of(saved)


@pytest.mark.faults("wrong content under right checksums")
def test_arrays_of_another_agent_are_refused() -> None:
    def acting(count: int, width: int) -> Acting:
        carry = Carry({"deter": torch.zeros(count, width)}, torch.zeros(count, 2))
        return Acting(carry, {}, EpisodeStatistics(count))

    ours, arrays = acting(2, 3), acting(2, 3).arrays()
    ours.check(arrays)
    for other in (
        {},
        acting(3, 3).arrays(),
        acting(2, 4).arrays(),
        {**arrays, "acting/returns": np.array(["", ""])},
    ):
        with pytest.raises(ValueError, match="is missing, or of another shape or type"):
            ours.check(other)


def steps_at_which(progress: Progress, every: int, until: int) -> list[int]:
    """The steps, of every tenth, at which something is done."""
    done = []
    for step in range(progress.step + 10, until + 1, 10):
        progress.step = step
        if progress.is_due("checkpoint", every):
            done.append(progress.step)
    return done


def test_a_shorter_interval_counts_from_where_a_run_is_gone_on_with() -> None:
    progress = Progress()
    assert steps_at_which(progress, 1000, 2500) == [1000, 2000]
    assert steps_at_which(progress, 100, 2800) == [2600, 2700, 2800]
    assert steps_at_which(progress, 1000, 5000) == [2900, 3000, 4000, 5000]

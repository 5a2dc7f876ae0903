"""What an update needs is counted, extended from a part of its batch, and refused where it is not there."""

import os
from unittest.mock import patch

import pytest
import torch

import configs
from agent.agent import Agent
from agent.run import memory
from agent.run.job import begun
from tests.agent.run.test_loop import same
from tests.agent.test_agent import ACTIONS, SPACE, VECTOR, make_batch
from tests.ranks import on_ranks

CPU = torch.device("cpu")


def test_what_lives_at_once_is_counted() -> None:
    """By storage: a view is none of its own, and what is freed counts no longer."""
    with memory.Peak(CPU) as counted:
        kept = torch.zeros(1000)
        for _ in range(3):
            passing = kept + 1
            passing.view(10, 100).t()
            del passing
        squared = (kept.requires_grad_() ** 2).exp().sum()  # keeps the exponential for its gradient
    assert (counted.most, counted.now) == (3 * 4000, 2 * 4000 + 4)
    del squared
    assert counted.now == 4000


@pytest.mark.parametrize(
    ("backbone", "space"), [("s4wm", VECTOR), ("rssm", VECTOR), ("tssm", VECTOR), ("s4wm", SPACE)]
)
def test_the_whole_batch_needs_what_its_parts_foretell(backbone: str, space: object) -> None:
    """To 15 %; and an agent that is there is not touched by it, nor what it draws next."""
    config = configs.load(
        backbone=backbone,
        presets=["debug"],
        overrides={"device": "cpu", "batch_size": 16, "batch_length": 32, "imagination.count": 64},
    )
    spaces = space, ACTIONS["discrete"]
    foretold = memory.of_update(spaces, config, CPU)
    with memory.Peak(CPU) as counted:
        agent = Agent(*spaces, config, CPU)
        agent.update(memory.batch(spaces, 16, 32))
    assert foretold == pytest.approx(counted.most, rel=0.15)
    other = Agent(*spaces, config, CPU)
    other.update(memory.batch(spaces, 16, 32))
    batch = make_batch(agent, space, 16, 32)
    agent.update(batch)
    memory.of_update(spaces, config, CPU)
    other.update(batch)
    assert same(agent.state_dict(), other.state_dict())


@pytest.mark.parametrize("free", [10_000, 30_000])
def test_a_gpu_that_is_too_full_is_refused(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: no machine with a GPU has run it."""
    config = configs.load(presets=["debug"], overrides={"batch_size": 3, "batch_length": 7})
    spaces, gpu = (VECTOR, ACTIONS["discrete"]), torch.device("cuda")
    monkeypatch.setattr(memory, "of_update", lambda *_: 20_480)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))
    if free > 20_480:
        expected = "an update needs at least 20.0 KiB on the GPU, of which 29.3 KiB are free"
        assert memory.on_gpu(spaces, config, gpu) == expected
    else:
        with pytest.raises(ValueError, match=r"of which 9.8 KiB are free. Lower .*--batch_size \(3\)"):
            memory.on_gpu(spaces, config, gpu)
    assert memory.on_gpu(spaces, config, CPU) == ""


def one_of_two_runs_out() -> None:
    """On ranks: the second one's processor stands for a GPU that is full in the middle of an update."""
    config = configs.load(presets=["debug"], overrides={"batch_size": 4, "batch_length": 7})
    update, count = Agent.update, memory.of_update

    def fails(self: Agent, *given: object) -> object:
        update(self, *given)  # type: ignore[arg-type]
        if os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError
        return None

    def on_cpu(spaces: memory.Spaces, config: configs.Config, *_: object) -> int:
        return count(spaces, config, CPU)

    with (
        begun(),
        patch.object(memory, "of_update", on_cpu),
        patch.object(torch.cuda, "mem_get_info", lambda _: (2**40, 2**40)),
    ):
        given = (VECTOR, ACTIONS["discrete"]), config, torch.device("cuda")
        assert "of which 1024.0 GiB are free" in memory.on_gpu(*given)
        with patch.object(Agent, "update", fails), pytest.raises(ValueError, match="half of a batch is"):
            memory.on_gpu(*given)
        needs = 2**40 if os.environ["RANK"] == "0" else 2**41
        with (
            patch.object(memory, "of_update", lambda *_: needs),
            pytest.raises(ValueError, match=r"at least 2048.0 GiB on the GPU, of which 1024.0 GiB"),
        ):
            memory.on_gpu(*given)


def test_ranks_refuse_together() -> None:
    """Each counts for itself: an update that one of them leaves would have the other wait."""
    on_ranks(2, one_of_two_runs_out)

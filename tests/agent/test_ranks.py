"""An update on two ranks of half a batch is the one on the whole batch, and leaves the same bits on both."""

import os
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import configs
from agent.agent import Agent
from agent.run.job import Job, begun
from tests.agent.test_agent import ACTIONS, SPACE, VECTOR, make_batch
from tests.ranks import on_ranks
from worldmodels import ranks

CASES: dict[str, tuple[str, Any, str, dict[str, Any]]] = {
    name: (name, VECTOR, "discrete", {}) for name in configs.backbones()
} | {
    "pictures, few steps measured": ("s4wm", SPACE, "multi", {"recall.positions": 2}),
    "gaussian, through the dynamics": ("rssm", VECTOR, "box", {"rssm.classes": 0}),
    "with a bonus": ("s4wm", VECTOR, "discrete", {"explore.networks": 2}),
    "output alone": ("s4wm_s4", VECTOR, "box", {"s4wm.policy_input": "output", "optimiser.clip": 0.1}),
}
ROWS, STEPS, UPDATES = 4, 16, 2


def updated(case: str) -> tuple[Agent, dict[str, float]]:
    """An agent in float64 after its updates, on this rank's rows of each batch; its metrics."""
    backbone, space, action, changed = CASES[case]
    options = {"device": "cpu", "batch_size": ROWS, "batch_length": STEPS, "optimiser.warmup": 0} | changed
    config = configs.load(backbone=backbone, presets=["debug"], overrides=options)
    job = Job()
    share = job.share(config)
    agent = Agent(space, ACTIONS[action], share, "cpu")
    mine = slice(job.number * share.batch_size, (job.number + 1) * share.batch_size)
    for number in range(UPDATES):
        batch = make_batch(agent, space, ROWS, STEPS, seed=number)
        wide = {
            key: value.astype(float) if value.dtype == np.float32 else value for key, value in batch.items()
        }
        agent.update({key: value[mine] for key, value in wide.items()})
    metrics = agent.metrics()
    job.check_same(agent)
    return agent, metrics


def compare_updates() -> None:
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # heads and metrics are float32 otherwise
    alone = {case: updated(case) for case in CASES} if os.environ["RANK"] == "0" else {}
    with begun() as job:
        shared = {case: updated(case) for case in CASES}
        for case, (expected, metrics) in alone.items():
            agent, found = shared[case]
            assert found == pytest.approx(metrics, rel=1e-9, abs=1e-9), case
            for part in ("foreseeing", "actor_critic"):
                theirs = getattr(expected, part).state_dict()
                for name, value in getattr(agent, part).state_dict().items():
                    # Adam divides an actor's gradient of 1e-6 by itself, rounding errors included.
                    torch.testing.assert_close(
                        value, theirs[name], rtol=1e-10, atol=1e-9, msg=f"{case} {name}"
                    )
        assert_same_means()
        last, _ = shared["output alone"]
        if job.number == 1:
            with torch.no_grad():
                last.actor_critic.critic.net[0].bias[0] += 1e-15
        with pytest.raises(FloatingPointError, match="rank 1 differs from rank 0 in actor_critic.critic"):
            job.check_same(last)


def assert_same_means() -> None:
    """Whether ranks read each other's memory, which is used in turns, or send messages."""
    number, _ = ranks.place()
    weights = [torch.zeros(3, 2), torch.zeros(5), torch.zeros(2)]
    for turn in range(5):
        for local in ("1", "2"):
            for weight in weights[:2]:  # the third has none
                weight.grad = torch.arange(weight.numel()).view_as(weight) + 10.0**turn * (1 + 2 * number)
            with patch.dict(os.environ, {"LOCAL_WORLD_SIZE": local}):
                ranks.average_gradients(weights)
            for weight in weights[:2]:
                expected = torch.arange(weight.numel()).view_as(weight) + 10.0**turn * 2
                assert weight.grad is not None and torch.equal(weight.grad, expected), (turn, local)
            assert weights[2].grad is None


def test_two_ranks_of_half_a_batch_are_one_of_the_whole() -> None:
    """For every backbone, in float64, to 1e-10: parameters, slow critic, return scale; and the metrics."""
    on_ranks(2, compare_updates)


def test_one_process_is_asked_nothing() -> None:
    """Draws are torch's own, bit for bit, and nothing is copied."""
    value = torch.randn(4, 3)
    torch.manual_seed(0)
    drawn = ranks.uniform((4, 3)), ranks.normal_like(value)
    torch.manual_seed(0)
    assert torch.equal(drawn[0], torch.rand(4, 3)) and torch.equal(drawn[1], torch.randn_like(value))
    assert ranks.gathered(value) is value
    assert ranks.own(value, 4) == (slice(None), value) and ranks.scattered(value, slice(None), 4) is value

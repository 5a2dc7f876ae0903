"""Where imagination starts, and that an action leads into the position after it."""

import pytest
import torch
from torch import Tensor

import configs
from agent.imagination import choose_starts, imagine
from worldmodels import BACKBONES, Backbone, State, make_backbone

CPU = torch.device("cpu")


class Counter(Backbone):
    """Its state is the sum of the actions so far; the policy sees minus that."""

    def imagine_step(self, state: State, action: Tensor, noise: Tensor | None = None) -> tuple[State, Tensor]:
        total = state["total"] + action
        return {"total": total}, total

    def policy_input(self, state: State) -> Tensor:
        return -state["total"]


def test_the_action_at_a_position_leads_into_the_next() -> None:
    start = torch.tensor([[0.25], [0.5]])
    seen = []

    def act(inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(inputs)
        action = torch.full((2, 1), 0.125 * len(seen))
        return action, -action

    dream = imagine(Counter(), {"total": start}, act, horizon=3)
    assert dream.action[:, 0, 0].tolist() == [0.125, 0.25, 0.375]
    assert torch.equal(dream.outputs, -dream.action)
    assert dream.policy[:, 0, 0].tolist() == [-0.25, -0.375, -0.625, -1.0]
    # The action of a position was chosen from that position's policy input.
    assert torch.equal(torch.stack(seen), dream.policy[:-1])
    torch.testing.assert_close(dream.policy[1:], dream.policy[:-1] - dream.action)


def test_the_model_sees_actions_as_the_environment_does() -> None:
    """A continuous sample outside [-1, 1] is kept for the policy's gradient and clipped for the model."""
    start = torch.zeros(1, 1)
    chosen = torch.full((1, 1), 3.0)
    dream = imagine(Counter(), {"total": start}, lambda _: (chosen,) * 2, horizon=2)
    assert dream.action.flatten().tolist() == [3, 3]
    assert dream.policy.flatten().tolist() == [0, -1, -2]


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_and_gradients(name: str) -> None:
    config = configs.load(backbone=name, presets=["debug"])
    backbone = make_backbone(name, config[name], embed_size=3, action_size=2)
    state, _ = backbone.observe_step(
        backbone.initial(5), torch.randn(5, 3), torch.randn(5, 2), torch.zeros(5, dtype=torch.bool)
    )
    state = {key: leaf.detach() for key, leaf in state.items()}
    chosen = torch.rand(4, 5, 2, requires_grad=True)
    dreams = []
    for gradient in (True, False):
        torch.manual_seed(1)
        choices = iter(chosen)
        with torch.set_grad_enabled(gradient):
            dreams.append(imagine(backbone, state, lambda _, it=choices: (next(it),) * 2, 4))
    dream, plain = dreams
    assert dream.policy.shape == (5, 5, backbone.policy_size)
    assert dream.action.shape == dream.outputs.shape == (4, 5, 2)
    torch.testing.assert_close(dream.policy, plain.policy)
    assert not plain.policy.requires_grad and plain.outputs.requires_grad
    assert torch.equal(dream.policy[0], backbone.policy_input(state))
    (of_third,) = torch.autograd.grad(dream.policy[3].square().sum(), chosen)
    assert of_third[:3].abs().sum((1, 2)).all() and not of_third[3].any(), "of the actions before it"


def test_random_starts() -> None:
    """As many as asked for, no step of a row twice, all steps alike, another choice every time."""
    torch.manual_seed(0)
    starts = choose_starts("random", 12, rows=4, steps=10, device=CPU)
    assert starts.shape == (4, 3) and starts.dtype == torch.int64
    assert not torch.equal(starts, choose_starts("random", 12, rows=4, steps=10, device=CPU))
    many = choose_starts("random", 6000, rows=2000, steps=10, device=CPU)
    assert all(len(set(row)) == 3 for row in many.tolist())
    often = many.flatten().bincount(minlength=10) / 2000
    torch.testing.assert_close(often, torch.full((10,), 0.3), atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("kind", "count", "expected"),
    [
        ("last", 6, [[8, 9]] * 3),
        ("last", 1, [[9]] * 3),
        ("last", 1000, [list(range(10))] * 3),
        ("all", 1, [list(range(10))] * 3),
    ],
)
def test_chosen_starts(kind: str, count: int, expected: list[list[int]]) -> None:
    assert choose_starts(kind, count, rows=3, steps=10, device=CPU).tolist() == expected


def test_more_random_starts_than_steps() -> None:
    starts = choose_starts("random", 1000, rows=2, steps=4, device=CPU)
    assert starts.sort(1).values.tolist() == [[0, 1, 2, 3]] * 2

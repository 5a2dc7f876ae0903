"""Attention: in spans as in full, in dreams as in steps, at a cost linear in time."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.worldmodels import contract
from worldmodels.attention import QUERIES, Attention, spans_of

CASES = [
    contract.Case("tssm", {"tssm.memory": 5}),
]
OF_BOTH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.backbone)


def in_full(layer: Attention, sequence: Tensor, past: Tensor) -> Tensor:
    """The layer for every query and key there is, from Dai et al. (2019), section 3.3, and masked."""
    x = sequence[:, layer.memory :]
    keys, values = layer.key_value(layer.norm(sequence)).chunk(2, -1)
    query, key, value, place = (
        part.unflatten(-1, (layer.heads, -1))
        for part in (layer.query(layer.norm(x)), keys, values, layer.position(layer.waves))
    )
    now, then = layer.memory + torch.arange(x.shape[1]), torch.arange(keys.shape[1])
    distance = now[:, None] - then  # [T, M + T]
    content = torch.einsum("bthd,bshd->bhts", query + layer.content_bias[:, 0], key)
    relative = place[distance.clamp(0, layer.memory)]  # [T, M + T, heads, d]
    position = torch.einsum("bthd,tshd->bhts", query + layer.position_bias[:, 0], relative)
    score = (content + position) / math.sqrt(query.shape[-1])
    seen = (distance >= 0) & (distance <= past[..., None])
    weight = score.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return x + layer.out(torch.einsum("bhts,bshd->bthd", weight, value).flatten(-2))


@pytest.mark.parametrize("steps", [1, QUERIES - 1, QUERIES, QUERIES + 1, 3 * QUERIES + 7])
def test_attention_in_spans_equals_attention_in_full(steps: int) -> None:
    """Outputs, and gradients to inputs and parameters."""
    torch.manual_seed(0)
    layer = Attention(width=8, heads=2, memory=9).double()
    for bias in (layer.content_bias, layer.position_bias):
        torch.nn.init.normal_(bias)
    sequence = torch.randn(2, layer.memory + steps, 8).double().requires_grad_()
    past = torch.randint(layer.memory + 1, (2, steps))
    results = []
    for y in (layer(sequence, spans_of(past, layer.memory)), in_full(layer, sequence, past)):
        weight = torch.linspace(-1, 1, y.numel()).double().view_as(y)
        results.append([y, *torch.autograd.grad((weight * y).sum(), [sequence, *layer.parameters()])])
    for banded, full in zip(*results, strict=True):
        torch.testing.assert_close(banded, full, rtol=1e-12, atol=1e-12)


@OF_BOTH
def test_a_window_of_many_spans_equals_its_steps(case: contract.Case) -> None:
    backbone = case.make()
    inputs = contract.make_inputs(case, backbone, steps=2 * QUERIES + 3)
    with torch.no_grad():
        states, features = contract.steps_of(backbone, inputs)
        rollout = inputs.observe(backbone)
    contract.close(case, rollout.features, features, "features")
    contract.close_states(case, rollout.last, states[-1], "last state")


@OF_BOTH
@torch.no_grad()
def test_a_dream_longer_than_the_memory_copies_no_cache_and_stays_bounded(case: contract.Case) -> None:
    backbone = case.make()
    inputs = contract.make_inputs(case, backbone)
    state, dream = inputs.state, backbone.prepare_imagination(inputs.state, contract.T)
    keys = dream["keys0"]
    for t in range(contract.T):
        state, expected = backbone.imagine_step(state, inputs.action[:, t], inputs.noise[:, t])
        dream, feature = backbone.imagine_step(dream, inputs.action[:, t], inputs.noise[:, t])
        contract.close(case, feature, expected, f"step {t}")
        assert dream["keys0"] is keys and dream["dreamt_keys0"].shape[-2] == min(t + 1, 5)
    assert "cache" not in dream and state["cache"].shape == inputs.state["cache"].shape


@OF_BOTH
def test_what_a_window_costs_is_linear_in_its_length(case: contract.Case) -> None:
    backbone = case.make()
    operations = []
    for spans in (4, 8, 16):
        inputs = contract.make_inputs(case, backbone, steps=spans * QUERIES)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            inputs.observe(backbone)
        operations.append(counter.get_total_flops())
    assert operations[2] - operations[1] == 2 * (operations[1] - operations[0])

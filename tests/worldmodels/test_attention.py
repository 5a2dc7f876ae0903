"""Attention: in spans as in full, in dreams as in steps, beside any layer, at a cost linear in time."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.worldmodels import contract
from worldmodels.attention import QUERIES, Attention, Past, initial_cache, spans_of
from worldmodels.ssm import S5, Stack

CASES = [
    contract.Case("tssm", {"tssm.memory": 5}),
    contract.Case("s4wm_hybrid", {"s4wm.attention.memory": 5}),
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


@pytest.mark.parametrize(
    "check",
    [
        contract.check_shapes,
        contract.check_window_equals_steps,
        contract.check_resets_are_exact,
        contract.check_prepared_imagination,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
@pytest.mark.parametrize(
    ("backbone", "more"),
    [
        ("s4wm_s4d", {"s4wm.policy_input": "output"}),  # which dreams without states
        ("s4wm_mamba2", {"s4wm.policy_input": "hidden", "s4wm.gradient_checkpointing": True}),
    ],
)
def test_attention_beside_other_layers(check, backbone: str, more: dict) -> None:
    check(contract.Case(backbone, {"s4wm.attention.layers": 2, **more}))


@pytest.mark.parametrize(
    ("layers", "count", "behind"), [(2, 1, [0]), (5, 1, [2]), (4, 2, [0, 2]), (3, 3, [0, 1, 2])]
)
def test_attention_is_spread_evenly_over_the_stack(layers: int, count: int, behind: list[int]) -> None:
    """Between the block before it and the one after it; counted from 0."""
    stack = contract.Case("s4wm", {"s4wm.layers": layers, "s4wm.attention.layers": count}).make().stack
    x, state, is_first = torch.randn(1, 3, 16).double(), stack.initial(1), torch.zeros(1, 3, dtype=torch.bool)
    order: list[str] = []
    for name, modules in (("block", stack.blocks), ("attention", stack.attention)):
        for module in modules:
            module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
    stack(x, state, is_first, past=Past(stack.attention, initial_cache(stack.attention, 1), is_first))
    found = [order[:place].count("block") - 1 for place, name in enumerate(order) if name == "attention"]
    assert found == behind and order.count("block") == layers


def test_attention_finds_by_content_what_layers_alone_do_not() -> None:
    """Eight keys with values of four are shown, then keys alone; stacks of as many parameters, 60 updates."""
    pairs, values, rows, width = 8, 4, 32, 32
    is_first = torch.zeros(rows, 2 * pairs, dtype=torch.bool)
    right = {}
    for modes, attention in ((28, {0: Attention(width, heads=4, memory=2 * pairs)}), (48, {})):
        torch.manual_seed(0)
        stack = Stack(
            width, 2, lambda modes=modes: S5(width, modes, blocks=1, input_scale="unit"), attention=attention
        )
        into, out = nn.Linear(2 * pairs + values, width), nn.Linear(width, values)
        adam = torch.optim.Adam([*stack.parameters(), *into.parameters(), *out.parameters()], lr=3e-3)
        for _ in range(60):
            order, value = torch.rand(rows, pairs).argsort(1), torch.randint(values, (rows, pairs))
            asked = torch.randint(pairs, (rows, pairs))
            keys = F.one_hot(torch.cat([order, pairs + asked], 1), 2 * pairs)
            told = F.pad(F.one_hot(value.gather(1, order), values), (0, 0, 0, pairs))
            past = (
                Past(stack.attention, initial_cache(stack.attention, rows), is_first) if attention else None
            )
            x = into(torch.cat([keys, told], -1).float())
            answers = out(stack(x, stack.initial(rows), is_first, past=past)[0][:, pairs:])
            wanted = value.gather(1, asked)
            adam.zero_grad()
            F.cross_entropy(answers.flatten(0, 1), wanted.flatten()).backward()
            adam.step()
        right[modes] = (answers.argmax(-1) == wanted).float().mean()
    assert right[28] > 0.95 and right[48] < 0.6

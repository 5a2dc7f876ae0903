"""TSSM-XL: attention in spans equals attention in full, and costs no more a step in a longer window."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.worldmodels import contract
from worldmodels.tssm import QUERIES, Block, spans_of

CASE = contract.Case("tssm", {"tssm.memory": 5})


def in_full(block: Block, x: Tensor, keys: Tensor, values: Tensor, past: Tensor, waves: Tensor) -> Tensor:
    """The block for every query and key there is, from Dai et al. (2019), section 3.3, and masked."""
    heads, memory = block.heads, len(waves) - 1
    query, key, value, place = (
        part.unflatten(-1, (heads, -1))
        for part in (block.query(block.norm(x)), keys, values, block.position(waves))
    )
    now, then = memory + torch.arange(x.shape[1]), torch.arange(keys.shape[1])
    distance = now[:, None] - then  # [T, M + T]
    content = torch.einsum("bthd,bshd->bhts", query + block.content_bias[:, 0], key)
    relative = place[distance.clamp(0, memory)]  # [T, M + T, heads, d]
    position = torch.einsum("bthd,tshd->bhts", query + block.position_bias[:, 0], relative)
    score = (content + position) / math.sqrt(query.shape[-1])
    seen = (distance >= 0) & (distance <= past[..., None])
    weight = score.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    x = x + block.out(torch.einsum("bhts,bshd->bthd", weight, value).flatten(-2))
    return x + block.feed_forward(block.norm2(x))


@pytest.mark.parametrize("steps", [1, QUERIES - 1, QUERIES, QUERIES + 1, 3 * QUERIES + 7])
def test_attention_in_spans_equals_attention_in_full(steps: int) -> None:
    """Outputs, and gradients to everything that goes in."""
    torch.manual_seed(0)
    memory = 9
    block = Block(width=8, heads=2, feed_forward=16).double()
    for bias in (block.content_bias, block.position_bias):
        torch.nn.init.normal_(bias)
    x, waves = torch.randn(2, steps, 8).double(), torch.randn(memory + 1, 8).double()
    keys, values = torch.randn(2, 2, memory + steps, 8).double()
    past = torch.randint(memory + 1, (2, steps))
    leaves = [leaf.requires_grad_() for leaf in (x, keys, values)] + list(block.parameters())[4:]
    results = []
    for y in (
        block(x, keys, values, spans_of(past, memory), waves),
        in_full(block, x, keys, values, past, waves),
    ):
        weight = torch.linspace(-1, 1, y.numel()).double().view_as(y)
        results.append([y, *torch.autograd.grad((weight * y).sum(), leaves, allow_unused=True)])
    for banded, full in zip(*results, strict=True):
        assert (banded is None) == (full is None)
        if full is not None:
            torch.testing.assert_close(banded, full, rtol=1e-12, atol=1e-12)


def test_a_window_of_many_spans_equals_its_steps() -> None:
    backbone = CASE.make()
    inputs = contract.make_inputs(CASE, backbone, steps=2 * QUERIES + 3)
    with torch.no_grad():
        states, features = contract.steps_of(backbone, inputs)
        rollout = inputs.observe(backbone)
    contract.close(CASE, rollout.features, features, "features")
    contract.close_states(CASE, rollout.last, states[-1], "last state")


def test_what_a_window_costs_is_linear_in_its_length() -> None:
    backbone = CASE.make()
    operations = []
    for spans in (4, 8, 16):
        inputs = contract.make_inputs(CASE, backbone, steps=spans * QUERIES)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            inputs.observe(backbone)
        operations.append(counter.get_total_flops())
    assert operations[2] - operations[1] == 2 * (operations[1] - operations[0])


def test_gradients_of_a_first_step_do_not_explode_with_the_layers() -> None:
    """Latent and action are zero there; were the input too, each norm would multiply its gradient by 300."""
    torch.manual_seed(0)
    case = contract.Case("tssm", {"tssm.layers": 6})
    backbone = contract.backbone_of(case.config(), embed_size=5, action_size=3)
    is_first = torch.ones(2, 4, dtype=torch.bool)
    rollout = backbone.observe(
        backbone.initial(2), torch.randn(2, 4, 5), torch.zeros(2, 4, 3), is_first, noise=torch.rand(2, 4, 4)
    )
    dynamics, _ = backbone.kl_losses(rollout)
    dynamics.sum().backward()
    largest = max(float(p.grad.abs().max()) for p in backbone.parameters() if p.grad is not None)
    assert largest < 1e4

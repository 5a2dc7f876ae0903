"""The stack: equal to its steps whatever its layers, and the same gradients with less memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.worldmodels.ssm.layers import MAKERS, WIDTH, sequence, stepped
from worldmodels.base import keep_steps
from worldmodels.ssm import Stack
from worldmodels.ssm.window import Window


@pytest.mark.parametrize(("name", "mlp_every"), [*((name, 0) for name in MAKERS), ("s4", 2), ("s5", 2)])
def test_a_stack_equals_its_steps_and_resets(name: str, mlp_every: int) -> None:
    torch.manual_seed(0)
    stack = Stack(WIDTH, 3, MAKERS[name], mlp_every=mlp_every).double()
    u = torch.randn(2, 20, WIDTH, dtype=torch.float64)
    state = torch.randn_like(stack.initial(2))
    is_first = torch.rand(2, 20) < 0.2
    keep = torch.tensor([[4, 19], [0, 7]])
    assert state.shape[:2] == (2, 3) and stack(u, state, is_first)[2] is None
    expected, states = stepped(stack, u, state, is_first)
    none = keep[:, :0], states[:, :0]
    for wanted, kept_states in ((keep, keep_steps(keep, states)), ("all", states), none):
        y, last, kept = stack(u, state, is_first, wanted)
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(last, states[:, -1], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(kept, kept_states, rtol=1e-10, atol=1e-10)


def test_two_layers_and_an_mlp_are_the_block_of_the_s4wm_paper() -> None:
    """x += GLU(GELU(S4(LN x))), twice, then x += MLP(LN x); each layer has a state of its own."""
    torch.manual_seed(0)
    stack = Stack(WIDTH, 4, MAKERS["s4"], mlp_every=2).double()
    u, state, is_first = sequence(stack, 2, 20)
    x, lasts = u, []
    for number, block in enumerate(stack.blocks):
        y, last, _ = block.layer(F.layer_norm(x, (WIDTH,)), state[:, number], Window(is_first, None))
        value, gate = (F.gelu(y) @ block.mix.weight.T + block.mix.bias).chunk(2, -1)
        x, lasts = x + value * gate.sigmoid(), [*lasts, last]
        assert (block.mlp is None) == (number % 2 == 0)
        if block.mlp is not None:
            _, into, _, out = block.mlp
            assert into.weight.shape == out.weight.shape == (WIDTH, WIDTH)
            hidden = F.gelu(F.layer_norm(x, (WIDTH,)) @ into.weight.T + into.bias)
            x = x + hidden @ out.weight.T + out.bias
    y, last, _ = stack(u, state, is_first)
    torch.testing.assert_close(y, F.layer_norm(x, (WIDTH,)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, torch.stack(lasts, 1), rtol=1e-10, atol=1e-10)
    assert last.shape[:2] == (2, 4)


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    stack = Stack(WIDTH, 3, MAKERS["s5"], checkpointing=True).double()
    u = torch.randn(2, 200, WIDTH, dtype=torch.float64, requires_grad=True)
    state, is_first = torch.randn_like(stack.initial(2)), torch.rand(2, 200) < 0.1
    leaves, gradients, kept_bytes = [u, *stack.parameters()], [], []
    for checkpointing in (True, False):
        stack.checkpointing = checkpointing
        sizes: dict[int, int] = {}

        def pack(x: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = x.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            y, last, kept = stack(u, state, is_first, torch.tensor([[7], [150]]))
        kept_bytes.append(sum(sizes.values()))
        gradients.append(torch.autograd.grad(y.square().sum() + last.sum() + kept.sum(), leaves))
    for with_it, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_it, without, rtol=1e-12, atol=1e-12)
    assert kept_bytes[0] < kept_bytes[1] / 3

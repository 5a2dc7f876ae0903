"""The small networks: norm, block-diagonal layer, initial weights."""

import torch
from torch import nn

from worldmodels.nets import MLP, BlockLinear, RMSNorm, linear


def test_rms_norm_of_zeros_and_of_half_precision() -> None:
    norm = RMSNorm(8)
    x = torch.zeros(2, 8, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    half = 300 * torch.randn(4, 8, dtype=torch.bfloat16)
    assert norm(half).dtype == torch.bfloat16
    torch.testing.assert_close(norm(half), norm(half.float()).bfloat16())


def test_block_linear_is_a_block_diagonal_matrix() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(6, 4, 2)
    nn.init.normal_(layer.bias)
    x = torch.randn(5, 6)
    matrix = torch.block_diag(*layer.weight.unbind(0))
    expected = x @ matrix + layer.bias.flatten()
    actual = layer(x.unflatten(-1, (2, 3)).transpose(0, 1)).transpose(0, 1).flatten(-2)
    torch.testing.assert_close(actual, expected)


def test_initial_weights() -> None:
    """Truncated normal with variance 1 / mean(fan), biases 0; an output scale of 0 gives exact zeros."""
    torch.manual_seed(0)
    layer = linear(300, 100, scale=2.0)
    assert abs(layer.weight.std() - 2 / 200**0.5) < 0.005
    assert layer.weight.abs().max() <= 2 * 2 * 1.1368 / 200**0.5
    assert not layer.bias.any()
    assert not MLP(4, 8, 2, 3, out_scale=0.0)(torch.randn(5, 4)).any()
    assert MLP(4, 8, 2)(torch.randn(5, 4)).shape == (5, 8)

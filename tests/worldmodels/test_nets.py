"""The small networks: the norm is torch's, and the CNNs take images of any size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldmodels.nets import MLP, BlockLinear, ConvDecoder, ConvEncoder, RMSNorm, halvings, linear

SHAPES = [(64, 64, 3), (40, 40, 3), (84, 84, 1), (7, 7, 3), (64, 20, 3), (9, 33, 1), (5, 5, 3), (1, 8, 2)]


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_rms_norm_is_torch_s(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(5).double()
    nn.init.normal_(norm.scale)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    if len(shape) == 1:  # a vector on its own is a batch of one
        x = x[None].detach().requires_grad_()
    expected, actual = F.rms_norm(x, (5,), norm.scale, norm.eps), norm(x)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(expected)
    for got, wanted in zip(
        torch.autograd.grad(actual, [x, norm.scale], weight),
        torch.autograd.grad(expected, [x, norm.scale], weight),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_rms_norm_by_finite_differences() -> None:
    torch.manual_seed(0)
    norm = RMSNorm(4).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
    assert torch.autograd.gradcheck(norm, (x.detach().transpose(0, 1).requires_grad_(),))


def test_rms_norm_of_zeros_and_of_half_precision() -> None:
    norm = RMSNorm(8)
    x = torch.zeros(2, 8, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    half = 300 * torch.randn(4, 8, dtype=torch.bfloat16)
    assert norm(half).dtype == torch.bfloat16
    torch.testing.assert_close(norm(half), norm(half.float()).bfloat16())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_goes_in_and_comes_out(shape: tuple[int, int, int]) -> None:
    """The encoder's output has the size it says; the decoder gives the picture's size, in [0, 1]."""
    torch.manual_seed(0)
    height, width, channels = shape
    encoder, decoder = ConvEncoder(shape, depth=2), ConvDecoder(11, shape, depth=2)
    code = encoder(torch.rand(3, channels, height, width))
    assert code.shape == (3, encoder.output_size)
    picture = decoder(torch.randn(3, 11))
    assert picture.shape == (3, channels, height, width)
    assert picture.min() >= 0 and picture.max() <= 1
    (code.square().sum() + picture.square().sum()).backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()), name


@pytest.mark.parametrize("shape", [(64, 64, 3), (7, 7, 3), (5, 5, 3), (64, 20, 1)])
def test_every_pixel_is_seen_and_can_be_drawn(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    height, width, channels = shape
    picture = torch.rand(1, channels, height, width, requires_grad=True)
    ConvEncoder(shape, depth=2)(picture).square().sum().backward()
    assert picture.grad is not None and bool(picture.grad.any(1).all())
    decoder = ConvDecoder(8, shape, depth=2)
    deviation = decoder(torch.randn(16, 8)).std(0)
    assert bool((deviation > 0).all())


def test_a_decoder_learns_a_picture() -> None:
    torch.manual_seed(0)
    decoder = ConvDecoder(2, (16, 12, 1), depth=4)
    target = torch.zeros(2, 1, 16, 12)
    target[0, :, :8], target[1, :, :, 6:] = 1, 1
    optimiser = torch.optim.Adam(decoder.parameters(), 1e-2)
    for _ in range(60):
        error = (decoder(torch.eye(2)) - target).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    assert error < 0.02


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]),
        ((84, 84), [(84, 84), (42, 42), (21, 21), (11, 11), (6, 6)]),
        ((40, 40), [(40, 40), (20, 20), (10, 10), (5, 5)]),
        ((7, 7), [(7, 7), (4, 4)]),
        ((64, 1), [(64, 1), (32, 1), (16, 1), (8, 1), (4, 1)]),
        ((6, 2), [(6, 2)]),
    ],
)
def test_sizes_are_halved_upwards(size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert halvings(*size) == expected


def test_block_linear_is_a_block_diagonal_matrix() -> None:
    torch.manual_seed(0)
    layer = BlockLinear(6, 4, 2)
    nn.init.normal_(layer.bias)
    x = torch.randn(5, 6)
    matrix = torch.block_diag(*layer.weight.unbind(0))
    expected = x @ matrix + layer.bias.flatten()
    actual = layer(x.unflatten(-1, (2, 3)).transpose(0, 1)).transpose(0, 1).flatten(-2)
    torch.testing.assert_close(actual, expected)
    with pytest.raises(ValueError, match="must be divisible by blocks 4"):
        BlockLinear(6, 4, 4)


def test_initial_weights() -> None:
    """Truncated normal with variance 1 / mean(fan), biases 0; an output scale of 0 gives exact zeros."""
    torch.manual_seed(0)
    layer = linear(300, 100, scale=2.0)
    assert abs(layer.weight.std() - 2 / 200**0.5) < 0.005
    assert layer.weight.abs().max() <= 2 * 2 * 1.1368 / 200**0.5
    assert not layer.bias.any()
    assert not MLP(4, 8, 2, 3, out_scale=0.0)(torch.randn(5, 4)).any()
    assert MLP(4, 8, 2)(torch.randn(5, 4)).shape == (5, 8)

"""Small networks that all parts of the model share: linear layers, norms, multilayer perceptrons."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    """Linear layer with truncated-normal weights of variance scale^2 / mean(fan), as DreamerV3's; bias 0."""
    layer = nn.Linear(inputs, outputs)
    initialise(layer.weight, inputs, outputs, scale)
    nn.init.zeros_(layer.bias)
    return layer


def initialise(weight: Tensor, fan_in: int, fan_out: int, scale: float = 1.0) -> None:
    """Truncated normal (at two deviations, corrected), variance 2 scale^2 / (fan_in + fan_out), in place."""
    deviation = 1.1368 * math.sqrt(2 / (fan_in + fan_out))
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    with torch.no_grad():
        weight.mul_(scale)


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, gradients to the parameters of `module` are not recorded, gradients through it are."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def widen(x: Tensor) -> Tensor:
    """In float32 if the dtype is half precision, otherwise unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last axis, computed in float32 or wider (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> the same shape and dtype."""
        return super().forward(widen(x)).to(x.dtype)


class MLP(nn.Sequential):
    """`layers` times (linear, norm, SiLU), then a linear output if `outputs` is given.

    Args:
        inputs, units, outputs: sizes.
        layers: hidden layers.
        out_scale: scale of the output layer's initial weights; 0 makes the first output exactly zero.
        norm: makes the norm of a layer; the layer norm is fused on every device, the RMS norm on GPUs only.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        layers: int,
        outputs: int | None = None,
        out_scale: float = 1.0,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        parts: list[nn.Module] = []
        for _ in range(layers):
            parts += [linear(inputs, units), norm(units), nn.SiLU()]
            inputs = units
        if outputs is not None:
            parts.append(linear(inputs, outputs, out_scale))
        super().__init__(*parts)


class BlockLinear(nn.Module):
    """Block-diagonal linear layer: `blocks` maps, each of inputs/blocks to outputs/blocks numbers."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs // blocks))
        initialise(self.weight.data, inputs // blocks, outputs // blocks)

    def forward(self, x: Tensor) -> Tensor:
        """`[blocks, B, inputs / blocks]` -> `[blocks, B, outputs / blocks]`."""
        return torch.baddbmm(self.bias, x, self.weight)

"""Small networks that all parts of the model share: linear layers, multilayer perceptrons, convolutions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
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


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 or wider (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> the same shape and dtype."""
        wide = widen(x)
        return F.rms_norm(wide, wide.shape[-1:], self.scale, self.eps).to(x.dtype)


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
    """Block-diagonal linear layer: `blocks` independent maps of inputs/blocks to outputs/blocks numbers."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ValueError(
                f"BlockLinear: inputs {inputs} and outputs {outputs} must be divisible by blocks {blocks}; "
                f"change rssm.deter or rssm.blocks"
            )
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs // blocks))
        initialise(self.weight.data, inputs // blocks, outputs // blocks)

    def forward(self, x: Tensor) -> Tensor:
        """`[blocks, N, inputs / blocks]` -> `[blocks, N, outputs / blocks]`."""
        return torch.baddbmm(self.bias, x, self.weight)


class ConvEncoder(nn.Module):
    """Image `[N, C, H, W]` -> `[N, output_size]`: stride-2 convolutions until both sides are at most 6.

    Each one maps a side n to ceil(n / 2) (64 -> 4, 84 -> 6, 40 -> 5); channels are depth * (1, 2, 4, 4, ...).
    """

    def __init__(self, shape: Sequence[int], depth: int) -> None:
        super().__init__()
        height, width, channels = shape
        layers: list[nn.Module] = []
        sizes = halvings(height, width)
        for number in range(len(sizes) - 1):
            outputs = depth * min(2**number, 4)
            layers += [nn.Conv2d(channels, outputs, 5, 2, 2), ChannelNorm(outputs), nn.SiLU()]
            channels = outputs
        if not layers:
            layers = [nn.Conv2d(channels, depth, 3, 1, 1), ChannelNorm(depth), nn.SiLU()]
            channels = depth
        self.layers = nn.Sequential(*layers)
        self.output_size = channels * math.prod(sizes[-1])

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image).flatten(1)


class ConvDecoder(nn.Module):
    """Feature `[N, inputs]` -> image means `[N, C, H, W]`: the encoder's sizes in reverse.

    Each stage doubles by nearest neighbour, crops to the encoder's size at that depth and convolves.
    """

    def __init__(self, inputs: int, shape: Sequence[int], depth: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.sizes = halvings(height, width)[::-1]
        stages = len(self.sizes) - 1
        depths = [depth * min(2**number, 4) for number in range(max(stages, 1))][::-1]
        self.start = (depths[0], *self.sizes[0])
        self.project = linear(inputs, math.prod(self.start))
        self.first = nn.Sequential(ChannelNorm(depths[0]), nn.SiLU())
        self.layers = nn.ModuleList()
        for number in range(stages):
            last = number == stages - 1
            outputs = channels if last else depths[number + 1]
            conv = nn.Conv2d(depths[number], outputs, 5, 1, 2)
            self.layers.append(conv if last else nn.Sequential(conv, ChannelNorm(outputs), nn.SiLU()))
        self.single = nn.Conv2d(depths[0], channels, 3, 1, 1) if not stages else None

    def forward(self, feature: Tensor) -> Tensor:
        x = self.first(self.project(feature).unflatten(-1, self.start))
        for (height, width), layer in zip(self.sizes[1:], self.layers, strict=True):
            x = layer(F.interpolate(x, scale_factor=2)[..., :height, :width])
        if self.single is not None:
            x = self.single(x)
        return torch.sigmoid(x.float())


class ChannelNorm(nn.Module):
    """RMS norm over the channels of `[N, C, H, W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def halvings(height: int, width: int, smallest: int = 6) -> list[tuple[int, int]]:
    """Sizes from (height, width) on, halved (rounded up) until both sides are at most `smallest`."""
    sizes = [(height, width)]
    while max(sizes[-1]) > smallest:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes

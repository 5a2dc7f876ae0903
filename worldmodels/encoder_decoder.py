"""Any mix of images and vectors to an embedding, and a feature back to predictions of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import gymnasium
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.heads import symexp, symlog
from worldmodels.nets import MLP, linear

Batch = dict[str, Tensor]


def observations(batch: Batch) -> Batch:
    """The entries `obs/<name>` of a batch, by name."""
    return {key.removeprefix("obs/"): value for key, value in batch.items() if key.startswith("obs/")}


def is_image(space: gymnasium.Space) -> bool:
    """Whether an observation goes to the convolutional network: uint8 and of rank 3."""
    return space.dtype == "uint8" and len(space.shape or ()) == 3


def classes(space: gymnasium.Space) -> tuple[int, ...]:
    """How many classes each one-hot code of a vector has; () for a vector that holds none.

    The environments declare this by an attribute of this name on the leaf's space.
    """
    return getattr(space, "classes", ())


class Encoder(nn.Module):
    """Any mix of observations -> embedding `[..., E]`: a CNN for every image, one MLP for all vectors."""

    def __init__(self, space: gymnasium.spaces.Dict, depth: int, units: int, layers: int) -> None:
        super().__init__()
        self.images = [key for key, leaf in space.items() if is_image(leaf)]
        self.vectors = [key for key, leaf in space.items() if not is_image(leaf)]
        cnns = [ConvEncoder(space[key].shape or (), depth) for key in self.images]
        self.cnns = nn.ModuleList(cnns)
        self.output_size = sum(cnn.output_size for cnn in cnns)
        self.mlp = None
        if self.vectors:
            self.mlp = MLP(sum(_size(space[key]) for key in self.vectors), units, layers)
            self.output_size += units

    def forward(self, obs: Batch) -> Tensor:
        """Images uint8 `[..., H, W, C]`, vectors `[..., d]` -> `[..., E]`."""
        parts = []
        for key, cnn in zip(self.images, self.cnns, strict=True):
            image = obs[key]
            flat = image.flatten(0, -4).float() / 255 - 0.5
            parts.append(cnn(flat).unflatten(0, image.shape[:-3]))
        if self.mlp is not None:
            parts.append(self.mlp(symlog(torch.cat([obs[key] for key in self.vectors], -1))))
        return torch.cat(parts, -1)


class Decoder(nn.Module):
    """Feature `[..., F]` -> predicted observations: pixel means in [0, 1], symlog vectors, logits of classes.

    Args:
        inputs: F.
        space: observation space.
        depth, units, layers: sizes.
        vector_scale: weight of the squared errors of vectors: a Gaussian likelihood with standard deviation
            (2 vector_scale)^-1/2 in symlog space. The recall loss's decoder has the same.
    """

    def __init__(
        self,
        inputs: int,
        space: gymnasium.spaces.Dict,
        depth: int,
        units: int,
        layers: int,
        vector_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.vector_scale = vector_scale
        self.images = [key for key, leaf in space.items() if is_image(leaf)]
        self.vectors = {key: _size(leaf) for key, leaf in space.items() if not is_image(leaf)}
        self.classes = {key: classes(space[key]) for key in self.vectors}
        self.cnns = nn.ModuleList(ConvDecoder(inputs, space[key].shape or (), depth) for key in self.images)
        self.mlp = MLP(inputs, units, layers, sum(self.vectors.values())) if self.vectors else None

    def forward(self, feature: Tensor) -> Batch:
        """Images `[..., H, W, C]` in [0, 1], vectors `[..., d]` in symlog space; logits of one-hot codes."""
        predicted: Batch = {}
        for key, cnn in zip(self.images, self.cnns, strict=True):
            predicted[key] = cnn(feature.flatten(0, -2)).unflatten(0, feature.shape[:-1])
        if self.mlp is not None:
            parts = self.mlp(feature).float().split(list(self.vectors.values()), -1)
            predicted |= zip(self.vectors, parts, strict=True)
        return predicted

    def losses(self, feature: Tensor, obs: Batch) -> Batch:
        """`[...]` per key: squared errors summed over pixels or elements; cross-entropies over one-hot codes.

        As in DreamerV3 (eq. 2; its implementation has the cross-entropy for discrete observations), except
        for `vector_scale`. Under a squared error, the information in a one-hot code is not worth the KL that
        it costs.
        """
        losses = {}
        for key, value in self(feature).items():
            if key in self.images:
                losses[key] = (value - obs[key].float() / 255).square().sum((-3, -2, -1))
            elif self.classes[key]:
                losses[key] = -(obs[key] * _by_code(F.log_softmax, value, self.classes[key])).sum(-1)
            else:
                losses[key] = self.vector_scale * (value - symlog(obs[key])).square().sum(-1)
        return losses

    def observations(self, feature: Tensor) -> Batch:
        """Predictions in the observations' own units: images in [0, 1], vectors, probabilities of classes."""
        shown = self(feature)
        for key, sizes in self.classes.items():
            shown[key] = _by_code(F.softmax, shown[key], sizes) if sizes else symexp(shown[key])
        return shown


def _by_code(function: Callable[[Tensor, int], Tensor], vector: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """`function(part, -1)` of each one-hot code in `[..., d]`, put together again."""
    if len(set(sizes)) == 1:  # at once: a deck of cards has many codes
        return function(vector.unflatten(-1, (len(sizes), sizes[0])), -1).flatten(-2)
    return torch.cat([function(part, -1) for part in vector.split(sizes, -1)], -1)


def _size(space: gymnasium.Space) -> int:
    return math.prod(space.shape or ())


class ConvEncoder(nn.Module):
    """Images `[B, H, W, C]` -> `[B, output_size]`: each side is halved until both are at most 6.

    A convolution maps a side n to ceil(n / 2) (64 -> 4, 84 -> 6, 40 -> 5); channels are depth * (1, 2, 4,
    4, ...).
    """

    def __init__(self, shape: Sequence[int], depth: int) -> None:
        super().__init__()
        height, width, channels = shape
        layers: list[nn.Module] = []
        sizes = halvings(height, width)
        for number in range(max(len(sizes) - 1, 1)):
            outputs = depth * min(2**number, 4)
            conv = Halving(channels, outputs) if len(sizes) > 1 else Conv(channels, outputs, 3, padding=1)
            layers += [conv, PixelNorm(outputs), nn.SiLU()]
            channels = outputs
        self.layers = nn.Sequential(*layers)
        self.output_size = channels * math.prod(sizes[-1])

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image).flatten(1)


class ConvDecoder(nn.Module):
    """Feature `[B, inputs]` -> image means `[B, H, W, C]` in [0, 1]: the encoder's sizes in reverse."""

    def __init__(self, inputs: int, shape: Sequence[int], depth: int) -> None:
        super().__init__()
        height, width, channels = shape
        sizes = halvings(height, width)[::-1]
        stages = len(sizes) - 1
        depths = [depth * min(2**number, 4) for number in range(max(stages, 1))][::-1]
        self.start = (*sizes[0], depths[0])
        self.project = linear(inputs, math.prod(self.start))
        layers: list[nn.Module] = []
        for number, outputs in enumerate([*depths[1:], channels]):
            layers += [PixelNorm(depths[number]), nn.SiLU()]
            conv = (
                Doubling(depths[number], outputs, sizes[number + 1])
                if stages
                else Conv(depths[0], channels, 3, padding=1)
            )
            layers.append(conv)
        self.layers = nn.Sequential(*layers)

    def forward(self, feature: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(self.project(feature).unflatten(-1, self.start)).float())


class Conv(nn.Conv2d):
    """Convolution of `[B, H, W, C]`: with channels last, norms over them need not move them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class Halving(Conv):
    """`[B, H, W, C]` -> `[B, ceil(H / 2), ceil(W / 2), outputs]`, by 4 x 4 weights; zeros around it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        return super().forward(x)


class Doubling(nn.ConvTranspose2d):
    """`[B, H, W, C]` -> `[B, *size, outputs]`, by 4 x 4 weights: both sides doubled, then cropped to `size`.

    Each pixel is a sum over 2 x 2 of the input: 16 products for a pixel of the input, where doubling by
    nearest neighbour and a convolution of 5 x 5, as in DreamerV3, takes 100.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        height, width = self.size
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)[:, :height, :width]


class PixelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of `[B, H, W, C]`, in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


def halvings(height: int, width: int, smallest: int = 6) -> list[tuple[int, int]]:
    """Sizes from (height, width) on, halved (rounded up) until both sides are at most `smallest`."""
    sizes = [(height, width)]
    while max(sizes[-1]) > smallest:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes

"""Readouts: what a linear map or a network can tell from vectors that another model computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodels.nets import MLP

RIDGE = 1e-4  # of the mean variance of an input
UNITS = 512
STEPS, BATCH, RATE = 2000, 256, 1e-3

Reader = Callable[[Tensor], Tensor]
"""Inputs `[n, d]` -> classes `[n]`."""


def ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression of `targets` `[n, k]` on `inputs` `[n, d]`: float64 weights `[d, k]`, bias `[k]`."""
    x, y = inputs.double(), targets.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x = x - x_mean
    gram = x.T @ x
    gram.diagonal().add_(RIDGE * (gram.trace() / len(gram) + 1e-12))
    weight = torch.linalg.solve(gram, x.T @ (y - y_mean))
    return weight, y_mean - x_mean @ weight


def linear(inputs: Tensor, classes: Tensor) -> Reader:
    """The class whose indicator a ridge regression on `inputs` `[n, d]` predicts largest; `classes` `[n]`."""
    values, index = classes.unique(return_inverse=True)
    weight, bias = ridge(inputs, F.one_hot(index))
    return lambda other: values[(other.double() @ weight + bias).argmax(-1)]


def network(inputs: Tensor, classes: Tensor) -> Reader:
    """A network of one layer of `UNITS` that is trained to tell the `classes` `[n]` of `inputs` `[n, d]`."""
    values, index = classes.unique(return_inverse=True)
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=1e-4)
    net = MLP(inputs.shape[1], UNITS, 1, len(values)).to(inputs.device)
    train(net, [(inputs - mean) / deviation, index], lambda x, y: F.cross_entropy(net(x), y))
    with torch.no_grad():
        return lambda other: values[net((other - mean) / deviation).argmax(-1)]


def train(net: nn.Module, data: Sequence[Tensor], loss: Callable[..., Tensor]) -> None:
    """Train by AdamW, its rate falling to 0: `loss` of random rows of all `data` `[n, ...]`."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE)
    rate = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(data[0]), (BATCH,), device=data[0].device)
        value = loss(*(part[chosen] for part in data))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        rate.step()

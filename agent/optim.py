"""Optimisers: Adam with the parameter groups that state-space layers need, Muon, and clipped gradients."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from worldmodels import ranks


class Muon(torch.optim.Optimizer):
    """Momentum that steps all directions of a weight matrix alike (Jordan et al., 2024).

    Adam steps a matrix mostly along the few directions that its inputs have in common at most steps, which
    says little of what sets them apart. Here the momentum U S V^T becomes nearly U V^T, by five Newton-Schulz
    iterations. Its root mean square is then that of Adam's steps, 0.2 (Liu et al., 2025, "Muon is scalable
    for LLM training", eq. 4), so that a rate means the same as there.

    Unlike torch's own it also takes stacks of matrices `[n, i, o]` and kernels `[o, i, h, w]`, and steps
    matrices of one shape together.

    Args:
        params: of two axes or more, or groups of them.
        lr: learning rate.
        weight_decay: decoupled, as AdamW's.
        momentum: decay of the mean gradient, with Nesterov's look ahead.
    """

    STEPS = 5
    COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Jordan's quintic, steepest at 0
    EPS = 1e-7

    def __init__(
        self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        """Step every parameter that has a gradient."""
        for group in self.param_groups:
            alike: defaultdict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                mean = state["mean"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(mean, group["momentum"])
                stack = as_stack(ahead)
                alike[stack.shape[1:]].append((parameter, stack))
            for shape, members in alike.items():
                parameters, stacks = zip(*members, strict=True)
                steps = self.orthogonal(torch.cat(stacks)).split([len(stack) for stack in stacks])
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                    parameter.sub_(step.reshape(parameter.shape), alpha=rate)

    @classmethod
    def orthogonal(cls, x: Tensor) -> Tensor:
        """Matrices `[n, r, c]` with the same singular vectors, and singular values of 0.7 to 1.2.

        Those that were below 0.002 of the matrix's norm may stay smaller; 0 stays 0.
        """
        a, b, c = cls.COEFFICIENTS
        wide = x if x.shape[1] <= x.shape[2] else x.mT
        wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=cls.EPS)
        for _ in range(cls.STEPS):
            gram = wide @ wide.mT
            wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
        return wide if x.shape[1] <= x.shape[2] else wide.mT


def as_stack(weight: Tensor) -> Tensor:
    """A weight as matrices `[n, r, c]`: one of two axes, a stack of them, or a convolution's kernels."""
    return weight if weight.dim() == 3 else weight.flatten(1).unsqueeze(0)


class Optimiser:
    """AdamW over a module's parameters, clipped by their global norm; for matrices, if so wanted, `Muon`.

    Args:
        module: whose parameters are trained.
        lr: learning rate.
        ssm_lr: learning rate of the state-space layers' dynamics, the parameters they name in `DYNAMICS`.
        beta2: Adam's decay of the mean square. After many small ones, one large gradient moves a parameter by
            about (1 - beta2)^(-1/2) rates in all: 32 with 0.999, 10 with DreamerV3's 0.99. Clipping the
            global norm does not help where the large gradients of other parameters hide it.
        eps: Adam's epsilon.
        weight_decay: for matrices; norms, biases and SSM dynamics have none.
        clip: largest global gradient norm, above 0.
        warmup: updates over which the learning rates rise linearly from 0.
        cooldown: share of the run, its last, over which they fall to 0; see `left`.
        matrices: `adam`, or `muon` for what maps vectors to vectors: parameters of two axes, and `weight` of
            a stack or of a convolution. `DYNAMICS` are Adam's in any case.

    Attributes:
        left: share of the run that is still to come, which the caller says before an update.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        ssm_lr: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        clip: float,
        warmup: int,
        cooldown: float = 0.0,
        matrices: str = "adam",
    ) -> None:
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        of_ssm = {
            id(getattr(layer, name)) for layer in module.modules() for name in getattr(layer, "DYNAMICS", ())
        }
        dynamics, maps, decaying, rest = [], [], [], []
        for name, parameter in named:
            leaf = name.rsplit(".", 1)[-1]
            if id(parameter) in of_ssm:
                dynamics.append(parameter)
            elif parameter.dim() < 2 or leaf.endswith("bias"):
                rest.append(parameter)
            elif matrices == "muon" and (parameter.dim() == 2 or leaf == "weight"):
                maps.append(parameter)
            else:
                decaying.append(parameter)
        groups = [
            {"params": decaying, "rate": lr, "weight_decay": weight_decay},
            {"params": rest, "rate": lr, "weight_decay": 0.0},
            {"params": dynamics, "rate": ssm_lr, "weight_decay": 0.0},
        ]
        self.parameters = [p for _, p in named]
        self.clip = clip
        groups = [group for group in groups if group["params"]]
        self.steppers: dict[str, torch.optim.Optimizer] = {}
        if groups:
            self.steppers["adam"] = torch.optim.AdamW(groups, betas=(0.9, beta2), eps=eps, fused=True)
        if maps:
            self.steppers["muon"] = Muon([{"params": maps, "rate": lr, "weight_decay": weight_decay}])
        self.warmup, self.cooldown, self.left = max(warmup, 1), cooldown, 1.0
        self.updates = 0

    @property
    def share(self) -> float:
        """Share of the learning rates that is in force: below 1 in the warm-up and in the cooldown."""
        warm = min(self.updates / self.warmup, 1.0)
        return warm * self.left / self.cooldown if self.left < self.cooldown else warm

    def step(self, loss: Tensor) -> Tensor:
        """`step_together` of this one alone; returns the norm `[]` before clipping."""
        return step_together((self, loss))[0]

    def backward(self, loss: Tensor) -> None:
        """Backpropagate."""
        for stepper in self.steppers.values():
            stepper.zero_grad(set_to_none=True)
        loss.backward()

    def apply(self) -> Tensor:
        """Clip and step; returns the norm `[]` before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        self.updates += 1
        for stepper in self.steppers.values():
            for group in stepper.param_groups:
                group["lr"] = self.share * group["rate"]
            stepper.step()
        return norm

    def state_dict(self) -> dict:
        return {name: stepper.state_dict() for name, stepper in self.steppers.items()} | {
            "updates": self.updates
        }

    def load_state_dict(self, state: dict) -> None:
        for name, stepper in self.steppers.items():
            stepper.load_state_dict(state[name])
        self.updates = state["updates"]


def step_together(*losses: tuple[Optimiser, Tensor]) -> list[Tensor]:
    """One step of each optimiser on its loss, which no other's step may change; the norms before clipping.

    Ranks wait for each other once: all backpropagate, average every gradient in one message, and step.
    """
    for optimiser, loss in losses:
        optimiser.backward(loss)
    ranks.average_gradients(p for optimiser, _ in losses for p in optimiser.parameters)
    return [optimiser.apply() for optimiser, _ in losses]

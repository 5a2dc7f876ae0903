"""Optimisers: Adam with the parameter groups that state-space layers need, and clipped gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from worldmodels import ranks


class Optimiser:
    """AdamW over named modules with gradient clipping by the global norm.

    Args:
        modules: whose parameters are trained.
        lr: learning rate.
        ssm_lr: learning rate of the state-space layers' dynamics, the parameters they name in `DYNAMICS`.
        beta2: Adam's decay of the mean square. After many small ones, one large gradient moves a parameter by
            about (1 - beta2)^(-1/2) rates in all: 32 with 0.999, 10 with DreamerV3's 0.99. Clipping the
            global norm does not help where the large gradients of other parameters hide it.
        eps: Adam's epsilon.
        weight_decay: for matrices; norms, biases and SSM dynamics have none.
        clip: largest global gradient norm, above 0.
        warmup: updates over which the learning rate rises linearly from 0.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        lr: float,
        ssm_lr: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        clip: float,
        warmup: int,
    ) -> None:
        modules = list(modules)
        named = [item for module in modules for item in module.named_parameters() if item[1].requires_grad]
        of_ssm = {
            id(getattr(layer, name))
            for module in modules
            for layer in module.modules()
            for name in getattr(layer, "DYNAMICS", ())
        }
        dynamics, matrices, rest = [], [], []
        for name, parameter in named:
            leaf = name.rsplit(".", 1)[-1]
            if id(parameter) in of_ssm:
                dynamics.append(parameter)
            elif parameter.dim() > 1 and not leaf.endswith("bias"):
                matrices.append(parameter)
            else:
                rest.append(parameter)
        groups = [
            {"params": matrices, "lr": lr, "weight_decay": weight_decay},
            {"params": rest, "lr": lr, "weight_decay": 0.0},
            {"params": dynamics, "lr": ssm_lr, "weight_decay": 0.0},
        ]
        self.parameters = [p for _, p in named]
        self.clip = clip
        groups = [group for group in groups if group["params"]]
        self.adam = torch.optim.AdamW(groups, betas=(0.9, beta2), eps=eps, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.adam, lambda update: min((update + 1) / max(warmup, 1), 1.0)
        )

    def step(self, loss: Tensor) -> Tensor:
        """`step_together` of this one alone; returns the norm `[]` before clipping."""
        return step_together((self, loss))[0]

    def backward(self, loss: Tensor) -> None:
        """Backpropagate."""
        self.adam.zero_grad(set_to_none=True)
        loss.backward()

    def apply(self) -> Tensor:
        """Clip and step; returns the norm `[]` before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        self.adam.step()
        self.schedule.step()
        return norm

    def state_dict(self) -> dict:
        return {"adam": self.adam.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        self.schedule.load_state_dict(state["schedule"])


def step_together(*losses: tuple[Optimiser, Tensor]) -> list[Tensor]:
    """One step of each optimiser on its loss, which no other's step may change; the norms before clipping.

    Ranks wait for each other once: all backpropagate, average every gradient in one message, and step.
    """
    for optimiser, loss in losses:
        optimiser.backward(loss)
    ranks.average_gradients(p for optimiser, _ in losses for p in optimiser.parameters)
    return [optimiser.apply() for optimiser, _ in losses]

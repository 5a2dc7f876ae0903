"""The primitive under every diagonal layer: a linear recurrence with resets and its own adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_recurrence(decay: Tensor, inputs: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
    """States of x_t = decay * x_{t-1} + inputs_t, where x_{t-1} is replaced by exactly 0 if `is_first[:, t]`.

    Args:
        decay: `[...modes]` complex, modulus at most 1.
        inputs: `[B, T, ...modes]` complex.
        state: `[B, ...modes]` complex, x before the first step.
        is_first: `[B, T]` bool.

    Returns:
        `[B, T, ...modes]` complex.

    The loop is over time with one fused multiply-add a step; autograd never records it. Its adjoint is
    g_t = dy_t + keep_{t+1} conj(decay) g_{t+1}, with d inputs = g and
    d decay = sum over t of keep_t conj(x_{t-1}) g_t.

    An `autograd.Function` and no `torch.library.custom_op`: measured side by side, on pairs of real numbers
    as such an operator wants them, the same loops gave the same bits, and the way in and out of the operator
    made windows of 64 and 256 steps slower. Nothing here is compiled, which is what an operator would be for.
    """
    return _LinearRecurrence.apply(decay, inputs, state, is_first)


def steps_with_resets(is_first: Tensor) -> list[bool]:
    """Which steps reset any row. Reading it on a GPU would wait for the device: there, all count as such."""
    if is_first.is_cuda:
        return [True] * is_first.shape[1]
    return is_first.any(0).tolist()


class _LinearRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        inputs = inputs.transpose(0, 1)
        states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
        erased = is_first.t().reshape(*is_first.t().shape, *(1,) * (inputs.dim() - 2))
        resets = steps_with_resets(is_first)
        previous = state
        for t, (new, out) in enumerate(zip(inputs.unbind(), states.unbind(), strict=True)):
            if resets[t]:
                previous = previous.masked_fill(erased[t], 0)
            previous = torch.addcmul(new, decay, previous, out=out)
        ctx.save_for_backward(decay, state, states, is_first)
        ctx.resets = resets
        return states.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        decay, state, states, is_first = ctx.saved_tensors
        grad = grad.transpose(0, 1)
        adjoint = torch.empty_like(states)
        erased = is_first.t().reshape(*is_first.t().shape, *(1,) * (states.dim() - 2))
        turn = decay.conj().resolve_conj()
        adjoint[-1] = grad[-1]
        following = adjoint[-1]
        steps = zip(grad.unbind()[-2::-1], adjoint.unbind()[-2::-1], strict=True)
        for reset, (new, out) in zip(range(len(states) - 1, 0, -1), steps, strict=True):
            if ctx.resets[reset]:
                following = following.masked_fill(erased[reset], 0)
            following = torch.addcmul(new, turn, following, out=out)
        before = torch.cat([state[None], states[:-1]]).masked_fill_(erased, 0)
        grad_decay = (before.conj() * adjoint).sum((0, 1))
        grad_state = (turn * adjoint[0]).masked_fill(erased[0], 0)
        return grad_decay, adjoint.transpose(0, 1), grad_state, None

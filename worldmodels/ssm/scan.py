"""The primitive under every diagonal layer: a linear recurrence with resets and its own adjoint."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_recurrence(decay: Tensor, inputs: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
    """States of x_t = decay_t x_{t-1} + inputs_t, where x_{t-1} is replaced by exactly 0 if `is_first[:, t]`.

    Args:
        decay: `[...modes]`, modulus at most 1, or one for each step, `[B, T, ...modes]` or broadcast to it.
        inputs: `[B, T, ...modes]`.
        state: `[B, ...modes]`, x before the first step.
        is_first: `[B, T]` bool.

    Returns:
        `[B, T, ...modes]`; all four are real or all complex.

    The loop is over time with one fused multiply-add per step; autograd never records it. Its adjoint is
    g_t = dy_t + keep_{t+1} conj(decay_{t+1}) g_{t+1}, with d inputs = g and
    d decay_t = keep_t conj(x_{t-1}) g_t. On a GPU with Triton each of the two is one kernel (scan_triton.py).

    An `autograd.Function`, not a `torch.library.custom_op`: measured side by side, on pairs of real numbers
    as such an operator requires, the same loops gave the same bits, and the overhead of calling the operator
    made windows of 64 and 256 steps slower. Nothing here is compiled, which is what an operator would be for.
    """
    return _LinearRecurrence.apply(decay, inputs, state, is_first)


def steps_with_resets(is_first: Tensor) -> list[bool]:
    """Which steps reset any row. On a GPU reading this would wait for the device: all count as such there."""
    if is_first.is_cuda:
        return [True] * is_first.shape[1]
    return is_first.any(0).tolist()


@functools.cache
def _triton_is_here() -> bool:
    return importlib.util.find_spec("triton") is not None


class _LinearRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        ctx.kernels = inputs.is_cuda and _triton_is_here()
        if ctx.kernels:
            from worldmodels.ssm import scan_triton

            states = scan_triton.forward(*_flat(decay, inputs), state.flatten(1), is_first).view(inputs.shape)
        else:
            states, ctx.resets = loop_forward(decay, inputs, state, is_first)
        ctx.save_for_backward(decay, state, states, is_first)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        decay, state, states, is_first = ctx.saved_tensors
        if ctx.kernels:
            from worldmodels.ssm import scan_triton

            flat_decay, flat_states = _flat(decay, states)
            by_decay, adjoint, by_state = scan_triton.backward(
                flat_decay, state.flatten(1), is_first, flat_states, grad.flatten(2)
            )
            adjoint, by_state = adjoint.view(states.shape), by_state.view(state.shape)
            by_decay = by_decay.view(states.shape if decay.dim() == states.dim() else decay.shape)
        else:
            by_decay, adjoint, by_state = loop_backward(decay, state, is_first, states, grad, ctx.resets)
        return by_decay.sum_to_size(decay.shape), adjoint, by_state, None


def _flat(decay: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Both with one axis of modes: decay `[M]` or `[B, T, M]`, inputs `[B, T, M]`."""
    varying = decay.dim() == inputs.dim()
    return decay.expand_as(inputs).flatten(2) if varying else decay.flatten(), inputs.flatten(2)


def loop_forward(decay: Tensor, inputs: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, list[bool]]:
    """The states, and which steps reset any row."""
    inputs = inputs.transpose(0, 1)
    states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    erased = _erased(is_first, inputs)
    resets, factors = steps_with_resets(is_first), _by_step(decay, inputs)
    previous = state
    for t, (factor, new, out) in enumerate(zip(factors, inputs.unbind(), states.unbind(), strict=True)):
        if resets[t]:
            previous = previous.masked_fill(erased[t], 0)
        previous = torch.addcmul(new, factor, previous, out=out)
    return states.transpose(0, 1), resets


def loop_backward(
    decay: Tensor, state: Tensor, is_first: Tensor, states: Tensor, grad: Tensor, resets: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to decay (per step if it varies by step), inputs and state."""
    states, grad = states.transpose(0, 1), grad.transpose(0, 1)
    adjoint = torch.empty_like(states)
    erased = _erased(is_first, states)
    factors = _by_step(decay.conj().resolve_conj(), states)
    adjoint[-1] = grad[-1]
    following = adjoint[-1]
    steps = zip(grad.unbind()[-2::-1], adjoint.unbind()[-2::-1], strict=True)
    for after, (new, out) in zip(range(len(states) - 1, 0, -1), steps, strict=True):
        if resets[after]:
            following = following.masked_fill(erased[after], 0)
        following = torch.addcmul(new, factors[after], following, out=out)
    before = torch.cat([state[None], states[:-1]]).masked_fill_(erased, 0)
    by_decay = before.conj().mul(adjoint)
    by_decay = by_decay.transpose(0, 1) if decay.dim() == states.dim() else by_decay.sum((0, 1))
    by_state = (factors[0] * adjoint[0]).masked_fill(erased[0], 0)
    return by_decay, adjoint.transpose(0, 1), by_state


def _erased(is_first: Tensor, states: Tensor) -> Tensor:
    """`[T, B]` with an axis of size 1 for each axis of modes, from `[B, T]` and `[T, B, ...modes]`."""
    return is_first.t().reshape(*states.shape[:2], *(1,) * (states.dim() - 2))


def _by_step(decay: Tensor, states: Tensor) -> tuple[Tensor, ...]:
    """The decay of every step, to be broadcast to `[B, ...modes]`; states are `[T, B, ...modes]`."""
    if decay.dim() < states.dim():
        return (decay,) * len(states)
    return decay.expand(-1, len(states), *decay.shape[2:]).unbind(1)

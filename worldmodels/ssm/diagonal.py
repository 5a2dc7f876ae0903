"""S5 and LRU: one diagonal system for all channels, run step by step as a linear recurrence with resets.

In reading order: from continuous to discrete time, the recurrence and its adjoint, the layer on top of it,
and what S5 and LRU each make of it. M complex modes; D channels.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from worldmodels.base import steps_with_resets
from worldmodels.ssm.hippo import hippo_normal, log_steps
from worldmodels.ssm.layer import TimeInvariant, as_complex
from worldmodels.ssm.window import Window


def modulus_and_phase(
    real: Tensor, frequency: Tensor, dt: Tensor, discretisation: str
) -> tuple[Tensor, Tensor]:
    """Logarithm of the modulus, at most 0, and phase of Abar, for A = real + i frequency with real < 0.

    `zoh`: Abar = exp(dt A). `bilinear`: Abar = (1 + dt A / 2) / (1 - dt A / 2). All arguments broadcast.
    """
    if discretisation == "zoh":
        return dt * real, dt * frequency
    a, b = dt * real / 2, dt * frequency / 2
    # |1 + a + ib|^2 = |1 - a - ib|^2 + 4a.
    log_modulus = torch.log1p(4 * a / ((1 - a).square() + b.square())) / 2
    return log_modulus, torch.atan2(b, 1 + a) + torch.atan2(b, 1 - a)


def discretise_diagonal(
    real: Tensor, frequency: Tensor, dt: Tensor, discretisation: str = "zoh", input_scale: str = "bbar"
) -> tuple[Tensor, Tensor]:
    """Abar and the factor of the inputs of each mode, both complex.

    Abar is composed of modulus and phase, so that its modulus cannot exceed 1.

    Args:
        real, frequency, dt: of A = real + i frequency with real < 0, and its step sizes.
        discretisation: `zoh` or `bilinear`.
        input_scale: `bbar`: as published, (Abar - 1) / A under zero-order hold and dt / (1 - dt A / 2)
            bilinear; a slow mode then receives an impulse with a strength of about its step size. `unit`:
            sqrt(1 - |Abar|^2), so that white noise gives every mode unit variance, fast or slow (Orvieto et
            al., 2023, LRU, section 3.4).
    """
    log_modulus, phase = modulus_and_phase(real, frequency, dt, discretisation)
    abar = torch.polar(log_modulus.exp(), phase)
    if input_scale == "unit":
        log_square = 2 * dt * real if discretisation == "zoh" else 2 * log_modulus
        scale = torch.sqrt(-torch.expm1(log_square))
        return abar, torch.complex(scale, torch.zeros_like(scale))
    a = torch.complex(real.expand_as(frequency), frequency)
    return abar, (abar - 1) / a if discretisation == "zoh" else dt / (1 - dt * a / 2)


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


def loop_forward(decay: Tensor, inputs: Tensor, state: Tensor, is_first: Tensor) -> tuple[Tensor, list[bool]]:
    """The states, and which steps reset any row."""
    inputs = inputs.transpose(0, 1)
    states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    erased, factors = _erased(is_first, inputs), _by_step(decay, inputs)
    resets = steps_with_resets(is_first)
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
    adjoint = torch.empty_like(states, memory_format=torch.contiguous_format)
    erased, factors = _erased(is_first, states), _by_step(decay.conj().resolve_conj(), states)
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


def _flat(decay: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Both with one axis of modes: decay `[M]` or `[B, T, M]`, inputs `[B, T, M]`."""
    varying = decay.dim() == inputs.dim()
    return decay.expand_as(inputs).flatten(2) if varying else decay.flatten(), inputs.flatten(2)


@functools.cache
def _triton_is_here() -> bool:
    return importlib.util.find_spec("triton") is not None


class Diagonal(TimeInvariant):
    """x_t = Abar x_{t-1} + g B u_t, y_t = r Re(C x_t) + d u_t, with Abar and g diagonal. State: `[B, M, 2]`.

    A subclass sets the parameters below and `readout`, r; its `_modes` gives Abar and g.

    Attributes:
        b: `[2M, D]`, alternating real and imaginary rows: a matmul gives a complex view.
        c: `[D, 2M]`, alternating Re and -Im of the complex C, so that Re(C x) = c . (Re x, Im x).
        d: `[D]`.
    """

    state_shape: tuple[int, int]
    readout: float
    b: nn.Parameter
    c: nn.Parameter

    def forward(self, u: Tensor, state: Tensor, window: Window) -> tuple[Tensor, Tensor, Tensor | None]:
        system, b, c = self.discretise()
        abar = as_complex(self._transition(system, u))
        inputs = as_complex(F.linear(u, b).unflatten(-1, self.state_shape))  # [B, T, M]
        x = linear_recurrence(abar, inputs, as_complex(state), window.is_first)  # [B, T, M]
        states = torch.view_as_real(x)  # [B, T, M, 2]
        y = torch.addcmul(F.linear(states.flatten(-2), c), self.d, u)  # [B, T, D]
        return y, states[:, -1], window.kept(states)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        system, b, c = self.discretise()
        inputs = F.linear(u, b).unflatten(-1, self.state_shape)  # [B, M, 2]
        state = _multiply_add(inputs, self._transition(system, u), state)  # [B, M, 2]
        y = torch.addcmul(F.linear(state.flatten(-2), c), self.d, u)  # [B, D]
        return y, state

    def _discretise(self) -> tuple[Tensor, ...]:
        """Abar `[M, 2]`, and the matrices with all factors in them: g B like `b`, r C like `c`."""
        abar, scale = self._modes()
        pairs = self.b.unflatten(0, self.state_shape)  # [M, 2, D]
        turned = torch.stack([-pairs[:, 1], pairs[:, 0]], 1)  # i times as much
        b = scale.real[:, None, None] * pairs + scale.imag[:, None, None] * turned
        return torch.view_as_real(abar), b.flatten(0, 1), self.readout * self.c

    def _modes(self) -> tuple[Tensor, Tensor]:
        """Abar and g, `[M]` complex."""
        raise NotImplementedError

    def _transition(self, system: Tensor, u: Tensor) -> Tensor:  # noqa: ARG002 (of inputs here none)
        """Abar at inputs u `[..., D]`: `[M, 2]` whatever they are, or `[..., M, 2]` where they choose it."""
        return system


def _multiply_add(inputs: Tensor, factor: Tensor, x: Tensor) -> Tensor:
    """inputs + factor * x of complex numbers as pairs, `[..., 2]` each."""
    if torch.compiler.is_compiling():  # inductor fuses real arithmetic only
        real, imag = factor.unbind(-1)
        turned = torch.stack([-x[..., 1], x[..., 0]], -1)
        return inputs + real[..., None] * x + imag[..., None] * turned
    return torch.view_as_real(torch.addcmul(as_complex(inputs), as_complex(factor), as_complex(x)))


class S5(Diagonal):
    """A system in continuous time (Smith, Warrington, Linderman, ICLR 2023); conjugate modes are left out.

    Zero-order hold with one step size per mode, log-uniform in [dt_min, dt_max] at first; A begins as
    block-diagonal HiPPO-N, B and C are drawn real and rotated into its eigenbasis (section 3.3 and appendix
    B.1). Not the authors' are the sizes of B and C: B has the variance 1 / D, theirs 1 / 2M (a third of ours
    in deviation at the preset `small`), and C's mean square is half of theirs. Re(A) = -exp(.) keeps the
    system stable whatever training does. A, B and the step sizes are a separate parameter group, as in the
    authors' code (train_helpers.py, "standard").

    Args:
        width: D, channels in and out.
        state_size: M, complex modes kept (half of the conjugate pairs' real dimension).
        blocks: J, copies of HiPPO-N on the diagonal; must divide `state_size`.
        dt_min, dt_max: range of the initial step sizes, in environment steps.
        input_scale: `bbar` as published, or `unit`; see `discretise_diagonal`.
    """

    DYNAMICS = ("log_decay", "frequency", "log_dt", "b")
    readout = 2.0

    def __init__(
        self,
        width: int,
        state_size: int,
        blocks: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        input_scale: str = "bbar",
    ) -> None:
        super().__init__()
        if state_size % blocks:
            raise ValueError(
                f"S5: state_size {state_size} must be divisible by blocks {blocks} (s4wm.s5.blocks)"
            )
        self.state_shape, self.input_scale = (state_size, 2), input_scale
        values, vectors = hippo_normal(2 * state_size // blocks)  # [M/J], [2M/J, M/J]
        values = values.repeat(blocks)
        self.log_decay = nn.Parameter(torch.log(-values.real).float())  # [M]
        self.frequency = nn.Parameter(values.imag.clone().float())  # [M]
        self.log_dt = nn.Parameter(log_steps(state_size, dt_min, dt_max))  # [M]
        real_b = torch.randn(blocks, vectors.shape[0], width, dtype=torch.float64) / math.sqrt(width)
        b = (vectors.conj().t() @ real_b.to(vectors.dtype)).reshape(state_size, width)
        real_c = torch.randn(width, blocks, vectors.shape[0], dtype=torch.float64) / math.sqrt(2 * state_size)
        c = (real_c.to(vectors.dtype) @ vectors).reshape(width, state_size)
        self.b = nn.Parameter(torch.view_as_real(b).movedim(2, 1).reshape(2 * state_size, width).float())
        self.c = nn.Parameter(torch.view_as_real(c.conj().resolve_conj()).flatten(1).float())
        self.d = nn.Parameter(torch.randn(width))

    def log_abar(self) -> Tensor:
        return self.log_dt.exp() * -self.log_decay.exp()  # [M]

    def _modes(self) -> tuple[Tensor, Tensor]:
        dt, real = self.log_dt.exp(), -self.log_decay.exp()
        return discretise_diagonal(real, self.frequency, dt, input_scale=self.input_scale)


class LRU(Diagonal):
    """No continuous time (Orvieto et al., ICML 2023): Abar = exp(-exp(nu) + i exp(theta)), g = gamma.

    Parameters and initialisation as published (section 3, appendix A): |Abar|^2 uniform in [r_min^2,
    r_max^2], phase uniform in [0, max_phase], gamma = sqrt(1 - |Abar|^2) and learned from there on, B complex
    normal of variance 1 / D, C of 2 / M, since half of it is lost with the imaginary part. |Abar| < 1
    whatever training does.

    Args:
        width: D, channels in and out.
        state_size: M, complex modes.
        r_min, r_max: ring of the initial |Abar|; the memory of a mode is about 1 / (1 - |Abar|) steps.
        max_phase: largest initial phase, radians/step: small for long memories, large to tell steps apart.
            From pi on frequencies repeat, as the real part of a mode is that of its conjugate.
    """

    DYNAMICS: tuple[str, ...] = ("log_decay", "log_phase", "log_scale", "b")
    readout = 1.0

    def __init__(self, width: int, state_size: int, r_min: float, r_max: float, max_phase: float) -> None:
        super().__init__()
        if r_min >= r_max:
            name = type(self).__name__
            raise ValueError(f"{name} needs r_min < r_max, got r_min {r_min} and r_max {r_max}")
        self.state_shape = (state_size, 2)
        # 1 - rand is in (0, 1]: neither a modulus nor a phase is 0, whose logarithms are not finite.
        square = r_min**2 + (1 - torch.rand(state_size)) * (r_max**2 - r_min**2)
        self.log_decay = nn.Parameter(torch.log(-0.5 * torch.log(square)))  # nu [M]
        self.log_phase = nn.Parameter(torch.log(max_phase * (1 - torch.rand(state_size))))  # theta [M]
        self.log_scale = nn.Parameter(0.5 * torch.log1p(-square))  # log gamma [M]
        self.b = nn.Parameter(torch.randn(2 * state_size, width) * math.sqrt(0.5 / width))
        self.c = nn.Parameter(torch.randn(width, 2 * state_size) / math.sqrt(state_size))
        self.d = nn.Parameter(torch.randn(width))

    def log_abar(self) -> Tensor:
        return -self.log_decay.exp()  # [M]

    def _modes(self) -> tuple[Tensor, Tensor]:
        scale, modulus = self.log_scale.exp(), self.log_abar().exp()
        return torch.polar(modulus, self.log_phase.exp()), torch.complex(scale, torch.zeros_like(scale))

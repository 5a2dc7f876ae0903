"""The linear recurrence as one Triton kernel forward and one backward; `diagonal.py` says what it computes.

A program takes one row of the batch and `MODES` modes through the sequence in tiles of `STEPS` steps: an
associative scan within a tile, the state carried from tile to tile. Everything is read and written once. A
reset is carried through the scan as a flag that selects, so that nothing of the old episode, NaN included,
is ever multiplied into the new one.
"""

# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
# ruff: noqa: N803 (constants of a kernel are written in capitals)
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

STEPS, MODES = 64, 16  # of a tile


@triton.jit
def _then(cut, a_re, a_im, x_re, x_im, cut_2, a_re_2, a_im_2, x_re_2, x_im_2):
    """Composes two steps x -> a x + b, as (cut, a, b); cut is 1 where nothing from before is left."""
    keep = cut_2 == 0
    b_re = x_re_2 + tl.where(keep, a_re_2 * x_re - a_im_2 * x_im, 0.0)
    b_im = x_im_2 + tl.where(keep, a_re_2 * x_im + a_im_2 * x_re, 0.0)
    re = tl.where(keep, a_re_2 * a_re - a_im_2 * a_im, 0.0)
    im = tl.where(keep, a_re_2 * a_im + a_im_2 * a_re, 0.0)
    return cut | cut_2, re, im, b_re, b_im


@triton.jit
def _then_real(cut, a, x, cut_2, a_2, x_2):
    keep = cut_2 == 0
    return cut | cut_2, tl.where(keep, a_2 * a, 0.0), x_2 + tl.where(keep, a_2 * x, 0.0)


@triton.jit
def _plus(left, right):
    return left + right


@triton.jit
def _load(pointer, index, mask, COMPLEX: tl.constexpr):
    """Real and imaginary part, the latter 0 if there is none."""
    if COMPLEX:
        return tl.load(pointer + 2 * index, mask, 0.0), tl.load(pointer + 2 * index + 1, mask, 0.0)
    else:
        value = tl.load(pointer + index, mask, 0.0)
        return value, value * 0


@triton.jit
def _store(pointer, index, re, im, mask, COMPLEX: tl.constexpr):
    if COMPLEX:
        tl.store(pointer + 2 * index, re, mask)
        tl.store(pointer + 2 * index + 1, im, mask)
    else:
        tl.store(pointer + index, re, mask)


@triton.jit
def _scan(cut, a_re, a_im, x_re, x_im, COMPLEX: tl.constexpr, REVERSE: tl.constexpr):
    if COMPLEX:
        return tl.associative_scan((cut, a_re, a_im, x_re, x_im), 0, _then, REVERSE)
    else:
        cut, a_re, x_re = tl.associative_scan((cut, a_re, x_re), 0, _then_real, REVERSE)
        return cut, a_re, a_im, x_re, x_im


@triton.jit
def _carry_on(cut, a_re, a_im, x_re, x_im, carry_re, carry_im):
    """Tile `[STEPS, MODES]` scanned from zero, and the state before it `[MODES]` -> scanned from there."""
    keep = cut == 0
    x_re += tl.where(keep, a_re * carry_re - a_im * carry_im, 0.0)
    x_im += tl.where(keep, a_re * carry_im + a_im * carry_re, 0.0)
    return x_re, x_im


@triton.jit
def _row(tile, which):
    """One row, `which` `[STEPS, 1]`, of a tile; selected, since a product would let NaN of other rows in."""
    return tl.reduce(tl.where(which, tile, 0.0), 0, _plus)


@triton.jit
def _forward(
    decay, inputs, state, is_first, states,
    steps, modes,
    COMPLEX: tl.constexpr, VARYING: tl.constexpr, STEPS: tl.constexpr, MODES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * MODES + tl.arange(0, MODES)
    t_of = tl.arange(0, STEPS)
    carry_re, carry_im = _load(state, row * modes + m, m < modes, COMPLEX)
    for begin in range(0, steps, STEPS):
        t = begin + t_of
        mask = (t < steps)[:, None] & (m < modes)[None]
        index = (row * steps + t)[:, None] * modes + m[None]
        x_re, x_im = _load(inputs, index, mask, COMPLEX)
        if VARYING:
            a_re, a_im = _load(decay, index, mask, COMPLEX)
        else:
            a_re, a_im = _load(decay, m[None] + 0 * index, mask, COMPLEX)
        first = tl.load(is_first + row * steps + t, t < steps, 0).to(tl.int32)
        cut = first[:, None] + tl.full([STEPS, MODES], 0, tl.int32)
        a_re, a_im = tl.where(cut == 0, a_re, 0.0), tl.where(cut == 0, a_im, 0.0)
        cut, a_re, a_im, x_re, x_im = _scan(cut, a_re, a_im, x_re, x_im, COMPLEX, False)
        x_re, x_im = _carry_on(cut, a_re, a_im, x_re, x_im, carry_re[None], carry_im[None])
        _store(states, index, x_re, x_im, mask, COMPLEX)
        ends = (t_of == STEPS - 1)[:, None]
        carry_re, carry_im = _row(x_re, ends), _row(x_im, ends)


@triton.jit
def _backward(
    decay, state, is_first, states, grad, adjoint, by_decay, by_state,
    steps, modes,
    COMPLEX: tl.constexpr, VARYING: tl.constexpr, STEPS: tl.constexpr, MODES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * MODES + tl.arange(0, MODES)
    t_of = tl.arange(0, STEPS)
    carry_re = tl.full([MODES], 0, state.dtype.element_ty)
    carry_im, sum_re, sum_im = carry_re, carry_re, carry_re
    tiles = (steps + STEPS - 1) // STEPS
    for tile in range(tiles):
        t = (tiles - 1 - tile) * STEPS + t_of
        mask = (t < steps)[:, None] & (m < modes)[None]
        after = (t + 1 < steps)[:, None] & (m < modes)[None]
        index = (row * steps + t)[:, None] * modes + m[None]
        g_re, g_im = _load(grad, index, mask, COMPLEX)
        # g_t = dy_t + conj(decay_{t+1}) g_{t+1}
        if VARYING:
            a_re, a_im = _load(decay, index + modes, after, COMPLEX)
        else:
            a_re, a_im = _load(decay, m[None] + 0 * index, after, COMPLEX)
        following = tl.load(is_first + row * steps + t + 1, t + 1 < steps, 1).to(tl.int32)
        cut = following[:, None] + tl.full([STEPS, MODES], 0, tl.int32)
        a_re, a_im = tl.where(cut == 0, a_re, 0.0), tl.where(cut == 0, -a_im, 0.0)
        cut, a_re, a_im, g_re, g_im = _scan(cut, a_re, a_im, g_re, g_im, COMPLEX, True)
        g_re, g_im = _carry_on(cut, a_re, a_im, g_re, g_im, carry_re[None], carry_im[None])
        _store(adjoint, index, g_re, g_im, mask, COMPLEX)
        begins = (t_of == 0)[:, None]
        carry_re, carry_im = _row(g_re, begins), _row(g_im, begins)
        # d decay_t = conj(x_{t-1}) g_t, but where an episode begins
        first = tl.load(is_first + row * steps + t, t < steps, 1).to(tl.int32)
        x_re, x_im = _load(states, index - modes, mask & (t > 0)[:, None], COMPLEX)
        s_re, s_im = _load(state, row * modes + m, m < modes, COMPLEX)
        x_re = tl.where((t == 0)[:, None], s_re[None], x_re)
        x_im = tl.where((t == 0)[:, None], s_im[None], x_im)
        keep = mask & (first == 0)[:, None]
        d_re = tl.where(keep, x_re * g_re + x_im * g_im, 0.0)
        d_im = tl.where(keep, x_re * g_im - x_im * g_re, 0.0)
        if VARYING:
            _store(by_decay, index, d_re, d_im, mask, COMPLEX)
        else:
            sum_re += tl.reduce(d_re, 0, _plus)
            sum_im += tl.reduce(d_im, 0, _plus)
    if not VARYING:
        _store(by_decay, row * modes + m, sum_re, sum_im, m < modes, COMPLEX)
    # d state = conj(decay_0) g_0, unless the first step is a reset
    if VARYING:
        a_re, a_im = _load(decay, row * steps * modes + m, m < modes, COMPLEX)
    else:
        a_re, a_im = _load(decay, m, m < modes, COMPLEX)
    keep_first = tl.load(is_first + row * steps).to(tl.int32) == 0
    b_re = tl.where(keep_first, a_re * carry_re + a_im * carry_im, 0.0)
    b_im = tl.where(keep_first, a_re * carry_im - a_im * carry_re, 0.0)
    _store(by_state, row * modes + m, b_re, b_im, m < modes, COMPLEX)


def forward(decay: Tensor, inputs: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
    """States `[B, T, M]`: decay `[M]` or `[B, T, M]`, inputs `[B, T, M]`, state `[B, M]`, is_first `[B, T]`.

    All real or all complex, float32 or float64 (complex64 or complex128), on one device.
    """
    states = _room_for(inputs)
    arguments = _real(decay), _real(inputs), _real(state), _bytes(is_first), _real(states)
    _forward[_grid(inputs)](*arguments, *inputs.shape[1:], *_kind(decay), STEPS=STEPS, MODES=MODES)
    return states


def backward(
    decay: Tensor, state: Tensor, is_first: Tensor, states: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of decay, inputs and state, given `grad` `[B, T, M]`, that of the `states` of `forward`."""
    varying = decay.dim() > 1
    adjoint, by_state = _room_for(states), _room_for(state)
    by_decay = _room_for(states if varying else state)
    _backward[_grid(states)](
        _real(decay), _real(state), _bytes(is_first), _real(states), _real(grad),
        _real(adjoint), _real(by_decay), _real(by_state),
        *states.shape[1:], *_kind(decay), STEPS=STEPS, MODES=MODES,
    )  # fmt: skip
    return by_decay if varying else by_decay.sum(0), adjoint, by_state


def _grid(x: Tensor) -> tuple[int, int]:
    return x.shape[0], triton.cdiv(x.shape[2], MODES)


def _kind(decay: Tensor) -> tuple[bool, bool]:
    """COMPLEX and VARYING."""
    return decay.is_complex(), decay.dim() > 1


def _room_for(x: Tensor) -> Tensor:
    """What a kernel is to fill, of x's shape. Of x's strides `_real` would give the kernel a copy to fill."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _real(x: Tensor) -> Tensor:
    """The numbers contiguously in memory, complex ones as pairs."""
    x = x.contiguous().resolve_conj()
    return torch.view_as_real(x) if x.is_complex() else x


def _bytes(flags: Tensor) -> Tensor:
    return flags.contiguous().view(torch.uint8)

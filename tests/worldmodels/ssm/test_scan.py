"""The linear recurrence: against a plain loop, by finite differences, and nothing passes a reset."""

import pytest
import torch
from torch import Tensor

from worldmodels.ssm import linear_recurrence

MODES = [(3,), (2, 3)]


def arguments(
    batch: int, steps: int, modes: tuple[int, ...], seed: int = 0, varying: bool = False, real: bool = False
) -> tuple[Tensor, ...]:
    """Decay of modulus below 1, inputs, a non-zero state, resets at the ends, two in a row and none."""
    torch.manual_seed(seed)
    shape = (batch, steps, *modes) if varying else modes
    decay = torch.polar(torch.rand(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64))
    inputs = torch.randn(batch, steps, *modes, dtype=torch.complex128)
    state = torch.randn(batch, *modes, dtype=torch.complex128)
    if real:
        decay, inputs, state = decay.real.clone(), inputs.real.clone(), state.real.clone()
    is_first = torch.zeros(batch, steps, dtype=torch.bool)
    is_first[0, 0] = is_first[0, -1] = True
    is_first[1, steps // 2 : steps // 2 + 2] = True
    return decay, inputs, state, is_first


def loop(decay: Tensor, inputs: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
    """The definition, row by row, recorded by autograd."""
    rows = []
    for b in range(len(inputs)):
        x, row = state[b], []
        for t in range(inputs.shape[1]):
            factor = decay[b, t] if decay.dim() == inputs.dim() else decay
            x = inputs[b, t] if is_first[b, t] else factor * x + inputs[b, t]
            row.append(x)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("varying", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
def test_equals_a_plain_loop_with_its_gradients(
    modes: tuple[int, ...], steps: int, varying: bool, real: bool
) -> None:
    decay, inputs, state, is_first = arguments(3, steps, modes, varying=varying, real=real)
    leaves = [leaf.requires_grad_() for leaf in (decay, inputs, state)]
    expected, actual = loop(*leaves, is_first), linear_recurrence(*leaves, is_first)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    for got, wanted in zip(
        torch.autograd.grad(actual, leaves, weight),
        torch.autograd.grad(expected, leaves, weight),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gradients_by_finite_differences(steps: int) -> None:
    decay, inputs, state, is_first = arguments(3, steps, (2,))
    leaves = [leaf.requires_grad_() for leaf in (decay, inputs, state)]
    assert torch.autograd.gradcheck(lambda *args: linear_recurrence(*args, is_first), leaves)


@pytest.mark.parametrize("reset", [0, 3, 6])
def test_nothing_passes_a_reset(reset: int) -> None:
    """NaN before it, in inputs and state, and no gradient back across it."""
    decay, inputs, state, is_first = arguments(2, 7, (3,))
    is_first[0] = False
    is_first[0, reset] = True
    clean = linear_recurrence(decay, inputs, state, is_first)
    inputs[0, :reset], state[0] = torch.nan, torch.nan
    spoilt = linear_recurrence(decay, inputs.requires_grad_(), state.requires_grad_(), is_first)
    assert torch.equal(spoilt[0, reset:], clean[0, reset:]) and torch.equal(spoilt[1], clean[1])
    by_inputs, by_state = torch.autograd.grad(spoilt[:, reset:].abs().square().sum(), [inputs, state])
    assert not by_inputs[0, :reset].any() and not by_state[0].any()
    assert by_inputs[0, reset:].isfinite().all()


def test_strided_and_expanded_arguments() -> None:
    """Views come in as they are: a state that is not contiguous, inputs that repeat one step."""
    decay, inputs, state, is_first = arguments(3, 4, (2, 3))
    state = state.transpose(1, 2).contiguous().transpose(1, 2)
    inputs = inputs[:, :1].expand(-1, 4, -1, -1)
    torch.testing.assert_close(
        linear_recurrence(decay, inputs, state, is_first), loop(decay, inputs, state, is_first)
    )


def test_a_decay_of_fewer_axes_than_the_state() -> None:
    """As in Mamba-2: one factor a step and head, broadcast over the rest; its gradient has its shape."""
    decay, inputs, state, is_first = arguments(3, 4, (2, 3), varying=True, real=True)
    decay = decay[..., :1].requires_grad_()
    expected, actual = loop(decay, inputs, state, is_first), linear_recurrence(decay, inputs, state, is_first)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(expected)
    (got,), (wanted,) = (torch.autograd.grad(x, decay, weight) for x in (actual, expected))
    torch.testing.assert_close(got, wanted)


def test_inputs_are_left_as_they_were() -> None:
    before = arguments(3, 5, (3,))
    after = arguments(3, 5, (3,))
    linear_recurrence(*after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("varying", [False, True], ids=["constant", "varying"])
@pytest.mark.parametrize("real", [False, True], ids=["complex", "real"])
@pytest.mark.parametrize("steps", [1, 33, 200])
def test_a_gpu_computes_what_the_cpu_does(steps: int, real: bool, varying: bool) -> None:
    decay, inputs, state, is_first = arguments(4, steps, (3, 9), varying=varying, real=real)
    leaves = [leaf.requires_grad_() for leaf in (decay, inputs, state)]
    there = [leaf.detach().cuda().requires_grad_() for leaf in leaves]
    expected, actual = linear_recurrence(*leaves, is_first), linear_recurrence(*there, is_first.cuda())
    torch.testing.assert_close(actual.cpu(), expected)
    weight = torch.randn_like(expected)
    for got, wanted in zip(
        torch.autograd.grad(actual, there, weight.cuda()),
        torch.autograd.grad(expected, leaves, weight),
        strict=True,
    ):
        torch.testing.assert_close(got.cpu(), wanted)


@pytest.mark.gpu
def test_nothing_passes_a_reset_on_a_gpu() -> None:
    decay, inputs, state, is_first = (part.cuda() for part in arguments(2, 150, (3,)))
    is_first[0] = False
    is_first[0, 100] = True
    clean = linear_recurrence(decay, inputs, state, is_first)
    inputs[0, :100], state[0] = torch.nan, torch.nan
    spoilt = linear_recurrence(decay, inputs, state, is_first)
    assert torch.equal(spoilt[0, 100:], clean[0, 100:]) and torch.equal(spoilt[1], clean[1])

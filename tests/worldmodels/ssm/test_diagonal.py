"""The linear recurrence against a plain loop, and S5 and LRU against what was published."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import linalg, signal
from torch import Tensor

from worldmodels.ssm import LRU, S5, Layer
from worldmodels.ssm.diagonal import discretise_diagonal, linear_recurrence
from worldmodels.ssm.hippo import hippo_normal
from worldmodels.ssm.window import Window

WIDTH = 6
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


@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_unit_scale_gives_every_mode_unit_variance(discretisation: str) -> None:
    """White noise into a mode leaves its state with variance 1, fast or slow; far less as published."""
    real, frequency = -torch.rand(50).double() - 0.1, torch.randn(50).double()
    dt = torch.logspace(-3, -1, 50).double()
    for scale, least, most in (("unit", 1 - 1e-9, 1 + 1e-9), ("bbar", 0, 0.6)):
        abar, factor = discretise_diagonal(real, frequency, dt, discretisation, scale)
        variance = factor.abs().square() / (1 - abar.abs().square())
        assert bool((variance >= least).all() and (variance <= most).all())


def test_s5_begins_with_the_poles_of_hippo() -> None:
    layer = S5(WIDTH, state_size=8, blocks=2)
    poles = torch.complex(-layer.log_decay.exp(), layer.frequency)
    torch.testing.assert_close(poles, hippo_normal(8)[0].to(poles.dtype).repeat(2))


def test_s5_against_scipy() -> None:
    """The real block-diagonal system of all modes and their conjugates, held and simulated by scipy."""
    torch.manual_seed(0)
    layer = S5(WIDTH, state_size=4, blocks=2, dt_min=0.05, dt_max=0.5).double()
    with torch.no_grad():
        layer.log_decay += 0.3 * torch.randn_like(layer.log_decay)
        dt = layer.log_dt.exp().numpy()  # [M]; time is counted in steps, so it scales the rates of each mode
        real, imag = -layer.log_decay.exp().numpy() * dt, layer.frequency.numpy() * dt
        b = layer.b.unflatten(0, (4, 2)).numpy() * dt[:, None, None]  # [M, 2, D]
        c = layer.c.unflatten(1, (4, 2)).numpy()  # [D, M, 2]
    # x = p + iq: x' = (r + iw) x + (b0 + i b1) u is p' = rp - wq + b0 u, q' = wp + rq + b1 u.
    continuous = (
        linalg.block_diag(*([[r, -w], [w, r]] for r, w in zip(real, imag, strict=True))),
        b.reshape(8, WIDTH),
        2 * c.reshape(WIDTH, 8),
        np.diag(layer.d.detach().numpy()),
    )
    discrete = signal.cont2discrete(continuous, dt=1, method="zoh")
    rng = np.random.default_rng(0)
    u, x0 = rng.normal(size=(50, WIDTH)), rng.normal(size=(4, 2))
    # scipy's output at t reads the state before input t; ours reads the state after it.
    states = [x0.reshape(8)]
    for row in u:
        states.append(discrete[0] @ states[-1] + discrete[1] @ row)
    expected = np.array(states[1:]) @ discrete[2].T + u @ discrete[3].T
    _, outputs, scipy_states = signal.dlsim((*discrete[:4], 1), u, x0=x0.reshape(8))
    np.testing.assert_allclose(scipy_states, states[:-1], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(outputs - u @ discrete[3].T, np.array(states[:-1]) @ discrete[2].T, atol=1e-9)
    window = Window(torch.zeros(1, len(u), dtype=torch.bool))
    y, x, _ = layer(torch.as_tensor(u)[None], torch.as_tensor(x0)[None], window)
    np.testing.assert_allclose(y[0].detach(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(x[0].detach().flatten(), states[-1], rtol=1e-9, atol=1e-9)


def test_the_ring_of_lru_s_initial_modes() -> None:
    """|lambda|^2 and phase are uniform, gamma makes white noise a state of variance 1, all within bounds."""
    torch.manual_seed(0)
    layer = LRU(4, state_size=4000, r_min=0.6, r_max=0.95, max_phase=1.5).double()
    with torch.no_grad():
        square, gamma = (2 * layer.log_abar()).exp(), layer.log_scale.exp()
        phase = torch.view_as_complex(layer.discretise()[0]).angle()
    for value, low, high in ((square, 0.6**2, 0.95**2), (phase, 0.0, 1.5)):
        assert low <= value.min() + 1e-6 and value.max() <= high + 1e-6
        assert abs(value.mean() - (low + high) / 2) < 0.02
        assert abs(value.std() - (high - low) / np.sqrt(12)) < 0.02
    torch.testing.assert_close(gamma.square() / (1 - square), torch.ones_like(square), atol=1e-5, rtol=0)


def test_lru_against_the_published_recurrence() -> None:
    torch.manual_seed(0)
    layer = LRU(3, state_size=5, r_min=0.3, r_max=0.9, max_phase=3.0).double()
    nu, theta, gamma, d = (
        p.detach().numpy() for p in (layer.log_decay, layer.log_phase, layer.log_scale, layer.d)
    )
    b = layer.b.detach().numpy()[0::2] + 1j * layer.b.detach().numpy()[1::2]
    c = layer.c.detach().numpy()[:, 0::2] - 1j * layer.c.detach().numpy()[:, 1::2]
    rng = np.random.default_rng(0)
    u, x = rng.normal(size=(20, 3)), rng.normal(size=5) + 1j * rng.normal(size=5)
    state = torch.view_as_real(torch.as_tensor(x))[None]
    expected = []
    for row in u:
        x = np.exp(-np.exp(nu) + 1j * np.exp(theta)) * x + np.exp(gamma) * (b @ row)
        expected.append((c @ x).real + d * row)
    y, last, _ = layer(torch.as_tensor(u)[None], state, Window(torch.zeros(1, 20, dtype=torch.bool)))
    np.testing.assert_allclose(y[0].detach(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(torch.view_as_complex(last[0].detach()), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: S5(4, state_size=6, blocks=4), "state_size 6 must be divisible by blocks 4"),
        (
            lambda: LRU(4, 4, r_min=0.9, r_max=0.5, max_phase=1.0),
            "r_min < r_max, got r_min 0.9 and r_max 0.5",
        ),
    ],
)
def test_options_that_contradict_each_other_are_named(make: Callable[[], Layer], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()

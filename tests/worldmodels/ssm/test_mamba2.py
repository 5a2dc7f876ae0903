"""Mamba-2: its chunks against the quadratic form of the whole sequence, its selection and initialisation."""

import pytest
import torch
from torch.nn import functional as F

from worldmodels.ssm import Mamba2
from worldmodels.ssm.mamba2 import ssd_outputs, ssd_states
from worldmodels.ssm.window import Window


def test_against_the_quadratic_form() -> None:
    """y = (L * C B^T) V as one matrix of the whole sequence, its decays multiplied one by one."""
    torch.manual_seed(0)
    layer = Mamba2(6, state_size=4, head_size=3, dt_min=0.05, dt_max=0.5).double()
    u = torch.randn(2, 70, 6, dtype=torch.float64)
    with torch.no_grad():
        x, b, c, dt = layer.project_in(u).split([6, 4, 4, 2], -1)
        x, b, c, dt = F.silu(x).unflatten(-1, (2, 3)), F.silu(b), F.silu(c), F.softplus(dt + layer.dt_bias)
        a = torch.exp(-dt * layer.log_decay.exp())  # [B, T, heads]
        mask = torch.zeros(2, 2, 70, 70, dtype=torch.float64)
        for s in range(70):
            product = torch.ones(2, 2, dtype=torch.float64)
            for t in range(s, 70):
                product = product * a[:, t] if t > s else product
                mask[:, :, t, s] = product
        mixed = mask * (c @ b.transpose(1, 2))[:, None]
        y = torch.einsum("bhts,bsh,bshp->bthp", mixed, dt, x) + layer.d[:, None] * x
        expected = layer.project_out(layer.norm(y.flatten(2)))
        actual, _, _ = layer(u, layer.initial(2), Window(torch.zeros(2, 70, dtype=torch.bool)))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_ssd_of_strong_decays_is_finite_with_its_gradients() -> None:
    """Decays of e^-1000 a step, where a quotient of products would divide by zero."""
    torch.manual_seed(0)
    v, b, c, state = (
        torch.randn(shape, requires_grad=True)
        for shape in ((2, 16, 2, 3), (2, 16, 4), (2, 16, 4), (2, 2, 3, 4))
    )
    log_a = torch.full((2, 16, 2), -1000.0, requires_grad=True)
    y, end = ssd_outputs(v, b, c, log_a, state), ssd_states(v, b, log_a)
    within = torch.einsum("rtn,rtn,rthp->rthp", c, b, v)  # nothing is left of earlier steps
    torch.testing.assert_close(y, within)
    torch.testing.assert_close(end, torch.einsum("rhp,rn->rhpn", v[:, -1], b[:, -1]))
    for gradient in torch.autograd.grad(y.sum() + end.sum(), [v, b, c, log_a, state], allow_unused=True):
        assert gradient is None or bool(gradient.isfinite().all())


def test_initial_decays_and_step_sizes() -> None:
    torch.manual_seed(0)
    layer = Mamba2(512, state_size=2, head_size=1, dt_min=1e-3, dt_max=1e-1)
    rate, dt = layer.log_decay.exp(), F.softplus(layer.dt_bias)
    assert rate.min() >= 1 and rate.max() <= 16 and abs(rate.mean() - 8.5) < 1
    assert (
        dt.min() > 0.99e-3 and dt.max() < 1.01e-1 and abs(dt.log().mean() - dt.new_tensor(1e-2).log()) < 0.2
    )


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="width 6 must be divisible by head_size 4"):
        Mamba2(6, state_size=2, head_size=4, dt_min=1e-3, dt_max=1e-1)


def test_after_a_strong_decay_a_window_is_as_exact_as_steps() -> None:
    """Decays of e^-100 and of almost nothing take turns: float32 sums of both lose the small ones."""
    torch.manual_seed(0)
    layer = Mamba2(16, state_size=8, head_size=8, dt_min=1e-3, dt_max=0.1)
    with torch.no_grad():
        layer.project_in.weight[-2:] = 0
        layer.project_in.weight[-2:, 0] = 4
        u = torch.randn(4, 64, 16)
        u[..., 0] = torch.where(torch.rand(4, 64) < 0.3, 3.0, -1.0)
        is_first = torch.zeros(4, 64, dtype=torch.bool)
        window, last, _ = layer(u, layer.initial(4), Window(is_first))
        exact = layer.double()
        expected, state, _ = exact(u.double(), exact.initial(4), Window(is_first))
    torch.testing.assert_close(window.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(last.double(), state, rtol=0, atol=1e-5)

"""S4 against HiPPO-LegS written out as a real matrix, discretised and simulated densely."""

import math

import numpy as np
import pytest
import torch

from worldmodels.ssm import S4
from worldmodels.ssm.hippo import hippo_normal
from worldmodels.ssm.window import Window


def legs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A and B of HiPPO-LegS (Gu et al., 2020): `[N, N]`, `[N]`."""
    n = np.arange(size)
    a = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    return a, np.sqrt(2 * n + 1.0)


@pytest.mark.parametrize("size", [4, 16, 64])
def test_against_a_dense_simulation(size: int) -> None:
    """Impulse response, and outputs and states from a state that is not zero."""
    width, steps = 3, 50
    torch.manual_seed(0)
    layer = S4(width, state_size=size // 2, dt_min=1e-3, dt_max=1e-1).double()
    vectors = hippo_normal(size)[1].numpy()
    rng = np.random.default_rng(0)
    a, b = legs(size)
    c, x0, u = (rng.normal(size=shape) for shape in ((width, size), (width, size), (steps, width)))
    with torch.no_grad():
        # float32 rounds the initial parameters; here they are exact.
        values, _ = hippo_normal(size)
        low_rank = vectors.conj().T @ np.sqrt(np.arange(size) + 0.5)
        layer.log_decay.copy_(torch.log(-values.real))
        layer.frequency.copy_(values.imag)
        for name, value in (
            ("low_rank", low_rank),
            ("b", math.sqrt(2) * low_rank),
            ("c", c @ vectors),
        ):
            getattr(layer, name).copy_(torch.view_as_real(torch.as_tensor(value)))
    state = torch.view_as_real(torch.as_tensor(x0 @ vectors.conj()))[None]
    expected, states, taps = (
        np.zeros((steps, width)),
        np.zeros((steps, width, size)),
        np.zeros((steps, width)),
    )
    for channel, dt in enumerate(layer.log_dt.detach().exp().numpy()[:, 0]):
        inverse = np.linalg.inv(np.eye(size) - dt / 2 * a)
        abar, bbar = inverse @ (np.eye(size) + dt / 2 * a), inverse @ b * dt
        x, response = x0[channel], bbar
        for t in range(steps):
            x = abar @ x + bbar * u[t, channel]
            states[t, channel], expected[t, channel] = x, c[channel] @ x
            taps[t, channel], response = c[channel] @ response, abar @ response
    d = layer.d.detach().numpy()
    is_first = torch.zeros(1, steps, dtype=torch.bool)
    y, _, kept = layer(torch.as_tensor(u)[None], state, Window(is_first, "all"))
    np.testing.assert_allclose(y[0].detach(), expected + d * u, rtol=1e-8, atol=1e-8)
    rotated = torch.view_as_complex(kept[0].detach()).numpy()
    np.testing.assert_allclose(2 * (rotated @ vectors.T).real, states, rtol=1e-8, atol=1e-8)
    impulse = torch.zeros(1, steps, width, dtype=torch.float64)
    impulse[:, 0] = 1
    taps[0] += d
    got, _, _ = layer(impulse, layer.initial(1), Window(is_first))
    np.testing.assert_allclose(got[0].detach(), taps, rtol=1e-8, atol=1e-8)


def test_the_initial_system_is_hippo_s() -> None:
    """Lambda - P P^* and B, back in the basis of HiPPO-LegS, as float32 parameters hold them."""
    layer = S4(2, state_size=4, dt_min=1e-3, dt_max=1e-1)
    vectors = hippo_normal(8)[1].numpy()
    both = np.concatenate([vectors, vectors.conj()], 1)
    for channel in range(2):
        low_rank, b = (torch.view_as_complex(p[channel].detach()).numpy() for p in (layer.low_rank, layer.b))
        values = torch.complex(-layer.log_decay[channel].exp(), layer.frequency[channel]).detach().numpy()
        p, diagonal = (np.concatenate([half, half.conj()]) for half in (low_rank, values))
        a = both @ (np.diag(diagonal) - np.outer(p, p.conj())) @ both.conj().T
        np.testing.assert_allclose(a, legs(8)[0], atol=1e-4)
        np.testing.assert_allclose(both @ np.concatenate([b, b.conj()]), legs(8)[1], atol=1e-5)


def test_the_transition_is_a_contraction() -> None:
    """The largest singular value of Abar is below 1: stable in every direction, not by its poles only."""
    torch.manual_seed(0)
    layer = S4(4, state_size=8, dt_min=1e-3, dt_max=1.0).double()
    for _ in range(3):
        with torch.no_grad():
            assert bool((torch.linalg.matrix_norm(layer.response(1).powers[0], 2) < 1).all())
            for parameter in layer.parameters():
                parameter += torch.randn_like(parameter)

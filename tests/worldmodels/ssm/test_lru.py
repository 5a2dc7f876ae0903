"""LRU: its ring of modes, and the recurrence written out."""

import numpy as np
import pytest
import torch

from worldmodels.ssm import LRU


def test_the_ring_of_initial_modes() -> None:
    """|lambda|^2 and phase are uniform, gamma makes white noise a state of variance 1, all within bounds."""
    torch.manual_seed(0)
    layer = LRU(4, state_size=4000, r_min=0.6, r_max=0.95, max_phase=1.5).double()
    modes, scale, *_ = layer.discretise()
    square, phase = modes.abs().square().detach(), modes.angle().detach()
    for value, low, high in ((square, 0.6**2, 0.95**2), (phase, 0.0, 1.5)):
        assert low <= value.min() + 1e-6 and value.max() <= high + 1e-6
        assert abs(value.mean() - (low + high) / 2) < 0.02
        assert abs(value.std() - (high - low) / np.sqrt(12)) < 0.02
    torch.testing.assert_close(
        scale.abs().square() / (1 - square), torch.ones_like(square), atol=1e-5, rtol=0
    )


def test_against_the_published_recurrence() -> None:
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
    y, last, _ = layer(torch.as_tensor(u)[None], state, torch.zeros(1, 20, dtype=torch.bool))
    np.testing.assert_allclose(y[0].detach(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(torch.view_as_complex(last[0].detach()), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"r_min": 0.9, "r_max": 0.5, "max_phase": 1.0},
            "0 <= r_min < r_max < 1, got r_min 0.9 and r_max 0.5",
        ),
        ({"r_min": 0.0, "r_max": 1.0, "max_phase": 1.0}, "r_max 1.0"),
        ({"r_min": 0.0, "r_max": 0.9, "max_phase": 7.0}, "max_phase must be in"),
    ],
)
def test_wrong_options_are_named(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LRU(4, state_size=4, **options)

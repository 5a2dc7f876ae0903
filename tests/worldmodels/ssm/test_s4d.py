"""S4D against its definition, channel by channel."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from worldmodels.ssm import S4D
from worldmodels.ssm.window import Window

WIDTH = 6


@pytest.mark.parametrize("init", ["legs", "lin"])
@pytest.mark.parametrize("discretisation", ["zoh", "bilinear"])
def test_impulse_response(init: str, discretisation: str) -> None:
    """Channel by channel K[k] = 2 Re sum C Abar^k Bbar, B = 1, by matrix exponential or matrix inverse."""
    torch.manual_seed(0)
    layer = S4D(WIDTH, state_size=4, init=init, discretisation=discretisation).double()
    steps = 40
    with torch.no_grad():
        a = torch.complex(-layer.log_decay.exp(), layer.frequency).numpy()  # [D, M]
        dt = layer.log_dt.exp().numpy()  # [D, 1]
        c = torch.view_as_complex(layer.c).numpy()
        kernel = np.zeros((steps, WIDTH))
        for channel in range(WIDTH):
            matrix = np.diag(a[channel]) * dt[channel]
            if discretisation == "zoh":  # exp of [[A, B], [0, 0]] dt holds Abar and Bbar
                held = linalg.expm(np.block([[matrix, np.full((4, 1), dt[channel])], [np.zeros((1, 5))]]))
                abar, bbar = held[:4, :4], held[:4, 4]
            else:
                inverse = np.linalg.inv(np.eye(4) - matrix / 2)
                abar, bbar = inverse @ (np.eye(4) + matrix / 2), inverse @ np.full(4, dt[channel])
            for k in range(steps):
                kernel[k, channel] = 2 * (c[channel] @ np.linalg.matrix_power(abar, k) @ bbar).real
        impulse = torch.zeros(1, steps, WIDTH, dtype=torch.float64)
        impulse[:, 0] = 1
        y, _, _ = layer(impulse, layer.initial(1), Window(torch.zeros(1, steps, dtype=torch.bool)))
        kernel[0] += layer.d.numpy()
    np.testing.assert_allclose(y[0], kernel, rtol=1e-9, atol=1e-9)


def test_initial_poles() -> None:
    lin = S4D(WIDTH, state_size=4, init="lin")
    torch.testing.assert_close(lin.frequency[2], math.pi * torch.arange(4.0))
    torch.testing.assert_close(lin.log_decay.exp(), torch.full((WIDTH, 4), 0.5))

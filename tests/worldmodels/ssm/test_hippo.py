"""Initial systems: HiPPO-LegS against the textbook, and step sizes."""

import math

import numpy as np
import pytest
import torch

from worldmodels.ssm.hippo import hippo_normal, log_steps


@pytest.mark.parametrize("size", [2, 8, 64])
def test_hippo_against_the_textbook(size: int) -> None:
    """The eigen decomposition gives back HiPPO-LegS plus its rank-one term; Re = -1/2, Im > 0, ascending."""
    values, vectors = (x.numpy() for x in hippo_normal(size))
    legs = np.zeros((size, size))
    for n in range(size):
        for k in range(n):
            legs[n, k] = -math.sqrt((2 * n + 1) * (2 * k + 1))
        legs[n, n] = -(n + 1)
    p = np.sqrt(np.arange(size) + 0.5)
    normal = legs + p[:, None] * p
    rebuilt = 2 * ((vectors * values) @ vectors.conj().T).real  # the conjugate halves are each other's mirror
    np.testing.assert_allclose(rebuilt, normal, atol=1e-10 * size)
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(size // 2), atol=1e-10)
    np.testing.assert_allclose(values.real, -0.5)
    assert (values.imag > 0).all() and (np.diff(values.imag) > 0).all()


def test_step_sizes_are_log_uniform() -> None:
    torch.manual_seed(0)
    steps = log_steps(10_000, 1e-3, 1e-1)
    assert math.log(1e-3) <= steps.min() and steps.max() <= math.log(1e-1)
    assert abs(steps.mean() - math.log(1e-2)) < 0.05
    assert abs(steps.std() - math.log(100) / math.sqrt(12)) < 0.05
    with pytest.raises(ValueError, match="dt_min <= dt_max"):
        log_steps(3, 0.1, 0.01)

"""What S4 and S4D share: the matrix of a convolution."""

import pytest
import torch

from worldmodels.ssm.channels import toeplitz


@pytest.mark.parametrize("length", [1, 2, 5])
def test_toeplitz(length: int) -> None:
    taps = torch.arange(1.0, 2 * length + 1).reshape(2, length)
    matrix = toeplitz(taps)
    assert matrix.shape == (2, length, length)
    for s in range(length):
        for t in range(length):
            expected = taps[:, t - s] if t >= s else torch.zeros(2)
            assert torch.equal(matrix[:, s, t], expected)

"""Readouts: what is linear is read linearly, what is not by a network, and what is not there by neither."""

import pytest
import torch

from studies import readout


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Points `[1000, 2]` and noise beside them; 3 in two opposite quadrants, 7 in the others."""
    monkeypatch.setattr(readout, "STEPS", 300)
    points = torch.rand(1000, 3) * 2 - 1
    return points, torch.where(points[:, 0] * points[:, 1] > 0, 3, 7)


def share(reader: readout.Reader, inputs: torch.Tensor, classes: torch.Tensor) -> float:
    """Of the second half, which the reader was not fitted to."""
    return float((reader(inputs[500:]) == classes[500:]).float().mean())


def test_what_a_line_divides(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    points, _ = sides
    classes = torch.where(points[:, 0] + points[:, 1] > 0, 3, 7)
    assert share(readout.linear(points[:500], classes[:500]), points, classes) > 0.95


def test_what_no_line_divides(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    points, classes = sides
    assert share(readout.linear(points[:500], classes[:500]), points, classes) < 0.65
    assert share(readout.network(points[:500], classes[:500]), points, classes) > 0.9


def test_what_is_not_there(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    points, _ = sides
    classes = torch.randint(4, (1000,))
    assert share(readout.linear(points[:500], classes[:500]), points, classes) < 0.35


def test_ridge_finds_an_affine_map() -> None:
    inputs, weight, bias = torch.randn(200, 5), torch.randn(5, 2), torch.randn(2)
    found, offset = readout.ridge(inputs, inputs @ weight + bias)
    torch.testing.assert_close(found, weight.double(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(offset, bias.double(), atol=1e-3, rtol=1e-3)

"""SelectiveLRU: an LRU without its selection; with it, a counter modulo n."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.worldmodels.ssm.layers import MAKERS, sequence
from worldmodels.ssm import LRU, SelectiveLRU
from worldmodels.ssm.window import Window


def test_without_a_selection_it_is_lru() -> None:
    layer, lru = MAKERS["selective_lru"]().double(), MAKERS["lru"]().double()
    assert isinstance(layer, SelectiveLRU) and isinstance(lru, LRU)
    layer.load_state_dict(layer.state_dict() | {"select": torch.zeros_like(layer.select)})
    lru.load_state_dict(layer.state_dict(), strict=False)
    u, state, is_first = sequence(layer, 2, 40)
    window = Window(is_first, "all")
    for mine, theirs in zip(layer(u, state, window), lru(u, state, window), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modulus", [2, 3, 7])
def test_it_counts(modulus: int) -> None:
    """An input that turns by 2 pi / n, and none that damps: the angle is the count for 4,000 steps."""
    layer = SelectiveLRU(2, 2, r_min=0.9, r_max=0.99, max_phase=1.0, heads=2).double()
    with torch.no_grad():
        layer.log_phase.fill_(-math.inf)
        layer.b.zero_()
        layer.select[:2], layer.select[2:4, 1] = -30, 2 * math.pi / modulus
        symbols = torch.randint(2, (1, 4000))
        u = torch.stack([1 - symbols, symbols], -1).double()
        state = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).double()
        _, _, kept = layer(u, state, Window(torch.zeros(1, 4000, dtype=torch.bool), "all"))
    angle = 2 * math.pi / modulus * (symbols.cumsum(1) % modulus)
    expected = torch.stack([angle.cos(), angle.sin()], -1).double()
    torch.testing.assert_close(kept[:, :, 0], expected, rtol=0, atol=1e-6)


def test_inputs_wind_it_forward_hold_it_and_wind_it_back() -> None:
    """At pace 1, 0 and -1, undamped: as many steps back as forward lead to the first state again."""
    layer = SelectiveLRU(3, 8, r_min=0.9, r_max=0.99, max_phase=3.0, heads=2).double()
    with torch.no_grad():
        layer.b.zero_()
        layer.select[:2], layer.select[4:] = -30, torch.tensor([0.0, -1.0, -2.0])
        pace = F.one_hot(torch.tensor([[0] * 50 + [1] * 7 + [2] * 50]), 3).double()
        state = torch.randn(1, 8, 2).double()
        window = Window(torch.zeros(1, 107, dtype=torch.bool), "all")
        states = torch.cat([state[:, None], layer(pace, state, window)[2]], 1)[0]
    assert (states[1] - states[0]).abs().max() > 0.1
    torch.testing.assert_close(states[51:58], states[50:51].expand(7, 8, 2), rtol=0, atol=1e-9)
    torch.testing.assert_close(states[57:].flip(0), states[:51], rtol=0, atol=1e-9)


def test_an_input_can_forget() -> None:
    layer = SelectiveLRU(2, 4, r_min=0.9, r_max=0.999, max_phase=1.0, heads=2)
    with torch.no_grad():
        layer.select[:2] = torch.tensor([0.0, 1e5])
        _, after = layer.step(torch.tensor([[1.0, 1.0]]), torch.full((1, 4, 2), 1e9))
        _, fresh = layer.step(torch.tensor([[1.0, 1.0]]), torch.zeros(1, 4, 2))
    torch.testing.assert_close(after, fresh)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="state_size 6 must be divisible by heads 4"):
        SelectiveLRU(4, 6, r_min=0.9, r_max=0.99, max_phase=1.0, heads=4)

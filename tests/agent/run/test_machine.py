"""Which device and how many threads compute."""

import pytest
import torch

from agent.run.machine import choose_device, cores, prepare


def test_choosing_a_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no CUDA GPU"):
            choose_device("cuda")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 leaves the number to torch."""
    set_to: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", set_to.append)
    prepare(0)
    assert set_to == []
    prepare(3)
    assert set_to == [3]


@pytest.mark.parametrize("size", [1, 100_000])
def test_what_is_too_small_for_a_normal_number_is_0(size: int) -> None:
    """In this thread, and in those that share a large tensor: products of such numbers are slow."""
    prepare(2)
    assert not (torch.full((size,), 2e-38) * 0.1).any()
    assert (torch.full((size,), 2e-38) * 1).all()


def test_cores() -> None:
    assert cores() >= 1

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


def test_cores() -> None:
    assert cores() >= 1

"""Three models of single pictures, told apart by what passes the latent."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

import configs
from studies import draw
from tests.studies.conftest import Call, Train


def squares(number: int, seed: int) -> dict[str, torch.Tensor]:
    """Pictures of 8 x 8, each of one of four colours."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    chosen = np.random.default_rng(seed).integers(4, size=number)
    return {"image": torch.as_tensor(np.broadcast_to(colours[chosen, None, None], (number, 8, 8, 3)).copy())}


@pytest.mark.parametrize("backbone", ["s4wm", "rssm"])
def test_a_latent_of_two_values_cannot_tell_four_colours_and_its_outputs_can(backbone: str) -> None:
    """With one group of two classes a quarter of the variance at least is left, whatever is drawn."""
    sizes = {f"{backbone}.stoch": 1, f"{backbone}.classes": 2, "optimiser.model_lr": 3e-3, "encoder.depth": 8}
    config = configs.load("memory_chain", backbone, ["debug"], sizes | {"decoder.depth": 8})
    space = spaces.Dict({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8)})
    result, drawn = draw.draw(config, space, squares(200, 0), squares(100, 1), 250)
    assert result["updates"] == [62, 125, 187, 250]
    assert result["outputs"][-1] < 0.1 * result["mean"]
    assert min(result["mode"][-1], result["sampled"][-1]) > 0.2 * result["mean"]
    assert drawn.keys() == {"true", *draw.WAYS} and {row.shape for row in drawn.values()} == {(8, 80, 3)}


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_any_number_of_channels_is_drawn(channels: int, tmp_path: Path) -> None:
    drawn = {name: np.random.default_rng(0).random((8, 80, channels)) for name in ("true", *draw.WAYS)}
    assert draw.picture(drawn, tmp_path / "drawn.png").stat().st_size > 0


def test_from_a_run(train: Train, call: Call, tmp_path: Path, refused: Callable[..., str]) -> None:
    run = train("s4wm", "memory_chain:n=3,observation=pixels")
    call("collect", "--policy", run, "--episodes", 12, "--out", tmp_path / "data")
    out = tmp_path / "drawn.png"
    command = ("draw", run, "--data", tmp_path / "data", "--updates", 2, "--out", out)
    result = call(*command)
    assert result["updates"] == [1, 2] and result["mean"] > 0 and out.stat().st_size > 0
    assert call(*command) == result
    assert "shows no pictures" in refused(
        "draw", train("s4wm", "memory_chain:n=3"), "--data", tmp_path / "data"
    )

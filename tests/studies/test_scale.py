"""The measurement of a growing replay: it fills, samples and loads what it says, and tidies up."""

from pathlib import Path

import pytest

import run
from studies import scale
from tests.studies.conftest import Refused


@pytest.mark.parametrize("images", [False, True])
def test_measure(images: bool, tmp_path: Path) -> None:
    got = scale.measure(40_000, images, 0.5, tmp_path / "replay", samples=3)
    assert got["steps"] == 40_000 and got["images"] == images
    step = (64 * 64 * 3 if images else 32 * 4) + 8 + 4 + 3
    assert step <= got["disk_bytes_per_step"] < step + 5
    assert 0 < got["sample_ms"] <= got["sample_ms_95"] and got["load_s"] > 0


def test_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    folder = tmp_path / "replay"
    assert run.main(["scale", "--steps", "2e4", "3e4", "--folder", str(folder)]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["20,000", "30,000"]
    assert not folder.exists()
    folder.mkdir()
    assert "exists: it would be filled and removed" in refused("scale", "--folder", folder)

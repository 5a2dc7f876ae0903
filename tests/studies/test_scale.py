"""The measurement of a growing replay: it fills, samples and loads what it says, and tidies up."""

import json
from pathlib import Path

import pytest

from studies import scale


@pytest.mark.parametrize("images", [False, True])
def test_measure(images: bool, tmp_path: Path) -> None:
    got = scale.measure(40_000, images, 0.5, tmp_path / "replay", samples=3)
    assert got["steps"] == 40_000 and got["images"] == images
    step = (64 * 64 * 3 if images else 32 * 4) + 8 + 4 + 3
    assert step <= got["disk_bytes_per_step"] < step + 5
    assert 0 < got["sample_ms"] <= got["sample_ms_95"] and got["load_s"] > 0


def test_the_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "replay"
    scale.main(["--steps", "2e4", "--folder", str(folder)])
    first, *table = capsys.readouterr().out.splitlines()
    assert json.loads(first)["steps"] == 20_000
    assert table[-1].startswith("| 20,000 | ")
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(SystemExit):
        scale.main(["--folder", str(folder)])
    assert "exists: it would be filled and removed" in capsys.readouterr().err

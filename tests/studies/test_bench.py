"""bench as a command: what it measures of which backbones, and what it refuses before it measures."""

from pathlib import Path

import pytest

import configs
import run
from studies import bench
from tests.studies.conftest import Call, Refused

WORDS = ("bench", "--configs", "debug", "--device", "cpu", "--repeats", "1")


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--backbones", "s4wm", "rssm", "--lengths", "3", "9", "--picture", str(tmp_path / "a" / "x.png")]
    assert run.main([*WORDS, *words]) == 0
    head, columns, *rows, picture = capsys.readouterr().out.splitlines()
    assert head.startswith("world_model on cpu, 1 threads, torch ") and head.endswith(", 1 repeats")
    assert columns.split()[:2] == ["steps", "median"]
    assert [row.split()[0] for row in rows] == ["s4wm", "rssm"] * 2
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_parts_of_an_update(call: Call) -> None:
    result = call(*WORDS, "--what", "update", "--parts", "--backbones", "rssm", "--lengths", "4")
    assert result["what"] == "update" and result["length"] == 4
    assert result["rows"][0]["part"] == "update" and result["rows"][0]["name"] == "rssm"


def test_all_backbones_that_can_be_measured(call: Call) -> None:
    result = call(*WORDS, "--what", "layers")
    layered = [name for name in configs.backbones() if name.startswith("s4wm")]
    assert [row["name"] for row in result["rows"]] == layered
    assert {row["length"] for row in result["rows"]} == {16}  # the preset's
    assert result.keys() >= {"what", "device", "threads", "torch", "repeats", "matmul"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--what", "layer"], "unknown measure 'layer'. Did you mean 'layers'? Expected one of layers, "),
        (["--what", "states", "--picture", "x.png"], "--picture draws time and memory against length"),
        (["--parts"], "--parts are those of an update; with it expected --what update, got world_model"),
        (["--what", "update", "--parts", "--picture", "x.png"], "update --parts has neither"),
        (["--backbones", "rssm", "--rssm.blocks", "7"], "must be divisible by rssm.blocks 7"),
        (["--what", "overhead", "--replay.capacity", "20"], "Use a capacity of at least"),
        (["--what", "states", "--replay.burn_in", "32"], "at most batch_length 16, got 32"),
        (["--what", "layers", "--backbones", "rssm"], "'rssm' has no state-space layers"),
    ],
)
def test_mistakes(words: list[str], said: str, refused: Refused) -> None:
    assert said in refused(*WORDS, *words)


def test_help_names_every_measure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["bench", "--help"])
    assert ", ".join(bench.MEASURES) in " ".join(capsys.readouterr().out.split())

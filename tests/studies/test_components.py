"""The table of backbones: what it counts is right."""

import json

import pytest

import configs
import run


def test_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["s4wm", "s5wm", "s4wm_s4", "rssm"]
    words = ["bench", "--what", "backbones", "--backbones", *names, "--repeats", "2", "--json"]
    assert run.main([*words, "--configs", "debug", "--device", "cpu"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    rows = {row["name"]: row for row in json.loads(last)["rows"]}
    assert list(rows) == names and len(table) == len(rows) + 3
    for row in rows.values():
        assert row["policy"] > 0 and row["parameters"] > row["state"] > 0
        assert all(0 < row[field] < 1 for field in ("window", "step", "dream"))
    options = configs.load(presets=["debug"]).s4wm
    latent, memory = options.stoch * options.classes, 2 * options.layers * options.s5.state_size
    assert rows["s4wm"]["state"] == rows["s4wm"]["policy"] == options.width + latent + memory
    assert rows["rssm"]["state"] == rows["rssm"]["policy"] == 16 + 16
    assert rows["s4wm"]["parameters"] == rows["s5wm"]["parameters"] != rows["s4wm_s4"]["parameters"]

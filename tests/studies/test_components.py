"""The table of backbones: what it counts is right."""

import configs
from studies import components, tables
from tests.studies.conftest import Call

WORDS = ("bench", "--what", "backbones", "--configs", "debug", "--device", "cpu", "--repeats", "2")


def test_numbers(call: Call) -> None:
    names = ["s4wm", "s4wm_s4", "rssm"]
    result = call(*WORDS, "--backbones", *names)
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == names and (result["length"], result["batch"], result["starts"]) == (16, 4, 8)
    for row in rows.values():
        assert row["policy"] > 0 and row["parameters"] > row["state"] > 0
        assert all(0 < row[field] < 1 for field in ("window", "step", "dream"))
    options = configs.load(presets=["debug"]).s4wm
    latent, memory = options.stoch * options.classes, 2 * options.layers * options.s5.state_size
    assert rows["s4wm"]["state"] == rows["s4wm"]["policy"] == options.width + latent + memory
    assert rows["rssm"]["state"] == rows["rssm"]["policy"] == 16 + 16
    assert rows["s4wm"]["parameters"] != rows["s4wm_s4"]["parameters"]
    assert [line.split("  ")[0] for line in tables.text(result["rows"], components.COLUMNS).splitlines()] == [
        "",
        "s4wm (s5)",
        "s4wm_s4",
        "rssm",
    ]
    assert "window: 4 rows of 16 steps" in components.note(result)


def test_on_pictures(call: Call) -> None:
    (row,) = call(*WORDS, "--backbones", "s4wm", "--task", "rooms")["rows"]
    assert row["window"] > 0

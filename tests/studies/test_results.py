"""results trains what its list says, and what was recorded before stands beside it."""

import json
from pathlib import Path

import pytest

import configs
from studies import results
from tests.studies.conftest import Call, Refused

PROTOCOL = "--configs debug --device cpu --eval.episodes 2 --eval.every 40"
RECORDS = {
    "short": "--task memory_chain:n=3 --backbones s4wm rssm --seeds 2 --steps 80 --eval.every 80",
    "other": "--task memory_chain:n=3 --backbones s4wm --seeds 1 --steps 40",
}


def test_records_are_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    (tmp_path / "short.json").write_text(json.dumps({"results": {"s4wm": {"returns": [0.25, 0.5]}}}))
    for name, value in {"RESULTS": tmp_path, "PROTOCOL": PROTOCOL, "RECORDS": RECORDS}.items():
        monkeypatch.setattr(results, name, value)
    out = tmp_path / "new" / "place"
    words = ["results", "short", "--logdir", tmp_path / "runs", "--out", out]
    rows = call(*words)["rows"]
    assert rows["short, s4wm (s5)"]["before"] == {"returns": [0.25, 0.5]}
    assert rows["short, rssm"]["before"] is None
    now = rows["short, s4wm (s5)"]["now"]
    assert (now["steps"], len(now["returns"])) == (80, 2)
    record = json.loads((out / "short.json").read_text())
    assert record["results"]["s4wm"] == now and list(record["runs"]["rssm"][0]["steps"]) == [80]
    assert configs.read(tmp_path / "runs/short/rssm/seed1/config.yaml").eval.episodes == 2
    assert not (tmp_path / "runs/other").exists()
    again = call(*words[:-1], tmp_path)["rows"]  # nothing is trained again, and what was before is replaced
    assert again["short, rssm"]["before"] is None
    again = call(*words)["rows"]
    assert again["short, s4wm (s5)"] == {"now": now, "before": now}


def test_mistakes(tmp_path: Path, refused: Refused) -> None:
    asked = ("results", "--logdir", tmp_path / "runs")
    assert "Did you mean 'pendulum'?" in refused(*asked, "pendulm")
    assert not (tmp_path / "runs").exists()


def test_every_record_of_the_list_can_be_trained(tmp_path: Path) -> None:
    parser = results.Parser("results", "")
    results.arguments(parser)
    assert callable(results.prepare(parser.parse(["--logdir", str(tmp_path / "runs")])))
    assert not (tmp_path / "runs").exists()

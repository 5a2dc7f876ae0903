"""verify trains what was recorded, as it was recorded, on other seeds."""

import json
import re
from pathlib import Path

import pytest

import configs
from studies import verify
from tests.studies.conftest import Call, Refused

RESULTS = Path(__file__).parents[2] / "docs" / "results"
LINKED = sorted({*re.findall(r"\(([\w-]+\.json)\)", (RESULTS / "README.md").read_text(encoding="utf-8"))})


def test_a_row_is_trained_anew(tmp_path: Path, call: Call) -> None:
    name, options = "s4wm [kl.free_nats=2]", {"kl.free_nats": "2"}
    given = "--configs debug --device cpu --eval.episodes=2 --s4wm.layers=2 --grid=kl.free_nats=0.5,2"
    compared = (
        f"compare --task memory_chain:n=3 --backbones s4wm rssm --seeds 2 --steps 80 --logdir runs/a {given}"
    )
    result = {"backbone": "s4wm", "options": options, "returns": [0.5, 1.0]}
    record = {"task": "memory_chain:n=3", "steps": 80, "command": f"python run.py {compared}"}
    (tmp_path / "record.json").write_text(json.dumps(record | {"results": {name: result}}))
    words = ["verify", tmp_path / "record.json", "--logdir", tmp_path / "now"]
    found = call(*words)
    assert (found["task"], found["steps"]) == ("memory_chain:n=3", 80)
    assert found["rows"][name]["recorded"] == [0.5, 1.0] and len(found["rows"][name]["fresh"]) == 1
    (folder,) = (tmp_path / "now").glob("*/*/seed*")
    config = configs.read(folder / "config.yaml")
    assert (config.seed, config.steps, config.s4wm.layers, config.kl.free_nats) == (100, 80, 2, 2)
    assert call(*words) == found  # nothing is trained again


@pytest.mark.parametrize(
    ("recorded", "fresh", "expected", "inside"),
    [
        ([1.0, 1.0, 1.0], [1.0], [1, 1], True),
        ([1.0, 1.0, 1.0], [1.0, 0.97], [1, 1], False),
        ([0.0, 1.0, 2.0], [5.9], [1 - 4.9683, 1 + 4.9683], True),  # t(0.975, 2) = 4.3027, s = 1
        ([0.0, 1.0, 2.0], [6.0], [1 - 4.9683, 1 + 4.9683], False),
        ([0.5], [0.5], None, None),
    ],
)
def test_where_a_new_run_is_expected(
    recorded: list[float], fresh: list[float], expected: list[float] | None, inside: bool | None
) -> None:
    found = verify.judge(recorded, fresh)
    assert found["inside"] is inside and (found["expected"] is None) == (expected is None)
    if expected is not None:
        assert found["expected"] == pytest.approx(expected, abs=1e-3)


def test_mistakes(tmp_path: Path, refused: Refused) -> None:
    record = RESULTS / "memory_chain_30.json"
    assert "has no row 'rsm'. Did you mean 'rssm'?" in refused("verify", record, "--rows", "rsm")
    (tmp_path / "other.json").write_text("{}")
    assert "is no comparison" in refused("verify", tmp_path / "other.json")
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


@pytest.mark.parametrize("name", LINKED)
def test_every_row_of_the_table_can_be_trained_anew(name: str, tmp_path: Path) -> None:
    """What its command says is still understood."""
    parser = verify.Parser("verify", "")
    verify.arguments(parser)
    assert callable(verify.prepare(parser.parse([str(RESULTS / name), "--logdir", str(tmp_path / "runs")])))
    assert not (tmp_path / "runs").exists()

"""What each stage costs: every case runs, on vectors and on pictures, and says what it means."""

import json
import math
from pathlib import Path

import pytest

import configs
from studies import costs, tables


def debug(backbone: str, task: str | None = None, **changed: object) -> configs.Config:
    return configs.load(task, backbone, ["debug"], {"device": "cpu", **changed})


@pytest.mark.parametrize("what", costs.CASES)
def test_every_case(what: str) -> None:
    chosen = {name: debug(name) for name in ("s4wm", "s4wm_s4d" if what == "layers" else "rssm")}
    result = costs.measure(what, chosen, [3, 9], repeats=2)
    assert json.loads(json.dumps(result)) == result
    lengths = {"imagination": [5], "acting": [1]}.get(what, [3, 9])
    assert [(row["length"], row["name"]) for row in result["rows"]] == [
        (length, name) for length in lengths for name in chosen
    ]
    rows = {"imagination": 8, "acting": 1}.get(what, 4)  # of the preset
    for row in result["rows"]:
        assert row["median"] > 0 and row["spread"] >= 0 and math.isfinite(row["ratio"])
        assert row["tokens_per_second"] == pytest.approx(rows * row["length"] / row["median"])
        assert row["parameters"] > 0 and row["matmul_share"] > 0
    assert result["rows"][0]["ratio"] == 1
    _, first, *_ = tables.text(result["rows"], costs.COLUMNS).splitlines()
    assert first.startswith("s4wm (s5) ")
    assert f"{1e3 * result['rows'][0]['median']:.2f}" in first.split()


@pytest.mark.parametrize("what", costs.CASES)
def test_on_pictures(what: str) -> None:
    result = costs.measure(what, {"a": debug("s4wm", "rooms")}, [4], 1)
    assert all(row["median"] > 0 for row in result["rows"])
    assert what == "layers" or result["rows"][0]["parameters"] > 5000  # convolutions


def test_layers_of_what_has_none() -> None:
    with pytest.raises(configs.Mistake, match="the backbone 'a' has no state-space layers"):
        costs.measure("layers", {"a": debug("rssm")}, [3], 1)


def test_pictures_of_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and memory by length, one line a name; memory is left out where it was not measured."""
    drawn: list = []
    monkeypatch.setattr(costs, "save", lambda figure, out: drawn.append(figure) or out)
    rows = [
        {"name": name, "length": length, "median": 2.0 * length / 1000, "peak_memory": 3e6 * length}
        for length in (64, 256)
        for name in ("s4wm", "rssm")
    ]
    result = {"what": "layers", "device": "cpu", "threads": 1, "rows": rows}
    costs.draw(result, tmp_path / "x.png")
    time, memory = drawn[0].axes
    assert [line.get_label() for line in time.lines] == ["s4wm (s5)", "rssm"]
    assert time.lines[0].get_xydata().tolist() == [[64, 128], [256, 512]]
    assert memory.lines[1].get_xydata().tolist() == [[64, 192], [256, 768]]
    costs.draw(result | {"rows": [row | {"peak_memory": None} for row in rows]}, tmp_path / "x.png")
    assert len(drawn[1].axes) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["layers", "update"])
def test_on_a_gpu(what: str) -> None:
    result = costs.measure(what, {"a": debug("s4wm", device="cuda")}, [9], 2)
    assert result["rows"][0]["median"] > 0 and result["rows"][0]["peak_memory"] > 0

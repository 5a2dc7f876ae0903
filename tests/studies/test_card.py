"""What card does on a GPU, done small on the CPU; and how its parts are kept apart, timed and written."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import run
from studies import card
from tests.studies.conftest import Refused


def done(cases: card.Cases) -> dict[str, card.Result]:
    """The result of every case, as it is written."""
    found = {name: call() for name, call in cases}
    assert json.loads(json.dumps(found)) == found
    return found


def test_the_recurrence() -> None:
    """On a CPU it is the loops themselves, so that doubles are exact, and singles as far off as they are."""
    found = done(card.kernels("cpu", lengths=(1, 6), modes=3, copied=100))
    assert len(found) == 4 * 2 * 2
    for name, result in found.items():
        for way in ("forward", "backward"):
            error, exact = result[way]["error"], name.startswith(("torch.float64", "torch.complex128"))
            assert error == 0 if exact else error < 1e-5, name
            assert result[way]["seconds"] > 0 and result[way]["loop"] > 0 and result[way]["floor"] > 0
    assert max(result["backward"]["error"] for result in found.values()) > 0
    one, each = (found[f"torch.float32, {decay}, T = 6"] for decay in ("one decay", "a decay a step"))
    assert each["forward"]["floor"] == pytest.approx(1.5 * one["forward"]["floor"])
    assert each["backward"]["floor"] == pytest.approx(5 / 3 * one["backward"]["floor"])


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is not a number."""
    right = card.diagonal.loop_backward

    def wrong(*args: object) -> tuple[torch.Tensor, ...]:
        by_decay, adjoint, by_state = right(*args)
        single = adjoint.dtype == torch.float32
        return by_decay, adjoint, by_state.masked_fill(torch.tensor(single), torch.nan)

    monkeypatch.setattr(card.diagonal, "loop_backward", wrong)
    result = card.recurrence("cpu", torch.float32, False, (2, 5, 3), 1e9)
    assert result["forward"]["error"] < 1e-6 and math.isnan(result["backward"]["error"])


def test_updates() -> None:
    found = done(card.updates("cpu", "debug", (4,), ("eager", "bfloat16"), size=64))
    assert list(found) == ["eager, T = 4", "bfloat16, T = 4"]
    for result in found.values():
        assert [row["name"] for row in result["rows"]] == ["s4wm", "rssm"]
        for row in result["rows"]:
            operations = row["median"] * row["peak_share"] * result["peak"]
            assert operations > 2 * 4 * 4 * row["parameters"], (
                "each of 4 x 4 steps, forward, multiplies with all"
            )


def test_launches() -> None:
    cases = {name: call for name, call in card.launches("cpu", "debug") if "compile" not in name}
    assert list(cases) == ["s4wm, eager", "rssm, eager", "s4wm, bfloat16", "rssm, bfloat16"]
    found = done(cases.items())
    assert found["rssm, eager"] == {"launches": 0, "on_device": None, "waits": {}}


def test_finite() -> None:
    found = done(card.finite("cpu", "debug", count=3))
    assert list(found) == ["s4wm", "rssm"] and all(row["train/model"] > 0 for row in found.values())


def test_a_run_there_and_back() -> None:
    (row,) = done(card.runs("cpu", ["rssm"])).values()
    first, second, third = row["updates"]
    assert 0 < first < second < third
    assert row["same"] and len(row["returns"][0]) == 2 and any(row["returns"][0])


def good_and_bad() -> Iterator[tuple[str, Callable[[], dict]]]:
    yield "good", lambda: {"value": 1}
    yield "bad", lambda: {"value": 1 // 0}
    yield "good again", lambda: {"value": 2}
    yield "dies", lambda: os._exit(3)


def slow() -> Iterator[tuple[str, Callable[[], dict]]]:
    yield "quick", lambda: {"value": 1}
    yield "slow", lambda: time.sleep(1000)


def test_a_part_goes_on_after_an_error_and_says_how_it_ended() -> None:
    good, bad, again, dead = card.run_part(good_and_bad, 200)
    assert (good["case"], good["value"], again["value"]) == ("good", 1, 2) and good["seconds"] >= 0
    assert bad["error"].startswith("ZeroDivisionError") and "1 // 0" in bad["traceback"]
    assert dead == {"case": "after good again", "error": "the process ended with exit code 3"}


def test_a_part_that_takes_too_long_is_stopped() -> None:
    began, rows = time.monotonic(), card.run_part(slow, 20)
    found = [row["case"] for row in rows]
    assert found[-1] in ("after quick", "the beginning"), "a machine may be too busy for the first one"
    assert 20 <= time.monotonic() - began < 100


@pytest.fixture
def as_if_there_were_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list:
    """Parts with their limits, as they are asked for."""
    asked: list = []

    def run_part(cases: Callable[[], card.Cases], limit: float) -> Iterator[card.Result]:
        asked.append((cases.func, cases.args, limit))
        yield {"case": "a", "value": 1}
        yield {"case": "b", "error": "too hot"}

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(card.machine, "hardware", lambda: {"gpu": "a card"})
    monkeypatch.setattr(card, "run_part", run_part)
    return asked


def test_what_is_there_is_written(
    as_if_there_were_a_gpu: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "card.json"
    assert run.main(["card", "--parts", "runs", "kernels=7", "--out", str(out)]) == 0
    assert as_if_there_were_a_gpu == [(card.runs, ("cuda",), 60), (card.kernels, ("cuda",), 7)]
    written = json.loads(out.read_text())
    assert [(row["part"], row["case"]) for row in written["rows"]] == [
        ("runs", "a"),
        ("runs", "b"),
        ("kernels", "a"),
        ("kernels", "b"),
    ]
    assert written["hardware"] == {"gpu": "a card"} and written["commit"]
    *rows, first, second, last = capsys.readouterr().out.splitlines()
    assert [json.loads(row) for row in rows] == written["rows"]
    assert (first, second, last) == ("failed: runs, b", "failed: kernels, b", f"4 results: {out}")


def test_all_parts_take_eight_minutes_at_most(as_if_there_were_a_gpu: list, tmp_path: Path) -> None:
    assert run.main(["card", "--out", str(tmp_path / "x.json")]) == 0
    assert len(as_if_there_were_a_gpu) == len(card.PARTS)
    assert sum(limit for _, _, limit in as_if_there_were_a_gpu) <= 480


def test_nothing_is_measured_over(as_if_there_were_a_gpu: list, tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "card.json"
    out.write_text("{}")
    assert "exists" in refused("card", "--out", out) and out.read_text() == "{}"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["kernel"], "unknown part 'kernel'. Did you mean 'kernels'? Expected one of kernels, updates, "),
        (["runs=0"], "expected a positive whole number, got '0'"),
        (["runs"], "card measures a CUDA GPU, and torch finds none here"),
    ],
)
def test_mistakes(
    parts: list[str],
    said: str,
    tmp_path: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert said in refused("card", "--out", tmp_path / "x.json", "--parts", *parts)
    assert not any(tmp_path.iterdir())

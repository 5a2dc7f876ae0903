"""What a run pays beside learning, measured on a small one."""

import math
from pathlib import Path

import pytest

from replay import Replay
from studies import overhead, tables
from tests.studies.conftest import Call

WORDS = ("bench", "--what", "overhead", "--configs", "debug", "--device", "cpu")


def test_calls_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: next(times))
    clock = overhead.Clock(Replay(100, 1, 1, 2, 0))  # type: ignore[arg-type]
    assert not clock.ready() and clock.wants_state() is False and len(clock) == 0
    assert clock.calls == {"ready": [(1.0, 3.0)], "wants_state": [(10.0, 10.5)]}


@pytest.mark.parametrize("task", ["memory_chain:n=3", "rooms"])
def test_a_small_run(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    """Each backbone is a row; nothing is left on disk; what is stored is on disk in each kept checkpoint."""
    monkeypatch.chdir(tmp_path)
    result = call(
        *WORDS, "--repeats", "3", "--task", task, "--backbones", "s4wm", "rssm", "--batch_size", "2"
    )
    assert list(tmp_path.iterdir()) == []
    assert (result["what"], result["device"]) == ("overhead", "cpu")
    assert [row["name"] for row in result["rows"]] == ["s4wm", "rssm"]
    for row in result["rows"]:
        assert row["updates"] >= 3 and row["steps"] >= 3 * 2 * 16 / 8
        share = row["share"]
        assert share["replay"] == pytest.approx(sum(share[name] for name in overhead.REPLAY))
        assert 0 < share["next"] < share["replay"] < 1 and share["add"] > 0 and share["refresh"] > 0
        assert 0 < row["checkpoint"] <= row["checkpoint_worst"] and row["steps_per_second"] > 0
        assert row["stored"] > row["steps"] and row["bytes_agent"] > 0
        assert 10 < row["bytes_per_step"] < math.inf
    assert tables.text(result["rows"], overhead.COLUMNS).splitlines()[1].startswith("s4wm (s5) ")

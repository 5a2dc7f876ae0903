"""What a run pays beside learning, measured on a small one."""

import json
import math
from pathlib import Path

import pytest

import run
from studies import overhead


def test_calls_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        def add(self, number: int) -> int:
            return number + 1

        def sample(self) -> None:
            self.add(1)
            raise ValueError("empty")

    times = iter([1.0, 3.0, 10.0, 10.5, 20.0, 24.0])
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: next(times))
    clock, store = overhead.Clock(), Store()
    clock.watch(store, "add")
    clock.watch(store, "sample")
    assert store.add(1) == 2 and store.add(number=2) == 3
    with pytest.raises(ValueError, match="empty"):
        store.sample()
    assert clock.calls == {"add": [2.0, 0.5], "sample": [4.0]}


def test_a_small_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each backbone is a row; nothing is left on disk; what is stored is on disk in each kept checkpoint."""
    monkeypatch.chdir(tmp_path)
    words = ["bench", "--what", "overhead", "--configs", "debug", "--device", "cpu", "--repeats", "3"]
    words += ["--task", "memory_chain:n=3", "--backbones", "s4wm", "rssm", "--batch_size", "2"]
    assert run.main([*words, "--json"]) == 0
    assert list(tmp_path.iterdir()) == []
    *_, rssm, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert (result["what"], result["device"]) == ("overhead", "cpu")
    assert [row["name"] for row in result["rows"]] == ["s4wm", "rssm"] and rssm.startswith("rssm ")
    for row in result["rows"]:
        assert row["updates"] >= 3 and row["steps"] >= 2 * 2 * 16 / 8  # between three updates
        share = row["share"]
        assert share["replay"] == pytest.approx(sum(share[name] for name in overhead.REPLAY))
        assert 0 < share["next"] < share["replay"] < 1 and share["add"] > 0 and share["refresh"] > 0
        assert 0 < row["checkpoint"] <= row["checkpoint_worst"] and row["steps_per_second"] > 0
        assert row["stored"] > row["steps"] and row["bytes_agent"] > 0
        assert 10 < row["bytes_per_step"] < math.inf

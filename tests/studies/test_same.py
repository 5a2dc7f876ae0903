"""Two checkouts that train the same agent are told from two that do not."""

from collections import Counter
from pathlib import Path

import pytest

import run
from studies import same
from tests.studies.conftest import Refused

ROOT = Path(__file__).parents[2]


def test_what_a_checkout_trains() -> None:
    found = same.trained(ROOT, "rssm", "memory_chain:n=3", 80, ["--configs", "debug"])
    assert found.total() > 50 and all(kind.startswith("torch.") for _, kind, _ in found)
    with pytest.raises(RuntimeError, match="unknown backbone 'rsm'"):
        same.trained(ROOT, "rsm", "memory_chain:n=3", 80, [])


def test_a_difference_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of backbones may differ, and where a tensor stands does not matter."""
    one, other = ((2,), "torch.float32", 7), ((2,), "torch.float32", 8)
    found = {"rssm": Counter([one, other]), "lru": Counter([other, one]), "old": Counter([one, one])}
    monkeypatch.setattr(same, "trained", lambda checkout, backbone, *_: found[backbone])
    words = ["same", str(ROOT), "--tasks", "t", "--backbones"]
    assert run.main([*words, "rssm=lru"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 agents are the same"
    with pytest.raises(SystemExit, match="1 of 2 agents differ"):
        run.main([*words, "rssm", "rssm=old"])
    assert capsys.readouterr().out.splitlines()[-1].split()[-4:] == ["2", "tensors:", "1", "differ"]


def test_no_checkout(refused: Refused) -> None:
    assert "no checkout in nowhere: expected nowhere/run.py" in refused("same", "nowhere")

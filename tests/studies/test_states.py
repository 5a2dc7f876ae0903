"""The comparison of start states: exact where it must be, and a table by age."""

from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from agent.run.folder import RunFolder
from agent.run.loop import Training
from replay import Replay
from studies import states, tables
from tests.studies.conftest import Call, Refused

WORDS = ("bench", "--what", "states", "--configs", "debug", "--device", "cpu", "--lengths", "16")


def test_a_state_that_is_acting_s_own_has_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where parameters and samples are those of acting; starting from nothing is all wrong."""

    def half(*shape: int, **_: object) -> torch.Tensor:
        return torch.full(shape[0] if isinstance(shape[0], tuple | torch.Size) else shape, 0.5)

    monkeypatch.setattr(torch, "rand", half)
    found = {}
    for mode in ("zero", "stored"):
        overrides = {"steps": 500, "prefill": 10**6, "batch_length": 16, "device": "cpu", "eval.every": 0}
        overrides |= {"log.pictures": 0, "log.to": "none", "replay.initial_state": mode}
        config = configs.load("memory_chain:n=126", "rssm", ["debug"], overrides)
        training = Training(config, RunFolder(tmp_path / mode))
        training.run()
        assert training.agent.updates == 0 and isinstance(training.replay, Replay)
        replay = training.replay
        found[mode] = np.concatenate([states.errors(training.agent, replay) for _ in range(12)])
    assert len(found["zero"]) > 8 and len(found["stored"]) > 8
    np.testing.assert_allclose(found["zero"][:, 1], 1, rtol=1e-5)
    assert np.abs(found["stored"][:, 1]).max() < 1e-4
    assert not found["stored"][:, 2].any()


@pytest.mark.parametrize(
    ("task", "options"),
    [("memory_chain:n=126", "--steps 440"), ("minigrid:MemoryS7", "--steps 500")],
)
def test_as_a_command(task: str, options: str, call: Call) -> None:
    """One row for each backbone and initial state; zero is far from acting's state, the others are not."""
    if task.startswith("minigrid"):
        pytest.importorskip("minigrid")
    words = ["--task", task, "--backbones", "s4wm", *options.split(), "--repeats", "6", "--train_ratio", "2"]
    rows = call(*WORDS, *words, "--replay.burn_in", "16")["rows"]
    assert [row["name"] for row in rows] == ["s4wm zero", "s4wm stored", "s4wm burn_in"]
    _, first, *_ = tables.text(rows, states.COLUMNS).splitlines()
    assert first.startswith("s4wm (s5), zero ")
    for row in rows:
        assert len(row["errors"]) == len(row["windows"]) == 4 and sum(row["windows"]) > 0 < row["updates"]
        for error, count in zip(row["errors"], row["windows"], strict=True):
            assert (error is None) == (count == 0)
    assert rows[0]["errors"][0] == pytest.approx(1, rel=1e-3)
    assert max(error for error in rows[1]["errors"] if error is not None) < 0.9


def test_what_carries_the_state_on_has_no_zero() -> None:
    chosen = {name: configs.load(backbone=name, presets=["debug"]) for name in ("rssm", "rssm_tbtt")}
    names = ["rssm zero", "rssm stored", "rssm burn_in", "rssm_tbtt stored", "rssm_tbtt burn_in"]
    assert list(states.variants(chosen, [16])) == names


def test_episodes_that_are_too_long(refused: Refused) -> None:
    words = ["--task", "memory_chain:n=400", "--backbones", "s4wm", "--steps", "300", "--repeats", "2"]
    assert "whose episode began at most 8 windows before" in refused(*WORDS, *words, "--replay.burn_in", "16")

"""The comparison of start states: exact where it must be, and a table by age."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import configs
import run
from agent.online import Training
from studies import states

WORDS = ["bench", "--what", "states", "--task", "memory_chain:n=126", "--configs", "debug", "--device", "cpu"]


def test_a_state_that_is_acting_s_own_has_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where parameters and samples are those of acting; starting from nothing is all wrong."""

    def half(*shape: int, **_: object) -> torch.Tensor:
        return torch.full(shape[0] if isinstance(shape[0], tuple | torch.Size) else shape, 0.5)

    monkeypatch.setattr(torch, "rand", half)
    found = {}
    for mode in ("zero", "stored"):
        overrides = {"steps": 500, "prefill": 10**6, "batch_length": 16, "device": "cpu", "eval.every": 0}
        overrides |= {"log.pictures": 0, "log.tensorboard": False, "replay.initial_state": mode}
        config = configs.load("memory_chain:n=126", "rssm", ["debug"], overrides)
        (tmp_path / mode).mkdir()
        training = Training(config, run._env_maker(config), run._replay_maker(config), tmp_path / mode)
        training.run()
        assert training.agent.updates == 0
        found[mode] = np.concatenate([states.errors(training.agent, training.replay) for _ in range(12)])
    assert len(found["zero"]) > 8 and len(found["stored"]) > 8
    np.testing.assert_allclose(found["zero"][:, 1], 1, rtol=1e-5)
    assert np.abs(found["stored"][:, 1]).max() < 1e-4
    assert not found["stored"][:, 2].any()


def test_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """One row for each backbone and initial state; zero is far from acting's state, the others are not."""
    words = ["--backbones", "s4wm", "--steps", "440", "--lengths", "16", "--repeats", "4", "--json"]
    assert run.main([*WORDS, *words, "--replay.burn_in", "16"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert [row["name"] for row in rows] == ["s4wm zero", "s4wm stored", "s4wm burn_in"]
    assert table[2].startswith("s4wm zero") and len(table) == 5
    for row in rows:
        assert len(row["errors"]) == len(row["windows"]) == 4 and sum(row["windows"]) > 0 < row["updates"]
        for error, count in zip(row["errors"], row["windows"], strict=True):
            assert (error is None) == (count == 0)
    assert rows[0]["errors"][0] == pytest.approx(1, rel=1e-3)
    assert max(error for error in rows[1]["errors"] if error is not None) < 0.9

"""The comparison of start states: exact where it must be, and a table by age."""

from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from studies import states


def test_the_state_of_a_whole_episode_has_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training's state is acting's if it was made by these parameters and samples; zero is all wrong."""
    monkeypatch.setattr(
        torch, "rand", lambda *shape, **how: torch.full(shape[0] if len(shape) == 1 else shape, 0.5)
    )
    found = {}
    for mode in ("zero", "stored"):
        overrides = {"steps": 800, "prefill": 10**6, "batch_length": 16, "device": "cpu", "eval.every": 0}
        overrides |= {"log.pictures": 0, "log.tensorboard": False, "replay.initial_state": mode}
        config = configs.load(states.TASK, "rssm", ["debug"], overrides)
        (tmp_path / mode).mkdir()
        training = states.train(config, tmp_path / mode)
        assert training.agent.updates == 0
        found[mode] = np.concatenate([states.errors(training.agent, training.replay) for _ in range(20)])
    assert len(found["zero"]) > 20 and len(found["stored"]) > 20
    np.testing.assert_allclose(found["zero"][:, 1], 1, rtol=1e-5)
    assert np.abs(found["stored"][:, 1]).max() < 1e-4
    assert not found["stored"][:, 2].any()


def test_the_table_sorts_by_age() -> None:
    """Medians, and how many windows they are of."""
    found = np.array([[0, 0.1, 0.5], [7, 0.3, 0.5], [8, 0.7, 0.5], [9999, 0.25, 0.5]])
    assert states.table({"stored": found}).splitlines() == [
        "| | floor | 0 to 7 | 8 to 31 | 32 to 127 | 128 and more updates |",
        "|---|---|---|---|---|---|",
        "| `stored` | 0.500 | 0.200 (2) | 0.700 (1) | - | 0.250 (1) |",
    ]

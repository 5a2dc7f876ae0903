"""docs/sweeps.md's search runs, in small."""

import re
from pathlib import Path

import pytest

import configs

PAGE = Path(__file__).parents[1] / "docs" / "sweeps.md"
TINY = {
    "steps": 64,
    "eval.every": 32,
    "device": "cpu",
    "log.pictures": 0,
    "eval.episodes": 1,
    "s4wm.layers": 1,
}


@pytest.mark.extras("optuna")
def test_the_search_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are trained, one without hope is pruned, and the same program goes on with its study."""
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    load = configs.load
    load("memory_chain:n=30", overrides={"steps": 30_000})  # as the page has it

    def tiny(task: str, overrides: dict) -> configs.Config:
        return load("memory_chain:n=5", "s4wm", ["debug"], overrides | TINY)

    monkeypatch.setattr(configs, "load", tiny)
    names: dict = {}
    program = compile(block.replace("n_trials=20", "n_trials=2"), str(PAGE), "exec")
    exec(program, names)
    assert len(names["study"].trials[0].intermediate_values) >= 2
    monkeypatch.setattr(names["optuna"].Trial, "should_prune", lambda trial: True)
    exec(program, names)
    trials = names["study"].trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert trials[2].last_step == 32

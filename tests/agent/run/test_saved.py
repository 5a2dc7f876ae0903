"""Which checkpoint of a run is opened, and in which task it is evaluated."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import configs
import run
from agent import Agent, train
from agent.run import checkpoint

RETURNS = {20: 0.1, 40: 0.7, 60: 0.2, 80: 0.7}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Train to a step, with evaluations whose returns are given: the best at 40, an equal one at the end."""
    steps: list[int] = []

    def played(*_: object, **__: object) -> dict:
        value = RETURNS[steps[-1]]
        played = {"return_mean": value, "return_std": 0.0, "returns": [value]}
        return played | {"episodes": 1, "length_mean": 4.0, "cut": 0}

    def due(self: object, *given: object) -> object:
        steps.append(20 * round(self.progress.step / 20))
        return evaluate(self)

    from agent.run.loop import Training

    evaluate = Training._evaluate
    monkeypatch.setattr("agent.run.loop.run_episodes", played)
    monkeypatch.setattr(Training, "_evaluate", due)

    def go(folder: Path, end: int) -> dict:
        overrides = {"device": "cpu", "steps": end, "eval.every": 20, "checkpoint.every": 20, "eval.envs": 1}
        overrides |= {"log.pictures": 0, "log.to": "none", "checkpoint.keep": 1}
        return train(configs.load("memory_chain:n=5", presets=["debug"], overrides=overrides), folder)

    return go


def test_the_best_checkpoint_is_kept_beside_the_newest(
    scripted: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(tmp_path, 60)
    assert [Agent.load(tmp_path, best=best).step for best in (False, True)] == [60, 40]
    scripted(tmp_path, 80)  # the return is remembered: an equal one does not take its place
    found = checkpoint.load_newest(tmp_path / "best")
    assert (found.step, found.loop_state, found.replay_state) == (40, {"return_mean": 0.7}, None)
    assert found.agent_state["updates"] == Agent.load(tmp_path, step=40).learner.updates
    assert Agent.load(tmp_path, step=80).learner.updates > found.agent_state["updates"]
    with pytest.raises(configs.Mistake, match="no checkpoint of step 60; there are: 40, 80"):
        Agent.load(tmp_path, step=60)
    with pytest.raises(ValueError, match="choose one"):
        Agent.load(tmp_path, step=40, best=True)

    for words, step in ((["--best"], 40), (["--step", "80"], 80), ([], 80)):
        assert run.main(["eval", str(tmp_path), "--episodes", "1", "--json", *words]) == 0
        assert json.loads(capsys.readouterr().out)["step"] == step
    for words, says in (
        (["--step", "60"], "there are: 40, 80"),
        (["--step", "40", "--best"], "not allowed with"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run.main(["eval", str(tmp_path), *words])
        assert stopped.value.code == 2 and says in capsys.readouterr().err


def test_a_damaged_best_checkpoint_is_replaced(scripted: Callable[..., dict], tmp_path: Path) -> None:
    scripted(tmp_path, 40)
    (agent,) = (tmp_path / "best").glob("checkpoints/*/agent.pt")
    agent.write_bytes(agent.read_bytes()[:-1])
    with pytest.raises(configs.Mistake, match="no checkpoint in .*best/checkpoints can be loaded"):
        Agent.load(tmp_path, best=True)
    scripted(tmp_path, 60)
    assert Agent.load(tmp_path, best=True).step == 60


def test_a_run_is_evaluated_in_another_task_of_the_same_spaces(
    scripted: Callable[..., dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(tmp_path, 20)
    for saved in (True, False):
        if not saved:  # a run of earlier code
            (tmp_path / "spaces.json").unlink()
        words = ["eval", str(tmp_path), "--episodes", "2"]
        assert run.main([*words, "--task", "memory_chain:n=9"]) == 0
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith("memory_chain:n=9 with s4wm: mean return ")
        assert said.endswith("over 2 episodes of 10 steps, at step 20")
        for task, says in (
            ("memory_chain:n=9,bits=2", "observation leaf 'vector' is Box"),
            ("repeat_previous", "the action space is Discrete(2) there, Discrete(4) here"),
            ("memory_chian", "Did you mean"),
        ):
            with pytest.raises(SystemExit) as stopped:
                run.main([*words, "--task", task])
            assert stopped.value.code == 2 and says in capsys.readouterr().err

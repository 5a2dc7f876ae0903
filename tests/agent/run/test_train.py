"""Training from Python: an environment of one's own, a callback that may stop it, and going on."""

import os
import shutil
import signal
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import configs
import run
from agent import Agent, train
from agent.run import checkpoint
from tests.agent.run.house import metrics_of


class Corridor(gymnasium.Env):
    """Known to no registry: go right four times."""

    observation_space = spaces.Dict(place=spaces.Discrete(5), wind=spaces.Box(-1, 1, (2,)))
    action_space = spaces.Discrete(2, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.t = 0, 0
        return self._see(), {}

    def step(self, action):
        assert action in (1, 2)
        self.place, self.t = max(0, self.place + (1 if action == 2 else -1)), self.t + 1
        return self._see(), float(self.place == 4), self.place == 4, self.t == 12, {}

    def _see(self):
        return {"place": self.place, "wind": self.np_random.uniform(-1, 1, 2).astype(np.float32)}


def configure(**changed: object) -> configs.Config:
    overrides = {"device": "cpu", "steps": 80, "eval.episodes": 2, "eval.every": 40, "log.every": 20}
    overrides |= {"log.pictures": 0, "log.to": "none"}
    changed = {key.replace("__", "."): value for key, value in changed.items()}
    return configs.load("memory_chain:n=3", presets=["debug"], overrides=overrides | changed)


def test_an_environment_of_ones_own_is_trained_in_and_acted_in(tmp_path: Path, capsys) -> None:
    told: list[dict] = []
    config = configure()
    result = train(config, tmp_path, Corridor, lambda metrics, step: told.append({"step": step, **metrics}))
    assert result["steps"] == 80 and result["return_mean"] in (0, 0.5, 1)
    assert told == metrics_of(tmp_path)
    assert configs.read(tmp_path / "config.yaml").task == "python:Corridor"
    agent, env = Agent.load(tmp_path), Corridor()
    observation, state = env.reset(seed=0)[0], None
    for _ in range(3):
        action, state = agent.predict(observation, state)
        observation = env.step(action)[0]
    longer = train(configure(steps=100), tmp_path, Corridor)
    assert longer["steps"] == 100 and Agent.load(tmp_path).step == 100
    with pytest.raises(ValueError, match="task: saved 'python:Corridor', now 'memory_chain:n=3'"):
        train(config, tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run.main(["eval", str(tmp_path)])
    assert stopped.value.code == 2 and "only it can make them again" in capsys.readouterr().err
    with pytest.raises(ValueError, match="only it can make them again"):
        agent.make_env()


def test_a_callback_stops_a_run_that_goes_on_to_the_bit(tmp_path: Path) -> None:
    config = configure()
    assert train(config, tmp_path / "whole")["steps"] == 80
    result = train(config, tmp_path / "cut", callback=lambda metrics, step: step < 30)
    assert 0 < result["steps"] < 80 and not (tmp_path / "cut" / "result.json").exists()
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", callback=lambda metrics, step: os.kill(os.getpid(), signal.SIGINT))
    train(config, tmp_path / "cut")
    ends = [checkpoint.load_newest(tmp_path / name).agent_state for name in ("whole", "cut")]
    assert ends[0]["updates"] == ends[1]["updates"] > 0
    for key, leaf in ends[0]["model"].items():
        assert leaf.equal(ends[1]["model"][key]), key


def test_what_a_callback_raises_ends_the_run_after_it_is_saved(tmp_path: Path) -> None:
    """Also in an evaluation, whose own failure does not; the last line stops nothing any more."""

    def broken(metrics: dict, step: int) -> None:
        if "eval/episodes" in metrics:
            raise ZeroDivisionError("in the callback")

    with pytest.raises(ZeroDivisionError, match="in the callback") as raised:
        train(configure(), tmp_path, callback=broken)
    assert "All is saved at step 40" in raised.value.__notes__[0]
    result = train(configure(), tmp_path, callback=lambda metrics, step: "eval/episodes" not in metrics)
    assert result["steps"] == 80 and (tmp_path / "result.json").exists()


@pytest.mark.faults("checkpoints of another run")
def test_a_run_that_is_refused_is_left_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What checkpoints say is known before the session is written down, also where options are new."""
    for name in ("mine", "other"):
        train(configure(), tmp_path / name)
    mine = tmp_path / "mine"
    shutil.rmtree(mine / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", mine / "checkpoints")

    def contents() -> dict[Path, bytes | None]:
        found = (path for path in mine.rglob("*") if path.name != ".lock")
        return {path: path.read_bytes() if path.is_file() else None for path in found}

    before = contents()
    with pytest.raises(configs.Mistake, match="of another run: its run is"):
        train(configure(steps=100), mine)
    assert contents() == before and "skipped checkpoint" in capsys.readouterr().err

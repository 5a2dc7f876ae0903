"""What is exported acts as the agent does, or is not written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import configs
import run
from agent import Agent
from envs.spaces import Observations
from studies import export
from tests.agent.run.test_trained import KINDS, samples, trained, untrained
from tests.studies.conftest import Call, Refused

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
CASES = [
    (name, list(KINDS)[number % len(KINDS)])
    for number, name in enumerate(name for name in configs.backbones() if name != "rssm_tbtt")
]
extras = pytest.mark.extras(*export.EXTRA)
pytestmark = pytest.mark.filterwarnings("ignore:.*is read as", "ignore::DeprecationWarning")


def agent_of(kind: str, backbone: str) -> Agent:
    """Not trained, of a task that no name can make."""
    agent = untrained(kind, "python:Made", backbone)
    with torch.no_grad():  # else actions are all the same
        for parameter in agent.learner.actor_critic.actor.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return agent


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 10, (7, 7, 3), np.uint8),
        spaces.Box(0, 255, (2, 3, 9, 12), np.uint8),
        spaces.Box(-9, 9, (2, 3), np.float64),
        spaces.MultiBinary((2, 2)),
        spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [-1, 5]]),
    ],
    ids=str,
)
def test_the_observations_of_the_step_are_those_of_training(space: spaces.Space) -> None:
    space.seed(0)
    given = [space.sample() for _ in range(5)]
    (leaf,) = Observations(space).leaves.values()
    flat = export._conversion(leaf)[1](torch.as_tensor(np.stack(given)))
    np.testing.assert_array_equal(flat.numpy(), np.stack([leaf.convert(each) for each in given]))
    assert flat.numpy().dtype == leaf.box.dtype


@pytest.mark.parametrize(("backbone", "kind"), CASES)
def test_a_torch_program_acts_as_predict_does(backbone: str, kind: str, tmp_path: Path) -> None:
    agent = agent_of(kind, backbone)
    result = export.export(agent, tmp_path / "out", False, 20)
    assert result["files"] == ["agent.pt2", "metadata.json"]
    assert result["checked"]["on"].startswith("random observations")
    assert max(result["checked"]["differences"]["agent.pt2"]) < 1e-5
    given, together = samples(kind, 3)
    leaves = agent.interface.observations.leaves
    seen = {
        name: torch.as_tensor(np.stack([np.asarray(export.at(each, leaf.path)) for each in given]))
        for name, leaf in leaves.items()
    }
    step = torch.export.load(tmp_path / "out" / "agent.pt2").module()
    state, kept = export._state(agent.initial_state(3)), None
    for starts in ([True] * 3, [False] * 3, [True, False, True]):
        with torch.no_grad():
            action, state = step(seen, state, torch.tensor(starts))
        wanted, kept = agent.predict(together, kept, np.array(starts))
        np.testing.assert_allclose(action.numpy(), wanted, atol=1e-5)
        assert action.numpy().dtype == agent.action_space.dtype
    assert {each["name"] for each in result["inputs"]} >= {f"state.{name}" for name in state}


@extras
@pytest.mark.parametrize(("backbone", "kind"), CASES)
def test_onnx_acts_as_predict_does(backbone: str, kind: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    agent = agent_of(kind, backbone)
    result = export.export(agent, tmp_path, True, 20)
    assert max(result["checked"]["differences"]["agent.onnx"]) < 1e-5
    weights, model = load_file(tmp_path / "agent.safetensors"), agent.learner.model.state_dict()
    assert all(torch.equal(weights[f"model.{name}"], leaf) for name, leaf in model.items())
    assert json.loads((tmp_path / "metadata.json").read_text())["backbone"] == backbone


@extras
def test_the_page_acts_in_an_environment_without_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "run", "s4wm", "CartPole-v1")
    capsys.readouterr()
    words = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "exported"), "--check", "40"]
    assert run.main(words) == 0
    said = capsys.readouterr().out
    assert "over 40 steps of CartPole-v1" in said and "agent.onnx: 0 in actions" in said
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert {*re.findall(r"^import (\w+)", block, re.MULTILINE)} == {
        "gymnasium",
        "json",
        "numpy",
        "onnxruntime",
    }
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    agent = Agent.load(tmp_path / "run")
    env, state, returned, over = agent.make_env(), None, 0.0, False
    observation, _ = env.reset(seed=0)
    while not over:
        action, state = agent.predict(observation, state)
        observation, reward, terminated, truncated, _ = env.step(action)
        returned, over = returned + float(reward), terminated or truncated
    assert names["returned"] == returned > 5


def test_a_small_run_folder_is_read_as_a_run_and_not_gone_on_with(
    tmp_path: Path, call: Call, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    without = "--heads.product=false"  # as all code did that had no such option, unlike today's default
    whole = trained(tmp_path / "whole", "s4wm", "memory_chain:n=3", without)
    small = tmp_path / "agents" / "small"
    assert run.main(["export", str(whole), "--out", str(small), "--format", "run", "--check", "20"]) == 0
    assert "the run: 0 in actions" in capsys.readouterr().out
    files = {path.relative_to(small).as_posix() for path in small.rglob("*") if path.is_file()}
    inside = {f"checkpoints/000000000064/{name}" for name in ("agent.pt", "loop.json", "manifest.json")}
    assert files == inside | {"config.yaml", "spaces.json", *export.KEPT}
    assert [small] == [*small.parent.iterdir()]
    assert str(tmp_path) not in (small / "config.yaml").read_text()
    assert _bytes(small) < _bytes(whole) / 2
    returns, again = (call("eval", folder, "--episodes", "4")["returns"] for folder in (whole, small))
    assert returns == again
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    assert "holds an agent that was handed on to act" in refused("--logdir", small, "--steps", "80")
    assert before == {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    config = small / "config.yaml"  # as of code that did not have these options
    config.write_text(re.sub(r"^  (warmup|product): .*\n", "", config.read_text(), flags=re.MULTILINE))
    assert run.main(["eval", str(small), "--episodes", "4", "--json"]) == 0
    said = capsys.readouterr()
    assert (
        f"{config} is of earlier code; taken as it was then: heads.product false, optimiser.warmup 100"
        in said.err
    )
    assert json.loads(said.out.splitlines()[-1])["returns"] == returns
    words = f"--init {small} --task memory_chain:n=3 --configs debug --steps 32 --eval.every 0".split()
    words.append(without)
    assert run.main(["train", *words, "--logdir", str(tmp_path / "next")]) == 0


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_what_acts_otherwise_is_not_left_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, opened = agent_of("image", "rssm"), export._torch_runner

    def wrong(step: Callable[..., Any], inputs: object) -> export.Runner:
        return lambda arrays: [each + 1 for each in opened(step, inputs)(arrays)]

    monkeypatch.setattr(export, "_torch_runner", wrong)
    with pytest.raises(SystemExit, match="agent.pt2 does not act as predict does: after 1 steps"):
        export.export(agent, tmp_path / "out", False, 5)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_end_before_anything_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    nothing, out, full = (tmp_path / name for name in ("nothing", "out", "full"))
    full.mkdir()
    (full / "notes.txt").touch()
    assert "no run in" in refused("export", nothing, "--out", out, "--format", "torch")
    assert "is not empty" in refused("export", nothing, "--out", full, "--format", "torch")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    said = refused("export", nothing, "--out", out)
    assert re.search(r"onnx, .*pip install -e '.\[export\]'. --format torch", said)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]

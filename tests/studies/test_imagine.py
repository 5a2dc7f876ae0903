"""The pictures of a trained model: what is drawn was played, and the files are there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import configs
import run
from agent.evaluation import EVALUATION_ENVS, load_agent
from studies.imagine import EPISODES, play


@pytest.fixture(scope="module", params=["s4wm", "rssm"])
def logdir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    words = [
        "--backbone",
        request.param,
        "--task",
        "memory_chain:n=5",
        "--configs",
        "debug",
        "--steps",
        "100",
    ]
    run.main([*words, "--device", "cpu", "--eval.every", "0", "--logdir", str(folder)])
    return folder


def test_pictures(logdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of each kind; how long states last is drawn where there are such."""
    assert run.main(["imagine", "--logdir", str(logdir), "--steps", "12", "--context", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [Path(path).name for path in result["files"]]
    expected = ["open_loop_vector_0.png", "open_loop_vector_1.png", "kl_by_step.png"]
    assert names == expected + ["memory.png"] * ("s4wm" in logdir.name)
    for path in result["files"]:
        assert np.asarray(Image.open(path).convert("L")).std() > 0, f"{path} is blank"
    assert result["error"].keys() == {"vector"} and result["error"]["vector"] > 0
    assert list(result["kl"]) == [str(age) for age in range(7)]


def test_what_was_played_can_be_played_again(logdir: Path) -> None:
    """The action at a row is the one that led into it."""
    config = configs.read(logdir / "config.yaml")
    make_envs = run._env_maker(config)
    agent, step = load_agent(config, make_envs, logdir, seed=3)
    assert step >= 100
    batch = play(agent, make_envs, 20, seed=3)
    assert batch["is_first"].shape == (EPISODES, 20) and batch["is_first"].sum() > EPISODES
    assert not batch["action"][batch["is_first"]].any() and batch["action"].any()
    with make_envs(EPISODES, 3, 0) as training:
        assert (training.reset()["obs/vector"] != batch["obs/vector"][:, 0]).any(), "episodes of training"
    envs = make_envs(EPISODES, 3, EVALUATION_ENVS)
    rows = envs.reset()
    for t in range(20):
        np.testing.assert_array_equal(rows["obs/vector"], batch["obs/vector"][:, t])
        np.testing.assert_array_equal(rows["reward"], batch["reward"][:, t])
        if t < 19:
            rows = envs.step(batch["action"][:, t + 1])
    envs.close()


def test_nothing_left_to_predict(logdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run.main(["imagine", "--logdir", str(logdir), "--steps", "8", "--context", "8"])
    assert stopped.value.code == 2
    assert "--context must lie between 1 and --steps - 1 = 7, got 8" in capsys.readouterr().err

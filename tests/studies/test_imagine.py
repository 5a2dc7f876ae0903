"""The pictures of a trained model: what is drawn was played, and the files are there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import run
from agent.run.evaluation import EVALUATION_ENVS
from agent.run.saved import SavedRun
from studies.imagine import EPISODES, play
from tests.studies.conftest import Call, Refused, Train

TASK = "memory_chain:n=5"


@pytest.mark.parametrize(
    ("backbone", "task", "seen"),
    [("s4wm", TASK, "vector"), ("rssm", TASK, "vector"), ("rssm", "rooms", "image")],
)
def test_pictures(backbone: str, task: str, seen: str, train: Train, tmp_path: Path, call: Call) -> None:
    """One of each kind; how long states last is drawn where there are such."""
    words = ["--steps", "12", "--context", "4", "--out", tmp_path / "new"]
    result = call("imagine", train(backbone, task), *words)
    expected = [f"open_loop_{seen}_0.png", f"open_loop_{seen}_1.png", "kl_by_step.png"]
    assert [Path(path).name for path in result["files"]] == expected + ["memory.png"] * (backbone == "s4wm")
    for path in result["files"]:
        assert np.asarray(Image.open(path).convert("L")).std() > 0, f"{path} is blank"
    assert result["error"].keys() == {seen} and result["error"][seen] > 0
    assert list(result["kl"]) == [str(age) for age in range(7 if seen == "vector" else 12)]


def test_a_video(train: Train, tmp_path: Path, call: Call) -> None:
    """As many frames as steps, two rows of three; what was predicted is marked."""
    folder, film = train("rssm", "rooms"), tmp_path / "film.gif"
    words = ["--steps", "6", "--context", "4", "--out", tmp_path / "new", "--video", film]
    assert call("imagine", folder, *words)["files"][-1] == str(film)
    image = Image.open(film)
    assert image.n_frames == 6 and image.size == (3 * 128 + 2 * 4, 2 * (128 + 14) + 4)
    below = []
    for number in range(6):
        image.seek(number)
        below.append(image.convert("RGB").getpixel((127, 128)))
    assert len(set(below[:4])) == len(set(below[4:])) == 1 and below[0] != below[5]


def test_no_video_of_vectors(train: Train, tmp_path: Path, refused: Refused) -> None:
    out, film = tmp_path / "new", tmp_path / "film.gif"
    said = refused("imagine", train("s4wm", TASK), "--out", out, "--video", film)
    assert f"--video: {TASK} shows no picture that could be predicted, only: vector." in said
    assert list(tmp_path.iterdir()) == []


def test_beside_the_run(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("s4wm", TASK)
    assert run.main(["imagine", "--logdir", str(folder)]) == 0
    assert str(folder / "imagine" / "memory.png") in capsys.readouterr().out.splitlines()


def test_what_was_played_can_be_played_again(train: Train) -> None:
    """The action at a row is the one that led into it."""
    saved = SavedRun.of(train("s4wm", TASK))
    agent, step = saved.agent()
    assert step >= 100
    with torch.no_grad():
        agent.actor_critic.actor[-1].bias[1] += 100  # not the action that stands for none
    batch = play(agent, saved.make_envs, 20, seed=3)
    assert batch["is_first"].shape == (EPISODES, 20) and batch["is_first"].sum() > EPISODES
    np.testing.assert_array_equal(batch["action"], ~batch["is_first"])
    training = saved.make_envs(EPISODES, 3, 0)
    assert (training.reset()["obs/vector"] != batch["obs/vector"][:, 0]).any(), "episodes of training"
    training.close()
    envs = saved.make_envs(EPISODES, 3, EVALUATION_ENVS)
    rows = envs.reset()
    for t in range(20):
        np.testing.assert_array_equal(rows["obs/vector"], batch["obs/vector"][:, t])
        np.testing.assert_array_equal(rows["reward"], batch["reward"][:, t])
        if t < 19:
            rows = envs.step(batch["action"][:, t + 1])
    envs.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: expected"),
        ([], "name one folder"),
        (["a", "--steps", "8", "--context", "8"], "between 1 and --steps - 1 = 7, got 8"),
        (["a", "--steps", "1"], "between 1 and --steps - 1 = 0, got 1"),
    ],
)
def test_mistakes(words: list[str], said: str, refused: Refused) -> None:
    assert said in refused("imagine", *words)

"""What readouts of past observations say, on states that hold them and on trained agents."""

import json
from pathlib import Path

import numpy as np
import pytest

import run
from agent.pictures import episode_age
from studies.probe import _flat, draw, explained


def window(seed: int, delay: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise [B,T,3], a delay line that holds its last `delay` steps, turned at random, and ages."""
    random = np.random.default_rng(seed)
    seen = random.normal(size=(40, 60, 3))
    is_first = random.random((40, 60)) < 0.02
    is_first[:, 0] = True
    age = episode_age(is_first)
    held = []
    for lag in range(delay):
        past = np.roll(seen, lag, 1)
        held.append(np.where((age >= lag)[..., None], past, 0))
    line = np.concatenate(held, -1)
    return line @ random.normal(size=(line.shape[-1],) * 2), seen, age


def test_a_delay_line_is_read_to_its_end_and_no_further() -> None:
    inputs, seen, age = window(0, delay=5)
    assert [explained(inputs, seen, age, lag) for lag in range(5)] == pytest.approx([1] * 5, abs=0.01)
    beyond = explained(inputs, seen, age, 5)
    assert beyond is not None and abs(beyond) < 0.1


def test_half_of_what_is_seen_is_half_of_the_variance() -> None:
    _, seen, age = window(1, delay=1)
    both = np.concatenate([seen, np.random.default_rng(2).normal(size=seen.shape)], -1)
    assert explained(seen, both, age, 0) == pytest.approx(0.5, abs=0.05)


def test_too_few_pairs_and_nothing_that_varies_have_no_share() -> None:
    inputs, seen, age = window(3, delay=5)
    assert explained(inputs, seen, age, 59) is None
    assert explained(inputs, np.ones_like(seen), age, 1) is None


def test_pictures_are_sums_over_patches_beside_vectors() -> None:
    image = np.random.default_rng(4).integers(0, 256, (2, 3, 16, 5, 3), np.uint8)
    vector = np.ones((2, 3, 2), np.float32)
    flat = _flat({"obs/image": image, "obs/vector": vector, "is_first": np.ones((2, 3), bool)})
    assert flat.shape == (2, 3, 8 * 5 * 3 + 2)
    assert flat[1, 2, 0] == image[1, 2, :2, 0, 0].astype(int).sum() and flat[0, 0, -1] == 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = []
    for backbone, task in (("s4wm", "memory_chain:n=5"), ("rssm", "memory_chain:n=5"), ("rssm", "tmaze")):
        folders.append(tmp_path_factory.mktemp(backbone))
        words = ["--backbone", backbone, "--task", task, "--configs", "debug", "--steps", "100"]
        run.main([*words, "--device", "cpu", "--eval.every", "0", "--logdir", str(folders[-1])])
    return folders


def test_trained_agents(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each run and one for the observation itself; the same command says the same again."""
    s4wm, rssm, _ = map(str, runs)
    words = ["probe", s4wm, rssm, "--steps", "30", "--envs", "32", "--json"]
    assert run.main([*words, "--out", str(tmp_path / "x.png")]) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert [(row["name"], row["backbone"]) for row in result["rows"]] == [
        (s4wm, "s4wm"),
        (rssm, "rssm"),
        ("observation", "s4wm"),
    ]
    assert result["task"] == "memory_chain:n=5" and result["lags"] == list(range(1, 7))
    for row in result["rows"]:
        assert all(value is None or value <= 1 for value in row["explained"])
        assert row["name"] in printed
    assert result["rows"][-1]["explained"][0] > 0.2, "the time signal tells the one of the step before"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert draw(result, tmp_path / "x.svg").read_text().lstrip().startswith("<?xml")
    run.main(words)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


def test_what_cannot_be_compared_is_named(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    s4wm, rssm, other = map(str, runs)
    mistakes = {
        "runs of one task, got runs of memory_chain:n=5, tmaze": [rssm, other],
        "2 environments of 8 steps are too few for a readout of": [s4wm, "--envs", "2", "--steps", "8"],
        "no run in nowhere": ["nowhere"],
    }
    for message, words in mistakes.items():
        with pytest.raises(SystemExit) as stopped:
            run.main(["probe", *words])
        assert stopped.value.code == 2 and message in capsys.readouterr().err

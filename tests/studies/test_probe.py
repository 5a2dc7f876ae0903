"""What readouts of past observations say, on states that hold them and on trained agents."""

from pathlib import Path

import numpy as np
import pytest

from agent.run.reports import episode_age
from studies.probe import _flat, explained, table
from tests.studies.conftest import Call, Refused, Train

TASK = "memory_chain:n=5"


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


def test_trained_agents(train: Train, tmp_path: Path, call: Call) -> None:
    """A row for each run and one for the observation itself; the same command says the same again."""
    s4wm, rssm = train("s4wm", TASK), train("rssm", TASK)
    words = ["probe", s4wm, rssm, "--steps", "30", "--envs", "32"]
    result = call(*words, "--out", tmp_path / "x.png")
    assert [(row["name"], row["backbone"]) for row in result["rows"]] == [
        (str(s4wm), "s4wm"),
        (str(rssm), "rssm"),
        ("observation", "s4wm"),
    ]
    assert result["task"] == TASK and result["lags"] == list(range(1, 7))
    for row in result["rows"]:
        assert all(value is None or value <= 1 for value in row["explained"])
    assert result["rows"][-1]["explained"][0] > 0.2, "the time signal tells the one of the step before"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    _, head, first, *_ = table(result).splitlines()
    assert head.split() == ["backbone", "numbers", "1", "2", "3", "4", "5", "6"]
    assert first.split()[:3] == [str(s4wm), "s4wm", "(s5)"]
    assert call(*words) == result


def test_on_pictures(train: Train, call: Call) -> None:
    run, alone = call("probe", train("rssm", "rooms"), "--steps", "20", "--envs", "64")["rows"]
    assert alone["inputs"] == 8 * 8 * 3 and run["explained"][0] is not None


def test_what_cannot_be_compared_is_named(train: Train, refused: Refused) -> None:
    s4wm, rssm, other = train("s4wm", TASK), train("rssm", TASK), train("rssm", "tmaze")
    mistakes = {
        "runs of one task, got runs of memory_chain:n=5, tmaze": [rssm, other],
        "2 environments of 8 steps are too few for a readout of": [s4wm, "--envs", "2", "--steps", "8"],
        "nowhere: expected": ["nowhere"],
    }
    for message, words in mistakes.items():
        assert message in refused("probe", *words)

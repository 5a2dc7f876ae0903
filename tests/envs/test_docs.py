"""docs/adding_a_task.md and docs/environments.md do what they say."""

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def written(module):
    """Write each python block to the file that its first line names; the names."""
    text = (DOCS / "adding_a_task.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {module(re.match(r'"""(\w+)\.py:', block)[1], block) for block in blocks}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_module_outside(written, mode):
    assert written == {"number_recall", "chains"}
    task = "number_recall:NumberRecall-v0:wait=3"
    with envs.make_vector(task, 2, seed=0, mode=mode) as door:
        rows = door.reset()
        quarters = rows["obs/camera"][:, ::16, ::16, 0].reshape(2, 4).argmax(1)
        returns = np.zeros(2)
        for _ in range(4):
            assert not rows["is_last"].any()
            rows = door.step(quarters)
            returns += rows["reward"]
        assert rows["is_terminal"].all()
        assert (rows["obs/camera"].shape, rows["obs/clock"].shape) == ((2, 32, 32, 3), (2, 1))
        np.testing.assert_array_equal(returns, envs.optimum(task))


@pytest.mark.filterwarnings("ignore:.*does not have a render")
def test_the_module_outside_passes_the_checker(written):
    check_env(gymnasium.make("number_recall:NumberRecall-v0").unwrapped)


def test_the_family(written, monkeypatch):
    monkeypatch.setitem(envs.FAMILIES, "chains", "chains")
    with envs.make_vector("chains:Short:bits=2", 2, seed=0) as door:
        assert door.reset()["obs/vector"].shape == (2, 4)
        for _ in range(4):
            rows = door.step(np.zeros(2, np.int64))
        assert rows["is_terminal"].all()
    with pytest.raises(ValueError, match="Did you mean 'Short'"):
        envs.check("chains:Shrt")


def table_rows():
    """The rows of the tables of our own tasks, by name."""
    text = (DOCS / "environments.md").read_text()
    found = re.findall(r"^\| task \| arguments \(default\) .*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in "".join(found).splitlines()]
    return {re.match(r"`([^`]+)`", row[0])[1]: row for row in rows}


def test_every_short_name_is_in_a_table():
    assert set(envs.TASKS) <= set(table_rows())


@pytest.mark.parametrize("task", envs.TASKS)
def test_the_table_tells_the_truth_about_our_tasks(task):
    if task in ("distracting_memory", "multi_doors_keys"):
        pytest.importorskip("minigrid")
    _, arguments, observation, action, _, _ = table_rows()[task]
    assert envs.TASKS[task].lower() == f"{task.replace('_', '')}-v0"
    env = envs.make(task)
    kind, shape = re.match(r"(vector|image) `\[(.*?)\]`", observation).groups()
    assert env.observation_space[kind].shape == eval(f"({shape},)", {"bits": 1})
    assert str(env.action_space).startswith(action.split(" ")[0])
    for name in re.findall(r"`(\w+)` \(", arguments):
        assert hasattr(env.unwrapped, name)


@pytest.mark.parametrize(
    ("task", "lengths"),
    [
        ("RepeatPreviousEasy", 51),
        ("RepeatPreviousHard", 155),
        ("RepeatFirstMedium", 415),
        ("AutoencodeEasy", 103),
        ("AutoencodeMedium", 207),
        ("CountRecallEasy", 51),
    ],
)
def test_popgym_lengths_on_the_page(task, lengths):
    pytest.importorskip("popgym")
    with envs.make_vector(f"popgym:{task}", 1, seed=0) as door:
        rows, steps = door.reset(), 0
        while not rows["is_last"][0]:
            rows = door.step(np.zeros(1, np.int64))
            steps += 1
    assert steps == lengths

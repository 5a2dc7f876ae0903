"""Collected episodes: whole, the same whatever the number of processes, resumable."""

import json

import numpy as np
import pytest

import configs
import envs
from replay import chunk
from studies import collect

TASK = "tmaze:corridor=4"


def collected(folder, policy="random", episodes=5, task=TASK, **options):
    jobs = options.pop("jobs", 1)
    collect.prepare(task, policy, folder, **options)
    return collect.fill(task, policy, episodes, folder, jobs=jobs, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_random_episodes(tmp_path):
    result = collected(tmp_path / "a", seed=3)
    rows = [chunk.read(path) for path in chunk.paths(tmp_path / "a")]
    assert len(rows) == result["episodes"] == result["played"] == 5
    returns = [float(row["reward"].sum()) for row in rows]
    assert result["return_mean"] == np.mean(returns)
    assert result["length_mean"] == np.mean([len(row["reward"]) - 1 for row in rows])
    for row in rows:
        assert row["obs/vector"].dtype == np.float32
        assert (row["action"][-1], row["reward"][0]) == (0, 0)
        assert row["is_terminal"][-1] == (len(row["reward"]) <= 20)
        assert not row["is_terminal"][:-1].any()
        env = envs.make(TASK).unwrapped  # what was taken leads to what is stored
        env._cue = row["obs/vector"][0, 0]
        env._t = env._cell = env._arm = 0
        for t, action in enumerate(row["action"][:-1]):
            observation, reward, *_ = env.step(action)
            np.testing.assert_array_equal(observation, row["obs/vector"][t + 1])
            assert reward == row["reward"][t + 1]
    assert len({row["action"].tobytes() for row in rows}) == 5


def test_the_number_of_processes_and_a_pause_change_nothing(tmp_path):
    collected(tmp_path / "one", seed=1)
    collected(tmp_path / "two", seed=1, jobs=2)
    collected(tmp_path / "paused", seed=1, episodes=2)
    (tmp_path / "paused" / "episode-00000000.npz").unlink()
    again = collected(tmp_path / "paused", seed=1)
    assert again["played"] == 4
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "paused")
    assert collected(tmp_path / "one", seed=1)["played"] == 0
    collected(tmp_path / "other", seed=2)
    ours, theirs = contents(tmp_path / "one"), contents(tmp_path / "other")
    assert all(ours[name] != theirs[name] for name in ours)


def test_the_papers_trajectories(tmp_path):
    pytest.importorskip("minigrid")
    collected(tmp_path, "scripted", 3, task="distracting_memory:width=16")
    plan = json.loads((tmp_path / "dataset.json").read_text())
    assert plan == {
        "format": 1,
        "task": "distracting_memory:width=16",
        "policy": "scripted",
        "checkpoint": None,
        "seed": 0,
        "context_length": 31,
    }
    for path in chunk.paths(tmp_path):
        rows = chunk.read(path)
        assert rows["obs/image"].shape == (40, 40, 40, 3)  # 31 frames of context, 9 of query
        assert rows["is_terminal"][-1]
        assert rows["action"][-2] == 2


def test_what_the_task_tells_about_itself_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "envs.tmaze.TMaze.step",
        lambda self, action: (self._observe(), 0.5, False, True, {"probe": {"a": [1, 2]}}),
    )
    monkeypatch.setattr(
        "envs.tmaze.TMaze.reset", lambda self, **_: (self._observe(), {"probe": {"a": [0, 0]}})
    )
    collected(tmp_path, episodes=1)
    rows = chunk.read(chunk.path_of(tmp_path, 0))
    np.testing.assert_array_equal(rows["probe/a"], [[0, 0], [1, 2]])
    assert next(chunk.rows(chunk.paths(tmp_path), 1)).keys() == rows.keys() - {"probe/a"}


def test_a_trained_agent(tmp_path):
    from agent import checkpoint
    from agent.agent import Agent

    config = configs.load(TASK, "s4wm", ["debug"], {"device": "cpu"})
    env = envs.make(TASK)
    agent = Agent(env.observation_space, env.action_space, config, "cpu")
    checkpoint.save(tmp_path / "run", 7, agent.state_dict(), None, {})
    run = str(tmp_path / "run")
    collected(tmp_path / "a", run, 2, config=config)
    collected(tmp_path / "b", run, 2, config=config)
    (tmp_path / "b" / "episode-00000001.npz").unlink()
    collected(tmp_path / "b", run, 2, config=config)  # the second episode, without the first before it
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "dataset.json").read_text())["checkpoint"] == 7
    with pytest.raises(
        ValueError, match="trained on 'tmaze:corridor=4', which has other spaces than 'memory"
    ):
        collect.prepare("memory_chain:bits=3", run, tmp_path / "c", config=config)
    with pytest.raises(ValueError, match="no checkpoint in"):
        collect.prepare(TASK, str(tmp_path), tmp_path / "c", config=config)
    assert not (tmp_path / "c").exists()


def test_other_data_is_refused(tmp_path):
    collected(tmp_path / "a", episodes=1)
    with pytest.raises(ValueError, match=r"holds other episodes \(seed: 0 there, 4 now\)"):
        collect.prepare(TASK, "random", tmp_path / "a", seed=4)
    (tmp_path / "a" / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"no dataset.json that says of what"):
        collect.prepare(TASK, "random", tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; expected a folder"):
        collect.prepare(TASK, "random", tmp_path / "file")
    with pytest.raises(ValueError, match="'tmaze:corridor=4' has no scripted policy"):
        collect.prepare(TASK, "scripted", tmp_path / "b")
    assert not (tmp_path / "b").exists()

"""Collected episodes: whole, the same whatever the number of processes, resumable."""

import importlib.util
import json

import gymnasium
import numpy as np
import pytest

import configs
import envs
import run
from replay import chunk
from studies import collect

TASK = "tmaze:corridor=4"


def collected(folder, policy="random", episodes=5, task=TASK, seed=0, jobs=1):
    return collect.fill(folder, collect.plan(task, policy, seed), episodes, jobs)


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
        env.reset()
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


def test_where_the_agent_is_put_elsewhere_is_recorded():
    record = collect.plan("rooms:teleport=true", "scripted")
    assert (record["jump"], record["context_length"]) == (301, 321)
    assert "jump" not in collect.plan("rooms", "scripted")


def test_an_episode_that_does_not_end_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("studies.collect.LONGEST", 10)
    with pytest.raises(configs.Mistake, match="episode 0 has not ended after 10 steps"):
        collected(tmp_path, episodes=1)


@pytest.mark.parametrize(("leaf", "after"), [("obs/vector", 0), ("reward", 1)])
def test_what_is_not_finite_is_an_error(leaf, after, tmp_path, monkeypatch):
    """And is said where it arises, not where the episodes are read."""

    class Broken(gymnasium.Wrapper):
        def reset(self, **options):
            observation, info = self.env.reset(**options)
            return ({"vector": observation["vector"] * np.nan} if after == 0 else observation), info

        def step(self, action):
            observation, _, *rest = self.env.step(action)
            return observation, float("nan"), *rest

    make = envs.make
    monkeypatch.setattr(envs, "make", lambda *words: Broken(make(*words)))
    with pytest.raises(configs.Mistake, match=f"after {after} steps of episode 0 '{leaf}' is not finite"):
        collected(tmp_path, episodes=1)
    assert not chunk.paths(tmp_path)


def test_what_the_task_tells_about_itself_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "envs.tasks.tmaze.TMaze.step",
        lambda self, action: (self._observe(), 0.5, False, True, {"probe": {"a": [1, 2]}}),
    )
    monkeypatch.setattr(
        "envs.tasks.tmaze.TMaze.reset", lambda self, **_: (self._observe(), {"probe": {"a": [0, 0]}})
    )
    collected(tmp_path, episodes=1)
    rows = chunk.read(chunk.path_of(tmp_path, 0))
    np.testing.assert_array_equal(rows["probe/a"], [[0, 0], [1, 2]])
    assert next(chunk.rows(chunk.paths(tmp_path), 1)).keys() == rows.keys() - {"probe/a"}


def test_a_trained_agent(tmp_path, train, call, refused):
    folder = train("s4wm", TASK)
    words = ["collect", "--policy", folder, "--episodes", "2", "--out"]
    assert call(*words, tmp_path / "a", "--jobs", "1")["played"] == 2
    call(*words, tmp_path / "b", "--jobs", "2")
    (tmp_path / "b" / "episode-00000001.npz").unlink()
    call(*words, tmp_path / "b", "--jobs", "1")  # the second episode, without the first before it
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    plan = json.loads((tmp_path / "a" / "dataset.json").read_text())
    assert (plan["task"], plan["policy"], plan["checkpoint"] >= 100) == (TASK, str(folder), True)
    said = refused(*words, tmp_path / "c", "--task", "memory_chain:bits=3")
    assert "trained on 'tmaze:corridor=4', with other spaces than 'memory" in said
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(importlib.util.find_spec("dm_control") is None, reason="needs dm-control")
def test_a_trained_agent_in_processes_that_draw(tmp_path, train, call):
    """A process that imports torch behind a GL driver ends in free()."""
    folder = train("rssm", "dmc:cartpole_balance:observation=pixels,fast=true,size=16,repeat=50")
    words = ("collect", "--policy", folder, "--episodes", "2", "--jobs", "2", "--out", tmp_path / "a")
    assert call(*words)["played"] == 2


def test_as_a_command(tmp_path, capsys):
    words = ["collect", "--task", "tmaze", "--policy", "random", "--episodes", "2", "--jobs", "1"]
    assert run.main([*words, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}: 2 episodes of tmaze, mean return ")


def test_other_data_is_refused(tmp_path, refused):
    words = ["collect", "--task", TASK, "--policy", "random", "--out"]
    collected(tmp_path / "a", episodes=1)
    assert "holds other episodes (seed: 0 there, 4 now)" in refused(*words, tmp_path / "a", "--seed", "4")
    (tmp_path / "a" / "dataset.json").unlink()
    assert "no dataset.json that says of what" in refused(*words, tmp_path / "a")
    (tmp_path / "file").touch()
    assert "is there and no folder" in refused(*words, tmp_path / "file")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", TASK, "--policy", "scripted"], "'tmaze:corridor=4' has no scripted policy"),
        (["--task", TASK, "--policy", "scriptd"], "unknown policy 'scriptd'. Did you mean 'scripted'?"),
        (["--task", "tmase", "--policy", "random"], "'tmaze'"),
        (["--policy", "random"], "name the task to play: --task TASK"),
        (["--policy", "."], "no run in /"),
    ],
)
def test_mistakes(words, said, tmp_path, refused):
    assert said in refused("collect", *words, "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()

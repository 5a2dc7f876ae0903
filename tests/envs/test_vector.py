import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from contextlib import nullcontext

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import envs
from envs.guard import EnvironmentFailure
from envs.interface import Plain
from envs.vector import VectorDoor

SLOW = """
import time
import gymnasium
import numpy as np


class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 100, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = np.zeros(1, np.float32)
        return self.t, {}

    def step(self, action):
        time.sleep(0.1)
        self.t = self.t + 1
        return self.t, 0.0, False, False, {}


gymnasium.register("Slow-v0", Slow)
"""
FLAGS = ("is_first", "is_last", "is_terminal")
both_modes = pytest.mark.parametrize("mode", ["sync", "async"])


def workers():
    """The worker processes of this process's environments, by their number."""
    return sorted(multiprocessing.active_children(), key=lambda process: process.name)


def collect(door, steps, action=0):
    """All rows of `steps` calls after the reset, stacked: [steps + 1, N, ...]."""
    rows = [door.reset()]
    for _ in range(steps):
        rows.append(door.step(np.full(door.num_envs, action)))
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.faults("environment refuses a step after its end")
@both_modes
@pytest.mark.parametrize("end", ["terminated", "truncated", "both"])
def test_rows_tell_the_whole_episode(outside, mode, end):
    with envs.make_vector(
        f"{outside}:Scripted-v0:end={end},reward_shape=array", 3, seed=0, mode=mode
    ) as door:
        rows = collect(door, 40, action=2)
    step, length, tag = np.moveaxis(rows["obs/vector"], -1, 0)
    # first rows begin at 0, later rows count on, the last one is the true final observation
    np.testing.assert_array_equal(rows["is_first"], step == 0)
    np.testing.assert_array_equal(rows["is_last"], step == length)
    np.testing.assert_array_equal(rows["is_terminal"], rows["is_last"] & (end != "truncated"))
    np.testing.assert_array_equal(rows["is_first"][1:], rows["is_last"][:-1])
    np.testing.assert_array_equal(step[1:], np.where(rows["is_first"][1:], 0, step[:-1] + 1))
    # the reward of a step arrives with its observation; a reset brings none
    np.testing.assert_array_equal(rows["reward"], np.where(rows["is_first"], 0, 10 * step + 2))
    # images belong to the same moment as vectors
    np.testing.assert_array_equal(
        rows["obs/image"], np.broadcast_to(step[..., None, None, None], (41, 3, 4, 6, 3))
    )
    assert len({tuple(column) for column in rows["is_last"].T}) == 3, "episodes end at different steps"
    assert len(np.unique(tag)) == rows["is_first"].sum(), "every episode has a seed of its own"


@both_modes
def test_shapes_and_dtypes(outside, mode):
    with envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0, mode=mode) as door:
        assert isinstance(door.observation_space, spaces.Dict)
        assert door.observation_space["image"].shape == (4, 6, 3)
        assert door.observation_space["vector"].dtype == np.float32
        assert door.action_space == spaces.Discrete(3)
        assert door.num_envs == 2
        for rows in (door.reset(), door.step(np.zeros(2, np.int64))):
            assert set(rows) == {"obs/image", "obs/vector", "reward", *FLAGS}
            assert (rows["obs/image"].shape, rows["obs/image"].dtype) == ((2, 4, 6, 3), np.uint8)
            assert (rows["obs/vector"].shape, rows["obs/vector"].dtype) == ((2, 3), np.float32)
            assert (rows["reward"].shape, rows["reward"].dtype) == ((2,), np.float32)
            assert all((rows[flag].shape, rows[flag].dtype) == ((2,), np.bool_) for flag in FLAGS)


@both_modes
def test_rows_are_copies(outside, mode):
    with envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0, mode=mode) as door:
        kept = [door.reset()]
        before = [{key: value.copy() for key, value in kept[0].items()}]
        for _ in range(12):
            kept.append(door.step(np.zeros(2, np.int64)))
            before.append({key: value.copy() for key, value in kept[-1].items()})
        for now, then in zip(kept, before, strict=True):
            for key in now:
                np.testing.assert_array_equal(now[key], then[key])
        for earlier, later in itertools.pairwise(kept):
            assert not any(np.shares_memory(earlier[key], later[key]) for key in earlier)


def test_what_a_caller_does_to_its_rows_does_not_come_back(outside):
    with (
        envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0) as door,
        envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0) as other,
    ):
        rows, expected = door.reset(), other.reset()
        for _ in range(12):
            for value in rows.values():
                value[...] = 1
            rows, expected = door.step(np.zeros(2, np.int64)), other.step(np.zeros(2, np.int64))
            for key, value in expected.items():
                np.testing.assert_array_equal(rows[key], value)


def test_seeds_repeat_and_differ(outside):
    def tags(seed, first_index=0, mode="sync", num_envs=3):
        with envs.make_vector(f"{outside}:Scripted-v0", num_envs, seed, mode, first_index) as door:
            rows = collect(door, 30)
        return rows["obs/vector"][..., 2]

    np.testing.assert_array_equal(tags(1), tags(1))
    np.testing.assert_array_equal(tags(1), tags(1, mode="async"))
    np.testing.assert_array_equal(tags(1)[:, 1:], tags(1, first_index=1, num_envs=2))
    assert not set(tags(1).flat) & set(tags(2).flat)
    assert not set(tags(1).flat) & set(tags(1, first_index=3).flat)


@both_modes
def test_episodes_are_counted_and_can_be_gone_on_with(outside, mode):
    with envs.make_vector(f"{outside}:Scripted-v0", 2, seed=4, mode=mode) as door:
        rows = collect(door, 25)
        np.testing.assert_array_equal(door.episodes, rows["is_first"].sum(0) - 1)
        reached = door.episodes
        going_on = door.reset()["obs/vector"]
        np.testing.assert_array_equal(door.episodes, reached + 1)
    with envs.make_vector(f"{outside}:Scripted-v0", 2, seed=4, mode=mode) as door:
        resumed = door.reset(first_episodes=reached + 1)["obs/vector"]
        np.testing.assert_array_equal(resumed, going_on)
        np.testing.assert_array_equal(door.episodes, reached + 1)
        np.testing.assert_array_equal(door.reset([0, 0])["obs/vector"], rows["obs/vector"][0])
        for wrong in ([1], [-1, 0]):
            with pytest.raises(ValueError, match="first_episodes must hold 2 numbers"):
                door.reset(wrong)


@both_modes
def test_environments_come_back_to_where_they_were(outside, mode):
    """By their own actions; one that shows something else on the way begins its next episode."""
    task, actions = f"{outside}:Scripted-v0", np.random.default_rng(0).integers(0, 3, (60, 3))
    with envs.make_vector(task, 3, seed=4, mode=mode) as door, envs.make_vector(task, 3, seed=4) as other:
        door.reset()
        seen = set()
        for step, action in enumerate(actions):
            rows = door.step(action)
            states = json.loads(json.dumps(door.state()))
            seen |= {(len(state["actions"]), state["ended"]) for state in states}
            if step % 4:
                continue
            found, back = other.restore(states)
            assert back.all() and found["is_first"].all()
            for name in ("obs/image", "obs/vector"):
                np.testing.assert_array_equal(found[name], rows[name])
            np.testing.assert_array_equal(other.episodes, door.episodes)
            if step == 40:
                break
        assert {(0, False), (2, False), (2, True)} <= seen
        states[1]["checksum"] += 1
        with pytest.warns(UserWarning, match=r"environments \[1\] did not come back"):
            found, back = other.restore(states)
        assert back.tolist() == [True, False, True]
        assert other.episodes[1] == states[1]["episode"] + 1 and found["obs/vector"][1, 0] == 0
        other.restore(states[:1] + door.state()[1:])
        for action in actions[41:]:  # and from there on they are the same
            expected, found = door.step(action), other.step(action)
            for key, value in expected.items():
                np.testing.assert_array_equal(found[key], value)
            np.testing.assert_array_equal(other.episodes, door.episodes)
        with pytest.raises(ValueError, match="states must hold 3 entries"):
            other.restore(states[:2])


@both_modes
@pytest.mark.parametrize("refuse", ["int(action) == 1", "not isinstance(action, np.int64)"])
def test_actions_taken_again_are_of_their_own_type_and_may_be_refused(
    outside, mode, refuse, tmp_path, monkeypatch
):
    """An environment that refuses what it took is not the one that was left: the next episode begins."""
    path = tmp_path / "outside_tasks.py"
    door = envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0, mode=mode)
    rows = door.reset()
    while rows["is_last"].any() or not door.state()[0]["actions"]:
        rows = door.step(np.ones(2, np.int64))
    states = door.state()
    door.close()
    check = f'\n        if {refuse}:\n            raise KeyError("refused")\n'
    path.write_text(path.read_text().replace('"stepped after the end"\n', f'"stepped after the end"{check}'))
    sys.modules.pop(outside)
    for env_id in ("Scripted-v0", "Counter-v0"):
        del gymnasium.registry[env_id]
    refused = "== 1" in refuse
    with envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0, mode=mode) as door:
        caught = (
            pytest.warns(UserWarning, match="raised when it was taken again") if refused else nullcontext()
        )
        with caught if mode == "sync" else nullcontext():
            found, back = door.restore(states)
        assert back.tolist() == [not refused] * 2 and door.restarted == 0
        assert (found["obs/vector"][:, 0] == (0 if refused else rows["obs/vector"][:, 0])).all()
        assert door.episodes.tolist() == [state["episode"] + refused for state in states]


@pytest.mark.faults("worker process raises, dies or hangs")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_owes_its_state_starts_anew_at_the_next_step(outside, number):
    with envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0, mode="async", timeout=3) as door:
        door.reset()
        os.kill(workers()[1].pid, number)
        assert door.state() == []
        with pytest.warns(UserWarning, match=r"environment 1 (lost .* exit code -9|gave no answer for 3 s)"):
            rows = door.step(np.zeros(2, np.int64))
        assert rows["is_first"].all() and door.restarted == 1
        assert len(door.state()) == 2


def test_taking_many_actions_again_may_take_longer_than_one_answer(module):
    module("slow_tasks", SLOW)
    with envs.make_vector("slow_tasks:Slow-v0", 1, seed=0, mode="async", timeout=2) as door:
        door.reset()
        for _ in range(25):
            rows = door.step(np.zeros(1, np.int64))
        found, back = door.restore(door.state())
        assert back.all() and door.restarted == 0
        np.testing.assert_array_equal(found["obs/vector"], rows["obs/vector"])


def test_slow_starts_get_advice(module, monkeypatch):
    module("slow_tasks", SLOW)
    monkeypatch.setattr("envs.vector.SLOW", 0.0)
    with pytest.warns(UserWarning, match=r"building 2 environments took .* \(eval.envs, eval.every\)"):
        envs.make_vector("slow_tasks:Slow-v0", 2, seed=0).close()


@both_modes
def test_a_registered_limit_and_a_box_of_any_shape(outside, mode):
    with envs.make_vector(f"{outside}:Counter-v0", 2, seed=0, mode=mode) as door:
        assert door.action_space == spaces.Box(-1, 1, (2, 1), np.float32)
        rows = door.reset()
        np.testing.assert_array_equal(rows["obs/vector"], np.eye(8, dtype=np.float32)[[0, 0]])
        actions = np.float32([[[-1], [1]], [[0], [0]]])
        for step in (1, 2, 3):
            rows = door.step(actions)
            np.testing.assert_array_equal(rows["reward"], [3, 5])
            assert rows["is_last"].tolist() == [step == 3] * 2
            assert not rows["is_terminal"].any()


@pytest.mark.faults("wrong key, shape, dtype, range or number shown")
@both_modes
@pytest.mark.parametrize(("bad", "key"), [("reward", "reward"), ("observation", "obs/vector")])
def test_what_is_not_finite_names_environment_step_and_key(outside, mode, bad, key):
    with envs.make_vector(f"{outside}:Scripted-v0:bad={bad}", 2, seed=0, mode=mode, first_index=5) as door:
        door.reset()
        door.step(np.zeros(2, np.int64))
        with pytest.raises(EnvironmentFailure, match=rf"environment 5 returned {key} = .* at step 2 "):
            door.step(np.zeros(2, np.int64))


@pytest.mark.faults("action of a wrong shape, dtype or range")
@pytest.mark.parametrize(
    ("task", "actions", "says"),
    [
        ("tmaze", np.zeros(3, np.int64), r"must be int64 of shape \(2,\), got int64 of shape \(3,\)"),
        ("tmaze", np.zeros(2, np.float32), "got float32"),
        ("tmaze", np.array([0, 3]), "from 0 to 2"),
        ("tmaze", np.array([-1, 0]), "from 0 to 2"),
        ("Pendulum-v1", np.zeros(2, np.float32), r"of shape \(2, 1\)"),
        ("Pendulum-v1", np.float32([[1.1], [0]]), "finite and from -1"),
        ("Pendulum-v1", np.float32([[np.nan], [0]]), "finite and from -1"),
    ],
)
def test_actions_are_checked(task, actions, says):
    with envs.make_vector(task, 2, seed=0) as door:
        door.reset()
        with pytest.raises(ValueError, match=says):
            door.step(actions)


def test_int32_actions_will_do():
    with envs.make_vector("tmaze", 2, seed=0) as door:
        door.reset()
        door.step(np.zeros(2, np.int32))


@both_modes
def test_close_twice_and_use_after(outside, mode):
    door = envs.make_vector(f"{outside}:Scripted-v0", 2, seed=0, mode=mode)
    with pytest.raises(RuntimeError, match="call reset"):
        door.step(np.zeros(2, np.int64))
    door.reset()
    door.close()
    door.close()
    for call in (door.reset, lambda: door.step(np.zeros(2, np.int64))):
        with pytest.raises(RuntimeError, match="is closed"):
            call()


FAULTS = {
    "raise": r"environment 3 raised\n(.|\n)*ZeroDivisionError: scripted\n(.|\n)*in step\(.*run seed 6",
    "die": r"environment 3 lost its process with exit code 7",
    "hang": r"environment 3 gave no answer for 6 s \(envs\.timeout\)",
}


@pytest.mark.faults("worker process raises, dies or hangs")
@pytest.mark.parametrize("crash", FAULTS)
def test_workers_that_fail_start_anew_and_then_no_more(outside, tmp_path, crash):
    """Once: a warning with the cause, next episodes, all goes on. Again, past what is allowed: an error."""
    mark = tmp_path / "mark"
    task = f"{outside}:Scripted-v0:crash_at=2,crash={crash},once={mark}"
    door = envs.make_vector(task, 1, 6, "async", first_index=3, timeout=6, restarts=1)
    zero = np.zeros(1, np.int64)
    first = door.reset()["obs/vector"]
    door.step(zero)
    old = workers()
    with pytest.warns(UserWarning, match=FAULTS[crash] + r"(.|\n)*at step 1 .*\(episode 0, .* action 0\)"):
        rows = door.step(zero)
    assert not any(process.is_alive() for process in old)
    assert rows["is_first"].all() and not rows["is_last"].any() and rows["reward"] == 0
    assert door.episodes.tolist() == [1] and door.restarted == 1
    assert rows["obs/vector"][0, 2] != first[0, 2], "the episode of before was begun again"
    for step in (1, 2):
        assert door.step(zero)["obs/vector"][0, 0] == step

    mark.unlink()
    old = workers()
    with pytest.raises(EnvironmentFailure, match=FAULTS[crash] + r"(.|\n)*2 faults in 300 s, 1 are allowed"):
        for _ in range(10):
            door.step(zero)
    with pytest.raises(RuntimeError, match=r"call reset\(\) since an environment failed"):
        door.step(zero)
    failed = door.episodes
    assert door.reset()["is_first"].all(), "reset() begins anew, though no restart is left"
    assert door.episodes == failed + 1 and door.step(zero)["obs/vector"][0, 0] == 1
    old += workers()
    began = time.monotonic()
    door.close()
    door.close()
    assert time.monotonic() - began < 5
    assert not any(process.is_alive() for process in old)


def test_only_flat_observations_come_through():
    with pytest.raises(TypeError, match="flat Dict"):
        VectorDoor([lambda: gymnasium.make("CartPole-v1")], "CartPole-v1")
    VectorDoor([lambda: Plain(gymnasium.make("CartPole-v1"))], "CartPole-v1").close()


@both_modes
def test_environments_draw_what_they_show_now(mode):
    with envs.make_vector("tmaze:corridor=3", 2, seed=1, mode=mode, render=True) as door:
        door.reset()
        assert door.fps == 10
        pictures = [door.render(), (door.step(np.array([0, 1])), door.render())[1]]
        assert {picture.shape for moment in pictures for picture in moment} == {(64, 64, 3)}
        lone = envs.make("tmaze:corridor=3", 1, 1, render=True)
        lone.reset()
        np.testing.assert_array_equal(pictures[0][1], lone.render())
        np.testing.assert_array_equal(pictures[1][1][28:36], pictures[0][1][28:36])  # it stayed
        assert (pictures[1][0][28:36] != pictures[0][0][28:36]).any()
    with envs.make_vector("tmaze:corridor=3", 2, seed=1, mode=mode) as door:
        door.reset()
        assert door.render() is None


BAD_PICTURES = """
import gymnasium, numpy as np
class Bad(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(0, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    def __init__(self, how="", render_mode=None):
        self.how, self.render_mode = how, render_mode
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}
    def render(self):
        if self.how == "raise":
            raise ModuleNotFoundError("no module named 'paint'")
        return np.zeros((3, 4, 5)) if self.how == "float" else None
gymnasium.register("BadPictures-v0", Bad, disable_env_checker=True)
"""


@both_modes
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raise", "no module named 'paint'"),
        ("float", r"uint8 of shape \(H, W, 3\), got float64 \(3, 4, 5\)"),
        ("none", "uint8 of shape .* got None"),
    ],
)
def test_an_environment_that_cannot_be_drawn_is_named(mode, how, says, module):
    task = f"{module('bad_pictures', BAD_PICTURES)}:BadPictures-v0:how={how}"
    with envs.make_vector(task, 1, seed=1, mode=mode, first_index=7, render=True) as door:
        door.reset()
        with pytest.raises(envs.EnvironmentFailure, match=f"environment 7 raised[^$]*{says}"):
            door.render()

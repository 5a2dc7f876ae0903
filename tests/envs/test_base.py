"""What holds for every environment written here: what it refuses, the gymnasium contract, seeds."""

import importlib.util

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs

SHORT = [  # tasks whose episodes end at the first or second step
    "memory_chain:n=1",
    "memory_chain:n=1,observation=pixels",
    "tmaze:corridor=1,limit=2",
    "tmaze:corridor=1,limit=2,observation=pixels",
    "distracting_memory:limit=2",
    "multi_doors_keys:limit=2",
    "state_tracking:parity:length=2",
    "dmc:cartpole_balance:repeat=500",
]
LONG = ["discounting_chain", "rooms"]
NEEDS = {"distracting_memory": "minigrid", "multi_doors_keys": "minigrid", "dmc": "dm_control"}


@pytest.fixture(autouse=True)
def installed(request):
    """Skip where the package of the test's task is not installed."""
    task = request.node.callspec.params["task"]
    needed = "labmaze" if "mujoco" in task else NEEDS.get(task.partition(":")[0])
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")


@pytest.mark.parametrize("task", SHORT + LONG)
def test_a_step_before_the_beginning_or_after_the_end_is_refused(task):
    env = envs.make(task).unwrapped
    env.action_space.seed(0)
    with pytest.raises(RuntimeError, match="has not begun; call reset"):
        env.step(env.action_space.sample())
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        terminated, truncated = env.step(env.action_space.sample())[2:4]
        assert type(terminated) is type(truncated) is bool and not (terminated and truncated)
        steps, over = steps + 1, terminated or truncated
    assert steps == {"discounting_chain": 100, "rooms": 500}.get(task, 2)
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(env.action_space.sample())
    env.reset()
    env.step(env.action_space.sample())
    assert env.render() is None


@pytest.mark.parametrize("task", SHORT[:-1] + LONG)
@pytest.mark.parametrize("action", [-1, 99, 0.5, "left", None, np.zeros(2)])
def test_an_action_that_does_not_exist_is_refused(task, action):
    env = envs.make(task).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r": an action must be a whole number from 0 to \d, got "):
        env.step(action)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", ["memory_chain", "tmaze", *LONG, "distracting_memory", "multi_doors_keys"])
def test_passes_the_checker(task):
    check_env(gymnasium.make(envs.TASKS[task], render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize(
    "task",
    [
        "distracting_memory:width=16",
        "multi_doors_keys",
        "rooms:count=4",
        "rooms:renderer=mujoco",
        "dmc:cartpole_swingup:observation=pixels,size=16,fast=true,repeat=8",
    ],
)
def test_the_same_seed_gives_the_same_frames(task):
    def frames(seed):
        with envs.make_vector(task, 2, seed) as door:
            door.action_space.seed(0)
            rows = [door.reset()]
            rows += [door.step(np.stack([door.action_space.sample()] * 2)) for _ in range(100)]
        return np.stack([row["obs/image"] for row in rows])

    first = frames(5)
    np.testing.assert_array_equal(first, frames(5))
    assert (first != frames(6)).any()
    assert (first[:, 0] != first[:, 1]).any()
    assert len({frame.tobytes() for frame in first[:, 0]}) > 20

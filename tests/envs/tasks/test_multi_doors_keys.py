from collections import Counter

import numpy as np
import pytest

import envs
from envs.tasks.gridworld import EMPTY, KEY, LOCKED, OPEN, WALL
from envs.tasks.multi_doors_keys import PICK_UP, USE

pytest.importorskip("minigrid")


def world(keys=3, seed=0, **arguments):
    text = "".join(f",{key}={value}" for key, value in arguments.items())
    env = envs.make(f"multi_doors_keys:keys={keys}{text}").unwrapped
    env.reset(seed=seed)
    return env


def test_the_layout():
    env = world()
    signs = {EMPTY: " ", WALL: "#"}
    rows = ["".join(signs.get(int(cell), "D" if cell < OPEN else "k") for cell in row) for row in env.grid]
    rooms, corridor = "#   #   #   #", "#           #"
    assert rows == [
        "#############",
        *[rooms] * 3,
        "##D###D###D##",
        *[corridor] * 3,
        "## ### ### ##",
        "# k # k # k #",
        *[rooms] * 2,
        "#############",
    ]
    assert (env.x, env.y, env.heading) == (6, 6, 0)
    assert world(5).grid.shape == (13, 21)
    assert world(7).grid.shape == (13, 29)


def test_keys_have_the_doors_colours_in_another_order():
    orders = set()
    for seed in range(30):
        env = world(5, seed)
        doors, keys = env.grid[4, 2::4] - LOCKED, env.grid[9, 2::4] - KEY
        assert sorted(doors) == sorted(keys)
        assert max(doors) < 4
        orders.add(tuple(doors != keys))
    assert len(orders) > 5


def test_keys_and_doors_by_hand():
    """Fetch the middle key, try its door and the others, until the one of its colour opens."""
    env = world(seed=1)
    colour = env.grid[9, 6] - KEY
    columns = [2 + 4 * i for i in range(3)]
    doors = {x: env.grid[4, x] - LOCKED for x in columns}
    for action in (1, 2, 2, PICK_UP):  # south, into the gap
        assert env.grid[9, 6] == KEY + colour
        assert env.step(action)[1:4] == (0, False, False)
    assert (env.x, env.y) == (6, 8)
    assert env.grid[9, 6] == EMPTY
    assert env.held[colour] == env.held.sum() == 1
    env.step(PICK_UP)  # nothing left there
    assert env.held.sum() == 1
    rewards = {}
    for x in columns:
        for action in env._face_door(x):
            env.step(action)
        assert (env.x, env.y, env.heading) == (x, 5, 3)
        env.step(2)  # a locked door is solid
        assert (env.x, env.y) == (x, 5)
        rewards[x] = env.step(USE)[1]
        assert env.step(USE)[1] == 0  # no second reward
        if rewards[x]:
            break
    assert doors[x] == colour
    assert all(doors[other] != colour and rewards[other] == 0 for other in rewards if other != x)
    assert env.grid[4, x] == OPEN + colour
    assert env.held.sum() == 0
    env.step(2)
    env.step(2)
    assert (env.x, env.y) == (x, 3)  # through the open door


def test_the_doors_in_view_are_told():
    env = world(seed=2)
    told = []
    for action in env.solution():
        info = env.step(action)[4]
        told.append(info["probe"]["doors"])
        rows, columns = np.nonzero(told[-1])
        kinds = env._padded[env.y + rows, env.x + columns]
        assert ((kinds >= LOCKED) & (kinds < KEY)).all()
    assert told[0].sum() == 1 and told[0][0, 2]  # at the edge of the view
    assert told[-1].sum() == 1 and told[-1][1, 2]  # the one ahead, which is open now


def test_several_keys_can_be_held():
    env = world(7)
    gained = 0.0
    held = []
    for action in env.solution():
        gained += env.step(action)[1]
        held.append(int(env.held.sum()))
    assert max(held) == 7
    assert gained == env.optimum == envs.optimum("multi_doors_keys:keys=7") == 7


@pytest.mark.parametrize(("keys", "context", "query"), [(3, 76, 174), (5, 170, 380), (7, 296, 654)])
def test_the_papers_trajectory(keys, context, query):
    assert world(keys).context_length == context
    for seed in range(4):
        env = world(keys, seed)
        start = env.grid.copy()
        columns = [2 + 4 * i for i in range(keys)]
        looked = Counter()
        gained, frames, actions = 0.0, 1, []
        for action in env.script():
            _, reward, terminated, truncated, _ = env.step(action)
            actions.append(action)
            frames += 1
            gained += reward
            if frames <= context:
                looked[env._ahead()] += 1
                np.testing.assert_array_equal(env.grid, start)
            assert not terminated
            assert truncated == (frames == context + query)
        assert all(looked[x, 4] and looked[x, 9] for x in columns)  # every door and key was seen
        assert set(actions[: context - 1]) <= {0, 1, 2}
        assert actions.count(PICK_UP) == keys
        assert actions.count(USE) >= keys
        assert gained == keys


@pytest.mark.parametrize("keys", [0, 4, 9, "many", "true", 3.5])
def test_arguments_are_checked(keys):
    with pytest.raises(ValueError, match="MultiDoorsKeys: argument 'keys' must be 3, 5 or 7, got"):
        envs.make(f"multi_doors_keys:keys={keys}")

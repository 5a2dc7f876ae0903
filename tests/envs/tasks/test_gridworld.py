"""What holds for both 2D families: pictures as MiniGrid draws them, speed."""

import time

import numpy as np
import pytest

import envs
from envs.tasks import gridworld

pytest.importorskip("minigrid")

TASKS = ["distracting_memory:width=16", "multi_doors_keys:keys=3"]


def minigrid_picture(env, x, y, width, height):
    """What MiniGrid's own renderer makes of `width` x `height` cells from (x, y) on."""
    from minigrid.core.grid import Grid
    from minigrid.core.world_object import Door, Goal, Key, Wall

    def thing(number):
        if number < gridworld.TILE:
            return [None, Wall()][number]
        kind, colour = divmod(int(number) - gridworld.TILE, 4)
        make = [Goal, lambda c: Door(c, is_locked=True), lambda c: Door(c, is_open=True), Key][kind]
        return make(gridworld.COLOURS[colour])

    rows, columns = env.grid.shape
    grid = Grid(columns, rows)
    for j, i in np.ndindex(rows, columns):
        grid.set(i, j, thing(env.grid[j, i]))
    part = grid.slice(x, y, width, height)
    agent = (env.x - x, env.y - y)
    return part.render(8, agent, env.heading, highlight_mask=np.zeros((width, height), bool))


@pytest.mark.parametrize("task", TASKS)
def test_pictures_are_minigrids_own(task):
    env = envs.make(task, seed=3)
    image, world = env.reset()[0]["image"], env.unwrapped
    seen = set()
    for step, action in enumerate(world.script()):
        if (world.x, world.y, world.heading) not in seen:  # both draw by position: once each is enough
            seen.add((world.x, world.y, world.heading))
            np.testing.assert_array_equal(image, minigrid_picture(world, world.x - 2, world.y - 2, 5, 5))
        if step % 50 == 0:
            world.render_mode = "rgb_array"
            rows, columns = world.grid.shape
            whole = minigrid_picture(world, 0, 0, columns, rows)
            np.testing.assert_array_equal(world.render(), whole)
        image = env.step(np.int64(action))[0]["image"]
    assert len(seen) > 20
    assert len({heading for *_, heading in seen}) >= 3


@pytest.mark.parametrize("task", TASKS)
def test_the_limit_is_checked(task):
    with pytest.raises(ValueError, match="'limit' must be a whole number of at least 1, got 0"):
        envs.make(f"{task},limit=0")


def test_steps_cost_no_more_than_table_look_ups():
    """A fifth of what is aimed at, for a machine with other work; `run.py gallery --speed` measures."""
    env = envs.make("distracting_memory", seed=0)
    best = np.inf
    for _ in range(5):
        env.reset()
        begin = time.perf_counter()
        for action in np.tile(np.array([2, 2, 0, 0]), 75):
            env.step(action)
        best = min(best, (time.perf_counter() - begin) / 300)
    assert 1 / best > 2_000


@pytest.mark.parametrize("task", TASKS)
def test_symbols_say_what_the_picture_shows(task):
    """Each tile one-hot among the kinds that the task has, and the heading: the picture drawn from them."""
    drawn, told = envs.make(task, seed=3), envs.make(f"{task},observation=symbols", seed=3)
    image, symbols = drawn.reset()[0]["image"], told.reset()[0]
    world = told.unwrapped
    kinds = np.array(world.KINDS)
    assert told.observation_space["tiles"].classes == (len(kinds),) * 25
    seen = set()
    for action in world.script():
        np.testing.assert_array_equal(image, world.picture_of(symbols))
        seen |= set(kinds[symbols["tiles"].reshape(5, 5, len(kinds)).argmax(-1)].flat)
        image, symbols = drawn.step(np.int64(action))[0]["image"], told.step(np.int64(action))[0]
    assert len(seen) > 4


def test_another_observation_is_refused():
    with pytest.raises(ValueError, match="'observation' must be pixels or symbols, got 'symbol'"):
        envs.make("distracting_memory:observation=symbol")

"""The two renderers show one scene."""

import dataclasses
import importlib.util
import math

import numpy as np
import pytest

import envs
from envs.tasks.rooms import Rooms
from envs.tasks.rooms.scene import CELL, OBJECTS, WALLS

missing = [name for name in ("mujoco", "dm_control", "labmaze") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(missing), reason=f"needs {missing}")
class TestPictures:
    @pytest.fixture
    def pair(self):
        """The same world behind both renderers."""
        made = [Rooms(count=4, renderer=name) for name in ("raycast", "mujoco")]
        for env in made:
            env.reset(seed=6)
        yield made
        for env in made:
            env.close()

    def test_colours_are_where_they_belong(self, pair):
        _, env = pair
        walls = np.array(list(WALLS.values()))[env.scene.walls].astype(float)
        for room, (row, column) in enumerate(env._plan.centres):
            x, y = CELL * (column + 0.5), CELL * (row + 0.5)
            picture = env._renderer.render(x, y + 3, math.pi).astype(float)  # at a wall, past the doorway
            assert picture.std() > 10
            wall = picture[29:31, 20:44].mean((0, 1))
            np.testing.assert_allclose(wall / wall.sum(), walls[room] / walls[room].sum(), atol=0.05)
        for number, (x, y) in enumerate(env._spheres):
            row, column = env._plan.centres[number]
            heading = math.atan2(y - CELL * (row + 0.5), x - CELL * (column + 0.5))
            eye = x - 1.5 * math.cos(heading), y - 1.5 * math.sin(heading)
            pixel = env._renderer.render(*eye, heading)[32, 32].astype(float)
            colour = np.array(list(OBJECTS.values()))[env.scene.colours[number]]
            assert np.corrcoef(pixel, colour)[0, 1] > 0.95

    @pytest.mark.parametrize(("what", "least"), [("walls", 0.97), ("colours", 0.85)])
    def test_both_draw_walls_and_objects_in_the_same_pixels(self, pair, what, least):
        """Other colours change the same pixels in both pictures."""
        random = np.random.default_rng(0)
        places = [pair[0]._cells[random.integers(len(pair[0]._cells))] for _ in range(150)]
        poses = [(CELL * (c + 0.5), CELL * (r + 0.5), random.uniform(-math.pi, math.pi)) for r, c in places]
        changed = []
        for env in pair:
            pictures = []
            for colour in (0, 4):
                drawn = np.full_like(getattr(env.scene, what), colour)
                env._renderer.load(dataclasses.replace(env.scene, **{what: drawn}))
                pictures.append(np.stack([env._renderer.render(*pose) for pose in poses]))
            changed.append((pictures[0] != pictures[1]).any(-1))
        ours, theirs = changed
        assert ours.sum() > 500
        assert (ours & theirs).sum() / (ours | theirs).sum() > least

    def test_others_that_draw_in_this_process_keep_their_pictures(self, pair):
        _, env = pair
        walker = envs.make("dmc:walker_walk:observation=pixels,fast=true", seed=1)
        first = walker.reset()[0]["image"]
        room = env._renderer.render(env.x, env.y, env.heading)
        again = walker.unwrapped._draw()
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(room, env._renderer.render(env.x, env.y, env.heading))
        walker.close()

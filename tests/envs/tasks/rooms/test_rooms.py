import dataclasses
import math
import time

import numpy as np
import pytest

import envs
from envs.tasks.rooms import FORWARD, FORWARD_LEFT, LEFT, RIGHT, STAY, Rooms
from envs.tasks.rooms.scene import CELL, Plan

COUNTS = [2, 4, 10]


def rooms(seed=0, **arguments):
    env = Rooms(**arguments)
    env.reset(seed=seed)
    return env


def place(env, x, y, degrees):
    """Put the agent somewhere, at rest; metres and degrees."""
    env.x, env.y, env.heading = x, y, math.radians(degrees)
    env._speed = env._turn = 0.0


class TestPlan:
    def test_two_rooms(self):
        rows = ["".join("#" if room < 0 else str(room) for room in row) for row in Plan(2).room]
        wall, open_row = "#############", "#00000#11111#"
        assert rows == [wall, *[open_row] * 2, "#00000011111#", *[open_row] * 2, wall]

    @pytest.mark.parametrize(
        ("count", "shape", "doors"), [(2, (7, 13), 1), (4, (13, 13), 4), (10, (13, 31), 13)]
    )
    def test_sizes(self, count, shape, doors):
        plan = Plan(count)
        assert plan.room.shape == shape
        assert (plan.room >= 0).sum() == 25 * count + doors
        assert set(np.unique(plan.room)) == {-1, *range(count)}
        assert [plan.room[cell] for cell in plan.centres] == list(range(count))

    def test_faces_surround_what_is_free(self):
        plan = Plan(4)
        unit = sum(round((face.high - face.low) / CELL) for face in plan.faces)
        free = np.pad(plan.room >= 0, 1)
        assert unit == sum(
            int((free & ~np.roll(free, shift, axis)).sum()) for shift in (1, -1) for axis in (0, 1)
        )
        for face in plan.faces:
            middle = (face.low + face.high) / 2
            inside, behind = face.at + 0.1 * face.towards, face.at - 0.1 * face.towards
            cells = [(middle, side) if face.along_y else (side, middle) for side in (inside, behind)]
            (row, column), (wall_row, wall_column) = [(int(y / CELL), int(x / CELL)) for y, x in cells]
            assert plan.room[row, column] == face.room
            assert plan.room[wall_row, wall_column] == -1


class TestMotion:
    def test_steady_speed_and_turn(self):
        env = rooms(count=10)
        place(env, 3.0, 7.0, 0)  # in a row that crosses five rooms
        env._spheres = []
        xs = [env.x]
        for _ in range(12):
            env.step(FORWARD)
            xs.append(env.x)
        assert np.diff(xs)[0] == pytest.approx(0.22, abs=0.05)  # as Memory Maze: 0.11 cells, then 0.22
        assert np.diff(xs)[-1] == pytest.approx(2.1 / 4, abs=1e-3)
        assert env.y == 7.0
        place(env, 7.0, 7.0, 0)
        for _ in range(5):
            env.step(LEFT)
        before = env.heading
        env.step(LEFT)
        assert math.degrees(env.heading - before) == pytest.approx(18.4, abs=0.1)
        for _ in range(6):
            env.step(RIGHT)
        assert abs(math.degrees(env.heading)) < 6
        env.step(FORWARD_LEFT)
        assert env.x > 7.0

    def test_walls_are_solid_and_slid_along(self):
        env = rooms()
        env._spheres = []
        place(env, 3.0, 3.0, 180 + 20)
        for _ in range(10):
            env.step(FORWARD)
        assert 2.25 <= env.x < 2.8
        assert env.y < 2.8  # went on along the wall
        assert env._plan.room[int(env.y / CELL), int(env.x / CELL)] == 0

    def test_objects_are_solid(self):
        env = rooms()
        (x, y), *_ = env._spheres
        place(env, x + 1.5, y, 180)
        for _ in range(10):
            env.step(FORWARD)
            assert math.hypot(env.x - x, env.y - y) >= 0.85 - 1e-9

    def test_rest(self):
        env = rooms()
        before = env.x, env.y, env.heading
        env.step(STAY)
        assert (env.x, env.y, env.heading) == before


class TestPictures:
    def test_wall_floor_sky_where_they_belong(self):
        env = rooms(seed=3)
        env._renderer._objects = []
        place(env, 7.0, 7.0, 180)  # in the middle of room 0, looking west at a wall 5 m away
        picture = env._renderer.render(env.x, env.y, env.heading)
        tangent = math.tan(math.radians(40))
        top, bottom = 32 - 1.2 / 5 / tangent * 32, 32 + 0.3 / 5 / tangent * 32
        colour = np.array(list(envs.tasks.rooms.scene.WALLS.values())[env.scene.walls[0]])
        for row in range(64):
            pixel = picture[row, 32].astype(int)
            if row + 1 < top:
                np.testing.assert_array_equal(pixel, (70, 110, 160))
            elif row > bottom:
                assert pixel.tolist() in ([54, 89, 109], [46, 76, 93])
            elif top < row and row + 1 < bottom:
                assert any(np.abs(pixel - colour * light).max() <= 1 for light in (0.68, 0.8))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) >= 5  # bricks, floor tiles, sky

    def test_every_wall_shows_its_rooms_colour(self):
        env = rooms(seed=1, count=4)
        env._renderer._objects = []
        colours = np.array(list(envs.tasks.rooms.scene.WALLS.values()))[env.scene.walls]
        for room, (row, column) in enumerate(env._plan.centres):
            x, y = CELL * (column + 0.5), CELL * (row + 0.5)
            for degrees in (45, 135, 225, 315):  # into the corners, where no doorway is
                pixel = env._renderer.render(x, y, math.radians(degrees))[31, 32].astype(float)
                lights = pixel / np.maximum(colours[room], 1)
                assert np.ptp(lights) < 0.05
                assert 0.6 < lights.mean() < 1.01

    def test_an_object_has_its_colour_size_and_place(self):
        env = rooms(seed=2)
        red, blue = np.zeros(2, int), np.zeros(2, int)
        env._renderer.load(dataclasses.replace(env.scene, walls=blue, colours=red))
        (x, y), *_ = env._spheres
        colour = np.array(envs.tasks.rooms.scene.OBJECTS["red"])
        away = 2.0
        side = 1 if x < 7 else -1  # from the inside of the room
        picture = env._renderer.render(x + side * away, y, math.pi if side > 0 else 0.0).astype(float)
        lights = picture / colour
        like = (np.ptp(lights, axis=-1) < 0.06) & (lights.mean(-1) > 0.6) & (lights.mean(-1) < 1.02)
        rows, columns = np.nonzero(like)
        assert abs(columns.mean() - 31.5) < 0.6
        half_angle = math.asin(0.6 / away)
        width = 64 * math.tan(half_angle) / math.tan(math.radians(40))
        assert abs(np.ptp(columns) + 1 - width) <= 2
        foot = 32 + 32 * 0.3 / (away - 0.6) / math.tan(math.radians(40))  # where it stands on the floor
        assert abs(rows.max() + 1 - foot) <= 1
        assert rows.min() < 32  # the top at 0.6 m is above the eye at 0.3 m

    def test_walls_hide_objects(self):
        env = rooms(seed=2)
        with_objects = env._renderer.render(11.0, 2.5, 0.0)  # close to the wall between the rooms
        env._renderer._objects = []
        np.testing.assert_array_equal(with_objects, env._renderer.render(11.0, 2.5, 0.0))

    def test_no_ray_slips_through(self):
        env = rooms(count=10)
        env._renderer._objects = []
        random = np.random.default_rng(0)
        for _ in range(300):
            row, column = env._cells[random.integers(len(env._cells))]
            x, y = CELL * (column + random.uniform(0.2, 0.8)), CELL * (row + random.uniform(0.2, 0.8))
            heading = random.choice([random.uniform(-4, 4), math.pi / 4 * random.integers(8)])
            sine, cosine = math.sin(heading), math.cos(heading)
            across = env._renderer._across
            depth, _, _ = env._renderer._walls(x, y, cosine + sine * across, sine - cosine * across)
            assert (depth > 0).all()
            assert (depth < 62).all()

    def test_pictures_cost_no_more_than_array_arithmetic(self):
        """A fifth of what is aimed at, for a machine with other work; `run.py gallery --speed` measures."""
        env = rooms(count=4)
        best = math.inf
        for step in range(50):
            begin = time.perf_counter()
            for turn in range(10):
                env._renderer.render(env.x, env.y, 0.01 * step + 0.6 * turn)
            best = min(best, (time.perf_counter() - begin) / 10)
        assert 1 / best > 600


class TestEpisodes:
    @pytest.mark.parametrize("count", COUNTS)
    def test_draws(self, count):
        walls, colours, offsets = [], [], []
        for seed in range(40):
            env = rooms(seed, count=count, objects=2)
            assert len(env._spheres) == 2 * count == len(set(env._spheres))
            owners = [env._plan.room[int(y / CELL), int(x / CELL)] for x, y in env._spheres]
            assert owners == [room for room in range(count) for _ in range(2)]
            walls += env.scene.walls.tolist()
            colours += env.scene.colours.tolist()
            offsets += [(int(x / CELL) % 6, int(y / CELL) % 6) for x, y in env._spheres]
        assert set(walls) == set(range(8))
        assert set(colours) == set(range(6))
        assert set(offsets) == {(c, r) for c in (1, 2, 4, 5) for r in (1, 2, 4, 5)}

    @pytest.mark.parametrize(("count", "context", "query"), [(2, 301, 200), (4, 501, 500), (10, 1101, 900)])
    def test_the_script_sees_every_room_in_the_context(self, count, context, query, monkeypatch):
        monkeypatch.setattr(
            "envs.tasks.rooms.Raycaster.render", lambda *_: None
        )  # where it walks is all that counts
        for seed in range(5):
            env = rooms(seed, count=count)
            turned: dict[int, float] = {}
            frames, over = 1, False
            script = env.script()
            while not over:
                before = env.heading
                terminated, over = env.step(next(script))[2:4]
                frames += 1
                room = int(env._plan.room[int(env.y / CELL), int(env.x / CELL)])
                if frames <= context:
                    angle = math.remainder(env.heading - before, math.tau)
                    turned[room] = turned.get(room, 0.0) + abs(angle)
                assert not terminated
            assert frames == context + query
            assert set(turned) == set(range(count))
            assert min(turned.values()) >= math.tau

    def test_teleport_goes_back_to_a_pose_of_the_context(self):
        env = Rooms(teleport=True)
        first, info = env.reset(seed=4)
        frames, poses = [first], [info["probe"]["agent_pos"]]
        script = env.script()
        for _ in range(500):
            image, _, _, truncated, info = env.step(next(script))
            frames.append(image)
            poses.append(info["probe"]["agent_pos"])
        assert truncated
        assert (env.context_length, env.cue_length) == (301, 20)
        same = [t for t in range(301) if (frames[t] == frames[301]).all() and (poses[t] == poses[301]).all()]
        assert same
        steps = np.linalg.norm(np.diff(poses, axis=0), axis=1)
        assert max(steps[:300]) < 0.3 < steps[300]
        assert max(steps[301:]) < 0.3
        assert sum(steps[301:]) > 5  # it walks on from there

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("count=3", "'count' must be 2, 4 or 10, got 3"),
            ("count=true", "'count' must be 2, 4 or 10, got True"),
            ("objects=3", "'objects' must be a whole number from 1 to 2, got 3"),
            ("teleport=1", "'teleport' must be true or false, got 1"),
            ("renderer=raycst", "'renderer' must be .* Did you mean 'raycast'"),
        ],
    )
    def test_arguments_are_checked(self, arguments, said):
        with pytest.raises(ValueError, match=f"Rooms: argument {said}"):
            envs.make(f"rooms:{arguments}")

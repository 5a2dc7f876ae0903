import importlib.util

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.suites import memory_maze

missing = [name for name in ("memory_maze", "dm_control") if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("memory_maze:9x8", "the family 'memory_maze' has no '9x8'.* Did you mean '9x9'"),
        ("memory_maze:9x9:size=3", "this task takes fast, render_mode"),
        ("memory_maze:9x9:fast=1", "'fast' must be true or false, got 1"),
    ],
)
def test_bad_input(task, said):
    with pytest.raises(ValueError, match=said):
        envs.make(task)


def test_an_id_of_gymnasium_is_checked_too():
    with pytest.raises(ValueError, match="'name' must be 9x9, .* or 15x15, got '9x8'. Did you mean '9x9'"):
        gymnasium.make("MemoryMaze-9x9-v0", name="9x8")


@pytest.fixture(scope="module")
def pair():
    """Our environment and the package's own, both in the first episode of seed 7."""
    ours = envs.make("memory_maze:9x9").unwrapped
    theirs = memory_maze._package()[0].memory_maze_9x9(global_observables=True, seed=7)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.skipif(bool(missing), reason=f"needs {missing}")
class TestMaze:
    def test_it_is_the_packages_own_task(self, pair):
        ours, theirs = pair
        random = np.random.default_rng(0)
        touched = 0
        for step in range(80):
            if step % 40 == 0:  # the second time in a new maze
                image, info = ours.reset(seed=None if step else 7)
                moment = theirs.reset()
            np.testing.assert_array_equal(image, moment.observation["image"])
            probe = info["probe"]
            np.testing.assert_array_equal(
                probe["agent_pos"], moment.observation["agent_pos"].astype(np.float32)
            )
            np.testing.assert_array_equal(
                probe["targets_pos"], moment.observation["targets_pos"].astype(np.float32)
            )
            np.testing.assert_allclose(probe["targets_vec"], moment.observation["targets_vec"], atol=1e-6)
            np.testing.assert_array_equal(
                probe["agent_dir"], moment.observation["agent_dir"].astype(np.float32)
            )
            np.testing.assert_array_equal(probe["maze_layout"], moment.observation["maze_layout"])
            if step % 20 == 10:  # put both next to the object that is wanted
                for env in (ours._env, theirs):
                    task = env.task
                    target = task._targets[task._current_target_ix]
                    position = env.physics.bind(target.geom).xpos.copy()
                    task._walker.set_pose(env.physics, position=[*position[:2], 0.0])
                    env.physics.forward()
            action = random.integers(6)
            image, reward, terminated, truncated, info = ours.step(action)
            moment = theirs.step(action)
            assert reward == moment.reward
            np.testing.assert_array_equal(ours._env.physics.data.qpos, theirs.physics.data.qpos)
            np.testing.assert_array_equal(ours._env.physics.data.qvel, theirs.physics.data.qvel)
            assert not terminated
            assert not truncated
            touched += int(reward)
        assert touched >= 4

    def test_what_is_hidden_changes_no_pixel(self, pair):
        ours, _ = pair
        ours.reset(seed=2)
        culling = ours._view._culling
        shown = []
        for action in [1, 4, 4, 1, 3, 3] * 5:
            image = ours.step(action)[0]
            shown.append(len(culling.hide()) / len(culling._planes))
            culling.hide, hide = lambda: None, culling.hide
            culling._groups[culling._planes] = 0  # all of them
            np.testing.assert_array_equal(ours._view.picture()[2:-2, 2:-2], image[2:-2, 2:-2])
            culling.hide = hide
        assert 0 < np.mean(shown) < 0.3

    @pytest.mark.filterwarnings("error")
    def test_passes_the_checker(self):
        env = gymnasium.make("MemoryMaze-9x9-v0", fast=True).unwrapped
        check_env(env, skip_render_check=True)  # it makes two more, seconds each; the next test renders

    def test_fast_pictures_show_the_same_maze(self, pair):
        ours, _ = pair
        fast = gymnasium.make("MemoryMaze-9x9-v0", fast=True, render_mode="rgb_array").unwrapped
        a, b = ours.reset(seed=4)[0].astype(float), fast.reset(seed=4)[0].astype(float)
        assert 0 < np.abs(a - b).mean() < 10
        np.testing.assert_array_equal(fast.render(), b)
        assert ours.render() is None
        fast.close()
        fast.close()  # does nothing
        with pytest.raises(RuntimeError, match="call reset"):
            fast.step(0)

    def test_what_is_seen_and_probed(self, pair):
        ours, _ = pair
        image, info = ours.reset(seed=3)
        assert image.std() > 10
        border = np.concatenate([image[:2].reshape(-1, 3), image[:, :2].reshape(-1, 3)])
        assert (border == border[0]).all()
        colour = ours._task._target_colors[ours._task._current_target_ix]
        np.testing.assert_allclose(border[0], colour * 255 * 0.7, atol=1)
        probe = info["probe"]
        assert {key: (value.shape, value.dtype) for key, value in probe.items()} == {
            "agent_pos": ((2,), np.float32),
            "agent_dir": ((2,), np.float32),
            "targets_pos": ((3, 2), np.float32),
            "targets_vec": ((3, 2), np.float32),
            "maze_layout": ((9, 9), np.uint8),
        }
        for x, y in [probe["agent_pos"], *probe["targets_pos"]]:
            assert probe["maze_layout"][int(y), int(x)] == 1
        assert np.linalg.norm(probe["agent_dir"]) == pytest.approx(1.0)

    def test_the_script_goes_to_many_places(self, pair, monkeypatch):
        monkeypatch.setattr(memory_maze, "STEPS", 150)
        ours, _ = pair
        _, info = ours.reset(seed=1)
        actions, cells = [], set()
        for action in ours.script():
            x, y = info["probe"]["agent_pos"]
            cells.add((int(y), int(x)))
            actions.append(action)
            info = ours.step(action)[4]
        assert len(actions) == 150 and set(actions) == set(range(6))
        assert len(cells) > 12

    def test_seeds_steps_and_the_time_limit(self, pair):
        ours, _ = pair
        first, info = ours.reset(seed=5)
        other = ours.reset(seed=6)[0]
        again, info_again = ours.reset(seed=5)
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        np.testing.assert_array_equal(info["probe"]["targets_pos"], info_again["probe"]["targets_pos"])
        with pytest.raises(ValueError, match="whole number from 0 to 5, got 6"):
            ours.step(6)
        ours._env.physics.data.ptr.time = 249.0
        flags = [ours.step(0)[2:4] for _ in range(4)]
        assert flags == [(False, False)] * 3 + [(False, True)]
        with pytest.raises(RuntimeError, match=r"the episode is over.*call reset"):
            ours.step(0)

import importlib.util

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.suites.dmc import DMControl, _tasks

# For each domain with velocities, the task with most quantities.
ONE_OF_EACH = [
    "acrobot_swingup",
    "ball_in_cup_catch",
    "cartpole_three_poles",
    "cheetah_run",
    "dog_fetch",
    "finger_turn_easy",
    "fish_swim",
    "hopper_hop",
    "humanoid_walk",
    "humanoid_CMU_walk",
    "manipulator_bring_peg",
    "pendulum_swingup",
    "point_mass_easy",
    "quadruped_escape",
    "quadruped_fetch",
    "reacher_easy",
    "stacker_stack_4",
    "swimmer_swimmer6",
    "walker_walk",
]


def _shrunk(image):
    """64 x 64 as 60 x 60, the nearest pixels."""
    nearest = (np.arange(60) * 64 / 60).astype(int)
    return image[nearest][:, nearest].ravel()


# The package is not imported here: that would settle the GL backend.
@pytest.mark.skipif(importlib.util.find_spec("dm_control") is None, reason="needs dm-control")
class TestSuite:
    def test_proprioception(self):
        env = envs.make("dmc:walker_walk", seed=1)
        shapes = {name: leaf.shape for name, leaf in env.observation_space.items()}
        assert shapes == {"height": (1,), "orientations": (14,), "velocity": (9,)}
        assert env.action_space.shape == (6,)
        first = env.reset()[0]
        again = envs.make("dmc:walker_walk", seed=1).reset()[0]
        other = envs.make("dmc:walker_walk", seed=2).reset()[0]
        np.testing.assert_array_equal(first["orientations"], again["orientations"])
        assert (first["orientations"] != other["orientations"]).any()
        assert first["height"].dtype == np.float32

    def test_repeat_sums_rewards_and_the_limit_truncates(self):
        door = envs.make_vector("dmc:cartpole_balance:repeat=100", 1, seed=0)
        rows, total = door.reset(), 0.0
        for _ in range(10):
            assert not rows["is_last"][0]
            rows = door.step(np.zeros((1, 1), np.float32))
            total += rows["reward"][0]
        assert rows["is_last"][0]
        assert not rows["is_terminal"][0]
        assert 100 < total <= 1000
        door.close()

    @pytest.mark.parametrize("action", [[1.5], [np.nan], [0.0, 0.0], 0.0])
    def test_actions_out_of_the_space_are_refused(self, action):
        env = envs.make("dmc:cartpole_balance").unwrapped
        env.reset(seed=0)
        with pytest.raises(ValueError, match=r"DMControl: an action must be in Box.*, got"):
            env.step(np.array(action))

    def test_an_id_of_gymnasium(self):
        with pytest.raises(
            ValueError, match="'name' must be acrobot_swingup, .* 'walker_wlak'. Did you mean 'walker_walk'"
        ):
            gymnasium.make("DMControl-v0", name="walker_wlak")
        with pytest.raises(ValueError, match="'name' must be acrobot_swingup, .*, got ''"):
            gymnasium.make("DMControl-v0")
        env = gymnasium.make("DMControl-v0", name="cartpole_balance", render_mode="rgb_array")
        assert env.metadata["render_fps"] == 50
        with pytest.warns(UserWarning) as caught:  # velocities have no bounds
            check_env(env.unwrapped)
        assert all("infinity" in str(warning.message) for warning in caught)

    def test_every_domain_is_looked_at(self):
        domains = {_tasks()[task][0] for task in ONE_OF_EACH}
        assert domains == {domain for domain, _ in _tasks().values()} - {"lqr"}  # a chain of point masses

    def test_names_and_arguments(self):
        with pytest.raises(ValueError, match=r"Did you mean 'walker_walk'"):
            envs.check("dmc:walker_wlak")
        with pytest.raises(ValueError, match="'repeat' must be a whole number"):
            envs.make("dmc:cartpole_balance:repeat=0")

    def test_a_mujoco_of_another_version_names_the_extra(self, monkeypatch):
        monkeypatch.delattr("mujoco.MjModel.geom_size")
        with pytest.raises(ImportError, match=r"does not work with mujoco .*'geom_size'.*'\.\[dmc\]'"):
            envs.make("dmc:cartpole_balance")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ("observation=images", "'observation' must be vectors, masked or pixels, got 'images'"),
            ("size=32", "are for observation=pixels only"),
            ("fast=true", "are for observation=pixels only"),
            ("observation=pixels,size=7", "'size' must be a whole number from 8 to 480, got 7"),
            ("observation=pixels,fast=2", "'fast' must be true or false, got 2"),
        ],
    )
    def test_arguments_of_observations(self, arguments, said):
        with pytest.raises(ValueError, match=said):
            envs.make(f"dmc:cartpole_balance:{arguments}")

    def test_masked_keeps_positions_and_drops_velocities(self):
        env = envs.make("dmc:walker_walk:observation=masked", seed=1)
        whole = envs.make("dmc:walker_walk", seed=1)
        masked, full = env.reset()[0], whole.reset()[0]
        assert masked.keys() == {"height", "orientations"}
        for key, value in masked.items():
            np.testing.assert_array_equal(value, full[key])

    @pytest.mark.parametrize("task", ONE_OF_EACH)
    def test_masked_observations_do_not_change_with_velocities(self, task):
        """For every domain: what is left of the state is the same whatever the velocities are."""
        env = DMControl(task, observation="masked")
        space = env.observation_space
        assert isinstance(space, gymnasium.spaces.Dict)
        env.reset(seed=0)
        suite = env._env

        def observe(scale):
            with suite.physics.reset_context():
                suite.physics.data.qvel[:] = scale * np.sin(np.arange(suite.physics.model.nv) + 1)
            return suite.task.get_observation(suite.physics)

        still, moving = observe(0.0), observe(0.3)
        forces = {"imu", "inertial_sensors", "force_torque", "foot_forces", "touch_sensors", "touch"}
        assert set(space) - forces
        for key, kept in env._kept.items():
            if key not in forces:
                same = np.allclose(np.ravel(still[key])[kept], np.ravel(moving[key])[kept], atol=1e-9)
                assert same, (task, key)
        changed = [key for key in still if not np.allclose(still[key], moving[key], atol=1e-9)]
        assert changed  # the velocities were there to be seen
        env.close()


@pytest.mark.skipif(importlib.util.find_spec("dm_control") is None, reason="needs dm-control")
class TestPixels:
    def test_a_picture_of_the_walker(self):
        env = envs.make("dmc:walker_walk:observation=pixels", seed=1)
        assert dict(env.observation_space.spaces).keys() == {"image"}
        first = env.reset()[0]["image"]
        assert (first.shape, first.dtype) == ((64, 64, 3), np.uint8)
        red, green, blue = first[:12].mean((0, 1))  # sky
        assert blue > green > red
        body = (first[..., 0] > 1.3 * first[..., 2]) & (first[..., 0] > 80)  # orange on a blue ground
        assert 0.01 < body.mean() < 0.3
        kept = first.copy()
        action = np.ones(6, np.float32)
        later = [env.step(action)[0]["image"] for _ in range(5)]
        np.testing.assert_array_equal(first, kept)  # no buffer that is drawn over
        assert (later[-1] != first).any()
        env.close()

    @pytest.mark.filterwarnings("error")
    def test_passes_the_checker(self):
        env = gymnasium.make(
            "DMControl-v0", name="cartpole_swingup", observation="pixels", fast=True, render_mode="rgb_array"
        )
        check_env(env.unwrapped)

    def test_renders_what_vectors_are_about(self):
        env = gymnasium.make("DMControl-v0", name="walker_walk", render_mode="rgb_array").unwrapped
        env.reset(seed=1)
        large = env.render()
        assert (large.shape, large.dtype) == ((240, 240, 3), np.uint8)
        pixels = envs.make("dmc:walker_walk:observation=pixels").unwrapped
        small = pixels.reset(seed=1)[0]
        assert np.corrcoef(large[::4, ::4].ravel(), _shrunk(small))[0, 1] > 0.8
        assert pixels.render() is None

    def test_fast_pictures_show_the_same_scene(self):
        slow = envs.make("dmc:cartpole_balance:observation=pixels", seed=1)
        fast = envs.make("dmc:cartpole_balance:observation=pixels,fast=true,size=64", seed=1)
        a, b = slow.reset()[0]["image"].astype(float), fast.reset()[0]["image"].astype(float)
        assert 0 < np.abs(a - b).mean() < 25
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.8
        slow.close()
        fast.close()
